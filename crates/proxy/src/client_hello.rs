//! What a TLS client says first, on ports whose TLSRoutes go by the server that it names (SNI: RFC 6066, section 3).
//!
//! It is looked at and passed on as it came, in whatever records and segments that was: nothing is answered, and nothing
//! could be decrypted here. rustls takes it apart.

use std::rc::Rc;

use bytes::BufMut;
use rustls::server::Acceptor;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::{Instant, sleep_until};

use crate::budget::{Account, Charge};
use crate::reason::Reason;
use crate::worker::Worker;

/// A client has said enough by then: it takes some hundred bytes, or two thousand with a key that quantum computers leave alone.
const MAX_CLIENT_HELLO: usize = 16 << 10;
/// How much of it is read at a time.
const PIECE: usize = 2 << 10;

/// What came of it.
pub(crate) enum ClientHello {
    /// All of it is there. The server that it names, if it does, in lower case.
    Whole(Option<String>),
    /// There is none, for that reason.
    Refused(Reason, String),
    /// The client went away before it said a word, or we do.
    Gone,
}

/// Reads on, until `first` has all of it. Who takes longer for that than for the head of a request is refused.
pub(crate) async fn read<IO>(
    worker: &Rc<Worker>,
    account: &Rc<Account>,
    io: &mut IO,
    first: &mut Vec<u8>,
) -> ClientHello
where
    IO: AsyncRead + Unpin,
{
    let deadline = worker.local.bounds.deadlines.head;
    let end = Instant::now() + deadline;
    let mut acceptor = Acceptor::default();
    let mut charge = Charge::on(account.clone());
    loop {
        let before = first.len();
        let room = PIECE.min(MAX_CLIENT_HELLO - before);
        if room == 0 {
            let message =
                format!("the client's first message of TLS does not end within {MAX_CLIENT_HELLO} bytes");
            return ClientHello::Refused(Reason::BadRequest, message);
        }
        // It is there twice.
        if let Err(shed) = charge.resize(2 * (before + room)) {
            return ClientHello::Refused(
                Reason::Shed(shed),
                "there is no memory for its first message".to_owned(),
            );
        }
        first.reserve(room);
        let mut piece = (&mut *first).limit(room);
        tokio::select! {
            biased;
            read = io.read_buf(&mut piece) => match read {
                Ok(1..) => {}
                Ok(0) if before > 0 => {
                    let message = "the client has closed its side before its first message of TLS was whole";
                    return ClientHello::Refused(Reason::BadRequest, message.to_owned());
                }
                Ok(0) | Err(_) => return ClientHello::Gone,
            },
            () = sleep_until(end) => {
                let message = format!("the client did not say within {deadline:?} which server it wants (SNI)");
                return ClientHello::Refused(Reason::RequestTimeout, message);
            }
            () = worker.local.drain.wait(), if before == 0 => return ClientHello::Gone,
        }
        match parse(&mut acceptor, &first[before..]) {
            Ok(None) => {}
            Ok(Some(server)) => return ClientHello::Whole(server),
            Err(problem) => {
                let message = format!("what the client sends does not begin like TLS: {problem}");
                return ClientHello::Refused(Reason::BadRequest, message);
            }
        }
    }
}

/// What more of it says: `None`, that it goes on.
fn parse(acceptor: &mut Acceptor, mut piece: &[u8]) -> Result<Option<Option<String>>, String> {
    while !piece.is_empty() {
        acceptor.read_tls(&mut piece).map_err(|error| error.to_string())?;
    }
    let accepted = acceptor.accept().map_err(|(error, _)| error.to_string())?;
    // Host names have no dot at their end, where those that are absolute do.
    let server = |name: &str| name.strip_suffix('.').unwrap_or(name).to_owned();
    Ok(accepted.map(|accepted| accepted.client_hello().server_name().map(server)))
}
