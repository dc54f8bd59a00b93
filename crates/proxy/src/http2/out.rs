//! What of a connection is to be written, and how much of it its peer has not asked for.

use std::collections::VecDeque;

use super::core::OUT_LIMIT;

/// Heads of that size are kept apart from what the peer makes us say.
const LARGE_HEAD: usize = 4 << 10;
/// Buffers that grew beyond that are given back after a while.
const OUT_KEPT: usize = 8 << 10;

/// What is to be written.
#[derive(Default)]
pub(super) struct Out {
    pub bytes: Vec<u8>,
    written: usize,
    /// What was written in all.
    pub total: u64,
    /// The large heads, and those of interim answers, among what is to be written: where each ends, counted as `total`
    /// is, and its length.
    heads: VecDeque<(u64, usize)>,
    pub heads_length: usize,
}

impl Out {
    pub(super) fn len(&self) -> usize {
        self.bytes.len() - self.written
    }

    pub(super) fn pending(&self) -> &[u8] {
        &self.bytes[self.written..]
    }

    /// Gives back what a busy time took.
    pub(super) fn shrink(&mut self) {
        if self.bytes.is_empty() && self.bytes.capacity() > OUT_KEPT {
            (self.bytes, self.heads) = Default::default();
        }
    }

    /// A head of that length was put.
    pub(super) fn put_head(&mut self, length: usize) {
        if length >= LARGE_HEAD {
            self.keep_apart(length);
        }
    }

    /// That head was an interim answer's, which is kept apart if it is small, too.
    pub(super) fn put_interim_head(&mut self, length: usize) {
        if length < LARGE_HEAD {
            self.keep_apart(length);
        }
    }

    fn keep_apart(&mut self, length: usize) {
        self.heads.push_back((self.total + self.len() as u64, length));
        self.heads_length += length;
    }

    pub(super) fn wrote(&mut self, count: usize) {
        self.total += count as u64;
        while let Some(&(end, length)) = self.heads.front()
            && end <= self.total
        {
            self.heads.pop_front();
            self.heads_length -= length;
        }
        self.written += count;
        if self.written == self.bytes.len() {
            self.written = 0;
            self.bytes.clear();
        } else if self.written > OUT_LIMIT.max(self.bytes.len() / 2) {
            self.bytes.drain(..self.written);
            self.written = 0;
        }
    }
}
