//! What is sent on streams: heads, data as far as the windows reach, and the turns of those that wait.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, Bytes};
use http::{HeaderMap, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::io::poll_read_buf;

use super::core::Core;
use super::error::{Error, ErrorCode};
use super::fields;
use super::frame::{self, HEADER, flag, kind};
use super::hpack::Encoder;
use super::stream::{Finish, Way, register};
use crate::pieces;

/// What one stream, and all streams of a connection, may have waiting for its turn.
const UNSENT_LIMIT: usize = 128 << 10;
const ALL_UNSENT_LIMIT: usize = 8 << 20;
/// The most that is written in one DATA frame, whatever the peer takes.
const MAX_FRAME: usize = 64 << 10;
/// Pieces that leave in one write.
const MAX_SLICES: usize = 32;

impl Core {
    /// Writes a header block, in as many frames as it needs. `encode` writes the fields.
    pub(super) fn send_block(&mut self, id: u32, end: bool, encode: impl FnOnce(&mut Encoder, &mut Vec<u8>)) {
        let out = &mut self.out.bytes;
        let start = out.len();
        frame::head(out, 0, kind::HEADERS, if end { flag::END_STREAM } else { 0 }, id);
        self.encoder.begin(out);
        encode(&mut self.encoder, out);
        let length = out.len() - start - frame::HEADER;
        if length <= self.peer.max_frame {
            let [_, a, b, c] = (length as u32).to_be_bytes();
            out[start..start + 3].copy_from_slice(&[a, b, c]);
            out[start + 4] |= flag::END_HEADERS;
        } else {
            let block = out.split_off(start + frame::HEADER);
            out.truncate(start);
            let last = block.len().div_ceil(self.peer.max_frame) - 1;
            for (number, part) in block.chunks(self.peer.max_frame).enumerate() {
                let mut flags = if number == last { flag::END_HEADERS } else { 0 };
                if number == 0 && end {
                    flags |= flag::END_STREAM;
                }
                let kind = if number == 0 { kind::HEADERS } else { kind::CONTINUATION };
                frame::head(out, part.len(), kind, flags, id);
                out.extend_from_slice(part);
            }
        }
        self.out.put_head(length);
        if end {
            self.sent_end(id);
        }
        self.wake_driver();
    }

    /// Writes the head of an answer.
    pub(super) fn send_head(&mut self, id: u32, status: StatusCode, headers: &HeaderMap, end: bool) {
        self.send_block(id, end, |encoder, out| {
            encoder.status(status, out);
            fields::encode_headers(headers, encoder, out);
        });
    }

    pub(super) fn send_trailers(&mut self, id: u32, trailers: &HeaderMap) -> Result<(), Error> {
        if let Some(failure) = self.failure(id) {
            return Err(failure);
        }
        let limit = self.peer.header_list;
        if !self.server && limit < self.limits.header_list as usize && fields::list_size(trailers) > limit {
            self.reset(id, ErrorCode::CANCEL);
            return Err(Error::TooLargeForPeer(limit));
        }
        match self.streams.get_mut(&id) {
            Some(stream) if stream.unsent_length > 0 => {
                stream.finish = Some(Finish::Trailers(Box::new(trailers.clone())));
                stream.sending = Way::Ended;
            }
            _ => self.write_trailers(id, trailers),
        }
        Ok(())
    }

    /// Resets a stream because what was to be sent on it broke. A server sends what came before: so much of an answer
    /// is the client's.
    pub(super) fn break_off(&mut self, id: u32, code: ErrorCode) {
        match self.streams.get_mut(&id) {
            Some(stream) if self.server && stream.unsent_length > 0 && !stream.is_closed() => {
                stream.finish = Some(Finish::Reset(code));
                stream.sending = Way::Ended;
            }
            _ => self.reset(id, code),
        }
    }

    fn write_trailers(&mut self, id: u32, trailers: &HeaderMap) {
        self.send_block(id, true, |encoder, out| fields::encode_headers(trailers, encoder, out));
    }

    /// Waits until something may be sent on a stream; gives how much.
    pub(super) fn poll_room(&mut self, id: u32, cx: &Context<'_>) -> Poll<Result<usize, Error>> {
        if let Some(failure) = self.failure(id) {
            return Poll::Ready(Err(failure));
        }
        let Some(stream) = self.streams.get_mut(&id) else { return Poll::Pending };
        // Also for resets, which may come at any time.
        register(&mut stream.sender, cx);
        let window = usize::try_from(stream.send_window).unwrap_or(0).saturating_sub(stream.unsent_length);
        if window == 0 {
            return Poll::Pending;
        }
        let limit = self.out_limit();
        let Some(stream) = self.streams.get_mut(&id) else { return Poll::Pending };
        if stream.unsent_length == 0 && self.send_window > 0 && self.out.len() < limit {
            return Poll::Ready(Ok(window.min(self.send_window as usize).min(limit)));
        }
        // Otherwise the buffer has not been offered to the socket yet, and is free in a moment.
        let blocked = self.socket_full || self.send_window <= 0;
        if blocked && stream.unsent_length < UNSENT_LIMIT && self.unsent < ALL_UNSENT_LIMIT {
            let room = window.min(UNSENT_LIMIT - stream.unsent_length);
            if stream.admits_spare(room) {
                return Poll::Ready(Ok(room));
            }
        }
        self.await_turn(id);
        Poll::Pending
    }

    /// Sends what there is room for, and leaves the rest in `data`.
    pub(super) fn send_data(&mut self, id: u32, data: &mut Bytes, end: bool) {
        if self.failure(id).is_some() {
            return data.clear();
        }
        let waits = self.streams.get_mut(&id).is_none_or(|stream| {
            if std::mem::take(&mut stream.at_hand) > 0 {
                stream.took(0);
            }
            stream.unsent_length > 0
        });
        if !waits && self.write_data(id, data, end) {
            self.sent_end(id);
        }
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if stream.sending == Way::Ended {
            return;
        }
        if !data.is_empty() {
            let window = usize::try_from(stream.send_window).unwrap_or(0);
            let room = window.min(UNSENT_LIMIT).saturating_sub(stream.unsent_length).min(data.len());
            let kept = data.split_to(if stream.admits_spare(room) { room } else { 0 });
            if !kept.is_empty() {
                stream.unsent_length += kept.len();
                self.unsent += kept.len();
                if !pieces::join(&mut stream.unsent, &kept) {
                    stream.unsent.push_back(kept);
                }
                self.await_turn(id);
            }
        }
        if end
            && data.is_empty()
            && let Some(stream) = self.streams.get_mut(&id)
        {
            stream.sending = Way::Ended;
            stream.finish = Some(Finish::End);
            if stream.unsent_length == 0 {
                self.send_unsent(id);
            }
        }
    }

    /// Writes as much as the windows and the buffer take; whether that was the stream's end.
    fn write_data(&mut self, id: u32, data: &mut Bytes, end: bool) -> bool {
        let limit = self.out_limit();
        let Some(stream) = self.streams.get_mut(&id) else { return false };
        let most = self.peer.max_frame.min(MAX_FRAME);
        let mut ended = false;
        loop {
            let room = stream.send_window.min(self.send_window).max(0) as usize;
            let length = data.len().min(room).min(most);
            let blocked = length == 0 || self.out.len() >= limit;
            if if data.is_empty() { !end } else { blocked } {
                break;
            }
            ended = end && length == data.len();
            let out = &mut self.out.bytes;
            frame::head(out, length, kind::DATA, if ended { flag::END_STREAM } else { 0 }, id);
            out.extend_from_slice(&data[..length]);
            data.advance(length);
            stream.send_window -= length as i64;
            stream.sent += 1;
            self.send_window -= length as i64;
            if data.is_empty() {
                break;
            }
        }
        self.wake_driver();
        ended
    }

    /// Sends what waits on a stream, as far as it may; then wakes its sender.
    pub(super) fn send_unsent(&mut self, id: u32) {
        loop {
            let Some(stream) = self.streams.get_mut(&id) else { return };
            let Some(mut data) = stream.unsent.pop_front() else { break };
            let before = data.len();
            self.write_data(id, &mut data, false);
            let sent = before - data.len();
            self.unsent -= sent;
            let Some(stream) = self.streams.get_mut(&id) else { return };
            stream.unsent_length -= sent;
            if !data.is_empty() {
                stream.unsent.push_front(data);
                if stream.send_window > 0 {
                    self.await_turn(id);
                }
                break;
            }
        }
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.took(0);
        stream.wake_sender();
        if stream.unsent_length == 0
            && let Some(finish) = stream.finish.take()
        {
            match finish {
                Finish::End => {
                    frame::head(&mut self.out.bytes, 0, kind::DATA, flag::END_STREAM, id);
                    self.sent_end(id);
                }
                Finish::Trailers(trailers) => self.write_trailers(id, &trailers),
                Finish::Reset(code) => {
                    stream.sending = Way::Open;
                    self.reset(id, code);
                }
            }
            self.wake_driver();
        }
    }

    fn await_turn(&mut self, id: u32) {
        if let Some(stream) = self.streams.get_mut(&id)
            && !stream.waits_for_connection
        {
            stream.waits_for_connection = true;
            self.waiting.push_back(id);
            // Streams end without leaving the line.
            if self.waiting.len() > 2 * self.streams.len() + 64 {
                self.waiting.retain(|id| self.streams.contains_key(id));
            }
        }
    }

    fn sent_end(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.sending = Way::Ended;
        if self.server && stream.receiving == Way::Open && !stream.receiver_held {
            // Nobody will read the rest of the request, and the peer need not send it.
            return self.reset(id, ErrorCode::NO_ERROR);
        }
        self.forget_if_done(id);
    }

    /// Gives the streams that wait for the connection their turns, as far as it goes.
    pub(super) fn give_turns(&mut self) {
        if !self.interims.is_empty() {
            self.send_waiting_interims();
        }
        self.offer_room();
        for _ in 0..self.waiting.len() {
            if self.send_window <= 0 || self.out.len() >= self.out_limit() {
                return;
            }
            let Some(id) = self.waiting.pop_front() else { return };
            if let Some(stream) = self.streams.get_mut(&id) {
                stream.waits_for_connection = false;
                self.send_unsent(id);
            }
        }
    }

    /// Nothing can be written for now. Streams that wait for the buffer may buffer something themselves.
    pub(super) fn socket_is_full(&mut self) {
        if !std::mem::replace(&mut self.socket_full, true) {
            for id in &self.waiting {
                if let Some(stream) = self.streams.get_mut(id) {
                    stream.wake_sender();
                }
            }
        }
    }

    /// Reads once from `reader`, at most `room` bytes, and sends that; 0 at the reader's end.
    pub(super) fn read_data<R: AsyncRead + Unpin>(
        &mut self,
        id: u32,
        room: usize,
        cx: &mut Context<'_>,
        reader: &mut R,
    ) -> Poll<io::Result<usize>> {
        let (most, limit) = (room.min(self.peer.max_frame).min(MAX_FRAME), self.out_limit());
        let Some(stream) = self.streams.get_mut(&id) else { return Poll::Pending };
        if stream.unsent_length > 0 || self.send_window < most as i64 || self.out.len() >= limit {
            let mut data = Vec::with_capacity(most);
            let count = ready!(poll_read_buf(Pin::new(reader), cx, &mut (&mut data).limit(most)))?;
            self.send_data(id, &mut data.into(), false);
            return Poll::Ready(Ok(count));
        }
        // Into its place, behind a head that says how long it is.
        let out = &mut self.out.bytes;
        let start = out.len();
        out.reserve(HEADER + most);
        frame::head(out, 0, kind::DATA, 0, id);
        let read = poll_read_buf(Pin::new(reader), cx, &mut (&mut *out).limit(most));
        let Poll::Ready(Ok(count @ 1..)) = read else {
            out.truncate(start);
            return read;
        };
        let [_, a, b, c] = (count as u32).to_be_bytes();
        out[start..start + 3].copy_from_slice(&[a, b, c]);
        stream.send_window -= count as i64;
        self.send_window -= count as i64;
        self.wake_driver();
        Poll::Ready(Ok(count))
    }

    /// Writes once what has come on a stream to `writer`.
    pub(super) fn write_received<W: AsyncWrite + Unpin>(
        &mut self,
        id: u32,
        cx: &mut Context<'_>,
        writer: &mut W,
    ) -> Poll<io::Result<usize>> {
        let Some(stream) = self.streams.get_mut(&id) else { return Poll::Pending };
        let mut slices = [io::IoSlice::new(&[]); MAX_SLICES];
        let pieces = stream.data.len().min(MAX_SLICES);
        for (slice, piece) in slices.iter_mut().zip(&stream.data) {
            *slice = io::IoSlice::new(piece);
        }
        let count = if writer.is_write_vectored() {
            ready!(Pin::new(writer).poll_write_vectored(cx, &slices[..pieces]))?
        } else {
            ready!(Pin::new(writer).poll_write(cx, &slices[0]))?
        };
        if count == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        let mut left = count;
        while let Some(piece) = stream.data.front_mut().filter(|_| left > 0) {
            let taken = left.min(piece.len());
            piece.advance(taken);
            left -= taken;
            if piece.is_empty() {
                stream.data.pop_front();
            }
        }
        stream.took(count);
        self.read(id, count);
        Poll::Ready(Ok(count))
    }
}
