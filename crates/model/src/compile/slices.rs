//! EndpointSlices for services that select workloads, as Kubernetes' controller writes them for pods: for
//! people and for clients that look for endpoints there.
//!
//! They are made from the same Workloads as the endpoints that nodes get, and nothing is made from them: one
//! of ours ([`own_service`]) never becomes an endpoint.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::{Value, json};

use super::Compiler;
use crate::fnv::fnv1a_32;
use crate::kinds::service::form::ServiceForm;
use crate::kinds::workload::form::WorkloadForm;
use crate::name::{ServiceName, WorkloadName};
use crate::registry::KindId;

/// The label that says of which service a slice is.
pub const SERVICE_LABEL: &str = "kubernetes.io/service-name";
/// The label that says who keeps a slice.
pub const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslice-controller.tulle.dev";
/// Endpoints in one slice, as in Kubernetes where nothing is said.
const LARGEST: usize = 100;

/// The service that a slice of the server's own is of; `None` for slices of others. It is own by its label, or by its
/// owner and its name together: people take labels away, and with them nothing that the server keeps.
pub fn own_service(slice: &Value) -> Option<&str> {
    let metadata = &slice["metadata"];
    let labelled = metadata["labels"][MANAGED_BY] == MANAGER;
    let mut owners = metadata["ownerReferences"].as_array().into_iter().flatten();
    let owner = owners.find(|owner| owner["controller"] == true && owner["kind"] == "Service");
    match named_after(slice) {
        Some(service) if labelled || owner.is_some_and(|owner| owner["name"] == *service) => Some(service),
        _ => metadata["labels"][SERVICE_LABEL].as_str().filter(|_| labelled),
    }
}

/// The service whose slices have names like that of this one.
pub fn named_after(slice: &Value) -> Option<&str> {
    let (service, hash) = slice["metadata"]["name"].as_str()?.rsplit_once('-')?;
    let is_hash = hash.len() == 8 && hash.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    is_hash.then_some(service)
}

/// Names and numbers of ports.
type Ports = Vec<(String, u16)>;

/// A slice as it is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnSlice {
    /// Of the object: that of the service, and a hash of what its endpoints have in common (see [`named_after`]).
    pub name: String,
    ipv6: bool,
    /// Name and number of each port; none where there are no endpoints, or the service has no ports.
    ports: Ports,
    endpoints: Vec<OwnEndpoint>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct OwnEndpoint {
    address: IpAddr,
    ready: bool,
    workload: WorkloadName,
    node: Option<String>,
}

impl OwnSlice {
    /// The fields of the object that are ours, beside those of its metadata.
    pub fn fields(&self) -> Value {
        let endpoints = self.endpoints.iter().map(|endpoint| {
            let mut fields = json!({
                "addresses": [endpoint.address],
                "conditions": { "ready": endpoint.ready, "serving": endpoint.ready, "terminating": false },
                "targetRef": {
                    "kind": "Workload",
                    "apiVersion": KindId::Workload.kind().api_version(),
                    "namespace": &*endpoint.workload.namespace,
                    "name": &*endpoint.workload.name,
                },
            });
            if let Some(node) = &endpoint.node {
                fields["nodeName"] = json!(node);
            }
            fields
        });
        let ports = self.ports.iter();
        let ports = ports.map(|(name, port)| json!({ "name": name, "port": port, "protocol": "TCP" }));
        json!({
            "addressType": if self.ipv6 { "IPv6" } else { "IPv4" },
            "endpoints": endpoints.collect::<Vec<_>>(),
            "ports": ports.collect::<Vec<_>>(),
        })
    }

    /// The name to take where `taken` others of its names are somebody else's.
    pub fn name_beside(&self, service: &ServiceName, taken: u8) -> String {
        match taken {
            0 => self.name.clone(),
            taken => own_name(&service.name, fnv1a_32([self.name.as_bytes(), &[taken]])),
        }
    }

    /// The object of that name, for a service with that uid.
    pub fn object(&self, name: &str, service: &ServiceName, uid: &str) -> Value {
        let mut object = self.fields();
        object["metadata"] = json!({
            "name": name,
            "namespace": &*service.namespace,
            "labels": { SERVICE_LABEL: &*service.name, MANAGED_BY: MANAGER },
            "ownerReferences": [{
                "apiVersion": "v1",
                "kind": "Service",
                "name": &*service.name,
                "uid": uid,
                "controller": true,
                "blockOwnerDeletion": true,
            }],
        });
        object
    }
}

impl Compiler {
    /// The slices of a service: one for each address family and each set of ports, of at most 100 endpoints.
    /// None for a service that selects nothing, or is not there.
    pub fn own_slices(&self, name: &ServiceName) -> Vec<OwnSlice> {
        let is_ours = |form: &&ServiceForm| !form.is_alias() && !form.is_flow() && !form.selector.is_empty();
        let Some(form) = self.services.get(name).filter(is_ours) else { return Vec::new() };
        let mut groups: BTreeMap<(bool, Ports), Vec<OwnEndpoint>> = BTreeMap::new();
        for workload in self.selectors.workloads(&name.namespace, &form.selector) {
            let found = self.workloads.get(workload).filter(|w| form.selects(&w.labels, &w.account));
            if let Some((ports, endpoint)) = found.and_then(|found| own_endpoint(form, workload, found)) {
                groups.entry((endpoint.address.is_ipv6(), ports)).or_default().push(endpoint);
            }
        }
        if groups.is_empty() {
            // As in Kubernetes, there is one that says that there are none.
            groups.insert((false, Vec::new()), Vec::new());
        }
        let mut slices = Vec::new();
        for ((ipv6, ports), endpoints) in groups {
            let mut rest = endpoints.as_slice();
            for part in 0.. {
                let (these, more) = rest.split_at(rest.len().min(LARGEST));
                slices.push(OwnSlice {
                    name: own_name(&name.name, hash(ipv6, &ports, part)),
                    ipv6,
                    ports: ports.clone(),
                    endpoints: these.to_vec(),
                });
                rest = more;
                if rest.is_empty() {
                    break;
                }
            }
        }
        slices
    }
}

/// The name of a slice of a service. A long name of the service is cut: the whole is no longer than a label of DNS.
fn own_name(service: &str, hash: u32) -> String {
    const LONGEST: usize = 63 - "-01234567".len();
    let Some(start) = service.get(..LONGEST).filter(|_| service.len() > LONGEST) else {
        return format!("{service}-{hash:08x}");
    };
    let hash = fnv1a_32([service.as_bytes(), &hash.to_be_bytes()]);
    format!("{}-{hash:08x}", start.trim_end_matches('-'))
}

/// An endpoint, and which ports it has of the service's. One that is not ready is shown as such; one without
/// an address, or with none of the ports of a service that has some, is none.
fn own_endpoint(
    service: &ServiceForm,
    name: &WorkloadName,
    workload: &WorkloadForm,
) -> Option<(Ports, OwnEndpoint)> {
    let ports =
        service.ports.iter().filter_map(|port| Some((port.name.to_string(), workload.port(&port.target)?)));
    let ports: Vec<_> = ports.collect();
    let endpoint = OwnEndpoint {
        address: workload.address?,
        ready: workload.ready,
        workload: name.clone(),
        node: workload.node.as_ref().map(|node| node.name.to_string()),
    };
    (!ports.is_empty() || service.is_portless()).then_some((ports, endpoint))
}

/// The same for the same, in every run.
fn hash(ipv6: bool, ports: &[(String, u16)], part: u32) -> u32 {
    let mut bytes = vec![u8::from(ipv6)];
    bytes.extend(part.to_be_bytes());
    for (name, port) in ports {
        bytes.extend(name.as_bytes());
        bytes.push(0);
        bytes.extend(port.to_be_bytes());
    }
    fnv1a_32([bytes.as_slice()])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::dns_label_problem;

    #[test]
    fn names_of_slices_are_names_however_long_that_of_the_service_is() {
        assert_eq!(own_name("web", 0x12), "web-00000012");
        let long = |end: &str| format!("{}{end}", "a".repeat(53));
        for service in [long(""), long("b"), long("bc"), long("-c"), long("-cdefghij"), "a".repeat(63)] {
            assert_eq!(dns_label_problem(&own_name(&service, 0x12)), None, "{service}");
        }
        // What is cut off tells them apart all the same.
        assert_ne!(own_name(&long("bc"), 0x12), own_name(&long("bd"), 0x12));
    }
}
