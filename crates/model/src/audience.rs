//! For whom a token is (JWT-SVID standard, section 3.2): what may be asked for.

use crate::legible::legible_start;

/// How many audiences one token may have. One is enough, says the standard: who gets it can use it with the others.
const MOST: usize = 8;
/// In bytes.
const LONGEST: usize = 1024;

/// What is wrong with the audiences of a token that is asked for.
pub fn audience_problem(audiences: &[String]) -> Option<String> {
    if audiences.is_empty() {
        return Some("no audience: say for whom the token is".to_owned());
    }
    if audiences.len() > MOST {
        return Some(format!("{} audiences: a token may have {MOST}", audiences.len()));
    }
    audiences.iter().find_map(|audience| {
        if audience.is_empty() {
            return Some("an audience is empty".to_owned());
        }
        (audience.len() > LONGEST)
            .then(|| format!("the audience `{}…` has more than {LONGEST} bytes", legible_start(audience, 40)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_for_somebody_and_not_for_everybody() {
        let of = |count: usize, length: usize| audience_problem(&vec!["x".repeat(length); count]);
        assert_eq!((of(1, 1), of(MOST, LONGEST)), (None, None));
        for (count, length, problem) in [
            (0, 0, "no audience"),
            (1, 0, "empty"),
            (MOST + 1, 1, "9 audiences"),
            (1, LONGEST + 1, "1024 bytes"),
        ] {
            assert!(of(count, length).is_some_and(|said| said.contains(problem)), "{problem}");
        }
    }
}
