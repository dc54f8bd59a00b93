//! The commands, one file each.

pub mod apply;
pub mod audit;
pub mod auth;
pub mod delete;
pub mod describe;
pub mod diff;
pub mod edges;
pub mod exec;
pub mod explain;
pub mod flow;
pub mod get;
pub mod history;
pub mod init;
pub mod logs;
pub mod node;
pub mod open;
pub mod policy;
pub mod run;
pub mod schema;
pub mod server;
pub mod services;
pub mod split;
pub mod status;
pub mod token;
pub mod user;
pub mod validate;
