//! What a Flow must be.

use serde_json::{Value, json};

use super::{codes, good, spec_errors};
use crate::document;
use crate::registry::KindId;
use crate::validate::{Code, default_object, validate};

/// A Flow's spec, with something else in one place.
fn with(pointer: &str, value: Value) -> Value {
    let mut spec = good(KindId::Flow)["spec"].clone();
    match spec.pointer_mut(pointer) {
        Some(place) => *place = value,
        None => {
            let (parent, name) = pointer.rsplit_once('/').unwrap();
            spec.pointer_mut(parent).unwrap()[name] = value;
        }
    }
    spec
}

#[test]
fn flows_are_what_their_fields_say() {
    for (pointer, value, expected) in [
        ("/workflow", json!(null), "spec.workflow: is missing, and is required"),
        ("/workflow", json!("do: []"), "spec.workflow: expected an object"),
        ("/workflow/do/0/pay/call", json!("htp"), "spec.workflow.do[0].pay.call: `htp` is neither `http`"),
        ("/workflow/document/dsl", json!("2.0.0"), "spec.workflow.document.dsl: `2.0.0` is another version"),
        ("/serviceAccount", json!("a/b"), "spec.serviceAccount: `a/b` is no name of a service account"),
        ("/trigger/http/port", json!(0), "spec.trigger.http.port: 0 is out of range"),
        ("/trigger/http/input", json!("Body"), "spec.trigger.http.input: `Body` is none of the values"),
        ("/trigger/http/input", json!("body"), "spec.trigger.http.headers: are part of the input only where"),
        (
            "/trigger/http/headers",
            json!(["a b"]),
            "spec.trigger.http.headers[0]: `a b` is no name of a header",
        ),
        ("/trigger/http/headers", json!([""]), "spec.trigger.http.headers[0]: `` is no name of a header"),
        ("/trigger/http/wait", json!("soon"), "spec.trigger.http.wait: `soon` is no duration"),
        ("/trigger/http/wait", json!("2h"), "spec.trigger.http.wait: a request waits for 1h at most"),
        ("/concurrency/limit", json!(0), "spec.concurrency.limit: 0 is out of range"),
        ("/concurrency/limit", json!(null), "spec.concurrency.limit: is missing"),
        ("/concurrency/overflow", json!("queue"), "did you mean `Queue`?"),
        ("/history/runs", json!(-1), "spec.history.runs: -1 is out of range"),
        ("/history/age", json!("7d"), "spec.history.age: `7d` is no duration"),
    ] {
        let found = spec_errors(KindId::Flow, with(pointer, value.clone()));
        assert!(matches!(&found[..], [one] if one.contains(expected)), "{pointer} {value}: {found:#?}");
    }
    let least = json!({ "workflow": good(KindId::Flow)["spec"]["workflow"] });
    assert_eq!(spec_errors(KindId::Flow, least), [""; 0]);
    let unsupported = with("/workflow/do/0/pay", json!({ "emit": {} }));
    assert_eq!(
        codes(KindId::Flow, unsupported),
        [("spec.workflow.do[0].pay.emit".to_owned(), Code::NotSupported)]
    );
}

#[test]
fn flows_have_defaults_and_keep_their_workflows_as_they_are() {
    let workflow = json!({ "document": { "x": null }, "anything": [null, 1] });
    let mut flow = json!({ "spec": { "workflow": workflow, "trigger": { "http": {} }, "concurrency": { "limit": 1 }, "history": {} } });
    default_object(KindId::Flow.kind(), &mut flow);
    crate::validate::prune(KindId::Flow.kind(), &mut flow);
    let expected = json!({
        "workflow": workflow,
        "serviceAccount": "default",
        "trigger": { "http": { "port": 80, "input": "body", "wait": "25s" } },
        "concurrency": { "limit": 1, "overflow": "Queue" },
        "history": { "runs": 1000, "age": "168h" }
    });
    assert_eq!(flow["spec"], expected);
}

#[test]
fn what_is_wrong_with_a_workflow_is_at_its_line() {
    let text = "\
apiVersion: tulle.dev/v1alpha1
kind: Flow
metadata: {name: order}
spec:
  workflow:
    document: {dsl: '1.0.3', namespace: shop, name: order, version: '0.1.0'}
    do:
      - pay:
          call: http
          with:
            method: post
            endpoint: http://payment/
            bodi: {}
      - tell:
          emit: {}
";
    let documents = document::parse(text).unwrap();
    let document = &documents[0];
    let errors = validate(KindId::Flow.kind(), &document.value);
    let lines: Vec<_> =
        errors.iter().map(|error| (document.span_of(error).line, error.path.to_string())).collect();
    let expected = [(13, "spec.workflow.do[0].pay.with.bodi"), (15, "spec.workflow.do[1].tell.emit")];
    assert_eq!(lines, expected.map(|(line, path)| (line, path.to_owned())));
}
