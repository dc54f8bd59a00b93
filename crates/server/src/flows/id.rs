//! The names of runs: short, DNS labels (RFC 1123), and in the order in which they began.

use std::sync::Arc;

use tulle_model::flow::scope::Millis;

/// Crockford's base32, in lower case: its digits are in the order of their values.
const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
/// Of the time, and as many of what nobody else has: 50 bits each.
const EACH: u32 = 10;

/// A name for a run that begins at a time.
pub(super) fn new(at: Millis) -> Arc<str> {
    of(at, rand::random())
}

/// The name of a run with which a text begins, that of a call of it (`RUN/do/0/pay`, `RUN~1/do/0/pay`); whether there is such a run is
/// another question.
pub(super) fn leading(text: &str) -> Option<&str> {
    let (run, _) = text.split_once(['/', '~'])?;
    let is_digit = |byte: u8| DIGITS.contains(&byte);
    (run.len() == 2 * EACH as usize && run.bytes().all(is_digit)).then_some(run)
}

fn of(at: Millis, random: u64) -> Arc<str> {
    let digits = |number: u64| {
        (0..EACH).rev().map(move |at| char::from(DIGITS[(number >> (5 * at)) as usize % DIGITS.len()]))
    };
    digits(at).chain(digits(random)).collect::<String>().into()
}

#[cfg(test)]
mod tests {
    use tulle_model::name::dns_label_problem;

    use super::*;

    #[test]
    fn names_are_in_the_order_of_time() {
        let times = [0, 1, 31, 32, 1_000, 1_790_000_000_000, 1_790_000_000_001, (1 << 50) - 1];
        for pair in times.windows(2) {
            let names = [of(pair[0], u64::MAX), of(pair[1], 0)];
            assert!(names[0] < names[1], "{names:?}");
            assert!(names.iter().all(|name| name.len() == 20 && dns_label_problem(name).is_none()));
        }
        assert_ne!(new(7), new(7));
        let run = new(7);
        for call in [format!("{run}/do/0/pay"), format!("{run}~2/do/0/pay[1]")] {
            assert_eq!(leading(&call), Some(&*run));
        }
        for other in ["", "/", "order-7/do/0", "a94a8fe5-ccb1-4f0a-9b7e-000000000000"] {
            assert_eq!(leading(other), None, "{other}");
        }
        assert_eq!(leading(&run), None);
    }
}
