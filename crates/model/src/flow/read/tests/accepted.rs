//! What is read, and what becomes of it.

use std::time::Duration;

use super::*;
use crate::flow::workflow::{
    Authentication, Backoff, ClientAuthentication, Credentials, Directive, DurationValue, ErrorFilter,
    HttpOutput, SchemaSource, TaskKind, Uri, UriPart,
};

/// One for each thing that there is, in the forms that the reference and the conformance kit have.
pub(super) const DOCUMENTS: [&str; 35] = [
    "do: []",
    "do: [{paint: {set: {shape: square, side: '${ .side }'}}}, {pick: {set: '${ .colour }'}}]",
    "do: [{all: {do: [{one: {set: {x: 1}}}, {two: {set: {x: 2}}}]}}]",
    "do: [{a: {set: {x: 1}, then: c}}, {b: {set: {x: 2}, then: end}}, {c: {set: {x: 3}, then: b}}]",
    "do: [{a: {if: .x == 1, set: {y: 1}, then: exit}}, {b: {if: '${ .x }', set: {y: 2}, then: continue}}]",
    "do: [{a: {switch: [{x: {when: .v == 1, then: b}}, {y: {when: '${ .v }', then: end}}, {z: {then: exit}}]}}, {b: {set: {x: 1}}}]",
    "do: [{a: {switch: [{x: {when: .v, then: end}}], then: end}}]",
    "do: [{a: {for: {in: .list}, do: [{b: {set: {x: '${ $item + $index }'}}}]}}]",
    "do: [{a: {for: {each: pet, in: '${ .pets }', at: i}, while: '$i < 3 and $pet.ok', do: [{b: {if: $pet, set: {x: '${ $pet }'}}}]}}]",
    "do: [{a: {fork: {branches: [{b: {set: {x: 1}, then: end}}, {c: {wait: {seconds: 1}}}]}}}]",
    "do: [{a: {fork: {compete: true, branches: [{b: {set: {x: 1}}}]}}}]",
    "do: [{a: {wait: PT1.5S}}, {b: {wait: {days: 1, hours: 1, minutes: 1, seconds: 1, milliseconds: 1}}}, {c: {wait: '${ .t }'}}]",
    "do: [{a: {raise: {error: {type: 'https://e/x', status: 400, title: T, detail: '${ .d }', instance: /do/0/a}}}}]",
    "do: [{a: {raise: {error: gone}}}]\nuse: {errors: {gone: {type: '${ .t }', status: 410, title: '${ .x }', instance: '${ .i }'}}}",
    "do: [{a: {try: [{b: {call: http, with: {method: get, endpoint: 'https://'}}}], catch: {}}}]",
    "do: [{a: {try: [{b: {set: {x: 1}}}], catch: {errors: {with: {type: 'https://e/x', status: 503}}, as: err, \
     when: $err.status == 503, exceptWhen: '${ $err.x }', do: [{c: {set: {e: '${ $err }'}}}]}, then: end}}]",
    "do: [{a: {try: [], catch: {errors: {with: {details: d, title: t, instance: /do/0}}, retry: {delay: {seconds: 3}, \
     backoff: {exponential: {}}, limit: {attempt: {count: 5, duration: PT1S}, duration: {minutes: 1}}, \
     jitter: {from: PT1S, to: PT2S}, when: $error.status == 503, exceptWhen: '${ $error }'}}}}]",
    "do: [{a: {try: [], catch: {as: e, retry: again}}}, {b: {try: [], catch: {retry: again}}}]\n\
     use: {retries: {again: {delay: PT1S, backoff: {linear: {}}, when: .x}}}",
    "do: [{a: {call: http, with: {method: get, endpoint: 'https://pets/{petId}'}}}]",
    "do: [{a: {call: http, with: {method: '${ .m }', endpoint: '${ .e }', headers: '${ .h }', query: '${ .q }', body: '${ . }'}}}]",
    "do: [{a: {call: http, with: {method: POST, endpoint: {uri: 'http://pets/?s={s}'}, headers: {Accept: a, X-A: '${ $authorization.scheme }'}, \
     query: {a: '${ .x }', n: 3, b: true}, body: [1, {x: '${ .x }'}], output: response, redirect: true}, output: {as: '.[0]'}}}]",
    "do: [{a: {call: http, with: {method: get, endpoint: {uri: '${ .u }', authentication: {basic: {username: '${ .u }', password: p}}}}}}]",
    "do: [{a: {call: http, with: {method: get, endpoint: {uri: 'http://x/', authentication: {bearer: {token: '${ $secrets.s.t }'}}}}}}]\n\
     use: {secrets: [s]}",
    "do: [{a: {call: http, with: {method: get, endpoint: {uri: 'http://x/', authentication: {use: login}}}}}]\n\
     use: {secrets: [s], authentications: {login: {basic: {use: s}}}}",
    "do: [{a: {call: http, with: {method: get, endpoint: {uri: 'http://x/', authentication: {oauth2: {authority: 'http://login/r/x', \
     endpoints: {token: /token, revocation: /r, introspection: /i}, grant: client_credentials, client: {id: i, secret: '${ .s }', \
     authentication: client_secret_basic}, request: {encoding: application/json}, issuers: ['http://login/'], scopes: [api], \
     audiences: [x]}}}}}}]",
    "do: [{a: {call: http, with: {method: get, endpoint: {uri: 'http://x/', authentication: {oidc: {authority: 'http://login/{realm}', \
     grant: client_credentials, client: {id: i}}}}}}}]",
    "do: [{a: {call: http, with: {method: get, endpoint: {uri: 'http://x/', authentication: {oauth2: {use: s}}}}}}, \
     {b: {call: http, with: {method: get, endpoint: {uri: 'http://x/', authentication: {oidc: {use: s}}}}}}]\nuse: {secrets: [s]}",
    "do: [{a: {call: find, with: {id: '${ .id }'}}}, {b: {call: find}}]\n\
     use: {functions: {find: {call: http, with: {method: get, endpoint: 'http://pets/{id}'}}, 'n:1@c': {do: [{a: {call: find}}]}}}",
    "do: [{a: {call: 'n:1@c', input: {from: '{b: .}'}}}]\nuse: {secrets: [s], functions: {'n:1@c': {call: http, input: {from: '{a: $secrets.s, b: .}'}, \
     with: {method: get, endpoint: 'http://a/{b}'}}}}",
    "do: [{a: {set: {x: '${ $context.a + $input.b + $task.name + $workflow.id + $runtime.name }'}, \
     input: {from: {a: '${ $context.a }'}, schema: {document: {type: object}}}, output: {as: '${ $input + . }', schema: {format: 'json:1', \
     resource: {name: n, endpoint: 'http://s/x.json'}}}, export: {as: '$context + $output', schema: {document: true}}, timeout: {after: PT5S}, \
     metadata: {any: thing}}}]",
    "do: [{a: {wait: PT1S, timeout: short}}]\ntimeout: short\nuse: {timeouts: {short: {after: {seconds: 30}}}}",
    "do: []\ntimeout: {after: '${ $workflow.input.t }'}\ninput: {from: .a, schema: {document: {}}}\noutput: {as: {x: '${ $context }'}}",
    "do: []\nevaluate: {language: jq, mode: strict}",
    "do: [{a: {do: []}}, {b: {for: {in: .x}, do: [{c: {try: [], catch: {as: index, do: [{d: {set: {x: '${ $index }'}}}]}}}]}}]",
    "do: [{a: {try: [], catch: {as: e, retry: again}}}]\nuse: {retries: {again: {when: $e.status == 503, delay: '${ $e.wait }'}}}",
];

fn read(fields: &str) -> Workflow {
    parse(&document(fields)).unwrap_or_else(|problems| panic!("{fields}: {problems:#?}"))
}

/// The kind of the first step.
fn first(workflow: &Workflow) -> &TaskKind {
    &workflow.task(workflow.steps[0]).kind
}

#[test]
fn whatever_there_is_is_read() {
    for fields in DOCUMENTS {
        read(fields);
    }
}

#[test]
fn expressions_may_bind_names_of_their_own() {
    for fields in [
        "do: [{a: {set: '${ . as $output | $output.x }'}}]",
        "do: [{a: {if: '. as $secrets | $secrets', set: {x: 1}}}]",
        "do: [{a: {set: {x: 1}, output: {as: '.x # a comment'}}}]",
        "do: [{a: {set: {x: 'a ${ $nothing } within a text'}}}]",
    ] {
        read(fields);
    }
}

#[test]
fn a_heading_may_say_more() {
    let mut document = document("do: []");
    document["document"]["title"] = "Order".into();
    document["document"]["summary"] = "# Order".into();
    document["document"]["tags"] = value("{team: shop}");
    document["document"]["metadata"] = value("{a: [1]}");
    let workflow = parse(&document).expect("it is one");
    assert_eq!((&*workflow.name, &*workflow.version), ("order", "0.1.0"));
    assert_eq!(*workflow.definition, document);
}

#[test]
fn tasks_know_where_they_stand() {
    let workflow = read(
        "do: [{a: {do: [{'x/y': {set: {x: 1}}}]}}, {b: {try: [{c: {set: {x: 1}}}], catch: {do: [{d: {wait: PT1S}}]}}}, \
         {e: {fork: {branches: [{f: {set: {x: 1}}}]}}}, {g: {for: {in: .x}, do: [{h: {set: {x: 1}}}]}}]\n\
         use: {functions: {fn: {do: [{i: {set: {x: 1}}}]}}}",
    );
    let mut references: Vec<_> = workflow.tasks.iter().map(|task| (&*task.reference, &*task.name)).collect();
    references.sort_unstable();
    let expected = [
        ("/do/0/a", "a"),
        ("/do/0/a/do/0/x~1y", "x/y"),
        ("/do/1/b", "b"),
        ("/do/1/b/catch/do/0/d", "d"),
        ("/do/1/b/try/0/c", "c"),
        ("/do/2/e", "e"),
        ("/do/2/e/fork/branches/0/f", "f"),
        ("/do/3/g", "g"),
        ("/do/3/g/do/0/h", "h"),
        ("/use/functions/fn", "fn"),
        ("/use/functions/fn/do/0/i", "i"),
    ];
    assert_eq!(references, expected);
    let steps: Vec<_> = workflow.steps.iter().map(|id| &*workflow.task(*id).name).collect();
    assert_eq!(steps, ["a", "b", "e", "g"]);
}

#[test]
fn directives_are_places_in_the_list() {
    let workflow = read(DOCUMENTS[3]);
    let then: Vec<_> = workflow.steps.iter().map(|id| workflow.task(*id).then).collect();
    assert_eq!(then, [Directive::To(2), Directive::End, Directive::To(1)]);
    let workflow = read(DOCUMENTS[5]);
    let TaskKind::Switch(cases) = first(&workflow) else { panic!("no switch") };
    let cases: Vec<_> = cases.iter().map(|case| (&*case.name, case.when.is_some(), case.then)).collect();
    let expected =
        [("x", true, Directive::To(1)), ("y", true, Directive::End), ("z", false, Directive::Exit)];
    assert_eq!(cases, expected);
}

#[test]
fn loops_and_forks_have_their_defaults() {
    let workflow = read(DOCUMENTS[7]);
    let TaskKind::For(each) = first(&workflow) else { panic!("no loop") };
    assert_eq!(
        (&*each.each, &*each.at, each.condition.is_some(), each.body.len()),
        ("item", "index", false, 1)
    );
    let workflow = read(DOCUMENTS[8]);
    let TaskKind::For(each) = first(&workflow) else { panic!("no loop") };
    assert_eq!((&*each.each, &*each.at, each.condition.is_some()), ("pet", "i", true));
    for (index, compete, branches) in [(9, false, 2), (10, true, 1)] {
        let workflow = read(DOCUMENTS[index]);
        let TaskKind::Fork(fork) = first(&workflow) else { panic!("no fork") };
        assert_eq!((fork.compete, fork.branches.len()), (compete, branches));
    }
}

#[test]
fn errors_are_filtered_and_tried_again() {
    let workflow = read(DOCUMENTS[16]);
    let TaskKind::Try(attempt) = first(&workflow) else { panic!("no try") };
    let filter = ErrorFilter {
        instance: Some("/do/0".into()),
        title: Some("t".into()),
        detail: Some("d".into()),
        ..ErrorFilter::default()
    };
    assert_eq!((&*attempt.catch.variable, &attempt.catch.errors), ("error", &filter));
    let retry = attempt.catch.retry.as_ref().expect("a policy");
    let constant = |duration: &DurationValue| match duration {
        DurationValue::Constant(duration) => *duration,
        DurationValue::Expression(_) => panic!("an expression"),
    };
    let durations =
        [&retry.delay, &retry.attempt_duration, &retry.duration].map(|d| d.as_ref().map(constant));
    assert_eq!(durations, [3, 1, 60].map(|seconds| Some(Duration::from_secs(seconds))));
    assert_eq!((retry.attempts, retry.backoff), (Some(5), Backoff::Exponential));
    assert_eq!(
        retry.jitter.as_ref().map(|j| [constant(&j[0]), constant(&j[1])]),
        Some([1, 2].map(Duration::from_secs))
    );
    assert!(retry.when.is_some() && retry.except_when.is_some());

    let workflow = read(DOCUMENTS[15]);
    let TaskKind::Try(attempt) = first(&workflow) else { panic!("no try") };
    let catch = &attempt.catch;
    assert_eq!((&*catch.variable, catch.errors.status, catch.retry.is_none()), ("err", Some(503), true));
    assert_eq!(catch.handler.as_ref().map(|list| list.len()), Some(1));
    let workflow = read(DOCUMENTS[14]);
    let TaskKind::Try(attempt) = first(&workflow) else { panic!("no try") };
    assert!(attempt.catch.errors == ErrorFilter::default() && attempt.catch.handler.is_none());
}

#[test]
fn calls_have_what_the_document_says() {
    let workflow = read(DOCUMENTS[18]);
    let TaskKind::Call(call) = first(&workflow) else { panic!("no call") };
    let Uri::Template(uri) = &call.endpoint.uri else { panic!("no template") };
    assert_eq!(uri.0, [UriPart::Literal("https://pets/".into()), UriPart::Field("petId".into())]);
    assert_eq!((call.output, call.redirect), (HttpOutput::Content, false));
    assert!(call.headers.is_none() && call.query.is_none() && call.body.is_none());
    let workflow = read(DOCUMENTS[20]);
    let TaskKind::Call(call) = first(&workflow) else { panic!("no call") };
    assert_eq!((call.output, call.redirect), (HttpOutput::Response, true));
    assert!(call.headers.is_some() && call.query.is_some() && call.body.is_some());
    let workflow = read(DOCUMENTS[19]);
    assert!(
        matches!(first(&workflow), TaskKind::Call(call) if matches!(call.endpoint.uri, Uri::Expression(_)))
    );
}

fn authentication(workflow: &Workflow, step: usize) -> &Authentication {
    let TaskKind::Call(call) = &workflow.task(workflow.steps[step]).kind else { panic!("no call") };
    call.endpoint.authentication.as_ref().expect("a policy")
}

#[test]
fn calls_say_who_they_are() {
    let workflow = read(DOCUMENTS[21]);
    assert!(matches!(authentication(&workflow, 0), Authentication::Basic(Credentials::Given(_))));
    let workflow = read(DOCUMENTS[22]);
    assert!(matches!(authentication(&workflow, 0), Authentication::Bearer(Credentials::Given(_))));
    let workflow = read(DOCUMENTS[23]);
    assert!(
        matches!(authentication(&workflow, 0), Authentication::Basic(Credentials::Secret(name)) if **name == *"s")
    );

    let oauth2 = |workflow: &Workflow, step| {
        let Authentication::OAuth2(oauth2) = authentication(workflow, step) else { panic!("no OAuth 2") };
        (
            oauth2.token_path.clone(),
            oauth2.client_authentication,
            oauth2.is_json,
            oauth2.issuers.len(),
            oauth2.authority.is_some(),
        )
    };
    let workflow = read(DOCUMENTS[24]);
    assert_eq!(oauth2(&workflow, 0), (Some("/token".into()), ClientAuthentication::Basic, true, 1, true));
    let workflow = read(DOCUMENTS[25]);
    assert_eq!(oauth2(&workflow, 0), (None, ClientAuthentication::Post, false, 0, true));
    let workflow = read(DOCUMENTS[26]);
    assert_eq!(
        oauth2(&workflow, 0),
        (Some("/oauth2/token".into()), ClientAuthentication::Post, false, 0, false)
    );
    assert_eq!(oauth2(&workflow, 1), (None, ClientAuthentication::Post, false, 0, false));
}

#[test]
fn functions_are_read_once() {
    let workflow = read(DOCUMENTS[27]);
    let called = |step: usize| match &workflow.task(workflow.steps[step]).kind {
        TaskKind::Function { task, with } => (*task, with.is_some()),
        other => panic!("{other:?}"),
    };
    let ((one, with), (two, without)) = (called(0), called(1));
    assert_eq!((one, with, without), (two, true, false));
    assert_eq!(&*workflow.task(one).reference, "/use/functions/find");
}

#[test]
fn schemas_are_within_or_elsewhere() {
    let workflow = read(DOCUMENTS[29]);
    let task = workflow.task(workflow.steps[0]);
    assert!(matches!(task.input.schema, Some(SchemaSource::Inline(_))));
    assert!(matches!(task.output.schema, Some(SchemaSource::At(_))));
    assert!(task.export.template.is_some() && task.timeout.is_some());
}

#[test]
fn a_document_may_be_a_part_of_an_object() {
    let object = value(&format!(
        "spec:\n  workflow:\n    {HEADING}    do: [{{a: {{set: {{}}}}}}, {{b: {{set: {{x: 1}}}}}}]"
    ));
    let root = Field::root(&object);
    let field = root.get("spec").and_then(|spec| spec.get("workflow")).expect("it is there");
    let mut errors = Errors::default();
    assert!(parse_at(&field, &mut errors).is_err());
    let problems: Vec<_> =
        errors.0.iter().map(|error| (error.path.to_string(), error.path.pointer())).collect();
    assert_eq!(problems, [("spec.workflow.do[0].a.set".to_owned(), "/spec/workflow/do/0/a/set".to_owned())]);

    let object = value(&format!("spec:\n  workflow:\n    {HEADING}    do: [{{b: {{set: {{x: 1}}}}}}]"));
    let root = Field::root(&object);
    let field = root.get("spec").and_then(|spec| spec.get("workflow")).expect("it is there");
    let workflow = parse_at(&field, &mut Errors::default()).expect("it is one");
    assert_eq!(&*workflow.tasks[0].reference, "/do/0/b");
}
