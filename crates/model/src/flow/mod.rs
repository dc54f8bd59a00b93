//! Flows: workflows of the Serverless Workflow DSL whose tasks are calls of services.

pub mod duration;
pub mod expression;
pub mod fault;
pub mod history;
pub mod http;
mod read;
pub mod run;
pub mod scope;
pub mod unsupported;
pub mod uri_template;
pub mod workflow;

pub(crate) use self::read::parse_at;
pub use self::read::{MOST_TASKS, parse, secret_keys};
