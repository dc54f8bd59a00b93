//! What the rule of a request, and the backend that takes it, make of its head and of its answer's (HTTPRouteFilter), in
//! this order: the rule's filters and then the backend's for a request, the other way round for its answer.

use std::sync::Arc;

use http::header::LOCATION;
use http::request::Parts;
use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, HeaderValue, Response, StatusCode, Uri};
use tulle_model::routing::redirect::{Asked, location};
use tulle_model::snapshot::{HttpFilters, HttpRule, PathRewrite, Redirect};

use crate::http::body::Body;
use crate::uri::AsSent;

/// The rule of a request, and which of its backends takes it; one of them has filters.
pub(crate) struct Filters {
    rule: Arc<HttpRule>,
    backend: usize,
}

impl Filters {
    /// `None`: the request passes as it is, as nearly all do.
    pub fn of(rule: &Arc<HttpRule>, backend: usize) -> Option<Self> {
        let of_backend = rule.backends.get(backend).and_then(|backend| backend.filters.as_ref());
        (rule.filters.is_some() || of_backend.is_some()).then(|| Self { rule: rule.clone(), backend })
    }

    fn both(&self) -> [Option<&HttpFilters>; 2] {
        let backend = self.rule.backends.get(self.backend);
        [self.rule.filters.as_deref(), backend.and_then(|backend| backend.filters.as_deref())]
    }

    /// Changes a request of the inner form.
    pub fn request(&self, head: &mut Parts) {
        // All of them go by what the client asked for, so that a backend's path does not stack on the rule's.
        let asked = head.uri.path().to_owned();
        for filters in self.both().into_iter().flatten() {
            filters.request_headers.apply(&mut head.headers);
            let Some(rewrite) = &filters.rewrite else { continue };
            if let Some(hostname) = &rewrite.hostname {
                change(&mut head.uri, |uri| uri.authority = Authority::try_from(&**hostname).ok());
            }
            if let Some(path) = &rewrite.path {
                // The new path is all of it: what no URI can hold was encoded in the one that it is made from.
                head.extensions.remove::<AsSent>();
                rewrite_path(&mut head.uri, path, &asked);
            }
        }
    }

    /// Changes the head of the application's answer.
    pub fn response(&self, headers: &mut HeaderMap) {
        for filters in self.both().into_iter().rev().flatten() {
            filters.response_headers.apply(headers);
        }
    }
}

fn rewrite_path(uri: &mut Uri, rewrite: &PathRewrite, asked: &str) {
    // `*` is no path.
    if !asked.starts_with('/') {
        return;
    }
    let mut path = rewrite.apply(asked);
    if let Some(query) = uri.query() {
        path.push('?');
        path.push_str(query);
    }
    // One that is too long for a URI stays as it was.
    if let Ok(path) = PathAndQuery::try_from(path) {
        change(uri, |uri| uri.path_and_query = Some(path));
    }
}

fn change(uri: &mut Uri, change: impl FnOnce(&mut http::uri::Parts)) {
    let mut parts = std::mem::take(uri).into_parts();
    change(&mut parts);
    // What is put in its parts are such parts, and none goes missing.
    *uri = Uri::from_parts(parts).unwrap_or_default();
}

/// Sends a client elsewhere. `head` has the inner form.
pub(crate) fn redirect(redirect: &Redirect, head: &Parts, service_port: u16) -> Response<Body> {
    let asked = Asked {
        host: head.uri.host().unwrap_or_default(),
        port: head.uri.port_u16(),
        service_port,
        path: head.uri.path(),
        query: head.uri.query(),
    };
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::from_u16(redirect.status).unwrap_or(StatusCode::FOUND);
    // Made of parts that stood in URIs, or were checked to be such.
    if let Ok(location) = HeaderValue::try_from(location(redirect, asked)) {
        response.headers_mut().insert(LOCATION, location);
    }
    response
}
