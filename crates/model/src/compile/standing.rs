//! What people are told of a service's endpoints: also of those that take nothing, and which of its ports none of them has.
//!
//! It is made of what nodes get, so that what is called ready answers.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use serde_json::Value;

use super::endpoints::ports_of_workload;
use super::{Change, Compiler};
use crate::identity::TrustDomain;
use crate::kinds::endpoint_slice::form::SliceForm;
use crate::kinds::service::form::{ServiceForm, ServicePortForm, TargetPort};
use crate::kinds::workload::form::WorkloadForm;
use crate::name::{ServiceName, WorkloadName};
use crate::registry::KindId;
use crate::snapshot::Endpoint;

/// How many ports a sentence lists.
const MOST_LISTED: usize = 5;

/// The endpoints of a service, and what is wrong with them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    /// The workloads that it selects, then what EndpointSlices say beside them.
    pub endpoints: Vec<EndpointStanding>,
    /// For each port of the service that no endpoint takes, which it is and why; not where the readiness of the endpoints
    /// says all.
    pub unoffered: Vec<String>,
}

/// An endpoint, be it ready or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointStanding {
    /// `None` for an address of an EndpointSlice.
    pub workload: Option<Arc<str>>,
    pub address: Option<IpAddr>,
    /// All ports that it has.
    pub ports: Vec<u16>,
    pub node: Option<Arc<str>>,
    /// Whether it says that it is.
    pub ready: bool,
    /// Whether it has a port of the service, or that has none.
    pub offers: bool,
    /// In seconds since the epoch; 0 where it is not stale.
    pub stale_since: i64,
}

impl EndpointStanding {
    /// Whether it takes traffic.
    pub fn takes(&self) -> bool {
        self.ready && self.offers
    }
}

impl Standing {
    /// How many endpoints take traffic.
    pub fn ready(&self) -> usize {
        self.endpoints.iter().filter(|endpoint| endpoint.takes()).count()
    }

    /// How many of these are stale.
    pub fn stale(&self) -> usize {
        self.endpoints.iter().filter(|endpoint| endpoint.takes() && endpoint.stale_since != 0).count()
    }
}

/// The standing of every service among these objects, but for names of others, which have no endpoints.
pub fn standings(objects: impl IntoIterator<Item = (KindId, Value)>) -> HashMap<ServiceName, Standing> {
    // Nobody looks at identities.
    let Ok(domain) = TrustDomain::new("mesh.local") else { return HashMap::new() };
    let mut compiler = Compiler::new(domain);
    compiler.apply_all(objects.into_iter().map(|(kind, object)| Change::Put(kind.kind(), Arc::new(object))));
    let names = compiler.services.keys();
    names.filter_map(|name| Some((name.clone(), compiler.standing(name)?))).collect()
}

impl Compiler {
    /// `None`: there is no such service, or it is another name for something else.
    pub fn standing(&self, name: &ServiceName) -> Option<Standing> {
        let form = self.services.get(name).filter(|form| !form.is_alias())?;
        let workloads: Vec<_> = self.selected(name, form).collect();
        let slices = self.slices_of(name, form);
        // Those of nobody have nothing to say.
        let slices: Vec<_> =
            slices.filter(|slice| !slice.addresses.is_empty() || !slice.not_ready.is_empty()).collect();
        let given: Vec<_> =
            self.given_endpoints(name, form).into_iter().map(|(endpoint, _)| endpoint).collect();
        let mut endpoints: Vec<_> =
            workloads.iter().map(|&(name, workload)| of_workload(form, name, workload)).collect();
        endpoints.extend(given.iter().map(of_given));
        let known: HashSet<IpAddr> = endpoints.iter().filter_map(|endpoint| endpoint.address).collect();
        endpoints.extend(of_others(form, &slices, &known));
        let any_takes = endpoints.iter().any(EndpointStanding::takes);
        let nobody = |port: &ServicePortForm| {
            let takes = |&(_, workload): &(_, &WorkloadForm)| {
                workload.ready && workload.address.is_some() && workload.port(&port.target).is_some()
            };
            let is_given = given.iter().any(|endpoint| endpoint.target_port(port.number).is_some());
            if is_given || workloads.iter().any(takes) {
                return None;
            }
            let is_there = workloads.iter().any(|(_, workload)| workload.port(&port.target).is_some())
                || slices.iter().any(|slice| slice.ports.iter().any(|(name, _)| **name == *port.name));
            let why = match is_there {
                // That all are not ready, their number says.
                true if !any_takes => return None,
                true => "no endpoint that has it is ready".to_owned(),
                false => why_nobody(port, &workloads, &slices)?,
            };
            Some(match &*port.name {
                "" => format!("port {}: {why}", port.number),
                name => format!("port {name}: {why}"),
            })
        };
        let unoffered = form.ports.iter().filter_map(nobody).collect();
        Some(Standing { endpoints, unoffered })
    }
}

fn of_workload(form: &ServiceForm, name: &WorkloadName, workload: &WorkloadForm) -> EndpointStanding {
    EndpointStanding {
        workload: Some(name.name.clone()),
        address: workload.address,
        ports: workload.ports.iter().map(|port| port.port).collect(),
        node: workload.node.as_ref().map(|node| node.name.clone()),
        ready: workload.ready,
        offers: form.is_portless() || !ports_of_workload(form, workload).is_empty(),
        stale_since: workload.stale_since,
    }
}

fn of_given(endpoint: &Endpoint) -> EndpointStanding {
    let ports: BTreeSet<u16> = endpoint.ports.iter().map(|port| port.target_port).collect();
    EndpointStanding {
        workload: None,
        address: Some(endpoint.address),
        ports: ports.into_iter().collect(),
        node: None,
        ready: true,
        offers: true,
        stale_since: 0,
    }
}

/// The addresses in slices that take nothing: they are not ready, or have none of the ports.
fn of_others(form: &ServiceForm, slices: &[&SliceForm], known: &HashSet<IpAddr>) -> Vec<EndpointStanding> {
    let mut others: BTreeMap<IpAddr, (bool, bool, BTreeSet<u16>)> = BTreeMap::new();
    for slice in slices {
        let has_one = |(name, _): &(String, u16)| form.ports.iter().any(|port| *port.name == **name);
        let offers = form.is_portless() || slice.ports.iter().any(has_one);
        let ready = slice.addresses.iter().map(|(address, _)| (*address, true));
        let addresses = ready.chain(slice.not_ready.iter().map(|address| (*address, false)));
        for (address, ready) in addresses.filter(|(address, _)| !known.contains(address)) {
            let other = others.entry(address).or_default();
            other.0 |= ready;
            other.1 |= offers;
            other.2.extend(slice.ports.iter().map(|&(_, number)| number));
        }
    }
    let standing = |(address, (ready, offers, ports)): (_, (bool, bool, BTreeSet<u16>))| EndpointStanding {
        workload: None,
        address: Some(address),
        ports: ports.into_iter().collect(),
        node: None,
        ready,
        // One slice may say that it is ready, and another one that it has the port and is not.
        offers: offers && !ready,
        stale_since: 0,
    };
    others.into_iter().map(standing).collect()
}

/// Why no endpoint has that port; `None` where there are no endpoints.
fn why_nobody(
    port: &ServicePortForm,
    workloads: &[(&WorkloadName, &WorkloadForm)],
    slices: &[&SliceForm],
) -> Option<String> {
    let mut reasons = Vec::new();
    if !workloads.is_empty() {
        let ports = workloads.iter().flat_map(|(_, workload)| &workload.ports);
        reasons.push(match &port.target {
            TargetPort::Number(number) => {
                let numbers: BTreeSet<u16> = ports.map(|port| port.target).collect();
                format!("no workload has a port {number}{}", they_have(numbers.iter().map(u16::to_string)))
            }
            TargetPort::Name(name) => {
                let names: BTreeSet<&String> = ports.filter_map(|port| port.name.as_ref()).collect();
                let names = names.iter().map(|name| format!("`{name}`"));
                format!("no workload has a port named `{name}`{}", they_have(names))
            }
        });
    }
    if !slices.is_empty() {
        let names: BTreeSet<&str> =
            slices.iter().flat_map(|slice| &slice.ports).map(|(name, _)| &**name).collect();
        let shown = names.iter().map(|name| match *name {
            "" => "one without a name".to_owned(),
            name => format!("`{name}`"),
        });
        reasons.push(match &*port.name {
            _ if names.is_empty() => "the EndpointSlices have no ports".to_owned(),
            "" => format!("no EndpointSlice has a port without a name{}", they_have(shown)),
            name => format!("no EndpointSlice has a port named `{name}`{}", they_have(shown)),
        });
    }
    (!reasons.is_empty()).then(|| reasons.join(", and "))
}

fn they_have(ports: impl ExactSizeIterator<Item = String>) -> String {
    let more = if ports.len() > MOST_LISTED { ", …" } else { "" };
    let ports: Vec<_> = ports.take(MOST_LISTED).collect();
    if ports.is_empty() { String::new() } else { format!(" (they have {}{more})", ports.join(", ")) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn workload(name: &str, ready: bool, ports: Value) -> (KindId, Value) {
        let status = if ready { "True" } else { "False" };
        let object = json!({
            "metadata": { "namespace": "shop", "name": name, "labels": { "app": "c" } },
            "spec": { "address": format!("192.0.2.{}", name.len()), "ports": ports },
            "status": { "conditions": [{
                "type": "Ready", "status": status, "reason": "Probe", "message": "", "lastTransitionTime": ""
            }] },
        });
        (KindId::Workload, object)
    }

    fn slice(name: &str, addresses: &[(&str, bool)], ports: Value) -> (KindId, Value) {
        let endpoint = |(address, ready): &(&str, bool)| json!({ "addresses": [address], "conditions": { "ready": ready } });
        let object = json!({
            "metadata": {
                "namespace": "shop", "name": name, "labels": { "kubernetes.io/service-name": "c" },
            },
            "addressType": "IPv4",
            "endpoints": addresses.iter().map(endpoint).collect::<Vec<_>>(),
            "ports": ports,
        });
        (KindId::EndpointSlice, object)
    }

    fn standing_of(spec: Value, others: Vec<(KindId, Value)>) -> Standing {
        let service = json!({ "metadata": { "namespace": "shop", "name": "c" }, "spec": spec });
        let objects = others.into_iter().chain([(KindId::Service, service)]);
        standings(objects).remove(&ServiceName::new("shop", "c")).unwrap_or_default()
    }

    #[test]
    fn ready_is_who_takes_a_port_of_the_service() {
        let selecting = |ports: Value| json!({ "selector": { "app": "c" }, "ports": ports });
        let one = |target: Value| selecting(json!([{ "name": "http", "port": 80, "targetPort": target }]));
        let by_hand = || json!({ "ports": [{ "name": "http", "port": 80 }] });
        let web = || json!([{ "name": "web", "port": 34567, "targetPort": 8080 }]);
        let two = || vec![workload("a", true, web()), workload("bb", true, web())];
        let mixed = || vec![workload("a", true, web()), workload("bb", false, web())];
        let at = |address: &'static str| [(address, true)];
        let both = || {
            selecting(
                json!([{ "name": "http", "port": 80, "targetPort": 8080 }, { "name": "x", "port": 81 }]),
            )
        };
        let (none, nobody) = (Vec::new, Vec::<&str>::new);
        for (what, spec, objects, expected, unoffered) in [
            ("all is well", one(json!(8080)), two(), (2, 2), nobody()),
            ("by name", one(json!("web")), two(), (2, 2), nobody()),
            ("one is not ready", one(json!(8080)), mixed(), (1, 2), nobody()),
            ("nobody is there", one(json!(8080)), none(), (0, 0), nobody()),
            (
                "a number that nobody has",
                one(json!(4444)),
                two(),
                (0, 2),
                vec!["port http: no workload has a port 4444 (they have 8080)"],
            ),
            (
                "a name that nobody has",
                one(json!("nosuch")),
                mixed(),
                (0, 2),
                vec!["port http: no workload has a port named `nosuch` (they have `web`)"],
            ),
            (
                "the port of the process is not what it is called",
                selecting(json!([{ "port": 34567 }])),
                two(),
                (0, 2),
                vec!["port 34567: no workload has a port 34567 (they have 8080)"],
            ),
            (
                "whatever is asked for",
                one(json!(4444)),
                vec![workload("a", true, json!([]))],
                (1, 1),
                nobody(),
            ),
            (
                "but by name",
                one(json!("web")),
                vec![workload("a", true, json!([]))],
                (0, 1),
                vec!["port http: no workload has a port named `web`"],
            ),
            (
                "one port of two",
                both(),
                two(),
                (2, 2),
                vec!["port x: no workload has a port 81 (they have 8080)"],
            ),
            (
                "one port of two is not ready",
                both(),
                vec![workload("a", true, web()), workload("bb", false, json!([{ "port": 81 }]))],
                (1, 2),
                vec!["port x: no endpoint that has it is ready"],
            ),
            (
                "a slice",
                by_hand(),
                vec![slice(
                    "s",
                    &[("10.0.0.1", true), ("10.0.0.2", false)],
                    json!([{ "name": "http", "port": 1 }]),
                )],
                (1, 2),
                nobody(),
            ),
            (
                "a slice with another name",
                by_hand(),
                vec![slice("s", &at("10.0.0.1"), json!([{ "name": "web", "port": 1 }, { "port": 2 }]))],
                (0, 1),
                vec![
                    "port http: no EndpointSlice has a port named `http` (they have one without a name, `web`)",
                ],
            ),
            (
                "a service's port without a name",
                json!({ "ports": [{ "port": 80 }] }),
                vec![slice("s", &at("10.0.0.1"), json!([{ "name": "web", "port": 1 }]))],
                (0, 1),
                vec!["port 80: no EndpointSlice has a port without a name (they have `web`)"],
            ),
            (
                "a slice without ports",
                by_hand(),
                vec![slice("s", &at("10.0.0.1"), json!([]))],
                (0, 1),
                vec!["port http: the EndpointSlices have no ports"],
            ),
            ("a slice of nobody", by_hand(), vec![slice("s", &[], json!([]))], (0, 0), nobody()),
            (
                "slices that say different things of an address",
                by_hand(),
                vec![
                    slice(
                        "s",
                        &[("10.0.0.1", true), ("10.0.0.2", true)],
                        json!([{ "name": "http", "port": 1 }]),
                    ),
                    slice(
                        "t",
                        &[("10.0.0.1", false), ("10.0.0.2", true)],
                        json!([{ "name": "x", "port": 2 }]),
                    ),
                ],
                (2, 2),
                nobody(),
            ),
            (
                "ready for one port, and not for the one that is asked for",
                by_hand(),
                vec![
                    slice("s", &[("10.0.0.1", false)], json!([{ "name": "http", "port": 1 }])),
                    slice("t", &at("10.0.0.1"), json!([{ "name": "x", "port": 2 }])),
                ],
                (0, 1),
                nobody(),
            ),
            (
                "a slice beside a selector",
                one(json!(8080)),
                [two(), vec![slice("s", &at("10.0.0.1"), json!([{ "name": "http", "port": 1 }]))]].concat(),
                (3, 3),
                nobody(),
            ),
            (
                "a slice takes what workloads do not",
                one(json!(4444)),
                [two(), vec![slice("s", &at("10.0.0.1"), json!([{ "name": "http", "port": 1 }]))]].concat(),
                (1, 3),
                nobody(),
            ),
            (
                "neither does",
                one(json!(4444)),
                [two(), vec![slice("s", &at("10.0.0.1"), json!([{ "name": "x", "port": 1 }]))]].concat(),
                (0, 3),
                vec![
                    "port http: no workload has a port 4444 (they have 8080), and no EndpointSlice has a port named \
                     `http` (they have `x`)",
                ],
            ),
            (
                "a workload counts once, also where a slice has its address",
                one(json!(8080)),
                [mixed(), vec![slice("s", &at("192.0.2.2"), json!([{ "name": "http", "port": 34567 }]))]]
                    .concat(),
                (1, 2),
                nobody(),
            ),
            (
                "headless, without ports",
                json!({ "clusterIP": "None", "selector": { "app": "c" } }),
                [mixed(), vec![slice("s", &at("10.0.0.1"), json!([]))]].concat(),
                (2, 3),
                nobody(),
            ),
            (
                "headless, with ports that nobody has",
                json!({ "clusterIP": "None", "selector": { "app": "c" }, "ports": [{ "port": 80 }] }),
                two(),
                (0, 2),
                vec!["port 80: no workload has a port 80 (they have 8080)"],
            ),
            (
                "a name of others",
                json!({ "type": "ExternalName", "externalName": "x.example", "selector": { "app": "c" } }),
                two(),
                (0, 0),
                nobody(),
            ),
        ] {
            let standing = standing_of(spec, objects);
            assert_eq!((standing.ready(), standing.endpoints.len()), expected, "{what}: {standing:?}");
            assert_eq!(standing.unoffered, unoffered, "{what}");
        }
    }

    #[test]
    fn sentences_are_bounded_and_stale_ones_take_traffic() {
        let ports: Vec<_> = (1..=9).map(|number| json!({ "port": number })).collect();
        let (kind, mut object) = workload("a", true, json!(ports));
        let stale = json!({
            "type": "Stale", "status": "True", "reason": "", "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        });
        object["status"]["conditions"].as_array_mut().unwrap().push(stale);
        let of = |target: u16| {
            let spec = json!({ "selector": { "app": "c" }, "ports": [{ "port": 80, "targetPort": target }] });
            standing_of(spec, vec![(kind, object.clone())])
        };
        assert_eq!(of(10).unoffered, ["port 80: no workload has a port 10 (they have 1, 2, 3, 4, 5, …)"]);
        assert_eq!((of(10).ready(), of(10).stale()), (0, 0));
        assert_eq!((of(9).ready(), of(9).stale()), (1, 1));
    }
}
