//! Bytes in the pieces that they came in.

use std::collections::VecDeque;

use bytes::Bytes;

/// Pieces below are joined, or each would cost more than it holds.
const SMALL: usize = 1024;

/// Adds a small piece to the last one, if that is small too; whether it did.
pub fn join(pieces: &mut VecDeque<Bytes>, piece: &[u8]) -> bool {
    if piece.len() < SMALL
        && let Some(last) = pieces.back_mut()
        && last.len() < SMALL
    {
        *last = [&last[..], piece].concat().into();
        return true;
    }
    false
}
