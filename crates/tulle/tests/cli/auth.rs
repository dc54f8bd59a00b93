//! `tulle auth check`, with a server.

use crate::split::{Mesh, line};

const OBJECTS: &str = "
{apiVersion: v1, kind: Service, metadata: {name: cart}, spec: {selector: {app: cart}, ports: [{name: web, port: 80, targetPort: 8080}, {name: admin, port: 81, targetPort: 8081}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: empty}, spec: {selector: {app: none}, ports: [{port: 80}]}}
---
{apiVersion: tulle.dev/v1alpha1, kind: Workload, metadata: {name: cart-1, labels: {app: cart}}, spec: {address: 192.0.2.1, serviceAccount: cart, ports: [{port: 8080}, {port: 8081}], node: {name: n1, linkAddress: '192.0.2.1:15008'}}}
---
{apiVersion: tulle.dev/v1alpha1, kind: Workload, metadata: {name: web-1, labels: {app: web}}, spec: {address: 192.0.2.1, serviceAccount: web, ports: [{port: 9000}], node: {name: n1, linkAddress: '192.0.2.1:15008'}}}
---
apiVersion: tulle.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: callers}
spec:
  targetRefs: [{group: '', kind: Service, name: cart}]
  action: Allow
  rules:
  - sources: [{type: ServiceAccount, serviceAccount: {name: web}}]
    networkAttributes: {ports: [80]}
  - sources: [{type: External, external: {cidrs: [198.51.100.0/24]}}]
---
apiVersion: tulle.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: not-admin}
spec: {targetRefs: [{group: '', kind: Namespace}], action: Deny, rules: [{sources: [{type: Namespace, namespace: other}]}]}
---
apiVersion: tulle.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: watch}
spec: {targetRefs: [{group: '', kind: Namespace}], action: Audit, rules: [{}]}
";

#[test]
fn it_says_who_may_enter_and_by_which_policy() {
    let mesh = Mesh::start();
    mesh.apply(OBJECTS);
    let verdict = |text: &str, port: &str| {
        let row = text.lines().find(|row| row.split_whitespace().nth(1) == Some(port));
        let row: Vec<_> =
            row.unwrap_or_else(|| panic!("no port {port} in {text}")).split_whitespace().collect();
        row[2..].join(" ")
    };
    let by = "AuthorizationPolicy/default/callers";
    // One of the two ports is closed to it.
    let (both, audits) = mesh.ends("auth check --from web-1 --to cart", 1);
    assert_eq!(verdict(&both, "8080"), format!("allowed {by} spec.rules[0]"));
    assert_eq!(verdict(&both, "8081"), format!("no-allow-policy {by} spec.rules[*]"));
    assert_eq!(
        audits.matches("AuthorizationPolicy/default/watch spec.rules[0] audited").count(),
        2,
        "{audits}"
    );
    mesh.prints("auth check --from web-1 --to cart --port 80");
    mesh.ends("auth check --from cart-1 --to cart --port 80", 1);
    // A service account that nobody runs as, an identity, and somebody outside.
    mesh.prints("auth check --from default/web --to default/cart --port 80");
    mesh.prints("auth check --from spiffe://mesh.local/ns/default/sa/web --to cart --port 80");
    mesh.prints("auth check --from 198.51.100.7 --to cart");
    mesh.ends("auth check --from 198.51.101.7 --to cart", 1);
    let settings = |spec: &str| {
        mesh.apply(&format!(
            "{{apiVersion: tulle.dev/v1alpha1, kind: Mesh, metadata: {{name: default}}, spec: {spec}}}"
        ));
    };
    settings("{mtls: {ports: [{port: 8080, mode: Strict}]}}");
    let (strict, _) = mesh.ends("auth check --from 198.51.100.7 --to cart", 1);
    assert_eq!(verdict(&strict, "8080"), "plaintext Mesh/default spec.mtls.mode");
    assert_eq!(verdict(&strict, "8081"), format!("allowed {by} spec.rules[1]"));
    settings("{mtls: {}, inboundCapture: {enabled: false}}");
    let (open, said) = mesh.ends("auth check --from 198.51.101.7 --to cart", 0);
    assert!(
        said.contains("inbound capture is off") && verdict(&open, "8080") == "allowed no policy -",
        "{open}{said}"
    );
    settings("{authorization: {default: Deny}}");
    let (closed, _) = mesh.ends("auth check --from cart-1 --to web-1", 1);
    assert_eq!(verdict(&closed, "9000"), "no-allow-policy Mesh/default spec.authorization.default");
    settings("{authorization: {default: Allow}}");
    let (denied, said) = mesh.ends("auth check --from other/web --to cart --port 80", 1);
    assert!(said.contains("no workload runs as the service account other/web now"), "{said}");
    assert_eq!(
        line(&mesh.prints("auth check --from web-1 --to web-1"), "9000")[1],
        "9000",
        "no Service is for it"
    );
    assert_eq!(
        verdict(&denied, "8080"),
        "denied-by=default/not-admin AuthorizationPolicy/default/not-admin spec.rules[0]"
    );
    // A workload, at ports of its own; no policy that allows is about this one.
    let open = mesh.prints("auth check --from web-1 --to cart-1 --port 9999");
    assert_eq!(line(&open, "9999")[2..], ["allowed", "no", "policy", "-"]);
    let (json, _) = mesh.ends("auth check --from web-1 --to cart-1 -o json", 1);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["allowed"], false);
    assert_eq!(json["workloads"][1]["reason"], "no-allow-policy", "{json}");
    assert_eq!(json["workloads"][0]["decidedBy"], by, "{json}");

    let (_, said) = mesh.ends("auth check --from web-1 --to carts", 4);
    assert!(
        said.contains(
            "there is no Service, no Flow and no Workload default/carts; did you mean `default/cart`?"
        ),
        "{said}"
    );
    let (_, said) = mesh.ends("auth check --from web-1 --to empty", 4);
    assert!(said.contains("has no workload of a node"), "{said}");
    mesh.ends("auth check --from spiffe://nobody --to cart", 2);
    mesh.ends("auth check --from web-1 --to cart GET POST /x", 2);
    mesh.ends("auth check --from web-1 --to cart GET", 2);
    mesh.ends("auth check --from web-1 --to cart tcp://cart:80", 2);
    mesh.ends("auth check --from web-1 --to cart -H x-role:admin", 2);
}

const BY_REQUESTS: &str = "
apiVersion: tulle.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: requests}
spec:
  targetRefs: [{group: '', kind: Service, name: cart}]
  action: Allow
  rules:
  - http: {methods: [GET], paths: [{value: /items}, {type: Template, value: '/users/{id}/cart'}]}
  - http: {hosts: ['*.admin'], headers: [{name: x-role, value: admin}]}
  - grpc: {methods: [{service: shop.v1.Cart}]}
";

#[test]
fn it_says_which_requests_may_enter() {
    let mesh = Mesh::start();
    mesh.apply(OBJECTS.split("---").take(4).collect::<Vec<_>>().join("---").as_str());
    mesh.apply(BY_REQUESTS);
    let by = "AuthorizationPolicy/default/requests";
    for (asked, end, row) in [
        ("/items/1", 0, format!("allowed {by} spec.rules[0]")),
        ("GET /users/7/cart", 0, format!("allowed {by} spec.rules[0]")),
        ("GET /users/7/8/cart", 1, format!("no-allow-policy {by} spec.rules[*]")),
        ("POST /items", 1, format!("no-allow-policy {by} spec.rules[*]")),
        ("/items%2f1", 1, format!("bad-request {by} spec.rules[*]")),
        ("POST /shop.v1.Cart/Add", 0, format!("allowed {by} spec.rules[2]")),
        ("POST http://a.admin:80/ -H x-role:admin", 0, format!("allowed {by} spec.rules[1]")),
        ("POST http://a.admin:80/", 1, format!("no-allow-policy {by} spec.rules[*]")),
    ] {
        let (said, _) = mesh.ends(&format!("auth check --from web-1 --to cart --port 80 {asked}"), end);
        assert!(line(&said, "8080").join(" ").ends_with(&row), "{asked}: {said}");
    }
    let (_, noted) = mesh.ends("auth check --from web-1 --to cart --port 80", 0);
    assert!(noted.contains("give a METHOD and a PATH"), "{noted}");
    let (json, _) = mesh.ends("auth check --from web-1 --to cart --port 80 /items -o json", 0);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["request"]["url"], "http://cart.default/items", "{json}");
}

const OUTSIDE: &str = "
apiVersion: tulle.dev/v1alpha1
kind: ExternalService
metadata: {name: api}
spec:
  hosts: [api.example.com]
  ports: [{port: 80, appProtocol: http}, {port: 443, appProtocol: https}]
---
apiVersion: tulle.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: api}
spec:
  targetRefs: [{group: tulle.dev, kind: ExternalService, name: api}]
  action: Allow
  rules:
  - sources: [{type: ServiceAccount, serviceAccount: {name: cart}}]
    http: {paths: [{value: /v1}]}
    networkAttributes: {ports: [80]}
  - sources: [{type: ServiceAccount, serviceAccount: {name: cart}}]
    networkAttributes: {ports: [443]}
";

#[test]
fn it_says_who_may_leave() {
    let mesh = Mesh::start();
    mesh.apply(OBJECTS);
    mesh.apply(OUTSIDE);
    let settings = |policy: &str| {
        mesh.apply(&format!(
            "{{apiVersion: tulle.dev/v1alpha1, kind: Mesh, metadata: {{name: default}}, spec: {{egress: {{policy: {policy}}}}}}}"
        ));
    };
    settings("Listed");
    let by = "AuthorizationPolicy/default/api";
    for (asked, end, port, row) in [
        ("cart-1 --to external/api --port 80 /v1/x", 0, "80", format!("allowed {by} spec.rules[0]")),
        ("cart-1 --to external/api --port 80 /v2", 1, "80", format!("no-allow-policy {by} spec.rules[*]")),
        ("cart-1 --to external/api --port 443", 0, "443", format!("allowed {by} spec.rules[1]")),
        // What is in TLS is not seen.
        ("cart-1 --to external/default/api --port 443 /v2", 0, "443", format!("allowed {by} spec.rules[1]")),
        ("web-1 --to external/api --port 443", 1, "443", format!("no-allow-policy {by} spec.rules[*]")),
    ] {
        let (said, noted) = mesh.ends(&format!("auth check --from {asked}"), end);
        assert!(line(&said, port).join(" ").ends_with(&row), "{asked}: {said}");
        assert!(!noted.contains("leaves the mesh"), "{noted}");
    }
    let (_, noted) = mesh.ends("auth check --from other/x --to external/default/api --port 443", 1);
    assert!(noted.contains("lists nothing for namespace other"), "{noted}");
    settings("Allow");
    let (_, noted) = mesh.ends("auth check --from cart-1 --to external/api --port 443", 0);
    assert!(noted.contains("everything leaves the mesh from namespace default"), "{noted}");
    mesh.ends("auth check --from 192.0.2.7 --to external/api", 2);
    mesh.ends("auth check --from cart-1 --to external/other", 4);
    mesh.ends("auth check --from cart-1 --to external/api --port 81", 4);
    settings("Deny");
    let (_, noted) = mesh.ends("auth check --from cart-1 --to external/api --port 443", 1);
    assert!(noted.contains("nothing leaves the mesh from namespace default"), "{noted}");
}
