//! The secrets of tokens, of which the store has the hashes alone.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};

use crate::ca::seal::hex;

/// One that nobody has guessed.
pub(crate) fn new() -> [u8; 32] {
    rand::random()
}

/// What is kept of it.
pub(crate) fn hash(secret: &[u8]) -> String {
    hex(digest(&SHA256, secret).as_ref())
}

/// Whether it is the one of which that was kept.
pub(crate) fn is_it(secret: &[u8], kept: &str) -> bool {
    verify_slices_are_equal(hash(secret).as_bytes(), kept.as_bytes()).is_ok()
}
