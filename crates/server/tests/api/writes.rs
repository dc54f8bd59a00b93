use serde_json::{Value, json};

use crate::client::{ROUTES, SERVICES, TestApi, names, service, version};

fn route() -> Value {
    json!({
        "metadata": { "name": "r" },
        "spec": {
            "parentRefs": [{ "group": "", "kind": "Service", "name": "c" }],
            "rules": [{ "backendRefs": [{ "name": "c", "port": 80 }] }],
        },
    })
}

#[tokio::test]
async fn objects_are_created_replaced_and_deleted() {
    let api = TestApi::start().await;
    let created = api.post(SERVICES, &service("c")).await.expect(201);
    assert_eq!(created["spec"]["type"], "ClusterIP");
    api.post(SERVICES, &service("c")).await.fails(409, "AlreadyExists");
    api.post(SERVICES, &created).await.fails(400, "BadRequest");
    let elsewhere =
        api.post("/api/v1/namespaces/nowhere/services", &service("c")).await.fails(404, "NotFound");
    assert_eq!(elsewhere["message"], "namespaces \"nowhere\" not found");
    assert_eq!(elsewhere["details"], json!({ "name": "nowhere", "kind": "namespaces" }));
    let generated = json!({ "metadata": { "generateName": "c-" }, "spec": { "ports": [{ "port": 80 }] } });
    let generated = api.post(SERVICES, &generated).await.expect(201);
    assert!(generated["metadata"]["name"].as_str().unwrap().starts_with("c-"));

    let path = format!("{SERVICES}/c");
    let mut changed = created.clone();
    changed["spec"]["ports"][0]["port"] = 81.into();
    let replaced = api.put(&path, &changed).await.expect(200);
    assert_eq!(replaced["metadata"]["generation"], 2);
    api.put(&path, &changed).await.fails(409, "Conflict");
    api.put(&format!("{SERVICES}/d"), &service("d")).await.fails(404, "NotFound");
    api.put(&path, &service("d")).await.fails(400, "BadRequest");

    let uid = &created["metadata"]["uid"];
    let other = json!({ "preconditions": { "uid": "other" } });
    api.delete(&path, &other).await.fails(409, "Conflict");
    let stale = json!({ "preconditions": { "resourceVersion": version(&created) } });
    api.delete(&path, &stale).await.fails(409, "Conflict");
    let right = json!({ "preconditions": { "uid": uid }, "propagationPolicy": "Background" });
    // Typed clients of Kubernetes expect the Service itself, and of other kinds a Status.
    let deleted = api.delete(&path, &right).await.expect(200);
    assert_eq!((&deleted["kind"], &deleted["metadata"]["uid"]), (&json!("Service"), uid));
    api.get(&path).await.fails(404, "NotFound");
    api.delete(&path, &Value::Null).await.fails(404, "NotFound");
}

#[tokio::test]
async fn what_is_invalid_is_refused_with_its_field() {
    let api = TestApi::start().await;
    let mut wrong = route();
    wrong["spec"]["rules"][0]["backendRefs"][0]["port"] = 70_000.into();
    let status = api.post(ROUTES, &wrong).await.fails(422, "Invalid");
    assert_eq!(status["details"]["kind"], "HTTPRoute");
    assert_eq!(status["details"]["causes"][0]["field"], "spec.rules[0].backendRefs[0].port");

    api.post(SERVICES, &service("c")).await.expect(201);
    let mut unknown = route();
    unknown["spec"]["ruls"] = json!([]);
    let strict =
        api.post(&format!("{ROUTES}?fieldValidation=Strict"), &unknown).await.fails(400, "BadRequest");
    assert!(strict["message"].as_str().unwrap().contains("unknown field \"spec.ruls\""), "{strict}");
    let answer = api.post(&format!("{ROUTES}?dryRun=All"), &unknown).await;
    assert_eq!(answer.headers["warning"], "299 - \"unknown field \\\"spec.ruls\\\"\"");
    assert_eq!(answer.expect(201)["spec"].get("ruls"), None);
    let answer = api.post(&format!("{ROUTES}?fieldValidation=Ignore"), &unknown).await;
    assert!(answer.headers.get("warning").is_none());
    answer.expect(201);
}

/// Without the field that it means to have, a policy would let in more.
#[tokio::test]
async fn unknown_fields_of_a_policy_are_refused_whatever_is_asked_for() {
    let api = TestApi::start().await;
    let path = "/apis/tulle.dev/v1alpha1/namespaces/default/authorizationpolicies";
    let policy = |rule: Value| {
        json!({
            "apiVersion": "tulle.dev/v1alpha1",
            "kind": "AuthorizationPolicy",
            "metadata": { "name": "p" },
            "spec": { "targetRefs": [{ "group": "", "kind": "Namespace" }], "action": "Allow", "rules": [rule] }
        })
    };
    let cidr = json!({ "sources": [{ "type": "External", "external": { "cidr": ["192.0.2.0/24"] } }] });
    for rule in [
        json!({ "http": { "path": "/admin" } }),
        json!({ "unless": [] }),
        json!({ "networkAttributes": { "port": [80] } }),
        cidr,
    ] {
        for how in ["", "?fieldValidation=Warn", "?fieldValidation=Ignore"] {
            let status =
                api.post(&format!("{path}{how}"), &policy(rule.clone())).await.fails(400, "BadRequest");
            assert!(
                status["message"].as_str().unwrap().contains("unknown field \"spec.rules[0]."),
                "{status}"
            );
        }
    }
    let anywhere = json!({ "sources": [{ "type": "External", "external": {} }] });
    let status = api.post(path, &policy(anywhere)).await.fails(422, "Invalid");
    assert_eq!(status["details"]["causes"][0]["field"], "spec.rules[0].sources[0].external.cidrs");
    // What is asked of requests: each mistake is told at its field.
    for (rule, field) in [
        (json!({ "http": { "methods": [] } }), "http.methods"),
        (json!({ "http": { "methods": ["get"] } }), "http.methods[0]"),
        (json!({ "http": { "methods": ["G T"] } }), "http.methods[0]"),
        (json!({ "http": { "paths": [{ "value": "admin" }] } }), "http.paths[0].value"),
        (json!({ "http": { "paths": [{ "value": "/a;b" }] } }), "http.paths[0].value"),
        (json!({ "http": { "paths": [{ "type": "Exact", "value": "/a/../b" }] } }), "http.paths[0].value"),
        (json!({ "http": { "paths": [{ "type": "Template", "value": "/a/{b}c" }] } }), "http.paths[0].value"),
        (
            json!({ "http": { "paths": [{ "type": "Template", "value": "/{a=**}/c" }] } }),
            "http.paths[0].value",
        ),
        (json!({ "http": { "paths": [{ "type": "Regex", "value": "/a" }] } }), "http.paths[0].type"),
        (json!({ "http": { "paths": [{ "type": "Template", "value": "/a//{b}" }] } }), "http.paths[0].value"),
        (json!({ "http": { "hosts": ["a:80"] } }), "http.hosts[0]"),
        (json!({ "http": { "hosts": ["::1"] } }), "http.hosts[0]"),
        (json!({ "http": { "headers": [{ "name": "host", "value": "a" }] } }), "http.headers[0].name"),
        (json!({ "http": { "headers": [{ "name": "tulle-x", "value": "a" }] } }), "http.headers[0].name"),
        (
            json!({ "http": { "headers": [{ "name": "x-a", "value": "a" }, { "name": "X-A", "value": "b" }] } }),
            "http.headers[1].name",
        ),
        (json!({ "grpc": { "methods": [{}] } }), "grpc.methods[0].service"),
        (json!({ "grpc": { "methods": [{ "service": "a b" }] } }), "grpc.methods[0].service"),
        (json!({ "when": "request.method = 'GET'" }), "when"),
        (json!({ "when": "request.methods == 'GET'" }), "when"),
        (json!({ "when": "" }), "when"),
        (json!({ "when": ["true"] }), "when"),
        // Nobody says whose tokens are meant.
        (json!({ "when": "jwt.claims.sub == 'a'" }), "when"),
    ] {
        let status = api.post(path, &policy(rule.clone())).await.fails(422, "Invalid");
        let found = status["details"]["causes"][0]["field"].as_str().unwrap_or_default();
        assert_eq!(found, format!("spec.rules[0].{field}"), "{rule} {status}");
    }
    let status = api.post(path, &policy(json!({ "grpc": {} }))).await.fails(422, "Invalid");
    assert_eq!(status["details"]["causes"][0]["field"], "spec.rules[0].grpc.methods", "{status}");
    let with_tokens = |issuer: Value, rule: Value| {
        let mut policy = policy(rule);
        let mut whole = json!({ "issuer": "https://a", "jwks": { "uri": "https://a/keys" } });
        whole.as_object_mut().unwrap().extend(issuer.as_object().unwrap().clone());
        policy["spec"]["jwt"] = json!({ "issuers": [whole] });
        policy
    };
    let keys = |keys: Value| json!({ "jwks": keys });
    let secret = json!({ "keys": [{ "kty": "oct", "k": "AA" }] }).to_string();
    for (issuer, rule, field) in [
        (json!({ "issuer": "" }), json!({}), "jwt.issuers[0].issuer"),
        (json!({ "audiences": [] }), json!({}), "jwt.issuers[0].audiences"),
        (keys(json!({})), json!({}), "jwt.issuers[0].jwks"),
        (keys(json!({ "uri": "https://a", "inline": "{}" })), json!({}), "jwt.issuers[0].jwks"),
        (keys(json!({ "uri": "ftp://a" })), json!({}), "jwt.issuers[0].jwks.uri"),
        (keys(json!({ "uri": "https://u:p@a/" })), json!({}), "jwt.issuers[0].jwks.uri"),
        (keys(json!({ "file": "/etc/shadow" })), json!({}), "jwt.issuers[0].jwks.file"),
        (keys(json!({ "inline": "{}" })), json!({}), "jwt.issuers[0].jwks.inline"),
        (keys(json!({ "inline": secret })), json!({}), "jwt.issuers[0].jwks.inline"),
        (json!({ "fromHeader": { "name": "a b" } }), json!({}), "jwt.issuers[0].fromHeader.name"),
        (json!({ "fromHeader": { "name": "tulle-x" } }), json!({}), "jwt.issuers[0].fromHeader.name"),
        (
            json!({ "outputClaimToHeaders": [{ "claim": "sub", "header": "Host" }] }),
            json!({}),
            "jwt.issuers[0].outputClaimToHeaders[0].header",
        ),
        (
            json!({ "outputClaimToHeaders": [{ "claim": "sub", "header": "Authorization" }] }),
            json!({}),
            "jwt.issuers[0].outputClaimToHeaders[0].header",
        ),
        (json!({}), json!({ "jwt": { "issuers": ["https://b"] } }), "rules[0].jwt.issuers[0]"),
        (json!({}), json!({ "jwt": { "claims": [{ "name": "a" }] } }), "rules[0].jwt.claims[0].values"),
        (json!({}), json!({ "jwt": { "claims": [{ "values": ["a"] }] } }), "rules[0].jwt.claims[0].name"),
    ] {
        let status = api.post(path, &with_tokens(issuer.clone(), rule.clone())).await.fails(422, "Invalid");
        let found = status["details"]["causes"][0]["field"].as_str().unwrap_or_default();
        assert_eq!(found, format!("spec.{field}"), "{issuer} {rule} {status}");
    }
    let status = api.post(path, &policy(json!({ "jwt": {} }))).await.fails(422, "Invalid");
    assert_eq!(status["details"]["causes"][0]["field"], "spec.rules[0].jwt", "{status}");
    let created = api.post(path, &policy(json!({ "sources": [{ "type": "External" }] }))).await.expect(201);
    // Nor by a patch.
    let patch = json!({ "spec": { "rule": [] } });
    api.patch(&format!("{path}/p"), "merge-patch", &patch).await.fails(400, "BadRequest");
    assert_eq!(api.get(&format!("{path}/p")).await.expect(200)["spec"], created["spec"]);
}

#[tokio::test]
async fn unknown_fields_of_the_mesh_are_refused_too() {
    let api = TestApi::start().await;
    let path = "/apis/tulle.dev/v1alpha1/meshes/default?fieldValidation=Ignore";
    let patch = json!({ "spec": { "mtls": { "mod": "Strict" } } });
    let status = api.patch(path, "merge-patch", &patch).await.fails(400, "BadRequest");
    assert!(status["message"].as_str().unwrap().contains("unknown field \"spec.mtls.mod\""), "{status}");
    for (mtls, field) in [
        (json!({ "mode": "strict" }), "spec.mtls.mode"),
        (json!({ "ports": [{ "port": 0, "mode": "Strict" }] }), "spec.mtls.ports[0].port"),
        (json!({ "ports": [{ "port": 80 }] }), "spec.mtls.ports[0].mode"),
        (json!({ "namespaces": [{ "name": "A b", "mode": "Strict" }] }), "spec.mtls.namespaces[0].name"),
    ] {
        let patch = json!({ "spec": { "mtls": mtls } });
        let status = api.patch(path, "merge-patch", &patch).await.fails(422, "Invalid");
        assert_eq!(status["details"]["causes"][0]["field"], field, "{status}");
    }
    let patch = json!({ "spec": { "mtls": { "mode": "Strict" }, "inboundCapture": { "enabled": false } } });
    let status = api.patch(path, "merge-patch", &patch).await.fails(422, "Invalid");
    assert_eq!(status["details"]["causes"][0]["field"], "spec.inboundCapture.enabled", "{status}");
}

#[tokio::test]
async fn a_dry_run_changes_nothing() {
    let api = TestApi::start().await;
    let dry = |path: &str| format!("{path}?dryRun=All");
    api.post(&dry(SERVICES), &service("c")).await.expect(201);
    let path = format!("{SERVICES}/c");
    api.get(&path).await.fails(404, "NotFound");
    let created = api.post(SERVICES, &service("c")).await.expect(201);
    let label = json!({ "metadata": { "labels": { "x": "y" } } });
    let patched = api.patch(&dry(&path), "merge-patch", &label).await.expect(200);
    assert_eq!(patched["metadata"]["labels"]["x"], "y");
    api.delete(&dry(&path), &Value::Null).await.expect(200);
    assert_eq!(api.get(&path).await.expect(200), created);
    api.post(&format!("{SERVICES}?dryRun=Some"), &service("d")).await.fails(400, "BadRequest");
}

#[tokio::test]
async fn patches_come_in_three_forms() {
    let api = TestApi::start().await;
    api.post(SERVICES, &service("c")).await.expect(201);
    let path = format!("{SERVICES}/c");
    let merge = json!({ "metadata": { "labels": { "app": null, "x": "y" } } });
    let patched = api.patch(&path, "merge-patch", &merge).await.expect(200);
    assert_eq!(patched["metadata"]["labels"], json!({ "x": "y" }));

    let json_patch = json!([
        { "op": "test", "path": "/spec/ports/0/port", "value": 80 },
        { "op": "add", "path": "/spec/ports/-", "value": { "port": 81, "name": "b" } },
    ]);
    let patched = api.patch(&path, "json-patch", &json_patch).await.expect(200);
    assert_eq!(patched["spec"]["ports"][1]["targetPort"], 81);
    let failing = json!([{ "op": "test", "path": "/spec/ports/0/port", "value": 1 }]);
    api.patch(&path, "json-patch", &failing).await.fails(422, "Invalid");
    api.patch(&path, "json-patch", &json!({})).await.fails(400, "BadRequest");

    let strategic =
        json!({ "spec": { "ports": [{ "port": 81, "$patch": "delete" }, { "port": 80, "name": "web" }] } });
    let patched = api.patch(&path, "strategic-merge-patch", &strategic).await.expect(200);
    assert_eq!(
        patched["spec"]["ports"],
        json!([{ "name": "web", "port": 80, "protocol": "TCP", "targetPort": 80 }])
    );

    let stale = json!({ "metadata": { "resourceVersion": "1", "labels": { "z": "z" } } });
    api.patch(&path, "merge-patch", &stale).await.fails(409, "Conflict");
    let status = json!({ "metadata": { "name": "other" } });
    api.patch(&path, "merge-patch", &status).await.fails(400, "BadRequest");
    api.patch(&path, "other-patch", &json!({})).await.fails(415, "UnsupportedMediaType");
}

#[tokio::test]
async fn many_writers_lose_nothing() {
    let api = TestApi::start().await;
    api.post(SERVICES, &service("c")).await.expect(201);
    let writes = (0..50).map(|n| {
        let api = &api;
        let label = json!({ "metadata": { "labels": { format!("n{n}"): "1" } } });
        async move { api.patch(&format!("{SERVICES}/c"), "merge-patch", &label).await.expect(200) }
    });
    futures_util::future::join_all(writes).await;
    let service = api.get(&format!("{SERVICES}/c")).await.expect(200);
    assert_eq!(service["metadata"]["labels"].as_object().unwrap().len(), 51);
}

#[tokio::test]
async fn the_status_is_written_by_itself() {
    let api = TestApi::start().await;
    let created = api.post(SERVICES, &service("c")).await.expect(201);
    let path = format!("{SERVICES}/c/status");
    let mut changed = created.clone();
    changed["status"] = json!({ "loadBalancer": { "ingress": [] } });
    changed["spec"]["ports"][0]["port"] = 99.into();
    let written = api.put(&path, &changed).await.expect(200);
    assert_eq!(written["status"], changed["status"]);
    assert_eq!(written["spec"], created["spec"]);
    assert_eq!(written["metadata"]["generation"], 1);
    let both = json!({ "spec": { "type": "ClusterIP" }, "status": null });
    let patched = api.patch(&path, "merge-patch", &both).await.expect(200);
    assert_eq!(patched.get("status"), None);
    assert_eq!(api.get(&path).await.expect(200), patched);
}

#[tokio::test]
async fn namespaces_hold_what_is_in_them() {
    let api = TestApi::start().await;
    let shop = "/api/v1/namespaces/shop";
    let namespace = json!({ "metadata": { "name": "shop" } });
    let created = api.post("/api/v1/namespaces", &namespace).await.expect(201);
    assert_eq!(created["status"]["phase"], "Active");
    assert_eq!(created["metadata"]["labels"]["kubernetes.io/metadata.name"], "shop");
    for name in ["a", "b"] {
        api.post(&format!("{shop}/services"), &service(name)).await.expect(201);
    }
    api.post(SERVICES, &service("a")).await.expect(201);
    let selected = format!("{shop}/services?labelSelector=app%3Da");
    let deleted = api.delete(&selected, &Value::Null).await.expect(200);
    assert_eq!(names(&deleted), ["a"]);
    let status = api.delete(shop, &Value::Null).await.expect(200);
    assert_eq!(
        (&status["status"], &status["details"]["uid"]),
        (&json!("Success"), &created["metadata"]["uid"])
    );
    assert_eq!(names(&api.get("/api/v1/services").await.expect(200)), ["a"]);
    api.get(shop).await.fails(404, "NotFound");
    // `kubectl delete -f` of a file that begins with the namespace goes on with what was in it.
    let uid = json!({ "preconditions": { "uid": "other" } });
    api.delete(&format!("{shop}/services/b"), &uid).await.fails(404, "NotFound");
    let gone = api.delete(&format!("{shop}/services/b"), &Value::Null).await.expect(200);
    assert_eq!(gone["metadata"]["name"], "b");
    for name in ["b", "c"] {
        api.delete(&format!("{shop}/services/{name}"), &Value::Null).await.fails(404, "NotFound");
    }
    api.delete("/api/v1/namespaces/default", &Value::Null).await.fails(403, "Forbidden");
}

const MESHES: &str = "/apis/tulle.dev/v1alpha1/meshes";

/// What every mesh has stays, and says why.
#[tokio::test]
async fn what_always_stays_is_not_deleted() {
    let api = TestApi::start().await;
    for (all, one) in [("/api/v1/namespaces", "namespaces/default"), (MESHES, "meshes/default")] {
        let path = format!("{}/{one}", all.rsplit_once('/').unwrap().0);
        for path in [path.clone(), format!("{path}?dryRun=All"), all.to_owned()] {
            let refused = api.delete(&path, &Value::Null).await.fails(403, "Forbidden");
            assert_eq!(refused["details"]["name"], "default", "{path}");
        }
        api.get(&path).await.expect(200);
    }
    // A collection goes as a whole, or not at all.
    api.post("/api/v1/namespaces", &json!({ "metadata": { "name": "shop" } })).await.expect(201);
    api.delete("/api/v1/namespaces", &Value::Null).await.fails(403, "Forbidden");
    api.get("/api/v1/namespaces/shop").await.expect(200);
    let chosen = "/api/v1/namespaces?fieldSelector=metadata.name%3Dshop";
    assert_eq!(names(&api.delete(chosen, &Value::Null).await.expect(200)), ["shop"]);
}

/// However a Mesh is written, its trust domain is the mesh's.
#[tokio::test]
async fn the_trust_domain_cannot_be_changed_or_lost() {
    let api = TestApi::start().await;
    let path = format!("{MESHES}/default");
    let domain = async || api.get(&path).await.expect(200)["spec"]["trustDomain"].clone();
    assert_eq!(domain().await, "mesh.local");
    let other = json!({ "metadata": { "name": "default" }, "spec": { "trustDomain": "other.example" } });
    let refusals = [
        api.put(&path, &other).await,
        api.patch(&path, "merge-patch", &json!({ "spec": { "trustDomain": "other.example" } })).await,
        api.patch(&format!("{path}?fieldManager=x&force=true"), "apply", &other).await,
        api.patch(
            &path,
            "json-patch",
            &json!([{ "op": "replace", "path": "/spec/trustDomain", "value": "x" }]),
        )
        .await,
    ];
    for refusal in refusals {
        let status = refusal.fails(422, "Invalid");
        let cause = &status["details"]["causes"][0];
        assert_eq!(
            (&cause["field"], &cause["reason"]),
            (&json!("spec.trustDomain"), &json!("FieldValueForbidden"))
        );
    }
    let nameless = json!({ "metadata": { "name": "default" }, "spec": { "egress": { "policy": "Deny" } } });
    for answer in [
        api.put(&path, &nameless).await,
        api.put(&path, &json!({ "metadata": { "name": "default" } })).await,
        api.patch(&path, "merge-patch", &json!({ "spec": { "trustDomain": null } })).await,
        api.patch(&path, "json-patch", &json!([{ "op": "remove", "path": "/spec/trustDomain" }])).await,
        api.patch(&format!("{path}?fieldManager=x"), "apply", &nameless).await,
    ] {
        assert_eq!(answer.expect(200)["spec"]["trustDomain"], "mesh.local");
    }
    // There is one Mesh.
    let second = json!({ "metadata": { "name": "second" } });
    let status = api.post(MESHES, &second).await.fails(422, "Invalid");
    assert_eq!(status["details"]["causes"][0]["field"], "metadata.name");
    assert_eq!(domain().await, "mesh.local");
}

/// The words are those of Kubernetes: clients and people look for them.
#[tokio::test]
async fn what_is_stale_says_so_as_in_kubernetes() {
    let api = TestApi::start().await;
    let created = api.post(SERVICES, &service("c")).await.expect(201);
    let path = format!("{SERVICES}/c");
    api.patch(&path, "merge-patch", &json!({ "metadata": { "labels": { "x": "y" } } })).await.expect(200);
    let stale = json!({ "metadata": { "resourceVersion": version(&created), "labels": { "z": "z" } } });
    for answer in [api.put(&path, &created).await, api.patch(&path, "merge-patch", &stale).await] {
        let status = answer.fails(409, "Conflict");
        assert_eq!(
            status["message"],
            "Operation cannot be fulfilled on services \"c\": the object has been modified; please apply your \
             changes to the latest version and try again"
        );
    }
    let options = json!({ "preconditions": { "resourceVersion": version(&created) } });
    let status = api.delete(&path, &options).await.fails(409, "Conflict");
    assert!(
        status["message"].as_str().unwrap().contains("does not match the ResourceVersion in record"),
        "{status}"
    );
    api.server.objects.compact(api.server.objects.revision().await.unwrap()).await.unwrap();
    let mut watch = api.watch(&format!("{SERVICES}?watch=true&resourceVersion={}", version(&created))).await;
    let event = watch.next().await.unwrap();
    assert_eq!((&event["type"], &event["object"]["code"]), (&json!("ERROR"), &json!(410)));
    assert_eq!(event["object"]["reason"], "Expired");
    let message = event["object"]["message"].as_str().unwrap();
    assert!(message.starts_with(&format!("too old resource version: {} (", version(&created))), "{message}");
}

/// Nodes join; nobody writes them.
#[tokio::test]
async fn nodes_are_not_made_by_writing_them() {
    let api = TestApi::start().await;
    let nodes = "/apis/tulle.dev/v1alpha1/nodes";
    let node = json!({ "metadata": { "name": "n1" }, "spec": { "drained": true } });
    api.post(nodes, &node).await.fails(403, "Forbidden");
    api.patch(&format!("{nodes}/n1?fieldManager=x"), "apply", &node).await.fails(404, "NotFound");
    api.put(&format!("{nodes}/n1"), &node).await.fails(404, "NotFound");
    api.delete(&format!("{nodes}/n1"), &Value::Null).await.fails(404, "NotFound");
    api.delete(nodes, &Value::Null).await.fails(405, "MethodNotAllowed");
    assert_eq!(names(&api.get(nodes).await.expect(200)), [""; 0]);
}

/// Events are one set of objects under two names.
#[tokio::test]
async fn events_are_shown_in_both_groups() {
    let api = TestApi::start().await;
    let events = "/api/v1/namespaces/default/events";
    let new = "/apis/events.k8s.io/v1/namespaces/default/events";
    let event = |name: &str, about: &str| {
        json!({
            "metadata": { "name": name },
            "involvedObject": { "kind": "Service", "name": about, "namespace": "default" },
            "reason": "Because", "message": "m", "type": "Warning", "count": 2,
            "lastTimestamp": jiff::Timestamp::now().to_string(),
        })
    };
    api.post(events, &event("e1", "c")).await.expect(201);
    api.post(events, &event("e2", "d")).await.expect(201);
    let selected = api.get(&format!("{events}?fieldSelector=involvedObject.name%3Dc,type%3DWarning")).await;
    assert_eq!(names(&selected.expect(200)), ["e1"]);
    let list = api.get(&format!("{new}?fieldSelector=regarding.name%3Dd")).await.expect(200);
    assert_eq!((names(&list), &list["items"][0]["note"]), (vec!["e2"], &json!("m")));
    assert_eq!(api.get(&format!("{new}/e1")).await.expect(200)["apiVersion"], "events.k8s.io/v1");
    api.delete(&format!("{new}/e1"), &Value::Null).await.fails(405, "MethodNotAllowed");
    let table = api.get_as(events, "application/json;as=Table;v=v1;g=meta.k8s.io").await.expect(200);
    assert_eq!(table["rows"][0]["cells"][3], "service/c");
    let mut watch = api.watch(&format!("{new}?watch=true&timeoutSeconds=1")).await;
    assert_eq!(watch.next().await.unwrap()["object"]["regarding"]["name"], "c");
    api.delete(&format!("{events}/e1"), &Value::Null).await.expect(200);
    // A namespace goes with the events in it.
    api.post("/api/v1/namespaces", &json!({ "metadata": { "name": "shop" } })).await.expect(201);
    api.post("/api/v1/namespaces/shop/events", &event("e3", "x")).await.expect(201);
    api.delete("/api/v1/namespaces/shop", &Value::Null).await.expect(200);
    assert_eq!(names(&api.get("/api/v1/events").await.expect(200)), ["e2"]);
}

#[tokio::test]
async fn what_nothing_comes_of_is_said() {
    let api = TestApi::start().await;
    api.post(SERVICES, &service("c")).await.expect(201);
    let mut named = route();
    named["spec"]["hostnames"] = json!(["a.example"]);
    let answer = api.post(ROUTES, &named).await;
    let warning = answer.headers["warning"].to_str().unwrap().to_owned();
    assert!(warning.starts_with("299 - \"spec.hostnames is ignored: "), "{warning}");
    answer.expect(201);
    let answer =
        api.patch(&format!("{ROUTES}/r"), "merge-patch", &json!({ "spec": { "hostnames": null } })).await;
    assert!(answer.headers.get("warning").is_none());
    let mut other = service("d");
    other["spec"]["externalName"] = "a.example".into();
    let answer = api.post(SERVICES, &other).await;
    assert_eq!(
        answer.headers["warning"],
        "299 - \"spec.externalName is ignored when spec.type is not \\\"ExternalName\\\"\""
    );
    answer.expect(201);
}

/// As client-go sends them where it is told to speak protobuf (meta/v1, DeleteOptions in `runtime.Unknown`).
#[tokio::test]
async fn options_of_deletions_come_in_protobuf() {
    let api = TestApi::start().await;
    let created = api.post(SERVICES, &service("c")).await.expect(201);
    let field = |tag: u8, content: &str| {
        format!("{}{}{content}", char::from(tag << 3 | 2), char::from(content.len() as u8))
    };
    let options = |kind: &str, options: &str| {
        let type_meta = format!("{}{}", field(1, "v1"), field(2, kind));
        format!("k8s\0{}{}", field(1, &type_meta), field(2, options))
    };
    let delete = async |body: String| {
        let headers = [("content-type", "application/vnd.kubernetes.protobuf")];
        api.send(http::Method::DELETE, &format!("{SERVICES}/c"), &headers, body).await
    };
    let uid = created["metadata"]["uid"].as_str().unwrap();
    delete("{}".to_owned()).await.fails(400, "BadRequest");
    delete(options("Service", "")).await.fails(400, "BadRequest");
    delete(options("DeleteOptions", &field(4, "Sometimes"))).await.fails(400, "BadRequest");
    delete(options("DeleteOptions", &field(2, &field(1, "other")))).await.fails(409, "Conflict");
    delete(options("DeleteOptions", &field(5, "All"))).await.expect(200);
    api.get(&format!("{SERVICES}/c")).await.expect(200);
    let right = format!("{}{}", field(2, &field(1, uid)), field(4, "Background"));
    delete(options("DeleteOptions", &right)).await.expect(200);
    api.get(&format!("{SERVICES}/c")).await.fails(404, "NotFound");
}
