//! Runtime expressions.
use serde_json::Value;
use std::sync::Arc;

#[derive(Debug, Clone)]
pub struct Expression {
    pub text: Arc<str>,
}

#[derive(Debug, Clone)]
pub struct Template(pub Value);
