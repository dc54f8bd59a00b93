//! A connection inside of the process, whose two ends are on one worker.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, duplex};

use crate::budget::{Account, Charge, Shed};
use crate::reset::Reset;

/// How much one end may write before the other reads.
const BUFFER: usize = 16 << 10;

/// One of two ends.
pub struct PairEnd {
    io: DuplexStream,
    /// What comes after a reset is no orderly end.
    was_reset: Rc<Cell<bool>>,
    /// What both may hold.
    _charge: Rc<Charge>,
}

/// Both ends; `account` pays for what is between them.
pub fn pair(account: &Rc<Account>) -> Result<(PairEnd, PairEnd), Shed> {
    let charge = Rc::new(account.charge(2 * BUFFER)?);
    let (one, other) = duplex(BUFFER);
    let was_reset = Rc::new(Cell::new(false));
    let end = |io| PairEnd { io, was_reset: was_reset.clone(), _charge: charge.clone() };
    Ok((end(one), end(other)))
}

impl Reset for PairEnd {
    fn reset(&mut self) {
        self.was_reset.set(true);
    }
}

impl AsyncRead for PairEnd {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buffer))?;
        match buffer.filled().len() == before && self.was_reset.get() {
            true => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            false => Poll::Ready(Ok(())),
        }
    }
}

impl AsyncWrite for PairEnd {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::budget::Payer;
    use crate::state::NodeState;
    use crate::worker::Worker;

    #[tokio::test(flavor = "local")]
    async fn an_end_is_orderly_unless_it_was_reset() {
        for resets in [false, true] {
            let worker = Worker::idle("n1", NodeState::default());
            let account = worker.local.accounts.of(&Payer::Outside);
            let (mut one, mut other) = pair(&account).unwrap();
            one.write_all(b"a").await.unwrap();
            if resets {
                one.reset();
            }
            drop(one);
            let mut got = Vec::new();
            let ended = other.read_to_end(&mut got).await.map_err(|error| error.kind());
            let expected = if resets { Err(io::ErrorKind::ConnectionReset) } else { Ok(1) };
            assert_eq!((ended, &*got), (expected, &b"a"[..]));
            assert_eq!(other.write_all(b"b").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        }
    }
}
