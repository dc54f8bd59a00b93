//! How many file descriptors this process may have. It takes as many as it is allowed to; the processes
//! that it starts get what it was started with, as some use select(2), which ends at 1024.

use std::io;
use std::sync::OnceLock;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// The soft and the hard limit that this process was started with, once they were changed.
static STARTED_WITH: OnceLock<(u64, u64)> = OnceLock::new();

/// Raises the soft limit to the hard one; gives what it is then.
pub fn raise() -> io::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
        let _ = STARTED_WITH.set((soft, hard));
    }
    Ok(hard)
}

/// The soft limit of now.
pub fn limit() -> io::Result<u64> {
    Ok(getrlimit(Resource::RLIMIT_NOFILE)?.0)
}

/// What a child process is to have, where that is not what it inherits: soft and hard limit.
pub(crate) fn of_children() -> Option<(u64, u64)> {
    STARTED_WITH.get().copied()
}
