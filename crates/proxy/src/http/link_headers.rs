//! What the other node has to know of a request, besides the request: the workload, its port, and what to
//! speak to it. For one endpoint that is always the same, so it is put into words once.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use http::header::{HeaderName, HeaderValue};
use tulle_model::snapshot::{Endpoint, FastMap};

use crate::http::headers::AppVersion;
use crate::mesh_headers::{APP_VERSION, PORT, WORKLOAD};

/// Endpoints that a worker remembers the headers of; beyond that it starts anew, which also lets go of
/// those that are gone.
const MAX_REMEMBERED: usize = 1024;

type Headers = Rc<[(HeaderName, HeaderValue)]>;

/// The headers by endpoint, of one worker.
#[derive(Default)]
pub struct LinkHeaders(RefCell<FastMap<(*const Endpoint, u16, AppVersion), Remembered>>);

struct Remembered {
    headers: Headers,
    /// As long as it is held, no other endpoint is at its address, by which it is found.
    _endpoint: Arc<Endpoint>,
}

impl LinkHeaders {
    pub fn of(&self, endpoint: &Arc<Endpoint>, port: u16, version: AppVersion) -> Headers {
        let mut remembered = self.0.borrow_mut();
        let key = (Arc::as_ptr(endpoint), port, version);
        if let Some(known) = remembered.get(&key) {
            return known.headers.clone();
        }
        if remembered.len() >= MAX_REMEMBERED {
            remembered.clear();
        }
        let headers = headers(endpoint, port, version);
        let new = Remembered { headers: headers.clone(), _endpoint: endpoint.clone() };
        remembered.insert(key, new);
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

    fn endpoint(name: &str) -> Arc<Endpoint> {
        Arc::new(Endpoint {
            workload: Some(WorkloadName::new("shop", name)),
            node: None,
            address: [127, 0, 0, 1].into(),
            ports: Vec::new(),
            identity: None,
        })
    }

    #[test]
    fn each_endpoint_has_its_own() {
        let known = LinkHeaders::default();
        let cart = endpoint("cart");
        for (port, version, number) in
            [(80, AppVersion::Http1, "1"), (81, AppVersion::Http1, "1"), (80, AppVersion::Http2, "2")]
        {
            let first = known.of(&cart, port, version);
            assert!(Rc::ptr_eq(&first, &known.of(&cart, port, version)));
            let values: Vec<_> = first.iter().map(|(_, value)| value.to_str().unwrap()).collect();
            assert_eq!(values, ["shop/cart", &port.to_string(), number]);
        }
        // Endpoints that come and go may lie where others lay.
        for i in 0..3 * MAX_REMEMBERED {
            let name = format!("w-{i}");
            let headers = known.of(&endpoint(&name), 80, AppVersion::Http1);
            assert_eq!(headers[0].1.to_str().unwrap(), format!("shop/{name}"));
            assert!(known.0.borrow().len() <= MAX_REMEMBERED);
        }
    }
}
