//! How the applications behind backends are spoken to: nodes learn it with the route, as they need not know the backends' Services.

use super::*;
use crate::snapshot::Spoken;

fn backend_service(annotations: Value, protocol: &str) -> Change {
    let metadata = json!({ "namespace": "shop", "name": "v2", "annotations": annotations });
    let ports = json!([{ "name": "web", "port": 80, "appProtocol": protocol }]);
    put(KindId::Service, json!({ "metadata": metadata, "spec": { "ports": ports } }))
}

#[test]
fn backends_and_mirrors_follow_what_their_service_says() {
    let mut compiler = compiler();
    compiler.apply(service("c", json!({ "port": 80 })));
    compiler.apply(backend_service(json!({}), "kubernetes.io/h2c"));
    let mirror =
        json!({ "type": "RequestMirror", "requestMirror": { "backendRef": { "name": "v2", "port": 80 } } });
    let backends = json!([{ "name": "v2", "port": 80 }, { "name": "gone", "port": 80 }]);
    let spec =
        json!({ "parentRefs": [parent("c")], "rules": [{ "backendRefs": backends, "filters": [mirror] }] });
    compiler.apply(put(KindId::HttpRoute, route_object("r", spec)));
    let spoken = |compiler: &Compiler| {
        let config = compiler.service(&name("shop/c")).unwrap();
        let rule = &config.ports[0].http_routes.entries()[0].rule;
        let mirror = rule.filters.as_ref().unwrap().mirrors[0].spoken;
        (rule.backends.iter().map(|backend| backend.spoken).collect::<Vec<_>>(), mirror)
    };
    let h2c = Some(Spoken { protocol: AppProtocol::Http2, preserve_case: false });
    assert_eq!(spoken(&compiler), (vec![h2c, None], h2c));

    let effects = compiler.apply(backend_service(json!({ "tulle.dev/preserve-header-case": "web" }), "http"));
    assert!(effects.services.contains(&name("shop/c")), "nodes that know the route are told: {effects:?}");
    let http1 = Some(Spoken { protocol: AppProtocol::Http1, preserve_case: true });
    assert_eq!(spoken(&compiler), (vec![http1, None], http1));
}
