//! The endpoints of a headless service, each by itself: to nodes each is a service `NAME.SERVICE` with one endpoint, so that
//! it has an address of its own and all else that services have. Services have no dots in their names (RFC 1035 labels).

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use crate::name::{ServiceName, dns_label_problem};
use crate::port_settings::Http1Settings;
use crate::snapshot::{
    AppProtocol, Endpoint, EndpointSet, HttpRouteTable, PortConfig, PortMapping, ServiceConfig, Shape,
    TlsRouteTable,
};

/// The service of which this is an endpoint by itself.
pub fn parent(service: &ServiceName) -> Option<ServiceName> {
    let (_, parent) = service.name.split_once('.')?;
    Some(ServiceName::new(service.namespace.clone(), parent))
}

/// The name of an endpoint by itself.
pub fn name(service: &ServiceName, label: &str) -> ServiceName {
    ServiceName::new(service.namespace.clone(), format!("{label}.{}", service.name))
}

/// The endpoints of a headless service as services, in their order, without those whose name another one has already.
pub fn services(config: &ServiceConfig, set: &EndpointSet) -> Vec<(ServiceConfig, EndpointSet)> {
    let mut taken = BTreeSet::new();
    let apart = set.endpoints.iter().enumerate().filter_map(|(index, endpoint)| {
        let label = labels(set, index, endpoint)
            .into_iter()
            .flatten()
            .find(|label| dns_label_problem(label).is_none() && taken.insert(label.clone()))?;
        let name = name(&config.name, &label);
        let (ports, endpoint) = ports(config, endpoint);
        let set = EndpointSet::new(name.clone(), vec![(endpoint, set.stale_since(index))]);
        Some((ServiceConfig { name, ports, shape: Shape::Balanced }, set))
    });
    apart.collect()
}

/// How long a label of a name may be (RFC 1035, section 2.3.4).
const LONGEST_LABEL: usize = 63;

/// What an endpoint may be called: as its EndpointSlice says, else as its workload, or by its address.
fn labels(set: &EndpointSet, index: usize, endpoint: &Endpoint) -> [Option<String>; 2] {
    let by_itself = match (&endpoint.workload, endpoint.address) {
        (Some(workload), _) => {
            // Names of one origin differ at their ends.
            let name = workload.name.replace('.', "-");
            let end = name.get(name.len().saturating_sub(LONGEST_LABEL)..).unwrap_or_default();
            end.trim_start_matches('-').to_owned()
        }
        (None, IpAddr::V4(address)) => address.to_string().replace('.', "-"),
        (None, IpAddr::V6(address)) => address.segments().map(|segment| format!("{segment:x}")).join("-"),
    };
    [set.hostname(index).map(|hostname| hostname.to_string()), Some(by_itself)]
}

/// The ports of one endpoint, without routes. Clients of a headless service connect to the ports of its processes, too,
/// and only to these where it says no ports.
fn ports(config: &ServiceConfig, endpoint: &Arc<Endpoint>) -> (Vec<PortConfig>, Arc<Endpoint>) {
    if config.ports.is_empty() {
        let numbers: BTreeSet<u16> = endpoint.ports.iter().map(|port| port.service_port).collect();
        let undeclared = |number| PortConfig {
            number,
            name: "".into(),
            protocol: AppProtocol::Detect,
            http_routes: HttpRouteTable::default(),
            tls_routes: TlsRouteTable::default(),
            tcp_route: None,
            http_only: false,
            http1: Http1Settings::DEFAULT,
            consumers: Vec::new(),
        };
        return (numbers.into_iter().map(undeclared).collect(), endpoint.clone());
    }
    let alone = |port: &PortConfig, number| PortConfig {
        number,
        name: port.name.clone(),
        protocol: port.protocol,
        http_routes: HttpRouteTable::default(),
        tls_routes: TlsRouteTable::default(),
        tcp_route: None,
        http_only: port.http_only,
        http1: port.http1,
        consumers: Vec::new(),
    };
    let offered = |port: &&PortConfig| endpoint.target_port(port.number).is_some();
    let mut ports: Vec<_> =
        config.ports.iter().filter(offered).map(|port| alone(port, port.number)).collect();
    let mut mappings = endpoint.ports.clone();
    for port in config.ports.iter().filter(offered) {
        let Some(target) = endpoint.target_port(port.number) else { continue };
        if config.port(target).is_none() && ports.iter().all(|port| port.number != target) {
            // Its name is the service port's.
            ports.push(PortConfig { name: "".into(), ..alone(port, target) });
            mappings.push(PortMapping { service_port: target, target_port: target });
        }
    }
    ports.sort_by_key(|port| port.number);
    let endpoint = match mappings.len() == endpoint.ports.len() {
        true => endpoint.clone(),
        false => Arc::new(Endpoint { ports: mappings, ..Endpoint::clone(endpoint) }),
    };
    (ports, endpoint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::WorkloadName;

    #[test]
    fn each_endpoint_is_a_service() {
        let db = ServiceName::new("shop", "db");
        let port = |number, name: &str| PortConfig {
            number,
            name: name.into(),
            protocol: AppProtocol::Tcp,
            http_routes: HttpRouteTable::default(),
            tls_routes: TlsRouteTable::default(),
            tcp_route: None,
            http_only: false,
            http1: Default::default(),
            consumers: Vec::new(),
        };
        let ports = vec![port(80, "web"), port(5432, "sql")];
        let config = ServiceConfig { shape: Shape::Headless, ..ServiceConfig::new(db.clone(), ports) };
        let endpoint = |workload: Option<&str>, address: &str, ports: &[(u16, u16)]| {
            let mapping =
                |&(service_port, target_port): &(u16, u16)| PortMapping { service_port, target_port };
            Arc::new(Endpoint {
                workload: workload.map(|name| WorkloadName::new("shop", name)),
                node: None,
                address: address.parse().unwrap(),
                ports: ports.iter().map(mapping).collect(),
                identity: None,
            })
        };
        let endpoints = vec![
            (endpoint(Some("db-0"), "127.0.0.1", &[(80, 8080), (5432, 5432)]), 0),
            (endpoint(Some("db.1"), "127.0.0.1", &[(5432, 80)]), 7),
            (endpoint(None, "10.0.0.1", &[(80, 80)]), 0),
            (endpoint(None, "fd00::1", &[(80, 80)]), 0),
            (endpoint(Some("db-0"), "10.0.0.2", &[(80, 80)]), 0),
            (endpoint(None, "10.0.0.3", &[(80, 80)]), 0),
            (endpoint(None, "10.0.0.4", &[(80, 80)]), 0),
            (endpoint(None, "10.0.0.5", &[(80, 80)]), 0),
            (endpoint(Some(&format!("{}.1", "x".repeat(70))), "127.0.0.1", &[(80, 80)]), 0),
        ];
        // One that is taken and one that was accepted once say nothing.
        let hostnames = ["", "", "", "", "", "primary", "primary", "A_b", ""].map(Arc::from).to_vec();
        let set = EndpointSet::new(db.clone(), endpoints).with_hostnames(hostnames);
        let apart = services(&config, &set);
        let names: Vec<_> = apart.iter().map(|(config, _)| &*config.name.name).collect();
        let long = format!("{}-1.db", "x".repeat(61));
        let by_address = ["10-0-0-1.db", "fd00-0-0-0-0-0-0-1.db"];
        let expected = [
            "db-0.db",
            "db-1.db",
            by_address[0],
            by_address[1],
            "primary.db",
            "10-0-0-4.db",
            "10-0-0-5.db",
            &long,
        ];
        assert_eq!(names, expected);
        let numbers = |i: usize| apart[i].0.ports.iter().map(|port| port.number).collect::<Vec<_>>();
        assert_eq!(numbers(0), [80, 5432, 8080], "and the port of the process");
        assert_eq!(apart[0].1.endpoints[0].target_port(8080), Some(8080));
        assert_eq!(numbers(1), [5432], "80 is another port of the service, which it does not have");
        assert_eq!(apart[1].1.stale_since(0), 7);
        assert!(Arc::ptr_eq(&apart[2].1.endpoints[0], &set.endpoints[2]));
        assert_eq!(parent(&apart[0].0.name), Some(db.clone()));
        assert_eq!((name(&db, "db-0"), parent(&db)), (apart[0].0.name.clone(), None));
    }
}
