//! `tulle explain`, with a server and without.

use std::fs;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::split::{Mesh, WEB, line};
use crate::{code, stderr, stdout, tulle};

#[test]
fn a_request_is_explained_with_a_server_and_without() {
    let mesh = Mesh::start();
    let workload = "{apiVersion: tulle.dev/v1alpha1, kind: Workload, metadata: {name: client}, spec: {address: 192.0.2.1}}";
    mesh.apply(&[WEB, &WEB.replace(": web}", ": web-v1}"), workload].join("\n---\n"));
    mesh.prints("split web v1=90 web=10");
    let (printed, said) = mesh.ends("explain --from clinet http://web/", 4);
    assert!(printed.is_empty() && said.contains("did you mean `default/client`"), "{said}");
    let (printed, said) = mesh.ends("explain --from shop/gone http://web/", 4);
    let nearest =
        "there is no Workload shop/gone\nhelp: namespace shop has none; workloads: default/client\n";
    assert!(printed.is_empty() && said.contains(nearest), "{said}");
    let (_, said) = mesh.ends("explain --from gone http://web/", 4);
    assert!(said.contains("help: workloads of namespace default: default/client\n"), "{said}");
    let (printed, said) = mesh.ends("explain --from client get web/", 2);
    assert!(printed.is_empty() && said.contains("help: write `GET`"), "{said}");
    let shown = mesh.prints("explain --from client http://web/a%2e -H x:1");
    assert!(shown.contains("to routes, the path is /a."), "{shown}");
    let decided = line(&shown, "90% go to");
    let by = ["HTTPRoute/default/web-split", "spec.rules[0].backendRefs[0].weight"];
    assert_eq!(decided[decided.len() - 2..], by, "{shown}");
    assert!(
        shown.ends_with(
            "10% are answered with 503 no-endpoints: service default/web has no endpoint for port 80\n"
        ),
        "{shown}"
    );

    // The same from files, with nobody there.
    let objects = mesh.prints("get services,httproutes,workloads -o yaml");
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("all.yaml"), objects).unwrap();
    let output = tulle(
        folder.path(),
        &["explain", "--from", "client", "http://web/a%2e", "-H", "x: 1", "-f", "all.yaml"],
    );
    assert_eq!((code(&output), stdout(&output)), (0, shown), "{}", stderr(&output));
    assert_eq!(stderr(&output), "the files alone are explained: the server was not asked\n");
    assert_eq!(
        mesh.prints("explain --from client -X GET web/a%2e -H x:1"),
        mesh.prints("explain --from default/client GET http://web:80/a%2e -H x:1")
    );

    // Without what runs, nothing is said of it.
    let deployment = "{apiVersion: apps/v1, kind: Deployment, metadata: {name: d}}";
    fs::write(folder.path().join("web.yaml"), format!("{WEB}\n---\n{deployment}")).unwrap();
    let output = tulle(folder.path(), &["explain", "--from", "client", "web", "-f", "web.yaml"]);
    assert!(
        stdout(&output).ends_with("It goes to Service default/web port 80, as GET / for web\n"),
        "{output:?}"
    );
    let said = stderr(&output);
    assert!(
        said.contains("Workload default/client is not in them") && said.contains("1 object was skipped"),
        "{said}"
    );
    // Programs read what is printed, whatever was skipped.
    let arguments = ["explain", "--from", "client", "web", "-f", "web.yaml", "-o", "json"];
    let output = tulle(folder.path(), &arguments);
    assert!(serde_json::from_str::<Value>(&stdout(&output)).is_ok(), "{output:?}");

    let json = mesh.prints("explain --from client POST web:81 -o json");
    let found: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(found["outcomes"][0]["refused"]["status"], 502, "{json}");
    assert_eq!([&found["method"], &found["url"]], [&json!("POST"), &json!("http://web:81/")], "{json}");
    assert_eq!(found["steps"][0]["field"], "spec.ports", "{json}");
    assert_eq!(found["steps"][0]["phase"], "route", "{json}");
}
