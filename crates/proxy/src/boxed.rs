//! Futures of requests on the heap.

use std::future::Future;
use std::pin::Pin;

/// What `make` makes, on the heap. `Box::pin` would make it on the stack and copy all of its room (4 KiB for a request),
/// which is not in use yet; here an optimized build writes what is captured where it stays (bench/instructions.toml has the difference).
pub(crate) fn boxed<F: Future>(make: impl FnOnce() -> F) -> Pin<Box<F>> {
    let room = Box::new_uninit();
    Box::into_pin(Box::write(room, make()))
}
