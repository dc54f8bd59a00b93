//! Policies that say who may enter a workload.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use tulle_model::condition::CelCondition;
use tulle_model::snapshot::external::{ExternalAuth, ExternalProtocol, LONGEST_EXTERNAL_TIMEOUT};
use tulle_model::snapshot::{
    AccessPolicy, AccessRule, Action, ClaimHeader, ClaimMatch, IdentityPattern, JwtConditions, JwtIssuer,
    JwtKeys, PathMatch, RequestConditions, ServerName, Source, TokenPlace,
};

use super::{
    ConvertError, Result, error, header_match, list, object_name, pattern, port_number, prefix, within,
};
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
                Action::Ask => wire::AuthorizationAction::Ask,
            }
            .into(),
            at: policy.at.as_deref().map(ports_message),
            rules: policy.rules.iter().map(wire::AuthorizationRule::from).collect(),
            needs: [policy.issuers.first().map(|_| JWT), policy.external.as_ref().map(|_| EXTERNAL)]
                .into_iter()
                .flatten()
                .map(str::to_owned)
                .collect(),
            issuers: policy.issuers.iter().map(|issuer| wire::JwtIssuer::from(&**issuer)).collect(),
            external: policy.external.as_deref().map(wire::ExternalAuth::from),
        }
    }
}

impl TryFrom<wire::AuthorizationPolicy> for AccessPolicy {
    type Error = ConvertError;

    fn try_from(policy: wire::AuthorizationPolicy) -> Result<Self> {
        understood(policy.needs.iter().filter(|need| ![JWT, EXTERNAL].contains(&need.as_str())))?;
        if policy.issuers.is_empty() && policy.needs.iter().any(|need| need == JWT) {
            return Err(error("issuers", "they are missing, and tokens that are not valid would pass"));
        }
        let action = match policy.action() {
            wire::AuthorizationAction::Allow => Action::Allow,
            wire::AuthorizationAction::Deny => Action::Deny,
            wire::AuthorizationAction::Audit => Action::Audit,
            wire::AuthorizationAction::Ask => Action::Ask,
            wire::AuthorizationAction::Unspecified => {
                return Err(error("action", "is none that this node knows"));
            }
        };
        let external = policy.external.map(|external| ExternalAuth::try_from(external).map(Arc::new));
        let external = external.transpose().map_err(|e| within("external", e))?;
        if external.is_some() != (action == Action::Ask) {
            return Err(error("external", "it and the action do not fit: who is asked would not be known"));
        }
        Ok(Self {
            name: object_name("", policy.namespace, policy.name)?,
            action,
            external,
            at: policy.at.map(|at| ports("at", at)).transpose()?,
            issuers: list("issuers", policy.issuers, |issuer| JwtIssuer::try_from(issuer).map(Arc::new))?,
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
            needs: {
                let request = rule.request.as_ref().map(|_| REQUEST);
                let when = rule.when.as_ref().map(|_| WHEN);
                request.into_iter().chain(when).map(str::to_owned).collect()
            },
            when: rule.when.as_ref().map(|when| when.text().to_owned()).unwrap_or_default(),
            request: rule.request.as_deref().map(wire::RequestConditions::from),
        }
    }
}

/// What a node must understand of a policy that has somebody else asked.
const EXTERNAL: &str = "external";

/// What a node must understand of a policy that has issuers of tokens.
const JWT: &str = "jwt";

/// What a node must understand of a rule that looks at requests.
const REQUEST: &str = "request";

/// What a node must understand of a rule that has a condition in CEL.
const WHEN: &str = "when";

impl From<&RequestConditions> for wire::RequestConditions {
    fn from(conditions: &RequestConditions) -> Self {
        let paths = |paths: &[PathMatch]| paths.iter().map(wire::PathMatch::from).collect();
        Self {
            methods: conditions.methods.clone(),
            paths: paths(&conditions.paths),
            calls: paths(&conditions.calls),
            hosts: conditions.hosts.iter().map(ToString::to_string).collect(),
            headers: conditions.headers.iter().map(wire::ValueMatch::from).collect(),
            jwt: conditions.jwt.as_ref().map(wire::JwtConditions::from),
        }
    }
}

impl TryFrom<wire::RequestConditions> for RequestConditions {
    type Error = ConvertError;

    fn try_from(conditions: wire::RequestConditions) -> Result<Self> {
        Ok(Self {
            methods: conditions.methods,
            paths: list("paths", conditions.paths, PathMatch::try_from)?,
            calls: list("calls", conditions.calls, PathMatch::try_from)?,
            hosts: conditions.hosts.iter().map(|host| ServerName::new(host)).collect(),
            headers: list("headers", conditions.headers, header_match)?,
            jwt: conditions.jwt.map(JwtConditions::from),
        })
    }
}

impl From<&PathMatch> for wire::PathMatch {
    fn from(path: &PathMatch) -> Self {
        use wire::path_match::Path;
        Self {
            path: Some(match path {
                PathMatch::Exact(path) => Path::Exact(path.clone()),
                PathMatch::Prefix(path) => Path::Prefix(path.clone()),
                PathMatch::Regex(pattern) => Path::Regex(pattern.source().to_owned()),
            }),
        }
    }
}

impl TryFrom<wire::PathMatch> for PathMatch {
    type Error = ConvertError;

    fn try_from(path: wire::PathMatch) -> Result<Self> {
        use wire::path_match::Path;
        match path.path {
            Some(Path::Exact(path)) => Ok(Self::Exact(path)),
            Some(Path::Prefix(path)) => prefix(path),
            Some(Path::Regex(source)) => pattern(&source).map(Self::Regex),
            None => Err(error("path", "is none that this node knows")),
        }
    }
}

impl TryFrom<wire::AuthorizationRule> for AccessRule {
    type Error = ConvertError;

    fn try_from(rule: wire::AuthorizationRule) -> Result<Self> {
        understood(rule.needs.iter().filter(|need| *need != REQUEST && *need != WHEN))?;
        for (field, is_missing) in [(REQUEST, rule.request.is_none()), (WHEN, rule.when.is_empty())] {
            if is_missing && rule.needs.iter().any(|need| need == field) {
                return Err(error(field, "it is missing, and the rule would be about more without it"));
            }
        }
        let condition = |text: String| CelCondition::new(&text).map_err(|problem| error(WHEN, problem));
        let sources = rule.sources.map(|sources| list("sources", sources.sources, Source::try_from));
        Ok(Self {
            index: rule.index as usize,
            sources: sources.transpose()?,
            ports: rule.ports.map(|some| ports("ports", some)).transpose()?,
            request: rule
                .request
                .map(|conditions| RequestConditions::try_from(conditions).map(Box::new))
                .transpose()
                .map_err(|e| within("request", e))?,
            when: Some(rule.when).filter(|text| !text.is_empty()).map(condition).transpose()?,
        })
    }
}

impl From<&JwtIssuer> for wire::JwtIssuer {
    fn from(issuer: &JwtIssuer) -> Self {
        let text = |text: &Option<Arc<str>>| text.as_deref().unwrap_or_default().to_owned();
        let claim_header = |of: &ClaimHeader| wire::ClaimHeader {
            claim: of.claim.clone(),
            header: of.header.as_str().to_owned(),
        };
        Self {
            issuer: issuer.issuer.clone(),
            audiences: issuer.audiences.clone(),
            source: text(&issuer.keys.source),
            keys: text(&issuer.keys.set),
            header: issuer.place.header.as_str().to_owned(),
            prefix: issuer.place.prefix.clone(),
            claim_headers: issuer.claim_headers.iter().map(claim_header).collect(),
            max_stream_age_ms: issuer.max_stream_age.map(|age| age.as_millis() as u64),
        }
    }
}

impl TryFrom<wire::JwtIssuer> for JwtIssuer {
    type Error = ConvertError;

    fn try_from(issuer: wire::JwtIssuer) -> Result<Self> {
        let text = |text: String| (!text.is_empty()).then(|| text.into());
        let claim_header = |of: wire::ClaimHeader| {
            Ok(ClaimHeader { claim: of.claim, header: header_name("header", &of.header)? })
        };
        Ok(Self {
            issuer: issuer.issuer,
            audiences: issuer.audiences,
            keys: JwtKeys { source: text(issuer.source), set: text(issuer.keys) },
            place: TokenPlace { header: header_name("header", &issuer.header)?, prefix: issuer.prefix },
            claim_headers: list("claim_headers", issuer.claim_headers, claim_header)?,
            max_stream_age: issuer.max_stream_age_ms.map(Duration::from_millis),
        })
    }
}

impl From<&ExternalAuth> for wire::ExternalAuth {
    fn from(external: &ExternalAuth) -> Self {
        use wire::external_auth::Protocol;
        let names = |names: &[HeaderName]| names.iter().map(|name| name.as_str().to_owned()).collect();
        let protocol = match &external.protocol {
            ExternalProtocol::Grpc { headers } => {
                Protocol::Grpc(wire::ExternalGrpc { headers: names(headers) })
            }
            ExternalProtocol::Http { path, headers, answered } => Protocol::Http(wire::ExternalHttp {
                path: path.clone(),
                headers: names(headers),
                answered: names(answered),
            }),
        };
        Self {
            namespace: external.service.namespace.to_string(),
            name: external.service.name.to_string(),
            port: external.port.into(),
            protocol: Some(protocol),
            max_body: external.max_body.into(),
            timeout_ms: external.timeout.as_millis() as u32,
            fail_open: external.fail_open,
            spared: external.spared.iter().copied().map(u32::from).collect(),
        }
    }
}

impl TryFrom<wire::ExternalAuth> for ExternalAuth {
    type Error = ConvertError;

    fn try_from(external: wire::ExternalAuth) -> Result<Self> {
        use wire::external_auth::Protocol;
        let names = |field, names| list(field, names, |name: String| header_name("", &name));
        let protocol = match external.protocol {
            Some(Protocol::Grpc(grpc)) => ExternalProtocol::Grpc { headers: names("headers", grpc.headers)? },
            Some(Protocol::Http(http)) => ExternalProtocol::Http {
                path: http.path,
                headers: names("headers", http.headers)?,
                answered: names("answered", http.answered)?,
            },
            None => return Err(error("protocol", "is none that this node knows")),
        };
        let most = LONGEST_EXTERNAL_TIMEOUT;
        let timeout =
            Some(Duration::from_millis(external.timeout_ms.into())).filter(|timeout| *timeout <= most);
        Ok(Self {
            service: object_name("", external.namespace, external.name)?,
            port: port_number("port", external.port)?,
            protocol,
            max_body: u16::try_from(external.max_body).map_err(|_| error("max_body", "is too large"))?,
            timeout: timeout.ok_or_else(|| error("timeout_ms", "is too long"))?,
            fail_open: external.fail_open,
            spared: list("spared", external.spared, |port| port_number("", port))?,
        })
    }
}

fn header_name(field: &'static str, name: &str) -> Result<HeaderName> {
    HeaderName::from_bytes(name.as_bytes())
        .map_err(|_| error(field, format!("`{name}` is no name of a header")))
}

impl From<&JwtConditions> for wire::JwtConditions {
    fn from(conditions: &JwtConditions) -> Self {
        let claim = |of: &ClaimMatch| wire::ClaimMatch { name: of.name.clone(), values: of.values.clone() };
        Self { issuers: conditions.issuers.clone(), claims: conditions.claims.iter().map(claim).collect() }
    }
}

impl From<wire::JwtConditions> for JwtConditions {
    fn from(conditions: wire::JwtConditions) -> Self {
        let claim = |of: wire::ClaimMatch| ClaimMatch { name: of.name, values: of.values };
        Self { issuers: conditions.issuers, claims: conditions.claims.into_iter().map(claim).collect() }
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
fn understood<'n>(mut needs: impl Iterator<Item = &'n String>) -> Result<()> {
    needs.next().map_or(Ok(()), |need| Err(error("needs", format!("`{need}` is none that this node knows"))))
}
