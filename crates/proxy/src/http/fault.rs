//! What a caller did wrong with the body of its request, as far as a broken body tells.

use std::io;

use crate::budget::Shed;
use crate::http::body::BodyError;
use crate::http::copied::CopyBroke;
use crate::http::http1::{Cut, Malformed, TRAILERS_TOO_LARGE};
use crate::http::reply::HEADERS_TOO_LARGE;
use crate::http2;
use crate::progress::Stalled;
use crate::reason::Reason;

/// What to answer, and what to say of it. `None`: the body was not broken by who sends it.
pub(crate) fn of(error: &BodyError) -> Option<(Reason, &'static str)> {
    if is_stall(&**error) {
        return Some((Reason::RequestTimeout, "the client does not go on with the body of its request"));
    }
    if let Some(broke) = error.downcast_ref::<CopyBroke>() {
        return Some(of_copy(*broke));
    }
    if let Some(shed) = error.downcast_ref::<Shed>() {
        return Some((Reason::Shed(*shed), shed.message()));
    }
    if let Some(malformed) = error.downcast_ref::<Malformed>() {
        return Some(match *malformed {
            TRAILERS_TOO_LARGE => (Reason::HeadersTooLarge, HEADERS_TOO_LARGE),
            Malformed(why) => (Reason::BadRequest, why),
        });
    }
    match error.downcast_ref::<http2::Error>() {
        Some(http2::Error::Oversized) => return Some((Reason::HeadersTooLarge, HEADERS_TOO_LARGE)),
        Some(_) => return Some((Reason::BadRequest, "the client broke its request off")),
        None => {}
    }
    (error.is::<Cut>() || error.is::<io::Error>()).then_some((Reason::BadRequest, Cut::MESSAGE))
}

/// The same of a copy that broke off.
pub(crate) fn of_copy(broke: CopyBroke) -> (Reason, &'static str) {
    let reason = match broke {
        CopyBroke::Behind => Reason::MirrorBehind,
        CopyBroke::NotRead => Reason::BadRequest,
    };
    (reason, broke.message())
}

/// Whether a body broke because its sender did not go on with it.
fn is_stall(error: &(dyn std::error::Error + Send + Sync + 'static)) -> bool {
    error.is::<Stalled>() || matches!(error.downcast_ref(), Some(http2::Error::Stalled))
}
