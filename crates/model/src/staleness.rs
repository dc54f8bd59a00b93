//! What it means for the choice of an endpoint that the server hears nothing of the endpoint's node.
//!
//! A node that is dead and one that is merely cut off from the server look alike from there, so its
//! endpoints stay known and are *stale*. The caller's node knows more: what it reaches itself is as good as
//! any other. The rest ranks last, unless so much is stale that it says more of the server than of the nodes.

/// What is known of one endpoint where it is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// The server hears nothing of its node.
    pub stale: bool,
    /// This node hears of that node: by a link that answers pings, or an answer within [`REACHED_SECONDS`].
    pub reached: bool,
}

/// For how long an answer shows that a node is reached.
pub const REACHED_SECONDS: u64 = 10;

/// Whether staleness ranks anything in a service that has `all` endpoints, `stale` of them stale: not where
/// more than half are, nor where none is.
pub fn ranks(stale: usize, all: usize) -> bool {
    stale > 0 && stale <= all / 2
}

/// Whether an endpoint ranks last, in a service where staleness [`ranks`] something.
pub fn is_last(facts: Facts) -> bool {
    facts.stale && !facts.reached
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_half_says_nothing_of_the_nodes() {
        for (stale, all, expected) in [
            (0, 0, false),
            (0, 3, false),
            (1, 1, false),
            (1, 2, true),
            (1, 3, true),
            (2, 3, false),
            (2, 4, true),
            (3, 4, false),
            (5, 5, false),
        ] {
            assert_eq!(ranks(stale, all), expected, "{stale} of {all}");
        }
    }

    #[test]
    fn what_is_reached_from_here_keeps_its_rank() {
        for (stale, reached, last) in
            [(false, false, false), (false, true, false), (true, true, false), (true, false, true)]
        {
            assert_eq!(is_last(Facts { stale, reached }), last);
        }
    }
}
