//! With which code streams are reset that are dropped before their end.

use std::cell::Cell;

use super::error::{Error, ErrorCode};

thread_local! {
    /// What those say that are dropped now and were opened here.
    static CODE: Cell<ErrorCode> = const { Cell::new(ErrorCode::CANCEL) };
}

/// Drops what serves a request that failed so at its own door. What it has opened further up is reset with the
/// client's own code, if there is one.
pub fn give_up(error: &Error, drop: impl FnOnce()) {
    struct Restore;
    impl Drop for Restore {
        fn drop(&mut self) {
            CODE.set(ErrorCode::CANCEL);
        }
    }
    CODE.set(error.code().unwrap_or(ErrorCode::CANCEL));
    let _restore = Restore;
    drop();
}

/// The code for a stream that is dropped now. What a server did not finish has broken further up: CANCEL and
/// NO_ERROR would be an end in order to some clients.
pub(super) fn code(server: bool) -> ErrorCode {
    if server { ErrorCode::INTERNAL_ERROR } else { CODE.get() }
}

/// The code for a stream whose body broke: what was said where it comes from, or that it is incomplete.
pub(super) fn code_for(error: &(dyn std::error::Error + 'static), server: bool) -> ErrorCode {
    let said = error.downcast_ref().and_then(Error::code);
    said.unwrap_or(if server { ErrorCode::INTERNAL_ERROR } else { ErrorCode::CANCEL })
}
