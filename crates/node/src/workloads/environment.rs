//! The variables by which a process finds what it calls.

use std::net::SocketAddr;
use std::path::Path;

use tulle_model::name::{ServiceName, WorkloadName};

/// The variable by which the processes of a workload are found where it has no cgroup, or somebody has moved them out
/// of it: all that it starts inherit it.
pub const MARK: &str = "TULLE_WORKLOAD";

/// The value of [`MARK`]. `scope` tells this node's workloads from those of another one on the host.
pub(super) fn mark(scope: &str, workload: &WorkloadName) -> String {
    format!("{scope}/{}/{}", workload.namespace, workload.name)
}

/// The scope of the node and the workload that a value of [`MARK`] names.
pub(crate) fn marked(value: &str) -> Option<(&str, WorkloadName)> {
    let (scope, workload) = value.split_once('/')?;
    let (namespace, name) = workload.split_once('/')?;
    Some((scope, WorkloadName::new(namespace, name)))
}

/// Where clients of the Workload API look for it (SPIFFE Workload Endpoint, section 4).
pub const WORKLOAD_API: &str = "SPIFFE_ENDPOINT_SOCKET";

/// The variable for the socket at `path`.
pub(super) fn workload_api(path: &Path) -> (String, String) {
    (WORKLOAD_API.to_owned(), format!("unix://{}", path.display()))
}

/// Takes out what the user has said otherwise, in the environment that processes inherit: where a Workload API is that is none of ours.
pub(super) fn respect(variables: &mut Vec<(String, String)>, inherited: impl Fn(&str) -> bool) {
    // With a mark beside it, it is what a node has said to this process.
    if inherited(WORKLOAD_API) && !inherited(MARK) {
        variables.retain(|(name, _)| name != WORKLOAD_API);
    }
}

/// Where each port of a service is reached.
pub(super) type Places = Vec<(ServiceName, Vec<(u16, SocketAddr)>)>;

/// The HTTP proxy at `address`. Loopback addresses are no mesh names: what is asked of them directly
/// stays direct.
pub(super) fn http_proxy(address: SocketAddr) -> Vec<(String, String)> {
    let proxy = format!("http://{address}");
    let direct = "localhost,127.0.0.1,::1";
    // Both spellings are in use; curl reads the lower case alone.
    [("HTTP_PROXY", proxy.as_str()), ("http_proxy", &proxy), ("NO_PROXY", direct), ("no_proxy", direct)]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
}

/// `<SERVICE>_SERVICE_HOST` and `<SERVICE>_SERVICE_PORT` as in Kubernetes, with
/// `<SERVICE>_SERVICE_HOST_<number>` and `<SERVICE>_SERVICE_PORT_<number>` for each port, where there are
/// several. A service of another namespace is `<SERVICE>_<NAMESPACE>`.
pub(super) fn services(namespace: &str, places: &Places) -> Vec<(String, String)> {
    let mut variables = Vec::new();
    for (service, ports) in places {
        let mut prefix = service.name.to_string();
        if &*service.namespace != namespace {
            prefix = format!("{prefix}_{}", service.namespace);
        }
        let prefix = prefix.to_ascii_uppercase().replace(['-', '.'], "_");
        let mut add = |suffix: &str, place: &SocketAddr| {
            variables.push((format!("{prefix}_SERVICE_HOST{suffix}"), place.ip().to_string()));
            variables.push((format!("{prefix}_SERVICE_PORT{suffix}"), place.port().to_string()));
        };
        if let Some((_, first)) = ports.first() {
            add("", first);
        }
        if ports.len() > 1 {
            for (number, place) in ports {
                add(&format!("_{number}"), place);
            }
        }
    }
    variables
}

/// Replaces `${NAME}` by the value of that name; what is not known stays as it is, for a shell.
pub fn fill(text: &str, values: &[(String, String)]) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        out.push_str(&rest[..start]);
        let after = &rest[start + 2..];
        let value = after.find('}').and_then(|end| {
            let value = values.iter().rev().find(|(name, _)| *name == after[..end])?;
            Some((value, end))
        });
        match value {
            Some(((_, value), end)) => {
                out.push_str(value);
                rest = &after[end + 1..];
            }
            None => {
                out.push_str("${");
                rest = after;
            }
        }
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_names_are_filled_in() {
        let values = [("PORT".to_owned(), "80".to_owned())];
        assert_eq!(fill("x${PORT}y${HOME} ${", &values), "x80y${HOME} ${");
    }

    #[test]
    fn a_mark_names_one_workload_of_one_node() {
        let cart = WorkloadName::new("shop", "cart.1");
        assert_eq!(marked(&mark("one-12ab", &cart)), Some(("one-12ab", cart)));
        assert_eq!(marked("one-12ab/shop"), None);
    }

    #[test]
    fn a_workload_api_of_the_users_own_is_kept() {
        let both = [(MARK.to_owned(), "x".to_owned()), workload_api(Path::new("/run/a.sock"))];
        assert_eq!(both[1].1, "unix:///run/a.sock");
        for (inherited, left) in
            [(&[][..], 2), (&[WORKLOAD_API][..], 1), (&[WORKLOAD_API, MARK][..], 2), (&[MARK][..], 2)]
        {
            let mut variables = both.to_vec();
            respect(&mut variables, |name| inherited.contains(&name));
            assert_eq!(variables, both[..left], "{inherited:?}");
        }
    }

    #[test]
    fn services_are_named_as_in_kubernetes() {
        let place = |port| SocketAddr::from(([127, 64, 0, 1], port));
        let places = vec![
            (ServiceName::new("shop", "my-cart"), vec![(80, place(80))]),
            (ServiceName::new("other", "d"), vec![(1, place(1)), (2, place(2))]),
        ];
        let variables: Vec<_> =
            services("shop", &places).into_iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(
            variables,
            [
                "MY_CART_SERVICE_HOST=127.64.0.1",
                "MY_CART_SERVICE_PORT=80",
                "D_OTHER_SERVICE_HOST=127.64.0.1",
                "D_OTHER_SERVICE_PORT=1",
                "D_OTHER_SERVICE_HOST_1=127.64.0.1",
                "D_OTHER_SERVICE_PORT_1=1",
                "D_OTHER_SERVICE_HOST_2=127.64.0.1",
                "D_OTHER_SERVICE_PORT_2=2",
            ]
        );
        assert_eq!(http_proxy(place(9))[0].1, "http://127.64.0.1:9");
    }
}
