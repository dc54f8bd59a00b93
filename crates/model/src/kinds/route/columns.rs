//! What the tables of the kinds of routes share.

use std::fmt::Write as _;

use jiff::Timestamp;
use serde_json::Value;

use crate::columns::{AGE, Column, NAME, Table, age, items, joined, name, string, text, wide};

pub(in crate::kinds) const PARENTS: Column = text("Parents", "What the route is attached to.");
pub(in crate::kinds) const ACCEPTED: Column =
    wide("Accepted", "Whether the route was accepted, for all of its parents.");
pub(in crate::kinds) const RESOLVED: Column =
    wide("Resolved", "Whether all of its references lead somewhere.");
pub(in crate::kinds) const PROGRAMMED: Column =
    wide("Programmed", "Whether the nodes run it, and how many do.");

/// The columns of a kind whose routes have host names, which `hostnames` describes.
pub(in crate::kinds) const fn columns(hostnames: &'static str) -> [Column; 7] {
    [NAME, text("Hostnames", hostnames), PARENTS, AGE, ACCEPTED, RESOLVED, PROGRAMMED]
}

/// Of such a kind.
pub(in crate::kinds) const fn table(columns: &'static [Column]) -> Table {
    Table { columns, row }
}

/// The object need not be valid.
fn row(object: &Value, now: Timestamp) -> Vec<String> {
    let hostnames = items(object, "/spec/hostnames").filter_map(Value::as_str);
    let mut cells = vec![name(object), joined(hostnames), parents(object), age(object, now)];
    cells.extend(conditions(object));
    cells
}

/// `Service/d`, and `Service/shop/d:8080` where a namespace or a port is given.
pub(in crate::kinds) fn parents(route: &Value) -> String {
    let parents = items(route, "/spec/parentRefs").map(|parent| {
        let mut text = format!("{}/", string(parent, "/kind").unwrap_or("Gateway"));
        let own = string(route, "/metadata/namespace");
        if let Some(namespace) = string(parent, "/namespace").filter(|n| Some(*n) != own) {
            let _ = write!(text, "{namespace}/");
        }
        text.push_str(string(parent, "/name").unwrap_or_default());
        if let Some(port) = parent.get("port").and_then(Value::as_i64) {
            let _ = write!(text, ":{port}");
        }
        text
    });
    joined(parents)
}

/// Accepted, ResolvedRefs and Programmed over all parents: the worst of each.
pub(in crate::kinds) fn conditions(route: &Value) -> [String; 3] {
    ["Accepted", "ResolvedRefs", "Programmed"].map(|kind| worst(items(route, "/status/parents"), kind))
}

/// The worst condition of a type over all parents, or ancestors.
pub(in crate::kinds) fn worst<'v>(entries: impl Iterator<Item = &'v Value>, kind: &str) -> String {
    let mut worst: Option<&Value> = None;
    for condition in entries.flat_map(|entry| items(entry, "/conditions")) {
        let better = worst.is_some_and(|w| string(w, "/status") != Some("True"));
        if string(condition, "/type") == Some(kind) && !better {
            worst = Some(condition);
        }
    }
    match worst {
        None => "Unknown".to_owned(),
        Some(c) => match (string(c, "/status").unwrap_or("Unknown"), string(c, "/reason")) {
            (status @ "False", Some(reason)) => format!("{status} ({reason})"),
            (status, _) => status.to_owned(),
        },
    }
}
