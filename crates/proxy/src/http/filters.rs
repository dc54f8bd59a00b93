//! What the rule of a request, and the backend that takes it, make of its head and of its answer's (HTTPRouteFilter), in
//! this order: the rule's filters and then the backend's for a request, the other way round for its answer; last of all what
//! pages of other origins may do.

use std::sync::Arc;

use http::header::LOCATION;
use http::request::Parts;
use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, HeaderValue, Response, StatusCode, Uri};
use tulle_model::decision::Decision;
use tulle_model::head::may_go_on;
use tulle_model::routing::cors;
use tulle_model::routing::decide::Preflight;
use tulle_model::routing::redirect::{Asked, location};
use tulle_model::snapshot::{Cors, HttpFilters, HttpRule, Mirror, PathRewrite, Redirect};

use crate::uri::AsSent;

/// The rule of a request, and which of its backends takes it; one of them has filters.
pub(crate) struct Filters {
    rule: Arc<HttpRule>,
    backend: usize,
    /// The request's origin, as its answer is to name it, where it is one that may read that.
    origin: Option<HeaderValue>,
}

impl Filters {
    /// Those of a request with these fields. `None`: it passes as it is, as nearly all do.
    pub fn of(rule: &Arc<HttpRule>, backend: usize, fields: &HeaderMap) -> Option<Self> {
        let of_backend = rule.backends.get(backend).and_then(|backend| backend.filters.as_ref());
        if rule.filters.is_none() && of_backend.is_none() {
            return None;
        }
        let mut filters = Self { rule: rule.clone(), backend, origin: None };
        filters.origin = filters.cors().and_then(|cors| cors::allowed_origin(cors, fields));
        Some(filters)
    }

    pub fn rule(&self) -> &Arc<HttpRule> {
        &self.rule
    }

    /// The mirrors of the rule, and those of the backend, of that index.
    pub fn mirrors(&self) -> impl Iterator<Item = (Option<usize>, &Mirror)> {
        let [of_rule, of_backend] = self.both();
        let of_rule = of_rule.into_iter().flat_map(|filters| &filters.mirrors).map(|mirror| (None, mirror));
        let of_backend = of_backend.into_iter().flat_map(|filters| &filters.mirrors);
        of_rule.chain(of_backend.map(|mirror| (Some(self.backend), mirror)))
    }

    fn both(&self) -> [Option<&HttpFilters>; 2] {
        let backend = self.rule.backends.get(self.backend);
        [self.rule.filters.as_deref(), backend.and_then(|backend| backend.filters.as_deref())]
    }

    /// The rule's, if it has one.
    fn cors(&self) -> Option<&Cors> {
        self.both().into_iter().flatten().find_map(|filters| filters.cors.as_ref())
    }

    /// Changes a request of the inner form; or says why it cannot go on as the rule has it.
    pub fn request(&self, head: &mut Parts) -> Result<(), &'static str> {
        // All of them go by what the client asked for, so that a backend's path does not stack on the rule's.
        let asked = head.uri.path_and_query().cloned();
        for filters in self.both().into_iter().flatten() {
            filters.request_headers.apply(&mut head.headers);
            let Some(rewrite) = &filters.rewrite else { continue };
            let mut parts = std::mem::take(&mut head.uri).into_parts();
            if let Some(hostname) = &rewrite.hostname {
                parts.authority = Some(Authority::try_from(&**hostname).map_err(|_| UNFIT)?);
            }
            // `*` is no path.
            if let Some(path) = &rewrite.path
                && let Some(asked) = asked.as_ref().filter(|asked| asked.path().starts_with('/'))
            {
                // The new path is all of it: what no URI can hold was encoded in the one that it is made from.
                head.extensions.remove::<AsSent>();
                parts.path_and_query = Some(rewritten(path, asked)?);
            }
            head.uri = Uri::from_parts(parts).map_err(|_| UNFIT)?;
        }
        let target = head.uri.path_and_query().map_or(0, |path| path.as_str().len());
        match may_go_on(&head.headers, target) {
            true => Ok(()),
            false => Err("the head of the request is too large with what its rule adds to it"),
        }
    }

    /// Changes the head of the application's answer.
    pub fn response(&self, headers: &mut HeaderMap) {
        for filters in self.both().into_iter().rev().flatten() {
            filters.response_headers.apply(headers);
        }
        if let Some(cors) = self.cors() {
            cors::mark(cors, self.origin.as_ref(), headers);
        }
    }
}

const UNFIT: &str = "what its rule makes of the request's host and path is no URI, or too long for one";

fn rewritten(rewrite: &PathRewrite, asked: &PathAndQuery) -> Result<PathAndQuery, &'static str> {
    let mut path = rewrite.apply(asked.path());
    if let Some(query) = asked.query() {
        path.push('?');
        path.push_str(query);
    }
    PathAndQuery::try_from(path).map_err(|_| UNFIT)
}

/// Sends a client elsewhere. `head` has the inner form.
pub(crate) fn redirect(
    rule: &HttpRule,
    redirect: &Redirect,
    head: &Parts,
    service_port: u16,
) -> Response<()> {
    let asked = Asked {
        host: head.uri.host().unwrap_or_default(),
        port: head.uri.port_u16(),
        service_port,
        path: head.uri.path(),
        query: head.uri.query(),
    };
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::from_u16(redirect.status).unwrap_or(StatusCode::FOUND);
    // Made of parts that stood in URIs, or were checked to be such.
    if let Ok(location) = HeaderValue::try_from(location(redirect, asked)) {
        response.headers_mut().insert(LOCATION, location);
    }
    if let Some(filters) = &rule.filters {
        filters.response_headers.apply(response.headers_mut());
        if let Some(cors) = &filters.cors {
            let origin = cors::allowed_origin(cors, &head.headers);
            cors::mark(cors, origin.as_ref(), response.headers_mut());
        }
    }
    response
}

/// Answers a preflight with these fields, and says what was decided. An origin that is not allowed is told so by the status,
/// too, which people and metrics see.
pub(crate) fn preflight(preflight: &Preflight<'_>, fields: &HeaderMap) -> (Response<()>, Decision) {
    let mut response = Response::new(());
    if let Some(filters) = &preflight.rule.filters {
        filters.response_headers.apply(response.headers_mut());
    }
    let allowed = cors::answer_preflight(preflight.cors, fields, response.headers_mut());
    *response.status_mut() = if allowed { StatusCode::NO_CONTENT } else { StatusCode::FORBIDDEN };
    (response, preflight.decision(allowed))
}
