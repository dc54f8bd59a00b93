//! What a route's status and `find_idle` say of what nothing comes of.

use super::*;

fn route(name: &str, second: i64, parent: Value, rules: Value) -> Value {
    let created = jiff::Timestamp::from_second(second).unwrap().to_string();
    let mut object = route_object(name, json!({ "parentRefs": [parent], "rules": rules }));
    object["metadata"]["creationTimestamp"] = json!(created);
    object
}

fn prefix(path: &str) -> Value {
    json!({ "matches": [{ "path": { "type": "PathPrefix", "value": path } }] })
}

fn pattern(path: &str) -> Value {
    json!({ "matches": [{ "path": { "type": "RegularExpression", "value": path } }] })
}

fn two_ports() -> Change {
    let ports = json!([{ "name": "a", "port": 80, "appProtocol": "http" }, { "name": "b", "port": 81, "appProtocol": "http" }]);
    put(
        KindId::Service,
        json!({ "metadata": { "namespace": "shop", "name": "c" }, "spec": { "ports": ports } }),
    )
}

fn accepted(compiler: &Compiler, route: &str) -> String {
    let status = compiler.route_status(kind(KindId::HttpRoute), &name(route)).unwrap();
    assert_eq!(status[0].conditions[0].reason, "Accepted");
    status[0].conditions[0].message.clone()
}

const IN_FORCE: &str = "the route is in force";

#[test]
fn a_status_names_what_comes_too_late_and_behind_what() {
    let mut compiler = compiler();
    compiler.apply(two_ports());
    // By age, not by name.
    compiler
        .apply(put(KindId::HttpRoute, route("young", 2, parent("c"), json!([prefix("/x"), prefix("/a/")]))));
    compiler.apply(put(KindId::HttpRoute, route("z-old", 1, parent("c"), json!([prefix("/a")]))));
    assert_eq!(accepted(&compiler, "shop/z-old"), IN_FORCE);
    let behind = "no request reaches it: spec.rules[0].matches[0] of HTTPRoute shop/z-old comes first and takes all that it would";
    let warning = format!("{IN_FORCE}; warning: spec.rules[1].matches[0]: {behind}");
    assert_eq!(accepted(&compiler, "shop/young"), warning);
    // On one port of two.
    let mut port = parent("c");
    port["port"] = json!(81);
    compiler.apply(put(KindId::HttpRoute, route("z-old", 1, port, json!([prefix("/a")]))));
    let on_port = warning.replace("reaches it:", "reaches it on port 81:");
    assert_eq!(accepted(&compiler, "shop/young"), on_port);
    compiler.apply(delete(KindId::HttpRoute, "shop/z-old"));
    assert_eq!(accepted(&compiler, "shop/young"), IN_FORCE);

    // In one route; and what nothing can ever be.
    let rules = json!([pattern("/api/v[0-9]/.*"), prefix("/api"), pattern("/caf%c3%a9")]);
    compiler.apply(put(KindId::HttpRoute, route("own", 3, parent("c"), rules)));
    let message = accepted(&compiler, "shop/own");
    let expected = format!(
        "{IN_FORCE}; warning: spec.rules[0].matches[0]: no request reaches it: spec.rules[1].matches[0] comes first and \
         takes all that it would; warning: spec.rules[2].matches[0]: no request ever matches it: no path"
    );
    assert!(message.starts_with(&expected), "{message}");
    // The routes of one namespace take the place of another's.
    let mut theirs = route(
        "theirs",
        4,
        json!({ "group": "", "kind": "Service", "name": "c", "namespace": "shop" }),
        json!([prefix("/api")]),
    );
    theirs["metadata"]["namespace"] = json!("other");
    compiler.apply(put(KindId::HttpRoute, theirs));
    assert!(!accepted(&compiler, "other/theirs").contains("warning"));
}

#[test]
fn a_status_has_room_for_a_few() {
    let mut compiler = compiler();
    compiler.apply(two_ports());
    let rules: Vec<_> = (0..10).map(|_| prefix("/a")).collect();
    compiler.apply(put(KindId::HttpRoute, route("r", 1, parent("c"), json!(rules))));
    let message = accepted(&compiler, "shop/r");
    assert_eq!(message.matches("no request reaches it").count(), 3, "{message}");
    assert!(message.ends_with("; and 6 more of its matches"), "{message}");
}

#[test]
fn files_are_told_what_they_have_in_vain() {
    let found = |objects: Vec<(KindId, Value)>, known: Option<Vec<u16>>| -> Vec<(usize, String)> {
        let objects: Vec<_> = objects.into_iter().map(|(id, object)| (kind(id), object)).collect();
        let ports = |ports: &Vec<u16>| {
            let port =
                |number: &u16| crate::validate::OfferedPort { number: *number, name: format!("p{number}") };
            ports.iter().map(port).collect()
        };
        let found = find_idle(&objects, |_| known.as_ref().map(ports));
        found.into_iter().map(|(index, field, why)| (index, format!("{field}: {why}"))).collect()
    };
    let without_age = |name: &str, parent: Value, rules: Value| {
        (KindId::HttpRoute, route_object(name, json!({ "parentRefs": [parent], "rules": rules })))
    };
    let on = |port: u16| json!({ "group": "", "kind": "Service", "name": "c", "port": port });
    let plain = "spec.rules[0].matches[0]: no request reaches it: spec.rules[0].matches[0] of HTTPRoute shop/a comes first and takes all that it would";
    // Which of two files is created first nobody knows yet.
    let twice = |b: Value| {
        vec![
            without_age("b", b, json!([prefix("/x")])),
            (KindId::Namespace, json!({ "metadata": { "name": "shop" } })),
            without_age("a", parent("c"), json!([prefix("/x")])),
        ]
    };
    let unless = format!("{plain}, unless this route is the one that is created first");
    let expected = vec![(0, unless.clone())];
    assert_eq!(found(twice(parent("c")), None), expected);
    assert_eq!(found(twice(on(81)), None), expected);
    assert_eq!(found(twice(on(81)), Some(vec![80, 81])), expected);
    let nowhere =
        "spec.parentRefs[0]: the route does nothing there: Service shop/c has no TCP port 82".to_owned();
    assert_eq!(found(twice(on(82)), Some(vec![80, 81])), [(0, nowhere)], "it is not attached");
    // The special one is behind, however old it is.
    let special = vec![
        without_age("a", parent("c"), json!([prefix("/x")])),
        without_age("b", parent("c"), json!([pattern("/x/.*")])),
    ];
    assert_eq!(found(special, None), [(1, plain.to_owned())]);
    // The ages are known.
    let aged = vec![
        (KindId::HttpRoute, route("a", 1, parent("c"), json!([prefix("/x")]))),
        (KindId::HttpRoute, route("b", 2, parent("c"), json!([prefix("/x")]))),
    ];
    assert_eq!(found(aged, None), [(1, plain.to_owned())]);
    // Of calls, whose names make a path.
    let call = |service: &str| json!({ "matches": [{ "method": { "service": service, "method": "Get" } }] });
    let calls = json!({ "parentRefs": [parent("c")], "rules": [call("a.B"), call("c.D"), call("a.B")] });
    let expected = plain
        .replace("rules[0].matches[0]: no", "rules[2].matches[0]: no")
        .replace(" of HTTPRoute shop/a", "");
    assert_eq!(found(vec![(KindId::GrpcRoute, route_object("g", calls))], None), [(0, expected)]);
    // Different services, different ports, nothing in vain.
    let apart = vec![
        without_age("a", on(80), json!([prefix("/x")])),
        without_age("b", on(81), json!([prefix("/x")])),
        without_age("c", parent("d"), json!([prefix("/x"), prefix("/y")])),
    ];
    assert_eq!(found(apart, None), []);
    // Of a Service that is elsewhere nobody knows which ports it has, nor what they speak.
    let named = json!({ "group": "", "kind": "Service", "name": "c", "sectionName": "http" });
    let elsewhere = || {
        let tcp = json!({ "parentRefs": [parent("c")], "rules": [{ "backendRefs": [{ "name": "c", "port": 1 }] }] });
        vec![
            without_age("a", on(80), json!([prefix("/x")])),
            without_age("b", named.clone(), json!([prefix("/y")])),
            (KindId::TcpRoute, route_object("t", tcp)),
        ]
    };
    assert_eq!(found(elsewhere(), None), []);
    // Where its ports are known, one that is none of them is.
    let nowhere =
        "spec.parentRefs[0]: the route does nothing there: Service shop/c has no TCP port named `http`";
    assert_eq!(found(elsewhere(), Some(vec![80, 81])), [(1, nowhere.to_owned())]);
}
