//! Warnings of routes that are valid, and are for nothing, or let nothing through.

use super::super::id::KindId;
use crate::validate::field::{Code, Errors, Field};

/// Warns of a route without a parent, and of every rule that sends what it takes nowhere: it has no backends, or none with a weight. A rule with a
/// RequestRedirect answers by itself.
pub(in crate::kinds) fn warn(kind: KindId, route: &Field<'_>, warnings: &mut Errors) {
    let Some(spec) = route.get("spec") else { return };
    if spec.items("parentRefs").next().is_none() {
        let what = "has no parentRefs: it is the route of no Service, and nothing comes of it";
        warnings.push(&spec, Code::Required, what);
    }
    let bytes = matches!(kind, KindId::TcpRoute | KindId::TlsRoute);
    let what = if bytes {
        "every connection that it takes fails"
    } else {
        "every request that it takes would be answered with 500"
    };
    if spec.items("rules").next().is_none() && kind == KindId::HttpRoute {
        // One rule for all that has no backends: the default.
        warnings.push(&spec, Code::Required, "has no rules: every request would be answered with 500");
    }
    for rule in spec.items("rules") {
        let redirects = rule.items("filters").any(|filter| filter.get_str("type") == Some("RequestRedirect"));
        if redirects {
            continue;
        }
        let weights: Vec<_> = rule.items("backendRefs").map(|backend| backend.get_int("weight")).collect();
        let why = match &*weights {
            // Where they must be, it is an error.
            [] if bytes => continue,
            [] => "has no backendRefs",
            weights if weights.iter().all(|weight| *weight == Some(0)) => {
                "has no backend with a weight above 0"
            }
            _ => continue,
        };
        warnings.push(&rule, Code::Required, format!("{why}: {what}"));
    }
}
