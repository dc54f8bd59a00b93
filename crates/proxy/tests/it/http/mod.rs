//! HTTP: real clients and real applications, on every way between two workloads.

mod ahead;
mod apps;
mod blame;
mod codec;
mod crowds;
mod decisions;
mod departing;
mod doors;
mod explicit;
mod failures;
mod floods;
mod greetings;
mod heads;
mod http1;
mod http2;
mod mesh;
mod rules;
mod shares;
mod stale;
mod stalls;
mod streams;
mod targets;
mod unsent;
mod upgrades;
mod upgrades_on_links;
mod waiting;
