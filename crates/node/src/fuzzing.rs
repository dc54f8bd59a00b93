//! The fuzz target of a node: docs/fuzzing.md.

pub use crate::dns::fuzzing::dns;

#[cfg(test)]
mod tests {
    #[test]
    fn queries_are_answered_and_answers_are_to_them() {
        tulle_fuzz::check("dns", super::dns);
    }
}
