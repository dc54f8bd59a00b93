//! Interim answers (RFC 9110, section 15.2) on their way to the peer. How many an application sends is not the peer's
//! doing, nor how slowly a peer takes them a fault of its own: while much waits to be written already, they wait for
//! their turn, and are in no way answers that the peer makes us give.

use std::collections::{BTreeMap, VecDeque};

use http::StatusCode;
use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::core::Core;
use super::frame::HEADER;
use crate::budget::{Charge, cost};

/// Those that wait, by the stream that they are for.
#[derive(Default)]
pub(super) struct Interims(BTreeMap<u32, VecDeque<WaitingInterim>>);

struct WaitingInterim {
    status: StatusCode,
    headers: HeaderMap,
    _charge: Charge,
}

impl Interims {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Nobody waits for those of a stream any more.
    pub(super) fn forget(&mut self, id: u32) {
        self.0.remove(&id);
    }
}

impl Core {
    /// Sends an interim answer, unless the stream is over; later, where there is no room now. As they are optional, those
    /// are not sent at all for which there is no memory.
    pub(super) fn send_interim(&mut self, id: u32, status: StatusCode, headers: &HeaderMap) {
        if self.failure(id).is_some() {
            return;
        }
        // One that says nothing takes no room, and its client may wait for it (`100 Continue`).
        let fits = headers.is_empty() || self.out.len() < self.out_limit();
        if fits && !self.interims.0.contains_key(&id) {
            return self.put_interim(id, status, headers);
        }
        let size =
            |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len() + cost::FIELD;
        let Ok(charge) = self.payer.another(headers.iter().map(size).sum()) else { return };
        let held = WaitingInterim { status, headers: headers.clone(), _charge: charge };
        self.interims.0.entry(id).or_default().push_back(held);
    }

    /// Sends what has waited, as far as there is room.
    #[cold]
    pub(super) fn send_waiting_interims(&mut self) {
        while self.out.len() < self.out_limit()
            && let Some(mut first) = self.interims.0.first_entry()
        {
            let id = *first.key();
            let next = first.get_mut().pop_front();
            if first.get().is_empty() {
                first.remove();
            }
            if let Some(WaitingInterim { status, headers, .. }) = next {
                self.put_interim(id, status, &headers);
            }
        }
    }

    /// Sends all that has waited for a stream whose final answer comes now.
    #[cold]
    pub(super) fn finish_interims(&mut self, id: u32) {
        for WaitingInterim { status, headers, .. } in self.interims.0.remove(&id).into_iter().flatten() {
            self.put_interim(id, status, &headers);
        }
    }

    fn put_interim(&mut self, id: u32, status: StatusCode, headers: &HeaderMap) {
        let before = self.out.len() + HEADER;
        self.send_head(id, status, headers, false);
        self.out.put_interim_head(self.out.len() - before);
    }
}
