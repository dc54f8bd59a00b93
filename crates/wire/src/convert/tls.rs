//! Which server names of TLS lead where.

use std::collections::HashMap;
use std::sync::Arc;

use tulle_model::name::dns_subdomain_problem;
use tulle_model::snapshot as model;

use super::{Result, error, list};
use crate::discovery as wire;

/// The entries, and the rules that they share.
pub(super) fn messages(table: &model::TlsRouteTable) -> (Vec<wire::TlsEntry>, Vec<wire::Rule>) {
    let mut rules = Vec::new();
    let mut indexes = HashMap::new();
    let entry = |entry: &model::TlsRouteEntry| {
        let rule = *indexes.entry(Arc::as_ptr(&entry.rule)).or_insert_with(|| {
            rules.push(wire::Rule::from(&*entry.rule));
            rules.len() as u32 - 1
        });
        wire::TlsEntry { hostname: entry.name.to_string(), rule }
    };
    let entries = table.entries().iter().map(entry).collect();
    (entries, rules)
}

pub(super) fn table(entries: Vec<wire::TlsEntry>, rules: Vec<wire::Rule>) -> Result<model::TlsRouteTable> {
    let rules = list("tls_rules", rules, |rule| model::TcpRule::try_from(rule).map(Arc::new))?;
    let entries = list("tls_entries", entries, |entry| {
        let Some(rule) = usize::try_from(entry.rule).ok().and_then(|i| rules.get(i)) else {
            return Err(error("rule", format!("there is no tls_rules[{}]", entry.rule)));
        };
        let hostname = &entry.hostname;
        if let Some(problem) = dns_subdomain_problem(hostname.strip_prefix("*.").unwrap_or(hostname)) {
            return Err(error("hostname", format!("`{hostname}` {problem}")));
        }
        Ok(model::TlsRouteEntry { name: model::ServerName::new(hostname), rule: rule.clone() })
    })?;
    Ok(model::TlsRouteTable::new(entries))
}
