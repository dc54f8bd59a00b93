//! What a person gets wrong, and what they read then.

use std::fs;

use tempfile::TempDir;

use crate::{code, stderr, stdout, tulle};

fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = TempDir::new().unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    folder
}

/// What `tulle validate` says to a file with that text; it must refuse it.
fn validated(text: &str) -> String {
    let folder = folder(&[("bad.yaml", text)]);
    let output = tulle(folder.path(), &["validate", "bad.yaml"]);
    assert_eq!(code(&output), 2, "{}", stderr(&output));
    assert_eq!(stdout(&output), "");
    stderr(&output)
}

/// What `tulle up` says to a tulle.yaml with that text; it must refuse it before anything starts.
fn upped(text: &str) -> String {
    let folder = folder(&[("tulle.yaml", text)]);
    let output = tulle(folder.path(), &["up"]);
    assert_eq!(code(&output), 2, "{}", stderr(&output));
    assert!(!folder.path().join("home").exists(), "nothing was changed");
    stderr(&output).replace(folder.path().to_str().unwrap(), "[folder]")
}

const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: c}\nspec:\n";

#[test]
fn wrong_fields() {
    insta::assert_snapshot!(
        "unknown_field",
        validated(&format!("{SERVICE}  ports: [{{port: 80}}]\n  sellector: {{app: c}}\n"))
    );
    let rule = "timeouts: {request: 5, backendRequest: '5'}\n    retry: {backoff: 100}";
    let said = validated(&ROUTE.replace("backendRefs:", &format!("{rule}\n    backendRefs:")));
    for expected in [
        "spec.rules[0].timeouts.request: expected a text, found the number `5`; a duration has a unit: of seconds, write `5s`",
        "spec.rules[0].timeouts.backendRequest: `5` is no duration such as `10s`, `500ms` or `1m30s`; of seconds, write `5s`",
        "spec.rules[0].retry.backoff: expected a text, found the number `100`; a duration has a unit: of seconds, write `100s`",
    ] {
        assert!(said.contains(expected), "{said}");
    }
    insta::assert_snapshot!("wrong_type", validated(&format!("{SERVICE}  ports:\n  - port: eighty\n")));
    insta::assert_snapshot!("port_out_of_range", validated(&format!("{SERVICE}  ports:\n  - port: 70000\n")));
    insta::assert_snapshot!(
        "port_twice",
        validated(&format!("{SERVICE}  ports:\n  - {{name: a, port: 80}}\n  - {{name: b, port: 80}}\n"))
    );
    insta::assert_snapshot!(
        "unknown_kind",
        validated("apiVersion: v1\nkind: Servise\nmetadata: {name: x}\n")
    );
    insta::assert_snapshot!(
        "wrong_version",
        validated("apiVersion: gateway.networking.k8s.io/v1alpha2\nkind: HTTPRoute\n")
    );
    insta::assert_snapshot!(
        "workflow",
        validated(
            "apiVersion: tulle.dev/v1alpha1\nkind: Flow\nmetadata: {name: order}\nspec:\n  workflow:\n    document: {dsl: '1.0.3', namespace: shop, name: order}\n    do:\n      - pay: {call: http, with: {method: post, endpint: 'http://payment/'}}\n      - tell:\n          run: {shell: {command: ls}}\n      - pay: {set: {x: '${ $secrets.a }'}}\n"
        )
    );
    let flow = "apiVersion: tulle.dev/v1alpha1\nkind: Flow\nmetadata: {name: c}\nspec:\n  trigger: {http: {}}\n  workflow:\n    document: {dsl: '1.0.3', namespace: a, name: b, version: '1.0.0'}\n    do: [{a: {set: {b: 1}}}]\n";
    insta::assert_snapshot!(
        "flow_and_service",
        validated(&format!("{SERVICE}  ports: [{{port: 80}}]\n---\n{flow}"))
    );
    insta::assert_snapshot!(
        "up_flow_and_service",
        upped(&format!("services:\n  c: {{command: x, port: 80}}\n---\n{flow}"))
    );
    insta::assert_snapshot!("no_object", validated("- a\n- b\n"));
    insta::assert_snapshot!(
        "described_twice",
        validated(&format!("{SERVICE}  ports: [{{port: 80}}]\n---\n{SERVICE}  ports: [{{port: 81}}]\n"))
    );
}

/// What Kubernetes has and a mesh has no use for is skipped, and said; nothing else is, and then nothing is done.
#[test]
fn kinds_that_are_not_served() {
    let service = format!("{SERVICE}  ports: [{{port: 80}}]\n");
    let deployment = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: c}\nspec: {template: {}}\n";
    let account = "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: c}\n";
    let list =
        "apiVersion: v1\nkind: List\nitems: [{apiVersion: v1, kind: LimitRange, metadata: {name: s}}]\n";
    let folder = folder(&[("app.yaml", &format!("{service}---\n{deployment}---\n{account}---\n{list}"))]);
    let output = tulle(folder.path(), &["validate", "app.yaml"]);
    assert_eq!(
        (code(&output), stdout(&output).as_str()),
        (0, "deployment.apps/c skipped\nserviceaccount/c skipped\nlimitrange/s skipped\n1 object valid\n")
    );
    insta::assert_snapshot!("skipped", stderr(&output));
    let output = tulle(folder.path(), &["validate", "--strict", "app.yaml"]);
    assert_eq!((code(&output), stdout(&output).as_str()), (2, ""));
    assert!(stderr(&output).contains("no matches for kind \"Deployment\" in version \"apps/v1\""));
    assert!(stderr(&output).contains("no matches for kind \"LimitRange\" in version \"v1\""));
    // Nothing is asked of a server for what is not for it.
    let alone = self::folder(&[("d.yaml", deployment)]);
    for line in ["apply -f d.yaml", "delete -f d.yaml"] {
        let output = tulle(alone.path(), &line.split(' ').collect::<Vec<_>>());
        assert_eq!((code(&output), stdout(&output).as_str()), (0, "deployment.apps/c skipped\n"), "{line}");
    }
    for (version, kind) in [
        ("networking.istio.io/v1", "VirtualService"),
        ("networking.k8s.io/v1", "NetworkPolicy"),
        ("networking.k8s.io/v1", "Ingress"),
        ("extensions/v1beta1", "Ingress"),
        ("v1", "Endpoints"),
        ("tulle.dev/v1alpha1", "TrafficPolicies"),
        ("gateway.networking.k8s.io/v1", "HTTPRoutes"),
        ("apps/v1", "Deploymnet"),
        ("v1", "Deployment"),
        ("apps/v1beta1", "Deployment"),
    ] {
        let foreign = format!("apiVersion: {version}\nkind: {kind}\nmetadata: {{name: x}}\n");
        let folder =
            self::folder(&[("a/a.yaml", &service), ("a/b.yaml", &foreign), ("a/c.yaml", deployment)]);
        // Before a server is asked.
        for line in ["validate a", "apply -f a", "delete -f a", "diff -f a"] {
            let output = tulle(folder.path(), &line.split(' ').collect::<Vec<_>>());
            assert_eq!((code(&output), stdout(&output).as_str()), (2, ""), "{line} {kind}");
            let expected = format!("no matches for kind \"{kind}\" in version \"{version}\"");
            assert!(stderr(&output).contains(&expected), "{line}: {}", stderr(&output));
        }
    }
    insta::assert_snapshot!(
        "kind_of_another_mesh",
        validated("apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: x}\n")
    );
    insta::assert_snapshot!(
        "kind_about_traffic",
        validated("apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: x}\n")
    );
}

/// A file of `tulle up` holds no objects.
#[test]
fn files_of_up_are_told_apart() {
    let mesh = "services:\n  c: {command: x, port: 80}\n";
    let folder = folder(&[("m/tulle.yaml", mesh), ("tulle.yaml", mesh), ("other.yaml", mesh)]);
    for (line, expected) in [
        ("apply -f m/tulle.yaml", "help: `tulle up m` runs them, `tulle validate m` checks the file\n"),
        ("delete -f tulle.yaml", "help: `tulle up` runs them"),
        ("diff -f m/tulle.yaml", "these are services that `tulle up` runs, and no objects\n"),
        ("apply -f m", "help: m/tulle.yaml is no file of objects: `tulle up m` runs them"),
        ("validate other.yaml", "the name of such a file is tulle.yaml, and `tulle up FOLDER` takes it\n"),
    ] {
        let output = tulle(folder.path(), &line.split(' ').collect::<Vec<_>>());
        assert_eq!((code(&output), stdout(&output).as_str()), (2, ""), "{line}");
        let said = stderr(&output);
        assert!(said.contains(expected) && !said.contains("kinds:"), "{line}: {said}");
    }
    let output = tulle(folder.path(), &["validate", "-f", "m/tulle.yaml"]);
    assert_eq!((code(&output), stdout(&output).as_str()), (0, "1 object valid\n"));
    for (kind, expected) in [
        ("HTTPRoute", "help: of HTTPRoute it is `gateway.networking.k8s.io/v1`\n"),
        ("Servise", "help: did you mean Service in v1?\n"),
    ] {
        let said = validated(&format!("kind: {kind}\nmetadata: {{name: x}}\n"));
        assert!(said.contains("apiVersion: it is missing") && said.contains(expected), "{said}");
    }
}

#[test]
fn broken_files() {
    insta::assert_snapshot!("syntax", validated(&format!("{SERVICE}  ports: [\n")));
    insta::assert_snapshot!("key_twice", validated(&format!("{SERVICE}  ports: []\n  ports: []\n")));
    let mut bomb = String::from("a: &a [x, x, x, x, x, x, x, x, x, x]\n");
    for (this, last) in ('b'..='i').zip('a'..) {
        let ten = vec![format!("*{last}"); 10].join(", ");
        bomb += &format!("{this}: &{this} [{ten}]\n");
    }
    let said = validated(&bomb);
    assert!(said.contains("bad.yaml:"), "{said}");

    let folder = folder(&[("d/x.yaml", "")]);
    fs::write(folder.path().join("binary.yaml"), [b'a', b'\n', 0xff, 0xfe]).unwrap();
    let said = |path: &str| {
        let output = tulle(folder.path(), &["validate", "-f", path]);
        assert_eq!(code(&output), 2);
        stderr(&output)
    };
    insta::assert_snapshot!("no_such_file", said("nowhere.yaml"));
    insta::assert_snapshot!("not_utf8", said("binary.yaml"));
    insta::assert_snapshot!("nothing_in_it", said("d"));
    insta::assert_snapshot!("no_regular_file", said("/dev/null"));
}

const ROUTE: &str = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r}\nspec:
  parentRefs: [{group: '', kind: Service, name: c}]\n  rules:\n  - backendRefs:\n    - {name: nowhere, port: 80}\n";

#[test]
fn routes_to_what_is_not_there() {
    let service = format!("{SERVICE}  ports: [{{port: 80}}]\n");
    insta::assert_snapshot!("missing_service", validated(&format!("{service}---\n{ROUTE}")));

    // What is elsewhere may be missing where one says so; a wrong port of what is there may not.
    let folder = folder(&[("route.yaml", ROUTE)]);
    let output = tulle(folder.path(), &["validate", "--partial", "route.yaml"]);
    assert_eq!((code(&output), stdout(&output)), (0, "1 object valid\n".to_owned()));
    // A mesh that is named along has its services, too.
    let mesh = "services:\n  c: {command: x, port: 80}\n  nowhere: {command: x, ports: [{port: 80, targetPort: 81}]}\n";
    let folder = self::folder(&[("m/tulle.yaml", mesh), ("route.yaml", ROUTE)]);
    let output = tulle(folder.path(), &["validate", "m", "route.yaml"]);
    assert_eq!((code(&output), stdout(&output)), (0, "3 objects valid\n".to_owned()), "{}", stderr(&output));
    let output = tulle(folder.path(), &["validate", "-R"]);
    assert_eq!((code(&output), stdout(&output)), (0, "3 objects valid\n".to_owned()), "{}", stderr(&output));
    let output = tulle(&folder.path().join("m"), &["validate"]);
    assert_eq!((code(&output), stdout(&output)), (0, "2 objects valid\n".to_owned()), "{}", stderr(&output));
    let wrong_port = ROUTE.replace("nowhere, port: 80", "c, port: 81");
    insta::assert_snapshot!("missing_port", validated(&format!("{service}---\n{wrong_port}")));
}

#[test]
fn wrong_meshes() {
    insta::assert_snapshot!("up_unknown_field", upped("services:\n  a:\n    comand: x\n    port: 99999\n"));
    insta::assert_snapshot!(
        "up_shared_port",
        upped(
            "services:\n  a: {command: x, port: 80}\n  b: {command: x, ports: [{port: 1, targetPort: 80}]}\n"
        )
    );
    insta::assert_snapshot!(
        "up_dependencies",
        upped(
            "services:\n  aa: {command: x, dependsOn: [ab, bc]}\n  bb: {command: x, dependsOn: [aa]}\n  ab: {command: x, dependsOn: [bb]}\n"
        )
    );
    insta::assert_snapshot!(
        "up_probes",
        upped(
            "services:\n  a:\n    command: x\n    port: 80\n    probe: {http: healthz, interval: 5}\n  b:\n    command: 'x \"'\n    probe: {tcp: true, exec: y}\n"
        )
    );
    insta::assert_snapshot!(
        "up_foreign_fields",
        upped(
            "services:\n  a:\n    image: nginx\n    working_dir: x\n    command: cd x && ./a\n    environment: [A=b]\n    ports: ['8080:80']\n  b:\n    command: ./b --port $PORT\n    port: '80'\n    dependsOn: a\n    probe: /healthz\n"
        )
    );
    insta::assert_snapshot!("up_nothing", upped("# nothing\n"));
    insta::assert_snapshot!(
        "up_resources",
        upped(&format!("services:\n  a: {{command: x, port: 80}}\nresources: [none.yaml]\n---\n{ROUTE}"))
    );
    let folder = TempDir::new().unwrap();
    let output = tulle(folder.path(), &["up", "nowhere"]);
    assert_eq!(code(&output), 2);
    insta::assert_snapshot!("up_no_file", stderr(&output));
}

#[test]
fn exit_codes_tell_what_happened() {
    let folder = folder(&[("s.yaml", &format!("{SERVICE}  ports: [{{port: 80}}]\n"))]);
    let run = |line: &str| tulle(folder.path(), &line.split(' ').collect::<Vec<_>>());
    for line in
        ["get pods", "get", "get svc/", "delete svc", "apply", "frobnicate", "token create --identity x"]
    {
        assert_eq!(code(&run(line)), 2, "{line}");
    }
    for line in
        ["get svc", "apply -f s.yaml", "diff -f s.yaml", "edges", "status", "delete svc c", "run x -- true"]
    {
        assert_eq!(code(&run(line)), 3, "{line}: {}", stderr(&run(line)));
    }
    insta::assert_snapshot!(
        "no_server",
        stderr(&run("get svc")).replace(folder.path().to_str().unwrap(), "[folder]")
    );
    assert_eq!(code(&run("validate s.yaml")), 0);
    assert_eq!(code(&run("--help")), 0);
}

/// That no request reaches a match fails nothing: it is said, with both matches.
#[test]
fn matches_that_come_too_late() {
    let route = |name: &str, matches: &str| {
        format!(
            "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}}}\nspec:\n  \
             parentRefs: [{{group: \"\", kind: Service, name: c, port: 80}}]\n  rules:\n  - matches:\n{matches}    \
             backendRefs: [{{name: c, port: 80}}]\n"
        )
    };
    let service = format!("{SERVICE}  ports: [{{port: 80}}]\n");
    let early = route("api", "    - path: {value: /api}\n");
    let late =
        route("late", "    - path: {value: /b}\n    - path: {type: RegularExpression, value: /api/.*}\n");
    let folder = folder(&[("routes.yaml", &[&*service, &early, &late].concat()), ("part.yaml", &late)]);
    let output = tulle(folder.path(), &["validate", "routes.yaml"]);
    assert_eq!((code(&output), stdout(&output).as_str()), (0, "3 objects valid\n"));
    let said = stderr(&output);
    let warning = "warning: HTTPRoute late: spec.rules[0].matches[1]: no request reaches it: spec.rules[0].matches[0] of \
                   HTTPRoute default/api comes first and takes all that it would\n";
    assert!(said.starts_with(warning) && said.contains("routes.yaml:"), "{said}");
    assert_eq!(said.matches("warning").count(), 1, "{said}");
    let output = tulle(folder.path(), &["validate", "--partial", "part.yaml"]);
    assert_eq!((code(&output), stderr(&output).as_str()), (0, ""));
}

/// Files say what the API does when they are applied.
#[test]
fn routes_that_do_nothing() {
    let headless = format!("{SERVICE}  clusterIP: None\n  ports: [{{port: 80}}]\n---\n");
    let bytes = format!("{SERVICE}  ports: [{{port: 80, appProtocol: tcp}}]\n---\n");
    let route = ROUTE.replace("nowhere", "c");
    let without = route.replace("parentRefs: [{group: '', kind: Service, name: c}]", "parentRefs: []");
    for (text, expected) in [
        (
            headless + &route,
            "warning: HTTPRoute r: spec.parentRefs[0]: the route does nothing there: Service default/c is headless",
        ),
        (
            bytes.clone() + &route,
            "spec.parentRefs[0]: the route does nothing there: by its appProtocol, the port of Service default/c does not speak HTTP",
        ),
        (bytes + &without, "warning: HTTPRoute r: spec has no parentRefs"),
    ] {
        let folder = folder(&[("all.yaml", &*text)]);
        let output = tulle(folder.path(), &["validate", "all.yaml"]);
        assert_eq!((code(&output), stdout(&output).as_str()), (0, "2 objects valid\n"));
        assert!(stderr(&output).contains(expected), "{text}{}", stderr(&output));
    }
}

/// Valid, and nothing gets through: that is said, as the API says it.
#[test]
fn rules_that_answer_by_500() {
    let route = ROUTE.replace("{name: nowhere, port: 80}", "{name: c, port: 80, weight: 0}");
    let folder = folder(&[("all.yaml", &format!("{SERVICE}  ports: [{{port: 80}}]\n---\n{route}"))]);
    let output = tulle(folder.path(), &["validate", "all.yaml"]);
    assert_eq!((code(&output), stdout(&output).as_str()), (0, "2 objects valid\n"));
    let said = stderr(&output);
    let warning = "warning: HTTPRoute r: spec.rules[0] has no backend with a weight above 0: every request that it \
                   takes would be answered with 500\n";
    assert!(said.starts_with(warning), "{said}");
}

/// What `tulle apply -f` takes of a folder, `tulle validate -f` looks at, also where there is a tulle.yaml.
#[test]
fn files_beside_a_mesh_are_checked() {
    let mesh = "services:\n  c: {command: x, port: 80}\nresources: [./named.yaml]\n";
    let fits = ROUTE.replace("nowhere", "c");
    let other = fits.replace("name: r}", "name: s}");
    let files =
        [("m/tulle.yaml", mesh), ("m/named.yaml", &*fits), ("m/other.yaml", &*other), ("n/tulle.yaml", mesh)];
    let folder = folder(&[&files[..], &[("n/named.yaml", &*fits), ("n/wrong.yaml", ROUTE)]].concat());
    let output = tulle(folder.path(), &["validate", "-f", "m"]);
    assert_eq!((code(&output), stdout(&output).as_str()), (0, "3 objects valid\n"), "{}", stderr(&output));
    let output = tulle(folder.path(), &["validate", "-f", "n"]);
    assert_eq!(code(&output), 2, "{}", stdout(&output));
    assert!(stderr(&output).contains("n/wrong.yaml"), "{}", stderr(&output));
    // As `tulle up` does it: what else lies in a project is none of its objects.
    let output = tulle(folder.path(), &["validate", "n"]);
    assert_eq!((code(&output), stdout(&output).as_str()), (0, "2 objects valid\n"), "{}", stderr(&output));
}
