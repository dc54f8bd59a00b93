//! What is said leads to what works.

use super::*;

fn said(fields: &str) -> String {
    let found = problems(&document(fields));
    let [(_, said)] = &found[..] else { panic!("{fields}: {found:#?}") };
    said.clone()
}

#[test]
fn variables_that_are_offered_can_be_used() {
    let all = said("do: [{a: {set: {x: '${ $foo }'}}}]");
    assert!(all.contains("there is no variable `$foo`"), "{all}");
    for (name, expected) in [
        ("$context", true),
        ("$input", true),
        ("$output", false),
        ("$secrets", false),
        ("$authorization", false),
    ] {
        assert_eq!(all.contains(name), expected, "{name}: {all}");
    }
    let meant = said("do: [{a: {set: {x: '${ $outputs }'}}}]");
    assert!(!meant.contains("$output`") && meant.contains("$input"), "{meant}");
    // What is there elsewhere is said to be.
    let elsewhere = said("do: [{a: {set: {x: '${ $output }'}}}]");
    assert!(elsewhere.contains("`$output` is not there in what a task does"), "{elsewhere}");
    let elsewhere = said("do: [{a: {set: {x: '${ $output + $foo }'}}}]");
    assert!(elsewhere.contains("there is no variable `$foo`"), "{elsewhere}");
    let call = "do: [{a: {call: http, with: {method: get, endpoint: 'http://s/', body: '${ $foo }'}}}]";
    let offered = said(&format!("{call}\nuse: {{secrets: [shop]}}"));
    assert!(offered.contains("$secrets") && offered.contains("$authorization"), "{offered}");
    let turn = said("do: [{a: {for: {in: .x, each: line}, do: [{b: {set: {x: '${ $foo }'}}}]}}]");
    assert!(turn.contains("$line"), "{turn}");
}

#[test]
fn a_duration_that_is_offered_works() {
    let said = said("do: [{a: {wait: 25}}]");
    assert!(said.contains("`PT25S`, or `{seconds: 25}`"), "{said}");
    assert_eq!(problems(&document("do: [{a: {wait: PT25S}}, {b: {wait: {seconds: 25}}}]")), []);
}

#[test]
fn an_expression_has_an_end() {
    for text in ["${ .a ", " ${ .a", "${"] {
        let said = said(&format!("do: [{{a: {{set: {{x: ['{text}']}}}}}}]"));
        assert!(said.contains("close it with `}`"), "{text}: {said}");
    }
    for text in ["${ .a } and more", "costs $5 {each}", "a ${", "$ {", "${ \"${ .a \" }"] {
        assert_eq!(problems(&document(&format!("do: [{{a: {{set: {{x: '{text}'}}}}}}]"))), [], "{text}");
    }
}
