//! What a port of a Service is to its clients.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::RouteState;
use super::unreached::{UnreachedOfService, note_unreached};
use crate::kinds::id::KindId;
use crate::kinds::route::form::RouteForm;
use crate::kinds::service::form::ServicePortForm;
use crate::name::ServiceName;
use crate::routing::{Candidate, sort_candidates};
use crate::snapshot::{
    AppProtocol, HttpRouteEntry, HttpRouteTable, PortConfig, ServerName, TcpRule, TlsRouteEntry,
    TlsRouteTable,
};

/// A route, and the ports of a Service that it is attached to.
pub(super) struct Attached<'a> {
    pub route: &'a RouteForm,
    pub state: &'a RouteState,
    pub ports: BTreeSet<u16>,
}

/// What a port of a Service is to its clients, by the routes that are attached to it: those of its own namespace, or, to
/// the clients of another one, those of theirs, if there are any (GEP-1324). Notes what no request reaches of them.
pub(super) fn compile_port(
    service: &ServiceName,
    port: &ServicePortForm,
    attached: &[Attached<'_>],
    unreached: &mut UnreachedOfService,
) -> PortConfig {
    let of_port = attached.iter().filter(|route| route.ports.contains(&port.number));
    let namespaces: BTreeSet<&Arc<str>> = of_port.map(|attached| &attached.route.name.namespace).collect();
    let consumers = namespaces.into_iter().filter(|namespace| **namespace != service.namespace);
    let consumers = consumers
        .map(|consumer| (consumer.clone(), routed_port(service, port, attached, consumer, unreached)));
    let consumers = consumers.collect();
    PortConfig { consumers, ..routed_port(service, port, attached, &service.namespace, unreached) }
}

/// The port with the routes of that namespace.
fn routed_port(
    service: &ServiceName,
    port: &ServicePortForm,
    attached: &[Attached<'_>],
    namespace: &str,
    unreached: &mut UnreachedOfService,
) -> PortConfig {
    let of_kind = |kind| {
        attached.iter().filter(move |Attached { route, ports, .. }| {
            route.kind == kind && *route.name.namespace == *namespace && ports.contains(&port.number)
        })
    };
    // One kind acts on a port: the most specific (GEP-1294).
    let grpc = of_kind(KindId::GrpcRoute).next().is_some();
    let acting = if grpc { KindId::GrpcRoute } else { KindId::HttpRoute };
    let mut sorted: Vec<_> = of_kind(acting).flat_map(|of| candidates(of.route, of.state)).collect();
    sort_candidates(&mut sorted);
    note_unreached(port.number, acting, &sorted, unreached);
    let entries: Vec<_> = sorted.into_iter().map(|candidate| candidate.entry).collect();
    // Also where one of them does not act: it says what the port is for.
    let requests = of_kind(KindId::GrpcRoute).chain(of_kind(KindId::HttpRoute));
    let http_only = requests.into_iter().any(|of| of.route.names_port_of(service, port));
    let tls_routes =
        if entries.is_empty() { tls_table(of_kind(KindId::TlsRoute)) } else { Default::default() };
    let tcp_route = of_kind(KindId::TcpRoute)
        .min_by_key(|of| of.route.seniority())
        .filter(|_| entries.is_empty() && tls_routes.is_empty())
        .and_then(|of| {
            let backends = of.state.rules.first()?.backends.clone();
            Some(Arc::new(TcpRule { route: of.route.name.clone(), backends }))
        });
    // With nothing but those, whatever the port speaks is routed as bytes.
    let as_bytes = tcp_route.is_some() || !tls_routes.is_empty();
    PortConfig {
        number: port.number,
        name: port.name.clone(),
        protocol: if as_bytes { AppProtocol::Tcp } else { port.protocol },
        http_routes: HttpRouteTable::new(entries),
        tls_routes,
        tcp_route,
        http_only,
        http1: port.http1,
        consumers: Vec::new(),
    }
}

/// Which host name leads where; of the same one, that of the older route, or the first by `namespace/name`.
fn tls_table<'a>(attached: impl Iterator<Item = &'a Attached<'a>>) -> TlsRouteTable {
    let mut routes: Vec<_> = attached.collect();
    routes.sort_by_cached_key(|of| of.route.seniority());
    let entries = routes.into_iter().flat_map(|of| {
        let rule =
            of.state.rules.first().map(|rule| {
                Arc::new(TcpRule { route: of.route.name.clone(), backends: rule.backends.clone() })
            });
        let entry =
            |name: &Arc<str>| Some(TlsRouteEntry { name: ServerName::new(name), rule: rule.clone()? });
        of.route.server_names.iter().filter_map(entry).collect::<Vec<_>>()
    });
    TlsRouteTable::new(entries.collect())
}

/// The entries that a route adds to the table of a port, in order.
fn candidates<'a>(route: &'a RouteForm, state: &'a RouteState) -> impl Iterator<Item = Candidate> + 'a {
    route.rules.iter().zip(&state.rules).flat_map(|(form, rule)| {
        form.matches.iter().zip(0..).map(|(matcher, match_index)| Candidate {
            created: route.created,
            match_index,
            entry: HttpRouteEntry { matcher: matcher.clone(), rule: rule.clone() },
        })
    })
}
