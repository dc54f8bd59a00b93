//! Buffers that the connections of a worker share: what is used only within one poll, or from one message to
//! the next, need not be there for every connection that waits.

use std::cell::{Cell, RefCell};

use http::HeaderMap;

/// How much one read takes in at most.
pub(super) const SCRATCH: usize = 64 << 10;
/// Buffers and header maps that wait to be used again.
const KEPT: usize = 16;
/// Buffers that have grown beyond that are not kept.
const MAX_KEPT: usize = 16 << 10;
const FIRST: usize = 2 << 10;

thread_local! {
    static READ: Cell<Option<Box<[u8]>>> = const { Cell::new(None) };
    static WRITE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
    static HEADERS: RefCell<Vec<HeaderMap>> = const { RefCell::new(Vec::new()) };
}

/// Lends a buffer of [`SCRATCH`] bytes. What is in it afterwards is lost.
pub(super) fn with_scratch<T>(act: impl FnOnce(&mut [u8]) -> T) -> T {
    READ.with(|kept| {
        let mut scratch = kept.take().unwrap_or_else(|| vec![0; SCRATCH].into_boxed_slice());
        let result = act(&mut scratch);
        kept.set(Some(scratch));
        result
    })
}

/// An empty buffer to write to.
pub(super) fn take() -> Vec<u8> {
    WRITE.with_borrow_mut(Vec::pop).unwrap_or_else(|| Vec::with_capacity(FIRST))
}

/// Takes a buffer back.
pub(super) fn give(mut buffer: Vec<u8>) {
    WRITE.with_borrow_mut(|kept| {
        if buffer.capacity() > 0 && buffer.capacity() <= MAX_KEPT && kept.len() < KEPT {
            buffer.clear();
            kept.push(buffer);
        }
    });
}

/// An empty header map, with room for what most heads have.
pub(super) fn take_headers() -> HeaderMap {
    HEADERS.with_borrow_mut(Vec::pop).unwrap_or_else(|| HeaderMap::with_capacity(12))
}

/// Takes a header map back, whatever message it was of.
pub(crate) fn give_headers(mut headers: HeaderMap) {
    HEADERS.with_borrow_mut(|kept| {
        if headers.capacity() > 0 && headers.capacity() <= 64 && kept.len() < KEPT {
            headers.clear();
            kept.push(headers);
        }
    });
}
