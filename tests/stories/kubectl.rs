//! A kubectl that we did not write, against a mesh without Kubernetes.

use std::time::Duration;

use tulle_tests::harness::{Home, Process, alone, eventually, tulle};

const ROUTE: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r, namespace: default}
spec:
  parentRefs: [{group: '', kind: Service, name: d}]
  rules:
  - matches: [{path: {type: PathPrefix, value: /v1}}]
    backendRefs: [{name: d, port: 9431}]
";

/// As files in the wild have them.
const OLDER: &str = "apiVersion: gateway.networking.k8s.io/v1beta1
kind: HTTPRoute
metadata: {name: older, namespace: default}
spec:
  parentRefs: [{group: '', kind: Service, name: extra, port: 80}]
  rules: [{backendRefs: [{name: extra, port: 80}]}]
---
apiVersion: gateway.networking.k8s.io/v1alpha2
kind: TCPRoute
metadata: {name: older, namespace: default}
spec:
  parentRefs: [{group: '', kind: Service, name: extra, port: 81}]
  rules: [{backendRefs: [{name: extra, port: 81}]}]
---
apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: {name: older, namespace: default}
spec:
  from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: shop}]
  to: [{group: '', kind: Service}]
";

const LIST: &str = "apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: Service
  metadata: {name: listed, namespace: default}
  spec: {ports: [{port: 80}]}
- apiVersion: gateway.networking.k8s.io/v1
  kind: HTTPRoute
  metadata: {name: listed, namespace: default}
  spec:
    parentRefs: [{group: '', kind: Service, name: listed}]
    rules: [{backendRefs: [{name: listed, port: 80}]}]
";

const SERVICE: &str = "apiVersion: v1
kind: Service
metadata: {name: extra, namespace: default, labels: {team: one}}
spec:
  selector: {app: extra}
  ports:
  - {name: http, port: 80, targetPort: 8080}
  - {name: admin, port: 81}
";

#[test]
fn kubectl_works() {
    let _alone = alone();
    let home = Home::new();
    let up = home.up(&format!(
        "services:\n  d:\n    command: [\"{}\", fake-service, --name, d]\n    port: 9431\n",
        tulle().display()
    ));
    let kubectl = |line: &str| home.kubectl(&line.split(' ').collect::<Vec<_>>());
    let route = home.write("route.yaml", ROUTE).display().to_string();
    let service = home.write("service.yaml", SERVICE).display().to_string();

    let names = kubectl("api-resources -o name").ok();
    for name in [
        "namespaces",
        "services",
        "endpointslices.discovery.k8s.io",
        "httproutes.gateway.networking.k8s.io",
        "tcproutes.gateway.networking.k8s.io",
        "referencegrants.gateway.networking.k8s.io",
        "tlsroutes.gateway.networking.k8s.io",
        "meshes.tulle.dev",
        "workloads.tulle.dev",
        "nodes.tulle.dev",
        "events",
        "events.events.k8s.io",
    ] {
        assert!(names.lines().any(|line| line == name), "no {name} in\n{names}");
    }
    let explained = kubectl("explain httproute.spec.rules").ok();
    for field in ["FIELDS", "backendRefs", "matches"] {
        assert!(explained.contains(field), "{explained}");
    }
    assert!(kubectl("explain service.spec.ports.targetPort").ok().contains("targetPort"));
    assert!(kubectl("explain workload --recursive").ok().contains("serviceAccount"));
    for (what, version) in [
        ("httproute.spec.rules", "v1beta1"),
        ("tcproute.spec.rules", "v1alpha2"),
        ("referencegrant.spec", "v1beta1"),
    ] {
        let explained =
            kubectl(&format!("explain {what} --api-version=gateway.networking.k8s.io/{version}")).ok();
        assert!(explained.contains(&format!("VERSION:    {version}")), "{explained}");
        assert!(explained.contains("FIELDS"), "{explained}");
    }

    // Client-side apply, then the same object server-side, then client-side again.
    assert!(kubectl(&format!("apply -f {route} -f {service}")).ok().contains("created"));
    assert!(kubectl(&format!("apply -f {route} -f {service}")).ok().contains("unchanged"));
    kubectl(&format!("apply --server-side --force-conflicts -f {route} -f {service}")).ok();
    kubectl(&format!("apply -f {route} -f {service}")).ok();
    let ports = kubectl("get service extra -o jsonpath={.spec.ports[*].port}").ok();
    assert_eq!(ports, "80 81");

    let table = kubectl("get services,httproutes,workloads -A").ok();
    for text in ["NAMESPACE", "service/d", "httproute.gateway.networking.k8s.io/r", "workload.tulle.dev/d"] {
        assert!(table.contains(text), "no {text} in\n{table}");
    }
    assert!(kubectl("get svc -l team=one -o name").ok().trim() == "service/extra");
    assert!(kubectl("get svc --field-selector metadata.name=d -o name").ok().trim() == "service/d");
    let accepted = |kind: &str| {
        let path = format!(
            "get httproute r -o jsonpath={{.status.parents[0].conditions[?(@.type==\"{kind}\")].status}}"
        );
        kubectl(&path).ok()
    };
    for kind in ["Accepted", "ResolvedRefs", "Programmed"] {
        eventually(kind, Duration::from_secs(5), || (accepted(kind) == "True").then_some(()));
    }

    // A watch sees what the next commands do.
    let mut command = home.command("kubectl");
    command.args(["get", "httproutes", "-w", "--output-watch-events"]).env("KUBECONFIG", home.kubeconfig());
    let watch = Process::spawn(&mut command);
    let patience = Duration::from_secs(10);
    watch.wait_for_line("first event", patience, |line| line.contains("ADDED") && line.contains(" r "));

    let patch = r#"{"spec":{"rules":[{"backendRefs":[{"name":"d","port":9431,"weight":7}]}]}}"#;
    home.kubectl(&["patch", "httproute", "r", "--type=merge", "-p", patch]).ok();
    watch.wait_for_line("change", patience, |line| line.contains("MODIFIED"));
    let weight = kubectl("get httproute r -o jsonpath={.spec.rules[0].backendRefs[0].weight}").ok();
    assert_eq!(weight, "7");
    let patch = r#"[{"op":"replace","path":"/spec/rules/0/backendRefs/0/weight","value":9}]"#;
    home.kubectl(&["patch", "httproute", "r", "--type=json", "-p", patch]).ok();
    // Strategic merge: ports are merged by their number.
    let patch = r#"{"spec":{"ports":[{"port":81,"name":"metrics"}]}}"#;
    home.kubectl(&["patch", "service", "extra", "-p", patch]).ok();
    assert_eq!(kubectl("get service extra -o jsonpath={.spec.ports[*].name}").ok(), "http metrics");

    let mut edit = home.command("kubectl");
    edit.args(["edit", "httproute", "r"]).env("KUBECONFIG", home.kubeconfig());
    edit.env("KUBE_EDITOR", "sed -i s/weight:.9/weight:\\ 11/");
    tulle_tests::harness::run(&mut edit).ok();
    let weight = kubectl("get httproute r -o jsonpath={.spec.rules[0].backendRefs[0].weight}").ok();
    assert_eq!(weight, "11");
    kubectl("label service extra team=two --overwrite").ok();
    kubectl("annotate httproute r note=x").ok();

    // Older versions: the same objects, applied in all ways that there are, and read in all versions.
    let older = home.write("older.yaml", OLDER).display().to_string();
    assert_eq!(kubectl(&format!("apply -f {older}")).ok().matches(" created").count(), 3);
    kubectl(&format!("apply --server-side --force-conflicts -f {older}")).ok();
    home.tulle(&["validate", "--partial", "-f", &older]).ok();
    home.tulle(&["apply", "--force-conflicts", "-f", &older]).ok();
    assert_eq!(home.tulle(&["apply", "-f", &older]).ok().matches(" unchanged").count(), 3);
    let group = "gateway.networking.k8s.io";
    let (old, new) = (["v1beta1", "v1alpha2", "v1beta1"], ["v1"; 3]);
    for versions in [old, new] {
        let kinds = ["httproutes", "tcproutes", "referencegrants"];
        let named = |(kind, version)| format!("{kind}.{version}.{group}/older");
        let objects: Vec<_> = kinds.into_iter().zip(versions).map(named).collect();
        let seen = kubectl(&format!("get {} -o jsonpath={{.items[*].apiVersion}}", objects.join(" "))).ok();
        assert_eq!(seen, versions.map(|version| format!("{group}/{version}")).join(" "));
        let seen = home.tulle(&["get", &objects[1], "-o", "yaml"]).ok();
        assert!(seen.contains(&format!("apiVersion: {group}/{}\n", versions[1])), "{seen}");
        let patch = r#"{"metadata":{"labels":{"a":"b"}}}"#;
        home.kubectl(&["patch", &objects[0], "--type=merge", "-p", patch]).ok();
    }
    assert!(kubectl(&format!("describe tcproutes.v1alpha2.{group} older")).ok().contains("Name:"));
    let newest = home.write("newest.yaml", &OLDER.replace("v1beta1", "v1").replace("v1alpha2", "v1"));
    kubectl(&format!("apply -f {}", newest.display())).ok();
    let two = "rules: [{backendRefs: [{name: extra, port: 81}]}, {backendRefs: [{name: extra, port: 80}]}]";
    let two = OLDER.replace("rules: [{backendRefs: [{name: extra, port: 81}]}]", two);
    let two = home.write("two.yaml", &two).display().to_string();
    let refused = kubectl(&format!("apply --server-side --force-conflicts -f {two}"));
    assert!(refused.stderr.contains("spec.rules: has 2 items; at most 1"), "{refused:#?}");
    assert_eq!(kubectl(&format!("delete -f {older}")).ok().matches(" deleted").count(), 3);

    for line in
        ["describe httproute r", "describe service d", "describe workloads", "describe namespace default"]
    {
        assert!(kubectl(line).ok().contains("Name:"), "{line}");
    }

    // Client-side validation by the schema, and the server's own word.
    let bad = home.write("bad.yaml", &ROUTE.replace("rules:", "ruels:")).display().to_string();
    let refused = kubectl(&format!("apply -f {bad}"));
    assert!(!refused.status.success() && refused.stderr.contains("ruels"), "{refused:#?}");
    let bad = home.write("bad.yaml", &ROUTE.replace("9431", "99999")).display().to_string();
    let refused = kubectl(&format!("apply --server-side -f {bad}"));
    assert!(refused.stderr.contains("spec.rules[0].backendRefs[0].port"), "{refused:#?}");

    // A list is checked by the second version of OpenAPI, as is what nobody serves.
    let list = home.write("list.yaml", LIST).display().to_string();
    assert_eq!(kubectl(&format!("apply -f {list}")).ok().lines().count(), 2);
    assert!(kubectl("explain --output=plaintext-openapiv2 service.spec.ports").ok().contains("targetPort"));
    let bad = home.write("bad.yaml", &LIST.replace("ports:", "prots:")).display().to_string();
    let refused = kubectl(&format!("apply -f {bad}"));
    assert!(refused.stderr.contains("prots"), "{refused:#?}");
    // Of groups that nobody serves, and of those that have other kinds.
    for (version, kind) in [
        ("networking.istio.io/v1", "VirtualService"),
        ("v1", "Pod"),
        ("v1", "Servce"),
        ("gateway.networking.k8s.io/v1", "Gateway"),
        ("tulle.dev/v1alpha1", "TrafficPolicy"),
    ] {
        let foreign = format!("apiVersion: {version}\nkind: {kind}\nmetadata: {{name: v}}\n");
        let foreign = home.write("foreign.yaml", &foreign).display().to_string();
        let expected = format!("no matches for kind \"{kind}\" in version \"{version}\"");
        for verb in ["apply", "create"] {
            let refused = kubectl(&format!("{verb} -f {foreign}"));
            assert!(refused.stderr.contains(&expected), "{verb}: {refused:#?}");
        }
    }

    // The endpoints of a service with a selector, as they come and go.
    let slices = || {
        kubectl("get endpointslices -l kubernetes.io/service-name=d -o jsonpath={.items[*].endpoints[*]}")
            .ok()
    };
    eventually("a slice with its endpoint", Duration::from_secs(10), || {
        slices().contains(r#""ready":true"#).then_some(())
    });
    let described = kubectl("describe service d").ok();
    assert!(
        described.lines().any(|l| l.starts_with("Endpoints:") && l.contains("127.0.0.1:")),
        "{described}"
    );
    kubectl("patch service d --type=json -p [{\"op\":\"replace\",\"path\":\"/spec/selector\",\"value\":{\"app\":\"nobody\"}}]").ok();
    eventually("a slice without", Duration::from_secs(10), || slices().is_empty().then_some(()));
    kubectl("patch service d --type=json -p [{\"op\":\"replace\",\"path\":\"/spec/selector\",\"value\":{\"app\":\"d\"}}]").ok();

    // The node, as an object; and what happened.
    let node = kubectl("get nodes -o jsonpath={.items[0].metadata.name}").ok();
    assert!(
        kubectl("get nodes")
            .ok()
            .lines()
            .nth(1)
            .is_some_and(|line| line.contains("Ready") && line.contains("now"))
    );
    kubectl(&format!("label node {node} rack=a")).ok();
    assert!(kubectl("get nodes -l rack=a -o name").ok().contains(&node));
    let refused = kubectl(&format!("delete node {node}"));
    assert!(refused.stderr.contains("Conflict") && refused.stderr.contains("stop it first"), "{refused:#?}");
    home.tulle(&["node", "drain", &node]).ok();
    let d_is = || {
        kubectl(
            "get workloads -l app=d -o jsonpath={.items[0].status.conditions[?(@.type==\"Ready\")].status}",
        )
        .ok()
    };
    assert_eq!(d_is(), "False");
    assert!(kubectl("get nodes").ok().contains("Ready,Drained"));
    home.tulle(&["node", "drain", &node, "--undo"]).ok();
    eventually("traffic again", Duration::from_secs(10), || (d_is() == "True").then_some(()));
    eventually("events", Duration::from_secs(10), || {
        let events = kubectl("get events").ok();
        ["Joined", "Unready", "node/", "workload/d"].iter().all(|text| events.contains(text)).then_some(())
    });
    assert!(kubectl(&format!("describe node {node}")).ok().contains("Joined"));
    assert!(kubectl("get events.events.k8s.io -o name").ok().contains("event.events.k8s.io/"));

    // What has to stay, and what has changed meanwhile.
    for object in ["namespace default", "mesh default"] {
        let refused = kubectl(&format!("delete {object}"));
        assert!(refused.stderr.contains("Error from server (Forbidden)"), "{refused:#?}");
    }
    let old = home.write("old.yaml", &kubectl("get service extra -o yaml").ok()).display().to_string();
    kubectl("label service extra team=three --overwrite").ok();
    let refused = kubectl(&format!("replace -f {old}"));
    let expected =
        "the object has been modified; please apply your changes to the latest version and try again";
    assert!(refused.stderr.contains(expected), "{refused:#?}");

    assert!(kubectl("delete httproute r").ok().contains("deleted"));
    watch.wait_for_line("deletion", patience, |line| line.contains("DELETED"));
    let gone = kubectl("get httproute r");
    assert!(gone.stderr.contains("NotFound"), "{gone:#?}");

    // A namespace takes what is in it along.
    kubectl("create namespace shop").ok();
    kubectl(&format!(
        "apply -n shop -f {}",
        home.write("s.yaml", &SERVICE.replace(", namespace: default", "")).display()
    ))
    .ok();
    kubectl("delete namespace shop --timeout=20s").ok();
    assert_eq!(kubectl("get services -n shop -o name").ok().trim(), "");

    // Nobody without the credentials of the kubeconfig.
    let server = kubectl("config view -o jsonpath={.clusters[0].cluster.server}").ok();
    let mut curl = home.command("curl");
    curl.args(["-sk", "-o", "/dev/null", "-w", "%{http_code}", &format!("{server}/api/v1/services")]);
    assert_eq!(tulle_tests::harness::run(&mut curl).stdout, "401");
    assert!(up.interrupt().success());
}
