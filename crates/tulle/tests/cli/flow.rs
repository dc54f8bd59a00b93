//! `tulle flow`, with a server and without.

use std::fs;

use serde_json::Value;
use tempfile::TempDir;

use crate::split::Mesh;
use crate::{code, stderr, stdout, tulle};

/// Two Flows.
const FLOWS: &str = "\
apiVersion: tulle.dev/v1alpha1
kind: Flow
metadata: {name: order, namespace: default}
spec:
  serviceAccount: orders
  trigger: {http: {}}
  workflow:
    document: {dsl: '1.0.3', namespace: shop, name: order, version: '0.1.0'}
    do:
    - reserve:
        call: http
        with: {method: post, endpoint: 'http://stock/items/{item}'}
---
apiVersion: tulle.dev/v1alpha1
kind: Flow
metadata: {name: rest, namespace: default}
spec:
  workflow:
    document: {dsl: '1.0.3', namespace: shop, name: rest, version: '0.2.0'}
    do: [{nap: {wait: PT5M, if: .tired}}]
";

/// Where no node carries them out.
#[test]
fn runs_are_asked_for() {
    let mesh = Mesh::start();
    mesh.apply(FLOWS);
    let (printed, said) = mesh.ends("flow runs", 0);
    assert_eq!((printed.as_str(), said.as_str()), ("", "No runs found\n"));
    let (_, said) = mesh.ends("flow runs nobody", 4);
    assert!(said.contains("\"nobody\" not found"), "{said}");
    let (_, said) = mesh.ends("flow run order -d {}", 1);
    assert!(said.contains("no node runs Flows of the namespace default"), "{said}");
    let (_, said) = mesh.ends("flow run order -d {", 2);
    assert!(said.contains("--data is no JSON"), "{said}");
    for line in
        ["flow run nobody", "flow history r", "flow suspend r", "flow retry r --from pay", "flow cancel r"]
    {
        let (printed, said) = mesh.ends(line, 4);
        assert!(
            printed.is_empty() && (said.contains("not found") || said.contains("there is no Flow")),
            "{line}: {said}"
        );
    }
}

#[test]
fn flows_are_listed_and_shown() {
    let mesh = Mesh::start();
    let (printed, said) = mesh.ends("flow list", 0);
    assert_eq!((printed.as_str(), said.contains("No objects found")), ("", true), "{said}");
    mesh.apply(FLOWS);
    let listed = mesh.prints("flow list");
    let columns = |name: &str| crate::split::line(&listed, name)[..4].join(" ");
    assert_eq!(
        (columns("order"), columns("rest")),
        ("order 0.1.0 http:80 orders".into(), "rest 0.2.0 <none> default".into())
    );
    assert_eq!(mesh.prints("flow list -o name"), "flow.tulle.dev/order\nflow.tulle.dev/rest\n");

    let shown = "default/order 0.1.0, called at order:80, calls as orders\n\
                 └─ reserve  call POST http://stock/items/{item}\n";
    assert_eq!(mesh.prints("flow show order"), shown);
    assert_eq!(
        mesh.prints("flow show default/rest"),
        "default/rest 0.2.0, calls as default\n└─ nap  wait PT5M, if .tired\n"
    );
    let (_, said) = mesh.ends("flow show orders", 4);
    assert!(said.contains("\"orders\" not found"), "{said}");
    let whole: Value = serde_json::from_str(&mesh.prints("flow show order -o json")).unwrap();
    assert_eq!(whole["steps"][0]["reference"], "/do/0/reserve");
    assert!(mesh.prints("flow show order -o mermaid").starts_with("flowchart TD\n"));

    // The same from a file, with nobody there.
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("flows.yaml"), FLOWS).unwrap();
    let run = |line: &str| {
        let output = tulle(folder.path(), &line.split(' ').collect::<Vec<_>>());
        (code(&output), stdout(&output), stderr(&output))
    };
    assert_eq!(run("flow show order -f flows.yaml"), (0, shown.to_owned(), String::new()));
    let (code, _, said) = run("flow show -f flows.yaml");
    assert!(code == 2 && said.contains("Flows in the files: order, rest"), "{said}");
    let (code, _, said) = run("flow show nap -f flows.yaml");
    assert!(code == 4 && said.contains("the files have no Flow `nap`"), "{said}");
    assert_eq!(run("flow show").0, 2);
}
