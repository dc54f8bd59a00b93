//! What the other node has to know of a request, besides the request: the workload, its port, and what to
//! speak to it. For one endpoint that is always the same, so it is put into words once.

use std::cell::RefCell;
use std::rc::Rc;

use http::header::{HeaderName, HeaderValue};
use tulle_model::snapshot::Endpoint;

use crate::http::headers::AppVersion;
use crate::mesh_headers::{APP_VERSION, PORT, WORKLOAD};

type Headers = Rc<[(HeaderName, HeaderValue)]>;

/// The headers of one endpoint, by its port and what is spoken to it: few.
#[derive(Default)]
pub struct LinkHeaders(RefCell<Vec<(u16, AppVersion, Headers)>>);

impl LinkHeaders {
    /// Those of a port of the endpoint that all of them are of.
    pub fn of(&self, endpoint: &Endpoint, port: u16, version: AppVersion) -> Headers {
        let mut known = self.0.borrow_mut();
        if let Some((.., headers)) = known.iter().find(|(p, v, _)| (*p, *v) == (port, version)) {
            return headers.clone();
        }
        let headers = headers(endpoint, port, version);
        known.push((port, version, headers.clone()));
        headers
    }
}

fn headers(endpoint: &Endpoint, port: u16, version: AppVersion) -> Headers {
    let workload = endpoint.workload.as_ref().and_then(|name| HeaderValue::try_from(name.to_string()).ok());
    let version = match version {
        AppVersion::Http1 => HeaderValue::from_static("1"),
        AppVersion::Http2 => HeaderValue::from_static("2"),
    };
    let workload = workload.map(|name| (WORKLOAD, name));
    workload.into_iter().chain([(PORT, port.into()), (APP_VERSION, version)]).collect()
}

#[cfg(test)]
mod tests {
    use tulle_model::name::WorkloadName;

    use super::*;

    #[test]
    fn each_port_and_version_has_its_own() {
        let cart = Endpoint {
            workload: Some(WorkloadName::new("shop", "cart")),
            node: None,
            address: [127, 0, 0, 1].into(),
            ports: Vec::new(),
            identity: None,
        };
        let known = LinkHeaders::default();
        for (port, version, number) in
            [(80, AppVersion::Http1, "1"), (81, AppVersion::Http1, "1"), (80, AppVersion::Http2, "2")]
        {
            let first = known.of(&cart, port, version);
            assert!(Rc::ptr_eq(&first, &known.of(&cart, port, version)));
            let values: Vec<_> = first.iter().map(|(_, value)| value.to_str().unwrap()).collect();
            assert_eq!(values, ["shop/cart", &port.to_string(), number]);
        }
    }
}
