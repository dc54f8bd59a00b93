//! What rules make of requests and their answers.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use tulle_model::name::dns_subdomain_problem;
use tulle_model::snapshot as model;

use super::{ConvertError, Result, error, list, port_number, within};
use crate::discovery as wire;

/// `None`: there is nothing to do.
pub(super) fn read(filters: Option<wire::Filters>) -> Result<Option<Box<model::HttpFilters>>> {
    let filters = filters.map(model::HttpFilters::try_from).transpose();
    Ok(filters.map_err(|e| within("filters", e))?.and_then(model::HttpFilters::into_option))
}

/// In milliseconds; 0: there is no limit.
pub(super) fn timeout_message(timeout: Option<Duration>) -> u64 {
    timeout.map_or(0, |time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

pub(super) fn timeout(milliseconds: u64) -> Option<Duration> {
    (milliseconds != 0).then(|| Duration::from_millis(milliseconds))
}

impl From<&model::Session> for wire::Session {
    fn from(session: &model::Session) -> Self {
        Self {
            name: session.name.to_string(),
            header: session.carrier == model::SessionCarrier::Header,
            permanent: session.carrier == model::SessionCarrier::Cookie { permanent: true },
            absolute_timeout_ms: timeout_message(session.absolute),
            idle_timeout_ms: timeout_message(session.idle),
        }
    }
}

pub(super) fn session(rule: &model::HttpRule, session: wire::Session) -> Result<model::Session> {
    // A cookie's name is what a header's is.
    if HeaderName::from_bytes(session.name.as_bytes()).is_err() {
        let problem = format!("`{}` is no name of a cookie or header", session.name.escape_debug());
        return Err(error("session.name", problem));
    }
    let carrier = match session.header {
        true => model::SessionCarrier::Header,
        false => model::SessionCarrier::Cookie { permanent: session.permanent },
    };
    Ok(model::Session {
        absolute: timeout(session.absolute_timeout_ms),
        idle: timeout(session.idle_timeout_ms),
        ..model::Session::of(rule, Some(session.name.into()), carrier)
    })
}

impl From<&model::HttpFilters> for wire::Filters {
    fn from(filters: &model::HttpFilters) -> Self {
        Self {
            request_headers: edit_message(&filters.request_headers),
            response_headers: edit_message(&filters.response_headers),
            redirect: filters.redirect.as_ref().map(wire::Redirect::from),
            rewrite: filters.rewrite.as_ref().map(|rewrite| wire::Rewrite {
                index: rewrite.index,
                hostname: text(rewrite.hostname.as_deref()),
                path: rewrite.path.as_ref().map(wire::PathRewrite::from),
            }),
            mirrors: filters.mirrors.iter().map(wire::Mirror::from).collect(),
            cors: filters.cors.as_ref().map(wire::Cors::from),
        }
    }
}

impl TryFrom<wire::Filters> for model::HttpFilters {
    type Error = ConvertError;

    fn try_from(filters: wire::Filters) -> Result<Self> {
        let rewrite = filters.rewrite.map(|rewrite| {
            let path = path(rewrite.path).map_err(|e| within("rewrite", e))?;
            let hostname = host(rewrite.hostname).map_err(|e| within("rewrite", e))?;
            Ok(model::Rewrite { index: rewrite.index, hostname, path })
        });
        let redirect = filters.redirect.map(model::Redirect::try_from).transpose();
        let cors = filters.cors.map(model::Cors::try_from).transpose();
        Ok(Self {
            request_headers: edit("request_headers", filters.request_headers)?,
            response_headers: edit("response_headers", filters.response_headers)?,
            redirect: redirect.map_err(|e| within("redirect", e))?,
            rewrite: rewrite.transpose()?,
            mirrors: list("mirrors", filters.mirrors, model::Mirror::try_from)?,
            cors: cors.map_err(|e| within("cors", e))?,
        })
    }
}

impl From<&model::Mirror> for wire::Mirror {
    fn from(mirror: &model::Mirror) -> Self {
        let target = mirror.target.clone();
        let backend = model::Backend { spoken: mirror.spoken, ..model::Backend::new(target, 0) };
        Self {
            index: mirror.index,
            backend: Some(wire::Backend::from(&backend)),
            numerator: mirror.share.numerator(),
            denominator: mirror.share.denominator(),
        }
    }
}

impl TryFrom<wire::Mirror> for model::Mirror {
    type Error = ConvertError;

    fn try_from(mirror: wire::Mirror) -> Result<Self> {
        let backend = mirror.backend.ok_or_else(|| error("backend", "it is missing"))?;
        let backend = model::Backend::try_from(backend).map_err(|e| within("backend", e))?;
        let share = model::Share::new(mirror.numerator, mirror.denominator);
        let share = share.ok_or_else(|| error("numerator", "it is more than all, or of nothing"))?;
        Ok(Self { index: mirror.index, target: backend.target, spoken: backend.spoken, share })
    }
}

impl From<&model::Retry> for wire::Retry {
    fn from(retry: &model::Retry) -> Self {
        Self {
            codes: retry.codes.iter().map(|code| u32::from(*code)).collect(),
            attempts: retry.attempts,
            backoff_ms: retry.backoff.map(|time| timeout_message(Some(time))),
        }
    }
}

/// So many retries, and such waits, are far more than any server allows.
const MOST_RETRIES: u32 = 1000;
const LONGEST_BACKOFF: Duration = Duration::from_secs(3600);

pub(super) fn retry(retry: wire::Retry) -> Result<model::Retry> {
    let code = |code: u32| match u16::try_from(code) {
        Ok(status @ 400..600) => Ok(status),
        _ => Err(error("", format!("{code} is no status of a failure"))),
    };
    let codes = list("retry.codes", retry.codes, code)?;
    if retry.attempts.is_some_and(|attempts| attempts > MOST_RETRIES) {
        return Err(error("retry.attempts", "it is out of range"));
    }
    let backoff = retry.backoff_ms.map(Duration::from_millis);
    if backoff.is_some_and(|time| time > LONGEST_BACKOFF) {
        return Err(error("retry.backoff_ms", "it is out of range"));
    }
    Ok(model::Retry { codes, attempts: retry.attempts, backoff })
}

fn text(given: Option<&str>) -> String {
    given.unwrap_or_default().to_owned()
}

/// Empty: as the client had it.
fn host(text: String) -> Result<Option<Arc<str>>> {
    match dns_subdomain_problem(&text) {
        _ if text.is_empty() => Ok(None),
        None => Ok(Some(text.into())),
        Some(problem) => Err(error("hostname", format!("`{}` {problem}", text.escape_debug()))),
    }
}

fn edit_message(edit: &model::HeaderEdit) -> Option<wire::HeaderEdit> {
    let fields = |fields: &[(HeaderName, HeaderValue)]| {
        let field = |(name, value): &(HeaderName, HeaderValue)| wire::HeaderField {
            name: name.as_str().to_owned(),
            value: Bytes::copy_from_slice(value.as_bytes()),
        };
        fields.iter().map(field).collect()
    };
    (!edit.is_empty()).then(|| wire::HeaderEdit {
        index: edit.index,
        remove: edit.remove.iter().map(|name| name.as_str().to_owned()).collect(),
        set: fields(&edit.set),
        add: fields(&edit.add),
    })
}

fn edit(what: &str, edit: Option<wire::HeaderEdit>) -> Result<model::HeaderEdit> {
    let edit = edit.unwrap_or_default();
    let name = |name: String| match HeaderName::from_bytes(name.as_bytes()) {
        Ok(name) if model::uneditable(name.as_str()).is_none() => Ok(name),
        _ => Err(error("name", format!("`{}` is no header that is changed", name.escape_debug()))),
    };
    let field = |field: wire::HeaderField| {
        let value = HeaderValue::from_maybe_shared(field.value);
        Ok((name(field.name)?, value.map_err(|_| error("value", "it is no value of a header"))?))
    };
    let read = || {
        Ok(model::HeaderEdit {
            index: edit.index,
            remove: list("remove", edit.remove, name)?,
            set: list("set", edit.set, field)?,
            add: list("add", edit.add, field)?,
        })
    };
    read().map_err(|e| within(what, e))
}

impl From<&model::Redirect> for wire::Redirect {
    fn from(redirect: &model::Redirect) -> Self {
        let scheme = match redirect.scheme {
            None => wire::Scheme::Unsaid,
            Some(model::Scheme::Http) => wire::Scheme::Http,
            Some(model::Scheme::Https) => wire::Scheme::Https,
        };
        Self {
            index: redirect.index,
            scheme: scheme.into(),
            hostname: text(redirect.hostname.as_deref()),
            port: redirect.port.unwrap_or(0).into(),
            path: redirect.path.as_ref().map(wire::PathRewrite::from),
            status: redirect.status.into(),
        }
    }
}

impl TryFrom<wire::Redirect> for model::Redirect {
    type Error = ConvertError;

    fn try_from(redirect: wire::Redirect) -> Result<Self> {
        let scheme = match wire::Scheme::try_from(redirect.scheme) {
            Ok(wire::Scheme::Unsaid) => None,
            Ok(wire::Scheme::Http) => Some(model::Scheme::Http),
            Ok(wire::Scheme::Https) => Some(model::Scheme::Https),
            Err(_) => return Err(error("scheme", format!("{} is no known scheme", redirect.scheme))),
        };
        let port = (redirect.port != 0).then(|| port_number("port", redirect.port)).transpose()?;
        let status = match redirect.status {
            status @ (301 | 302 | 303 | 307 | 308) => status as u16,
            other => return Err(error("status", format!("{other} redirects nobody"))),
        };
        let hostname = host(redirect.hostname)?;
        Ok(Self { index: redirect.index, scheme, hostname, port, path: path(redirect.path)?, status })
    }
}

impl From<&model::PathRewrite> for wire::PathRewrite {
    fn from(rewrite: &model::PathRewrite) -> Self {
        use wire::path_rewrite::Kind;
        let kind = match rewrite {
            model::PathRewrite::Full(path) => Kind::Full(path.clone()),
            model::PathRewrite::Prefix { matched, replacement } => Kind::Prefix(wire::PrefixRewrite {
                matched: matched.clone(),
                replacement: replacement.clone(),
            }),
        };
        Self { kind: Some(kind) }
    }
}

fn path(rewrite: Option<wire::PathRewrite>) -> Result<Option<model::PathRewrite>> {
    use wire::path_rewrite::Kind;
    let rooted = |field: &'static str, path: &str, may_be_empty: bool| {
        let plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#');
        let rooted = path.starts_with('/') || (may_be_empty && path.is_empty());
        match rooted && path.bytes().all(plain) {
            true => Ok(()),
            false => Err(error(format!("path.{field}"), format!("`{}` is no path", path.escape_debug()))),
        }
    };
    let Some(rewrite) = rewrite else { return Ok(None) };
    match rewrite.kind {
        Some(Kind::Full(path)) => {
            rooted("full", &path, false)?;
            Ok(Some(model::PathRewrite::Full(path)))
        }
        Some(Kind::Prefix(wire::PrefixRewrite { matched, replacement })) => {
            rooted("prefix.matched", &matched, true)?;
            rooted("prefix.replacement", &replacement, true)?;
            Ok(Some(model::PathRewrite::Prefix { matched, replacement }))
        }
        None => Err(error("path", "it is missing, or of a kind that this version does not know")),
    }
}
