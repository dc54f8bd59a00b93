//! What is sent is what arrives, and what cannot be read is refused by name.

// Helpers outside of #[test] functions count as production code to the lint.
#![allow(clippy::unwrap_used)]

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use ipnet::IpNet;
use proptest::prelude::*;
use prost::Message;
use tulle_model::condition::CelCondition;
use tulle_model::identity::{SpiffeId, TrustDomain};
use tulle_model::name::NamespacedName;
use tulle_model::path::Ambiguities;
use tulle_model::port_settings::Http1Settings;
use tulle_model::snapshot::external::{ExternalAuth, ExternalProtocol};
use tulle_model::snapshot::{
    AccessPolicy, AccessRule, Action, AllowedOrigins, AppProtocol, Backend, BackendTarget, CertificateName,
    ClaimHeader, ClaimMatch, Cors, EgressPolicy, Endpoint, EndpointSet, ExternalConfig, ExternalPort,
    HeaderEdit, HttpFilters, HttpMatch, HttpRouteEntry, HttpRouteKind, HttpRouteTable, HttpRule,
    IdentityPattern, JwtConditions, JwtIssuer, JwtKeys, Listing, MeshSettings, Mirror, OriginPattern,
    OriginatedRoots, OriginatedTls, OutsideProtocol, PathMatch, PathRewrite, Pattern, PeerNode, PortConfig,
    PortMapping, Redirect, RequestConditions, Retry, Rewrite, Scheme, Selected, ServedPort, ServerName,
    ServiceConfig, Session, SessionCarrier, SessionKey, Shape, Share, Source, Spoken, Strictness, TcpRule,
    TextMatch, Timeouts, TlsAsker, TlsRouteEntry, TlsRouteTable, TokenPlace, ValueMatch, WorkloadConfig,
};
use tulle_model::stamp::{Revoked, Stamp};
use tulle_wire::discovery;

fn names() -> impl Strategy<Value = NamespacedName> {
    ("[a-z]{1,5}", "[a-z]{1,5}").prop_map(|(namespace, name)| NamespacedName::new(namespace, name))
}

fn targets() -> impl Strategy<Value = BackendTarget> {
    prop_oneof![
        (names(), 1u16..).prop_map(|(name, port)| BackendTarget::Service { name, port }),
        ".{0,20}".prop_map(|reason| BackendTarget::Invalid { reason: reason.into() }),
    ]
}

fn spoken() -> impl Strategy<Value = Option<Spoken>> {
    let spoken = (protocols(), any::<bool>());
    prop::option::of(spoken.prop_map(|(protocol, preserve_case)| Spoken { protocol, preserve_case }))
}

fn backends() -> impl Strategy<Value = Vec<Backend>> {
    let backend = (targets(), any::<u32>(), filters(), spoken())
        .prop_map(|(target, weight, filters, spoken)| Backend { target, weight, filters, spoken });
    prop::collection::vec(backend, 0..4)
}

fn edits() -> impl Strategy<Value = HeaderEdit> {
    let name = || "x-[a-z-]{1,5}".prop_map(|name| HeaderName::try_from(name).unwrap());
    let value = "[a-z ]{0,5}".prop_map(|value| HeaderValue::try_from(value).unwrap());
    let fields = prop::collection::vec((name(), value), 0..3);
    let edit = (any::<u32>(), prop::collection::vec(name(), 0..3), fields.clone(), fields);
    edit.prop_map(|(index, remove, set, add)| {
        let edit = HeaderEdit { index, remove, set, add };
        if edit.is_empty() { HeaderEdit::default() } else { edit }
    })
}

fn filters() -> impl Strategy<Value = Option<Box<HttpFilters>>> {
    let hostname = || prop::option::of("[a-z]{1,3}[.][a-z]{1,3}".prop_map(Arc::from));
    let prefix = ("(/[a-z]{1,3}){0,2}", "(/[a-z]{1,3}){0,2}");
    let path = prop_oneof![
        "/[a-z]{0,5}".prop_map(PathRewrite::Full),
        prefix.prop_map(|(matched, replacement)| PathRewrite::Prefix { matched, replacement }),
    ];
    let path = || prop::option::of(path.clone());
    let scheme = prop::sample::select(vec![None, Some(Scheme::Http), Some(Scheme::Https)]);
    let status = prop::sample::select(vec![301, 302, 303, 307, 308]);
    let redirect = (any::<u32>(), scheme, hostname(), prop::option::of(1u16..), path(), status).prop_map(
        |(index, scheme, hostname, port, path, status)| Redirect {
            index,
            scheme,
            hostname,
            port,
            path,
            status,
        },
    );
    let rewrite = (any::<u32>(), hostname(), path());
    let rewrite = rewrite.prop_map(|(index, hostname, path)| Rewrite { index, hostname, path });
    let share = (any::<u32>(), 1u32..).prop_map(|(a, b)| Share::new(a.min(b), b).unwrap());
    let mirror = (any::<u32>(), targets(), spoken(), share);
    let mirror = mirror.prop_map(|(index, target, spoken, share)| Mirror { index, target, spoken, share });
    let mirrors = prop::collection::vec(mirror, 0..3);
    let filters = (
        edits(),
        edits(),
        prop::option::of(redirect),
        prop::option::of(rewrite),
        mirrors,
        prop::option::of(cors()),
    );
    filters.prop_map(|(request_headers, response_headers, redirect, rewrite, mirrors, cors)| {
        HttpFilters { request_headers, response_headers, redirect, rewrite, mirrors, cors }.into_option()
    })
}

fn cors() -> impl Strategy<Value = Cors> {
    let pattern = "https?://([*]|([*][.])?[a-z]{1,3}([.][a-z-]{1,3}){0,2})(:[1-9][0-9]{0,3})?";
    let pattern = pattern.prop_map(|text| OriginPattern::parse(&text).unwrap());
    let origins = prop_oneof![
        Just(AllowedOrigins::Any),
        prop::collection::vec(pattern, 0..4).prop_map(AllowedOrigins::These),
    ];
    let list = || "([A-Za-z-]{1,4}(, [A-Za-z*-]{1,4}){0,2})?".prop_map(|text| Listing::new(&text).unwrap());
    (any::<u32>(), origins, any::<bool>(), list(), list(), list(), any::<u32>()).prop_map(
        |(index, origins, credentials, methods, headers, exposed, max_age)| Cors {
            index,
            origins,
            credentials,
            methods,
            headers,
            exposed,
            max_age,
        },
    )
}

fn patterns() -> impl Strategy<Value = Pattern> {
    "[a-z]{0,5}[.]?".prop_map(|source| Pattern::new(&source).unwrap())
}

fn values() -> impl Strategy<Value = Vec<ValueMatch>> {
    let value = prop_oneof![".{0,9}".prop_map(TextMatch::Exact), patterns().prop_map(TextMatch::Regex)];
    prop::collection::vec(("[a-z-]{1,5}", value).prop_map(|(name, value)| ValueMatch { name, value }), 0..3)
}

fn matchers() -> impl Strategy<Value = HttpMatch> {
    let path = prop_oneof![
        "/[a-z]{0,5}/?".prop_map(PathMatch::Exact),
        "(/[a-z]{1,3}){0,2}".prop_map(PathMatch::Prefix),
        patterns().prop_map(PathMatch::Regex),
    ];
    (path, prop::option::of("GET|PUT"), values(), values())
        .prop_map(|(path, method, headers, query)| HttpMatch { path, method, headers, query })
}

fn rules() -> impl Strategy<Value = Arc<HttpRule>> {
    let time = || prop::option::of((1u64..1 << 40).prop_map(Duration::from_millis));
    let timeouts = (time(), time());
    let timeouts = timeouts.prop_map(|(request, backend_request)| Timeouts { request, backend_request });
    let codes = prop::collection::vec(400u16..600, 0..3);
    let backoff = prop::option::of((0u64..60_000).prop_map(Duration::from_millis));
    let retry = (codes, prop::option::of(0u32..11), backoff);
    let retry = retry.prop_map(|(codes, attempts, backoff)| Box::new(Retry { codes, attempts, backoff }));
    let carrier = prop::sample::select(vec![
        SessionCarrier::Header,
        SessionCarrier::Cookie { permanent: false },
        SessionCarrier::Cookie { permanent: true },
    ]);
    let session = ("[a-z]{1,5}", carrier, time(), time());
    let times = (timeouts, prop::option::of(retry), prop::option::of(session));
    let kind = prop::sample::select(vec![HttpRouteKind::Http, HttpRouteKind::Grpc]);
    (names(), kind, any::<u32>(), prop::option::of("[a-z]{0,4}"), backends(), filters(), times).prop_map(
        |(route, kind, index, name, backends, filters, timeouts)| {
            let rule = HttpRule::new(route, index, name.map(Arc::from), backends);
            let (timeouts, retry, session) = timeouts;
            let rule = HttpRule { kind, filters, timeouts, retry, ..rule };
            let session = session.map(|(name, carrier, absolute, idle)| {
                let session = Session::of(&rule, Some(name.into()), carrier);
                Box::new(Session { absolute, idle, ..session })
            });
            Arc::new(HttpRule { session, ..rule })
        },
    )
}

fn tables() -> impl Strategy<Value = HttpRouteTable> {
    prop::collection::vec(rules(), 1..4).prop_flat_map(|rules| {
        let entry = (matchers(), prop::sample::select(rules));
        let entry = entry.prop_map(|(matcher, rule)| HttpRouteEntry { matcher, rule });
        prop::collection::vec(entry, 0..8).prop_map(HttpRouteTable::new)
    })
}

fn tls_tables(rules: BoxedStrategy<Arc<TcpRule>>) -> impl Strategy<Value = TlsRouteTable> {
    prop::collection::vec(rules, 1..4).prop_flat_map(|rules| {
        let entry = ("(\\*\\.)?[a-z]{1,2}(\\.[a-z]{1,2})?", prop::sample::select(rules));
        let entry = entry.prop_map(|(name, rule)| TlsRouteEntry { name: ServerName::new(&name), rule });
        prop::collection::vec(entry, 0..8).prop_map(TlsRouteTable::new)
    })
}

fn protocols() -> impl Strategy<Value = AppProtocol> {
    prop::sample::select(vec![AppProtocol::Detect, AppProtocol::Http1, AppProtocol::Http2, AppProtocol::Tcp])
}

fn egress_policies() -> impl Strategy<Value = EgressPolicy> {
    prop::sample::select(vec![EgressPolicy::Allow, EgressPolicy::Deny, EgressPolicy::Listed])
}

fn workloads() -> impl Strategy<Value = WorkloadConfig> {
    let port = (1u16.., 1u16.., protocols(), any::<(bool, u32)>()).prop_map(
        |(service_port, target_port, protocol, (preserve_case, half_close))| {
            let half_close = Duration::from_millis(u64::from(half_close));
            let http1 = Http1Settings { preserve_case, half_close };
            ServedPort { service_port, target_port, protocol, http1 }
        },
    );
    let selected =
        (names(), prop::collection::vec(port, 0..3)).prop_map(|(by, ports)| Selected { by, ports });
    let policies = prop::collection::vec(policies(), 0..3);
    let strict = (any::<bool>(), prop::collection::vec(1u16.., 0..3));
    let strict = strict.prop_map(|(everywhere, except)| Strictness { everywhere, except });
    let services = prop::collection::vec(selected, 0..4);
    let external = prop::collection::vec(external_services().prop_map(Arc::new), 0..3);
    let rest = (any::<bool>(), any::<bool>(), external);
    (names(), services, any::<bool>(), policies, strict, rest).prop_map(
        |(name, services, inbound_capture, policies, strict, (denies_by_default, slash, external))| {
            WorkloadConfig {
                name,
                services,
                inbound_capture,
                policies: policies.into(),
                strict,
                denies_by_default,
                allowed_paths: Ambiguities::named(slash.then_some("EncodedSlash")),
                external: external.into(),
            }
        },
    )
}

fn ranges() -> impl Strategy<Value = IpNet> {
    (any::<IpAddr>(), 0u8..=32).prop_map(|(address, length)| IpNet::new(address, length).unwrap())
}

fn external_services() -> impl Strategy<Value = ExternalConfig> {
    let host = "(\\*\\.)?[a-z]{1,4}\\.[a-z]{1,4}".prop_map(|host| ServerName::new(&host));
    let protocol =
        prop::sample::select(vec![OutsideProtocol::Http, OutsideProtocol::Tls, OutsideProtocol::Bytes]);
    let tls = prop::option::of(originated_tls().prop_map(Arc::new));
    let port =
        (1u16.., protocol, prop::option::of(1u16..), tls).prop_map(|(number, protocol, target_port, tls)| {
            let tls = tls.filter(|_| protocol != OutsideProtocol::Tls);
            ExternalPort { number, protocol, target_port, tls }
        });
    let hosts = prop::collection::vec(host, 0..3);
    let ranges = prop::collection::vec(ranges(), 0..3);
    let ports = prop::collection::vec(port, 0..3);
    let policies = prop::collection::vec(policies(), 0..2);
    (names(), hosts, ranges, ports, policies).prop_map(|(name, hosts, ranges, ports, policies)| {
        ExternalConfig { name, hosts, ranges, ports, policies: policies.into() }
    })
}

fn originated_tls() -> impl Strategy<Value = OriginatedTls> {
    let text = || "[a-z]{1,4}".prop_map(Arc::<str>::from);
    let name = prop_oneof![text().prop_map(CertificateName::Host), text().prop_map(CertificateName::Uri)];
    let certificate = prop::collection::vec(any::<u8>(), 0..4).prop_map(Arc::<[u8]>::from);
    let given = prop::collection::vec(certificate, 0..3);
    let roots = prop_oneof![
        Just(OriginatedRoots::System),
        given.prop_map(|given| OriginatedRoots::Given(given.into())),
        (text(), text()).prop_map(|(field, why)| OriginatedRoots::Nobody { field, why }),
    ];
    (names(), text(), prop::collection::vec(name, 0..3), roots).prop_map(
        |(policy, hostname, names, roots)| OriginatedTls {
            by: TlsAsker::Policy(policy),
            hostname,
            names,
            roots,
        },
    )
}

fn policies() -> impl Strategy<Value = AccessPolicy> {
    let action = prop::sample::select(vec![Action::Allow, Action::Deny, Action::Audit]);
    let action = prop_oneof![
        3 => action.prop_map(|action| (action, None)),
        1 => external_auth().prop_map(|external| (Action::Ask, Some(Arc::new(external)))),
    ];
    let ports = || prop::option::of(prop::collection::vec(1u16.., 0..3));
    let identity = "spiffe://([a-z]{1,4}|\\*)(/([a-z]{1,4}|\\*)){0,2}/([a-z]{1,4}|\\*|\\*\\*)";
    let identity = identity.prop_map(|text| Source::Identity(IdentityPattern::new(&text).unwrap()));
    let outside = prop::collection::vec(ranges(), 0..3).prop_map(Source::Outside);
    let sources = prop::option::of(prop::collection::vec(prop_oneof![identity, outside], 0..3));
    let request = prop::option::of(request_conditions().prop_map(Box::new));
    let when = prop::option::of(
        "[a-z]{1,4}"
            .prop_map(|team| CelCondition::new(&format!("request.headers['x-team'] == '{team}'")).unwrap()),
    );
    let rule = (0usize..100, sources, ports(), request, when);
    let rule = rule.prop_map(|(index, sources, ports, request, when)| AccessRule {
        index,
        sources,
        ports,
        request,
        when,
    });
    let issuers = prop::collection::vec(jwt_issuers().prop_map(Arc::new), 0..2);
    (names(), action, ports(), issuers, prop::collection::vec(rule, 0..3)).prop_map(
        |(name, (action, external), at, issuers, rules)| AccessPolicy {
            name,
            action,
            at,
            issuers,
            rules,
            external,
        },
    )
}

fn external_auth() -> impl Strategy<Value = ExternalAuth> {
    let headers = || prop::collection::vec("x-[a-z]{1,4}".prop_map(|name| name.parse().unwrap()), 0..3);
    let grpc = headers().prop_map(|headers| ExternalProtocol::Grpc { headers });
    let http = ("(/[a-z]{1,4}){0,2}", headers(), headers());
    let http = http.prop_map(|(path, headers, answered)| ExternalProtocol::Http { path, headers, answered });
    let timeout = (1u64..10_000).prop_map(Duration::from_millis);
    let ports = prop::collection::vec(1u16.., 0..3);
    (names(), 1u16.., prop_oneof![grpc, http], any::<u16>(), timeout, any::<bool>(), ports).prop_map(
        |(service, port, protocol, max_body, timeout, fail_open, spared)| ExternalAuth {
            service,
            port,
            protocol,
            max_body,
            timeout,
            fail_open,
            spared,
        },
    )
}

fn jwt_issuers() -> impl Strategy<Value = JwtIssuer> {
    let texts = || prop::collection::vec("[a-z]{1,4}", 0..3);
    let text = || prop::option::of("[a-z]{1,4}".prop_map(Arc::from));
    let header = || "x-[a-z]{1,4}".prop_map(|name| name.parse().unwrap());
    let claim_header = ("[a-z]{1,4}", header()).prop_map(|(claim, header)| ClaimHeader { claim, header });
    let keys = (text(), text()).prop_map(|(source, set)| JwtKeys { source, set });
    let place = (header(), "[a-z ]{0,4}").prop_map(|(header, prefix)| TokenPlace { header, prefix });
    let age = prop::option::of(any::<u32>().prop_map(|age| Duration::from_millis(age.into())));
    let rest = (prop::collection::vec(claim_header, 0..3), age);
    ("[a-z:/]{1,8}", texts(), keys, place, rest).prop_map(
        |(issuer, audiences, keys, place, (claim_headers, max_stream_age))| JwtIssuer {
            issuer,
            audiences,
            keys,
            place,
            claim_headers,
            max_stream_age,
        },
    )
}

fn jwt_conditions() -> impl Strategy<Value = JwtConditions> {
    let texts = || prop::collection::vec("[a-z]{1,4}", 0..3);
    let claim = ("[a-z]{1,4}", texts()).prop_map(|(name, values)| ClaimMatch { name, values });
    (texts(), prop::collection::vec(claim, 0..3))
        .prop_map(|(issuers, claims)| JwtConditions { issuers, claims })
}

fn request_conditions() -> impl Strategy<Value = RequestConditions> {
    let path = || {
        prop_oneof![
            "/[a-z/]{0,8}".prop_map(PathMatch::Exact),
            "(/[a-z]{1,4}){0,3}".prop_map(PathMatch::Prefix),
            "/[a-z]{1,4}\\[\\^/\\]\\+".prop_map(|text| PathMatch::Regex(Pattern::new(&text).unwrap())),
        ]
    };
    let paths = || prop::collection::vec(path(), 0..3);
    let host = "(\\*\\.)?[a-z]{1,4}\\.[a-z]{1,4}".prop_map(|host| ServerName::new(&host));
    let header = ("[a-z]{1,4}", "[a-z]{0,4}")
        .prop_map(|(name, value)| ValueMatch { name, value: TextMatch::Exact(value) });
    let methods = prop::collection::vec("[A-Z]{1,6}", 0..3);
    let hosts = prop::collection::vec(host, 0..3);
    let headers = prop::collection::vec(header, 0..3);
    let jwt = prop::option::of(jwt_conditions());
    (methods, paths(), paths(), hosts, headers, jwt).prop_map(
        |(methods, paths, calls, hosts, headers, jwt)| RequestConditions {
            methods,
            paths,
            calls,
            hosts,
            headers,
            jwt,
        },
    )
}

fn services() -> impl Strategy<Value = ServiceConfig> {
    let protocol = protocols();
    let tcp_rule = (names(), backends()).prop_map(|(route, backends)| Arc::new(TcpRule { route, backends }));
    let tcp_rule = tcp_rule.boxed();
    let port = (
        "[a-z]{0,4}",
        protocol,
        tables(),
        tls_tables(tcp_rule.clone()),
        prop::option::of(tcp_rule),
        any::<bool>(),
        any::<(bool, u32)>(),
    );
    let config = (names(), prop::collection::btree_map(1u16.., prop::collection::vec(port, 1..3), 0..4))
        .prop_map(|(name, ports)| {
            let port = |(number, port): (u16, (String, _, _, _, _, _, _))| {
                let (name, protocol, http_routes, tls_routes, tcp_route, http_only, http1) = port;
                let (preserve_case, half_close) = http1;
                let half_close = Duration::from_millis(u64::from(half_close));
                let http1 = Http1Settings { preserve_case, half_close };
                let (name, consumers) = (name.into(), Vec::new());
                PortConfig {
                    number,
                    name,
                    protocol,
                    http_routes,
                    tls_routes,
                    tcp_route,
                    http_only,
                    http1,
                    consumers,
                }
            };
            // Of one port, others are what consumers see instead.
            let ports = ports.into_iter().map(|(number, ports)| {
                let mut views = ports.into_iter().map(|view| port((number, view)));
                let own = views.next().unwrap();
                let consumers = (0..).zip(views).map(|(i, view)| (format!("n{i}").into(), view)).collect();
                PortConfig { consumers, ..own }
            });
            (name, ports.collect())
        });
    let shape = prop_oneof![
        Just(Shape::Balanced),
        Just(Shape::Headless),
        "[a-z]{1,5}\\.[a-z]{1,5}".prop_map(|name| Shape::Alias(name.into()))
    ];
    (config, shape).prop_map(|((name, ports), shape)| ServiceConfig { name, ports, shape })
}

fn endpoint_sets() -> impl Strategy<Value = EndpointSet> {
    let node = ("[a-z]{1,5}", any::<IpAddr>(), any::<u16>())
        .prop_map(|(name, ip, port)| PeerNode { name: name.into(), link: SocketAddr::new(ip, port) });
    let mapping =
        (1u16.., 1u16..).prop_map(|(service_port, target_port)| PortMapping { service_port, target_port });
    let endpoint = (
        prop::option::of(names()),
        prop::option::of(node),
        any::<IpAddr>(),
        prop::collection::vec(mapping, 0..3),
        any::<bool>(),
    )
        .prop_map(|(workload, node, address, ports, identified)| {
            let domain = TrustDomain::new("mesh.local").unwrap();
            let identity =
                (identified || node.is_some()).then(|| SpiffeId::workload(&domain, "shop", "cart").unwrap());
            Arc::new(Endpoint { workload, node, address, ports, identity })
        });
    let stale_since = prop_oneof![Just(0), 1..i64::MAX];
    (names(), prop::collection::vec(((endpoint, stale_since), "[a-z]{0,2}"), 0..5)).prop_map(
        |(service, endpoints)| {
            let (endpoints, hostnames): (_, Vec<_>) = endpoints.into_iter().unzip();
            let hostnames = hostnames.iter().map(|name: &String| name.as_str().into()).collect();
            EndpointSet::new(service, endpoints).with_hostnames(hostnames)
        },
    )
}

/// Through bytes, as over the network.
fn sent<M: Message + Default>(message: M) -> M {
    M::decode(message.encode_to_vec().as_slice()).unwrap()
}

proptest! {
    #[test]
    fn services_survive_a_round_trip(service in services()) {
        let received = ServiceConfig::try_from(sent(discovery::Service::from(&service))).unwrap();
        // Rules that were shared still are.
        for (port, got) in service.ports.iter().zip(&received.ports) {
            let (sent, got) = (port.http_routes.entries(), got.http_routes.entries());
            for i in 1..sent.len() {
                let shared = Arc::ptr_eq(&sent[0].rule, &sent[i].rule);
                prop_assert_eq!(Arc::ptr_eq(&got[0].rule, &got[i].rule), shared);
            }
        }
        prop_assert_eq!(received, service);
    }

    #[test]
    fn endpoints_survive_a_round_trip(set in endpoint_sets()) {
        let received = EndpointSet::try_from(sent(discovery::Endpoints::from(&set))).unwrap();
        prop_assert_eq!(received, set);
    }

    #[test]
    fn workloads_survive_a_round_trip(workload in workloads()) {
        let received = WorkloadConfig::try_from(sent(discovery::Workload::from(&workload))).unwrap();
        prop_assert_eq!(received, workload);
    }

    #[test]
    fn settings_survive_a_round_trip(
        egress in egress_policies(), namespaces in prop::collection::btree_map("[a-z]{1,3}".prop_map(Arc::from), egress_policies(), 0..3),
        access_log: bool, inbound_capture: bool, key: Option<[u8; 32]>, revoked: Vec<u64>,
    ) {
        let session_key = key.map(SessionKey);
        let revoked = Revoked::of(revoked.into_iter().map(Stamp)).into();
        let originates_tls = inbound_capture;
        let mesh = MeshSettings { egress, egress_namespaces: namespaces, originates_tls, access_log, inbound_capture, session_key, revoked };
        let message = discovery::Mesh::from(&mesh);
        let other = MeshSettings { session_key: mesh.session_key.clone().map(|_| SessionKey([0; 32])), ..mesh.clone() };
        prop_assert_eq!(format!("{message:?}"), format!("{:?}", discovery::Mesh::from(&other)), "the key is shown");
        // Who knows no more than that lets out no more than the strictest says.
        let all = mesh.egress_namespaces.values().chain([&mesh.egress]).all(|policy| *policy == EgressPolicy::Allow);
        prop_assert_eq!(message.egress_deny, !all);
        prop_assert_eq!(MeshSettings::from(sent(message)), mesh);
    }

    /// Whatever bytes decode as a message, reading it is an answer or an error, and what reads
    /// survives another round trip.
    #[test]
    fn nothing_that_arrives_panics(
        service in services(), set in endpoint_sets(), workload in workloads(),
        at in any::<prop::sample::Index>(), byte: u8,
    ) {
        let spoiled = |mut bytes: Vec<u8>| {
            let at = at.index(bytes.len());
            bytes[at] = byte;
            bytes
        };
        let bytes = spoiled(discovery::Service::from(&service).encode_to_vec());
        if let Ok(Ok(service)) = discovery::Service::decode(bytes.as_slice()).map(ServiceConfig::try_from) {
            let again = ServiceConfig::try_from(discovery::Service::from(&service));
            prop_assert_eq!(again.unwrap(), service);
        }
        let bytes = spoiled(discovery::Endpoints::from(&set).encode_to_vec());
        if let Ok(Ok(set)) = discovery::Endpoints::decode(bytes.as_slice()).map(EndpointSet::try_from) {
            prop_assert_eq!(EndpointSet::try_from(discovery::Endpoints::from(&set)).unwrap(), set);
        }
        let bytes = spoiled(discovery::Workload::from(&workload).encode_to_vec());
        if let Ok(Ok(workload)) = discovery::Workload::decode(bytes.as_slice()).map(WorkloadConfig::try_from) {
            let again = WorkloadConfig::try_from(discovery::Workload::from(&workload));
            prop_assert_eq!(again.unwrap(), workload);
        }
    }
}

fn service_with(change: impl FnOnce(&mut discovery::Port)) -> discovery::Service {
    let entry = discovery::HttpEntry {
        rule: 0,
        path: Some(discovery::http_entry::Path::Prefix(String::new())),
        ..Default::default()
    };
    let target = discovery::backend::Target::Invalid("gone".into());
    let rule = discovery::Rule {
        route_namespace: "shop".into(),
        route_name: "split".into(),
        backends: vec![discovery::Backend { weight: 1, target: Some(target), filters: None, spoken: None }],
        ..Default::default()
    };
    let mut port = discovery::Port {
        number: 80,
        http_entries: vec![entry],
        http_rules: vec![rule.clone()],
        tcp_rule: Some(rule),
        ..Default::default()
    };
    change(&mut port);
    discovery::Service {
        namespace: "shop".into(),
        name: "cart".into(),
        ports: vec![port],
        ..Default::default()
    }
}

#[test]
fn errors_name_the_field() {
    assert!(ServiceConfig::try_from(service_with(|_| ())).is_ok());
    type Spoil = fn(&mut discovery::Port);
    let cases: [(&str, Spoil); 14] = [
        ("ports[0].tls_entries[0].rule", |p| {
            p.tls_entries = vec![discovery::TlsEntry { hostname: "a.test".into(), rule: 0 }];
        }),
        ("ports[0].tls_entries[0].hostname", |p| {
            p.tls_entries = vec![discovery::TlsEntry { hostname: "*.".into(), rule: 0 }];
            p.tls_rules = p.http_rules.clone();
        }),
        ("ports[0].number", |p| p.number = 0),
        ("ports[0].number", |p| p.number = 65536),
        ("ports[0].protocol", |p| p.protocol = 9),
        ("ports[0].http_entries[0].rule", |p| p.http_entries[0].rule = 1),
        ("ports[0].http_entries[0].path", |p| p.http_entries[0].path = None),
        ("ports[0].http_entries[0].prefix", |p| {
            p.http_entries[0].path = Some(discovery::http_entry::Path::Prefix("/".into()));
        }),
        ("ports[0].http_entries[0].headers[0].regex", |p| {
            let value = discovery::value_match::Value::Regex("(".into());
            p.http_entries[0].headers = vec![discovery::ValueMatch { name: "a".into(), value: Some(value) }];
        }),
        ("ports[0].http_entries[0].query[0].value", |p| {
            p.http_entries[0].query = vec![discovery::ValueMatch { name: "a".into(), value: None }];
        }),
        ("ports[0].http_rules[0].route_name", |p| p.http_rules[0].route_name.clear()),
        ("ports[0].http_rules[0].filters.cors.origins[1]", |p| {
            let origins = vec!["https://a".into(), "*".into()];
            let cors = discovery::Cors { origins, ..Default::default() };
            p.http_rules[0].filters = Some(discovery::Filters { cors: Some(cors), ..Default::default() });
        }),
        ("ports[0].http_rules[0].filters.cors.exposed", |p| {
            let cors = discovery::Cors { exposed: "a\r\nb: c".into(), ..Default::default() };
            p.http_rules[0].filters = Some(discovery::Filters { cors: Some(cors), ..Default::default() });
        }),
        ("ports[0].tcp_rule.backends[0].target", |p| {
            p.tcp_rule.as_mut().unwrap().backends[0].target = None;
        }),
    ];
    for (field, spoil) in cases {
        assert_eq!(ServiceConfig::try_from(service_with(spoil)).unwrap_err().field, field);
    }
    let mut service = service_with(|_| ());
    service.ports.push(service.ports[0].clone());
    assert_eq!(ServiceConfig::try_from(service).unwrap_err().field, "ports[1].number");

    let endpoint = discovery::Endpoint {
        node: "n1".into(),
        link_address: "192.0.2.1:15008".into(),
        address: vec![127, 0, 0, 1].into(),
        identity: "spiffe://mesh.local/ns/shop/sa/cart".into(),
        ..Default::default()
    };
    let read = |change: fn(&mut discovery::Endpoint)| {
        let mut endpoint = endpoint.clone();
        change(&mut endpoint);
        EndpointSet::try_from(discovery::Endpoints {
            namespace: "shop".into(),
            name: "cart".into(),
            endpoints: vec![endpoint],
        })
    };
    assert!(read(|_| ()).is_ok());
    type Change = fn(&mut discovery::Endpoint);
    let cases: [(&str, Change); 5] = [
        ("endpoints[0].address", |e| e.address = vec![1, 2, 3].into()),
        ("endpoints[0].identity", |e| e.identity = "me".into()),
        ("endpoints[0].identity", |e| e.identity.clear()),
        ("endpoints[0].link_address", |e| e.link_address = "n1:15008".into()),
        ("endpoints[0].workload_name", |e| e.workload_namespace = "shop".into()),
    ];
    for (field, change) in cases {
        assert_eq!(read(change).unwrap_err().field, field);
    }
}

#[test]
fn errors_in_a_workload_name_the_field() {
    let read = |change: fn(&mut discovery::ServedPort)| {
        let mut port = discovery::ServedPort { service_port: 80, target_port: 1, ..Default::default() };
        change(&mut port);
        let selected = discovery::Selected { namespace: "shop".into(), name: "c".into(), ports: vec![port] };
        let workload = discovery::Workload {
            namespace: "shop".into(),
            name: "c-1".into(),
            services: vec![selected],
            ..Default::default()
        };
        WorkloadConfig::try_from(workload).map_err(|e| e.field)
    };
    assert!(read(|_| ()).is_ok());
    type Change = fn(&mut discovery::ServedPort);
    let cases: [(&str, Change); 3] = [
        ("services[0].ports[0].service_port", |p| p.service_port = 0),
        ("services[0].ports[0].target_port", |p| p.target_port = 65536),
        ("services[0].ports[0].protocol", |p| p.protocol = 9),
    ];
    for (field, change) in cases {
        assert_eq!(read(change).unwrap_err(), field);
    }
}

/// What a node does not understand of who may enter it does not take for something else.
#[test]
fn errors_in_a_policy_name_the_field() {
    use discovery::source::Source;
    let read = |change: fn(&mut discovery::AuthorizationPolicy)| {
        let source = discovery::Source { source: Some(Source::Identity("spiffe://m/a".into())) };
        let sources = Some(discovery::Sources { sources: vec![source] });
        let rule = discovery::AuthorizationRule { sources, ..Default::default() };
        let mut policy = discovery::AuthorizationPolicy {
            namespace: "shop".into(),
            name: "p".into(),
            action: discovery::AuthorizationAction::Allow.into(),
            rules: vec![rule],
            ..Default::default()
        };
        change(&mut policy);
        let workload = discovery::Workload {
            namespace: "shop".into(),
            name: "c-1".into(),
            policies: vec![policy],
            ..Default::default()
        };
        WorkloadConfig::try_from(workload).map_err(|e| e.field)
    };
    fn source(policy: &mut discovery::AuthorizationPolicy) -> &mut Option<Source> {
        &mut policy.rules[0].sources.as_mut().unwrap().sources[0].source
    }
    assert!(read(|_| ()).is_ok());
    type Change = fn(&mut discovery::AuthorizationPolicy);
    let cases: [(&str, Change); 14] = [
        ("policies[0].needs", |p| p.needs.push("more".into())),
        ("policies[0].rules[0].needs", |p| p.rules[0].needs.push("paths".into())),
        ("policies[0].action", |p| p.action = 9),
        ("policies[0].action", |p| p.action = 0),
        ("policies[0].name", |p| p.name.clear()),
        ("policies[0].at[0].", |p| p.at = Some(discovery::Ports { ports: vec![65536] })),
        ("policies[0].rules[0].ports[0].", |p| p.rules[0].ports = Some(discovery::Ports { ports: vec![0] })),
        ("policies[0].rules[0].sources[0].identity", |p| *source(p) = Some(Source::Identity("web".into()))),
        ("policies[0].rules[0].sources[0].source", |p| *source(p) = None),
        ("policies[0].rules[0].request.paths[0].path", |p| {
            let paths = vec![discovery::PathMatch::default()];
            p.rules[0].request = Some(discovery::RequestConditions { paths, ..Default::default() });
        }),
        ("policies[0].issuers", |p| p.needs.push("jwt".into())),
        ("policies[0].issuers[0].header", |p| p.issuers.push(discovery::JwtIssuer::default())),
        ("policies[0].rules[0].request", |p| p.rules[0].needs.push("request".into())),
        ("policies[0].rules[0].request.headers[0].name", |p| {
            let value = Some(discovery::value_match::Value::Exact("1".into()));
            let headers = vec![discovery::ValueMatch { name: "X".into(), value }];
            p.rules[0].request = Some(discovery::RequestConditions { headers, ..Default::default() });
        }),
    ];
    for (field, change) in cases {
        assert_eq!(read(change).unwrap_err(), field);
    }
}

#[test]
fn what_a_server_says_of_egress_that_a_node_does_not_know_lets_nothing_out() {
    for (egress_deny, egress, expected) in
        [(false, 0, EgressPolicy::Allow), (true, 0, EgressPolicy::Deny), (false, 9, EgressPolicy::Deny)]
    {
        let namespaces = vec![discovery::NamespaceEgress { namespace: "shop".to_owned(), egress: 9 }];
        let message =
            discovery::Mesh { egress_deny, egress, egress_namespaces: namespaces, ..Default::default() };
        let mesh = MeshSettings::from(message);
        assert_eq!((mesh.egress, mesh.egress_of("shop").0), (expected, EgressPolicy::Deny));
    }
}
