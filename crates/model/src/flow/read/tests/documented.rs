//! What docs/flows.md shows without a Flow around it.

use super::*;

#[test]
fn the_saga_reads_and_tries_its_compensation_again() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/flows.md");
    let text = std::fs::read_to_string(file).expect(file);
    let saga = text.split("## A saga").nth(1).and_then(|saga| saga.split("```").nth(1)).expect(file);
    let saga = document(saga);
    assert_eq!(problems(&saga), []);
    let release = saga.pointer("/do/0/order/catch/do/0/release").expect("there is `release`");
    assert!(release.get("try").is_some() && release["catch"].get("retry").is_some(), "{release}");
}
