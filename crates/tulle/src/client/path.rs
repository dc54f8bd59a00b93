//! URLs of resources (Kubernetes API conventions, Resource URIs).

use std::fmt::Write;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use tulle_model::registry::Kind;

/// Everything but what RFC 3986 calls unreserved.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The path of all objects of a kind, or of those in `namespace`, or of one.
pub fn resource(kind: &Kind, namespace: Option<&str>, name: Option<&str>) -> String {
    let mut path = match kind.group {
        "" => format!("/api/{}", kind.version),
        group => format!("/apis/{group}/{}", kind.version),
    };
    if let Some(namespace) = namespace.filter(|_| kind.namespaced) {
        let _ = write!(path, "/namespaces/{}", escape(namespace));
    }
    let _ = write!(path, "/{}", kind.plural);
    if let Some(name) = name {
        let _ = write!(path, "/{}", escape(name));
    }
    path
}

fn escape(text: &str) -> impl std::fmt::Display + '_ {
    utf8_percent_encode(text, ESCAPED)
}

/// A path and its query.
pub struct Query(String);

impl Query {
    pub fn new(path: String) -> Self {
        Self(path)
    }

    pub fn set(mut self, name: &str, value: &str) -> Self {
        let separator = if self.0.contains('?') { '&' } else { '?' };
        let _ = write!(self.0, "{separator}{name}={}", escape(value));
        self
    }

    pub fn set_if(self, name: &str, value: Option<&str>) -> Self {
        match value {
            Some(value) => self.set(name, value),
            None => self,
        }
    }

    pub fn finish(self) -> String {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tulle_model::registry::KindId::{HttpRoute, Mesh, Service};

    #[test]
    fn paths_follow_the_conventions() {
        assert_eq!(resource(Service.kind(), Some("shop"), Some("c")), "/api/v1/namespaces/shop/services/c");
        assert_eq!(resource(HttpRoute.kind(), None, None), "/apis/gateway.networking.k8s.io/v1/httproutes");
        assert_eq!(resource(Mesh.kind(), Some("x"), Some("a/b")), "/apis/tulle.dev/v1alpha1/meshes/a%2Fb");
        let query = Query::new("/x".into()).set("a", "b=c").set_if("n", None).set("w", "1");
        assert_eq!(query.finish(), "/x?a=b%3Dc&w=1");
    }
}
