//! The fuzz target of the API: docs/fuzzing.md.

pub use crate::objects::fuzzing::patches;

#[cfg(test)]
mod tests {
    use tulle_fuzz::check;

    #[test]
    fn what_is_changed_twice_is_changed_once() {
        check("patches", super::patches);
    }
}
