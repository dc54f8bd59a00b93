//! Flows: workflows of the Serverless Workflow DSL whose tasks are calls of services.

pub mod expression;
pub mod workflow;
