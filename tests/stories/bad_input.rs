//! Whatever a person gets wrong: a message with file, line and field, exit code 2, nothing changed.

use std::time::Duration;

use tulle_tests::harness::{Home, alone, tulle};

struct Mistake {
    what: &'static str,
    text: &'static str,
    /// The message names all of these.
    names: &'static [&'static str],
}

const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata:\n  name: c\nspec:\n";

const MISTAKES: &[Mistake] = &[
    Mistake {
        what: "an unknown field",
        text: "  prots:\n  - port: 80\n",
        names: &["bad.yaml:6", "prots", "ports"],
    },
    Mistake {
        what: "a wrong type",
        text: "  ports:\n  - port: eighty\n",
        names: &["bad.yaml:7", "spec.ports[0].port", "whole number"],
    },
    Mistake {
        what: "a port out of range",
        text: "  ports:\n  - port: 70000\n",
        names: &["bad.yaml:7", "spec.ports[0].port", "65535"],
    },
    Mistake {
        what: "one port twice",
        text: "  ports:\n  - {name: a, port: 80}\n  - {name: b, port: 80}\n",
        names: &["bad.yaml:8", "spec.ports[1]", "80"],
    },
    Mistake {
        what: "a route to a service that is not there",
        text: "  ports:\n  - port: 80\n---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata:\n  name: r\n\
               spec:\n  parentRefs:\n  - {group: '', kind: Service, name: c}\n  rules:\n  - backendRefs:\n    - {name: nowhere, port: 80}\n",
        names: &["bad.yaml:18", "spec.rules[0].backendRefs[0]", "nowhere"],
    },
    Mistake {
        what: "a bomb",
        text: "  a: &a [x,x,x,x,x,x,x,x,x,x]\n  b: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]\n  c: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b]\n  \
               d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c,*c]\n  e: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d,*d]\n  f: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e,*e]\n  \
               g: &g [*f,*f,*f,*f,*f,*f,*f,*f,*f,*f]\n  h: [*g,*g,*g,*g,*g,*g,*g,*g,*g,*g]\n",
        names: &["bad.yaml"],
    },
    Mistake { what: "broken YAML", text: "  ports: [\n", names: &["bad.yaml:"] },
];

#[test]
fn validate_shows_the_place() {
    let home = Home::new();
    for mistake in MISTAKES {
        let file = home.write("bad.yaml", &format!("{SERVICE}{}", mistake.text));
        let outcome = home.tulle(&["validate", &file.display().to_string()]);
        assert_eq!(outcome.code(), 2, "{}: {outcome:#?}", mistake.what);
        for name in mistake.names {
            assert!(outcome.stderr.contains(name), "{}: no `{name}` in\n{}", mistake.what, outcome.stderr);
        }
    }
    let outcome = home.tulle(&["validate", "/nonexistent/x.yaml"]);
    assert_eq!(outcome.code(), 2, "{outcome:#?}");
    assert!(outcome.stderr.contains("/nonexistent/x.yaml"), "{outcome:#?}");
}

#[test]
fn apply_and_up_refuse_the_same_and_change_nothing() {
    let _alone = alone();
    let home = Home::new();
    let services = format!(
        "services:\n  d:\n    command: [\"{}\", fake-service, --name, d]\n    port: 9392\n",
        tulle().display()
    );
    let up = home.up(&services);
    let before = home.tulle(&["get", "services,httproutes", "-A", "-o", "name"]).ok();
    for mistake in MISTAKES {
        // A good object ahead of the bad one is not applied either.
        let good = "apiVersion: v1\nkind: Service\nmetadata:\n  name: good\nspec:\n  ports:\n  - port: 81\n";
        home.write("bad/a-good.yaml", good);
        home.write("bad/bad.yaml", &format!("{SERVICE}{}", mistake.text));
        let folder = home.path().join("bad").display().to_string();
        let outcome = home.tulle(&["apply", "-f", &folder]);
        assert_eq!(outcome.code(), 2, "{}: {outcome:#?}", mistake.what);
        for name in mistake.names {
            assert!(outcome.stderr.contains(name), "{}: no `{name}` in\n{}", mistake.what, outcome.stderr);
        }
    }
    assert_eq!(home.tulle(&["get", "services,httproutes", "-A", "-o", "name"]).ok(), before);
    assert!(up.interrupt().success());

    for (text, names) in [
        ("services:\n  a:\n    comand: x\n", ["tulle.yaml:3", "comand"]),
        ("services:\n  a:\n    command: x\n    port: 99999\n", ["tulle.yaml:4", "65535"]),
        ("services:\n  a: {command: x, port: 80}\n  b: {command: x, port: 80}\n", ["tulle.yaml:3", "80"]),
        ("services:\n  a: {command: x, dependsOn: [zz]}\n", ["tulle.yaml:2", "zz"]),
    ] {
        home.write("mesh/tulle.yaml", text);
        let outcome = home.tulle(&["up", &home.path().join("mesh").display().to_string()]);
        assert_eq!(outcome.code(), 2, "{text}: {outcome:#?}");
        for name in names {
            assert!(outcome.stderr.contains(name), "no `{name}` in\n{}", outcome.stderr);
        }
    }
}

#[test]
fn services_without_endpoints_and_unknown_names() {
    let _alone = alone();
    let home = Home::new();
    let services = format!(
        "services:\n  d:\n    command: [\"{}\", fake-service, --name, d]\n    port: 9392\n---\n\
         apiVersion: v1\nkind: Service\nmetadata: {{name: empty, namespace: default}}\nspec:\n  ports: [{{port: 80}}]\n",
        tulle().display()
    );
    let up = home.up(&services);
    let curl = |url: &str| {
        let process = home.start(&["run", "client", "--", "curl", "-si", "-m", "5", url]);
        let status = process.wait(Duration::from_secs(20));
        (status.code(), process.stdout())
    };
    let (_, answer) = curl("http://d:9392/");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let (_, answer) = curl("http://empty/");
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(answer.to_lowercase().contains("tulle-reason: no-endpoints"), "{answer}");
    let (code, answer) = curl("http://d:1/");
    if nix::unistd::geteuid().is_root() {
        assert_eq!(code, Some(7), "curl: could not connect");
        let (code, _) = curl("http://nosuch/");
        assert_eq!(code, Some(6), "curl: could not resolve host");
    } else {
        assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
        assert!(answer.contains("has no port 1 (it has 9392)"), "{answer}");
    }
    assert!(up.interrupt().success());
}
