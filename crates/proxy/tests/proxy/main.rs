//! The proxy in process, over loopback: real clients, real applications, no kernel capture.

mod apps;
mod explicit;
mod failures;
mod http1;
mod http2;
mod mesh;
mod upgrades;
