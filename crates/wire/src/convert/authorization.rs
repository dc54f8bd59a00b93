//! Policies that say who may enter a workload.

use tulle_model::snapshot::{AccessPolicy, AccessRule, Action, IdentityPattern, Source};

use super::{ConvertError, Result, error, list, object_name, port_number};
use crate::discovery as wire;

impl From<&AccessPolicy> for wire::AuthorizationPolicy {
    fn from(policy: &AccessPolicy) -> Self {
        Self {
            namespace: policy.name.namespace.to_string(),
            name: policy.name.name.to_string(),
            action: match policy.action {
                Action::Allow => wire::AuthorizationAction::Allow,
                Action::Deny => wire::AuthorizationAction::Deny,
                Action::Audit => wire::AuthorizationAction::Audit,
            }
            .into(),
            at: policy.at.as_deref().map(ports_message),
            rules: policy.rules.iter().map(wire::AuthorizationRule::from).collect(),
            needs: Vec::new(),
        }
    }
}

impl TryFrom<wire::AuthorizationPolicy> for AccessPolicy {
    type Error = ConvertError;

    fn try_from(policy: wire::AuthorizationPolicy) -> Result<Self> {
        understood(&policy.needs)?;
        let action = match policy.action() {
            wire::AuthorizationAction::Allow => Action::Allow,
            wire::AuthorizationAction::Deny => Action::Deny,
            wire::AuthorizationAction::Audit => Action::Audit,
            wire::AuthorizationAction::Unspecified => {
                return Err(error("action", "is none that this node knows"));
            }
        };
        Ok(Self {
            name: object_name("", policy.namespace, policy.name)?,
            action,
            at: policy.at.map(|at| ports("at", at)).transpose()?,
            rules: list("rules", policy.rules, AccessRule::try_from)?,
        })
    }
}

impl From<&AccessRule> for wire::AuthorizationRule {
    fn from(rule: &AccessRule) -> Self {
        let sources = rule.sources.as_ref();
        Self {
            index: rule.index as u32,
            sources: sources
                .map(|sources| wire::Sources { sources: sources.iter().map(wire::Source::from).collect() }),
            ports: rule.ports.as_deref().map(ports_message),
            needs: Vec::new(),
        }
    }
}

impl TryFrom<wire::AuthorizationRule> for AccessRule {
    type Error = ConvertError;

    fn try_from(rule: wire::AuthorizationRule) -> Result<Self> {
        understood(&rule.needs)?;
        let sources = rule.sources.map(|sources| list("sources", sources.sources, Source::try_from));
        Ok(Self {
            index: rule.index as usize,
            sources: sources.transpose()?,
            ports: rule.ports.map(|some| ports("ports", some)).transpose()?,
        })
    }
}

impl From<&Source> for wire::Source {
    fn from(source: &Source) -> Self {
        let source = match source {
            Source::Identity(pattern) => wire::source::Source::Identity(pattern.as_str().to_owned()),
            Source::Outside(ranges) => wire::source::Source::Outside(wire::Outside {
                ranges: ranges.iter().map(ToString::to_string).collect(),
            }),
        };
        Self { source: Some(source) }
    }
}

impl TryFrom<wire::Source> for Source {
    type Error = ConvertError;

    fn try_from(source: wire::Source) -> Result<Self> {
        match source.source {
            Some(wire::source::Source::Identity(text)) => match IdentityPattern::new(&text) {
                Ok(pattern) => Ok(Self::Identity(pattern)),
                Err(problem) => Err(error("identity", problem)),
            },
            Some(wire::source::Source::Outside(outside)) => {
                let range = |text: String| {
                    text.parse().map_err(|_| error("", format!("`{text}` is no range of addresses")))
                };
                Ok(Self::Outside(list("ranges", outside.ranges, range)?))
            }
            None => Err(error("source", "is none that this node knows")),
        }
    }
}

fn ports_message(ports: &[u16]) -> wire::Ports {
    wire::Ports { ports: ports.iter().copied().map(u32::from).collect() }
}

fn ports(field: &'static str, message: wire::Ports) -> Result<Vec<u16>> {
    list(field, message.ports, |port| port_number("", port))
}

/// Refuses what a newer server says that this node would have to understand.
fn understood(needs: &[String]) -> Result<()> {
    needs.first().map_or(Ok(()), |need| Err(error("needs", format!("`{need}` is none that this node knows"))))
}
