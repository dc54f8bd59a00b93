//! Frames about the connection and about streams, which carry nothing of a message (RFC 9113, sections 6.4
//! to 6.9).

use super::core::Core;
use super::error::{ErrorCode, Violation};
use super::frame::{self, Head, MAX_WINDOW, flag, kind, setting, u32_at};
use super::receive::RESETS;
use super::stream::ResetCause;

/// Settings in one frame. There are eight.
pub(super) const MAX_SETTINGS: usize = 64;

impl Core {
    pub(super) fn rst_stream(&mut self, head: &Head, payload: &[u8]) -> Result<(), Violation> {
        let (Some(code), 4) = (u32_at(payload), payload.len()) else {
            return Err(Violation::new(ErrorCode::FRAME_SIZE_ERROR, "RST_STREAM has a wrong length"));
        };
        if head.stream == 0 {
            return Err(Violation::protocol("RST_STREAM came on stream 0"));
        }
        self.check_not_idle(head.stream)?;
        self.cut.remove(&head.stream);
        let most = self.most_streams();
        let Some(stream) = self.streams.get_mut(&head.stream) else { return Ok(()) };
        let early = self.server && !stream.is_closed() && !stream.answered;
        if !stream.is_closed() {
            // What came before it can still be read.
            stream.reset = Some(ResetCause::ByPeer(ErrorCode(code)));
            // A refusal of what is more than the peer takes at a time: what it takes may have become less
            // after the stream was opened, and streams may have ended since.
            let beside = stream.opened_as.max(self.open);
            if ErrorCode(code) == ErrorCode::REFUSED_STREAM && stream.opened_as > 0 && beside >= most {
                stream.reset = Some(ResetCause::Full);
                self.refused_beside = Some(self.open - 1).filter(|others| *others > 0);
            }
        }
        self.unsent -= stream.discard_unsent();
        stream.wake_receiver();
        stream.wake_sender();
        if let Some(place) = self.accepted.iter().position(|incoming| incoming.id == head.stream) {
            self.accepted.remove(place);
            (stream.receiver_held, stream.sender_held) = (false, false);
            let unread: usize = stream.data.drain(..).map(|data| data.len()).sum();
            self.read(0, unread);
        }
        self.forget_if_done(head.stream);
        if early && !self.resets.take(self.now) {
            return Err(RESETS);
        }
        Ok(())
    }

    pub(super) fn settings(&mut self, head: &Head, payload: &[u8]) -> Result<(), Violation> {
        if head.stream != 0 {
            return Err(Violation::protocol("SETTINGS came on a stream"));
        }
        if head.has(flag::ACK) && payload.is_empty() {
            self.settings_confirmed();
            return Ok(());
        }
        if head.has(flag::ACK) || !payload.len().is_multiple_of(6) {
            return Err(Violation::new(ErrorCode::FRAME_SIZE_ERROR, "SETTINGS has a wrong length"));
        }
        if self.settings_seen {
            self.mistake("it changes its settings over and over")?;
        } else {
            self.settings_seen = true;
            self.peer.max_streams = usize::MAX;
        }
        self.refused_beside = None;
        if payload.len() / 6 > MAX_SETTINGS {
            return Err(Violation::new(
                ErrorCode::ENHANCE_YOUR_CALM,
                "it sends the same settings over and over",
            ));
        }
        let mut window = None;
        for setting in payload.chunks_exact(6) {
            let name = u16::from_be_bytes([setting[0], setting[1]]);
            let value = u32::from_be_bytes([setting[2], setting[3], setting[4], setting[5]]);
            self.setting(name, value, &mut window)?;
        }
        if let Some(window) = window {
            self.initial_window(window)?;
        }
        self.call_next();
        self.control_room()?;
        frame::head(&mut self.out.bytes, 0, kind::SETTINGS, flag::ACK, 0);
        Ok(())
    }

    /// Takes one setting; a change of the initial window is for later, as it concerns all streams.
    fn setting(&mut self, name: u16, value: u32, window: &mut Option<i64>) -> Result<(), Violation> {
        match name {
            setting::HEADER_TABLE_SIZE => self.encoder.set_table_size(value as usize),
            setting::ENABLE_PUSH if value > 1 || (value == 1 && !self.server) => {
                return Err(Violation::protocol("ENABLE_PUSH has a value that it cannot have"));
            }
            setting::MAX_CONCURRENT_STREAMS => self.peer.max_streams = value as usize,
            setting::ENABLE_CONNECT_PROTOCOL => self.peer.extended_connect = value == 1,
            setting::MAX_HEADER_LIST_SIZE => self.peer.header_list = value as usize,
            setting::INITIAL_WINDOW_SIZE => {
                if i64::from(value) > MAX_WINDOW {
                    return Err(Violation::new(
                        ErrorCode::FLOW_CONTROL_ERROR,
                        "an initial window is too large",
                    ));
                }
                *window = Some(i64::from(value));
            }
            setting::MAX_FRAME_SIZE => {
                if !(frame::DEFAULT_FRAME as u32..1 << 24).contains(&value) {
                    return Err(Violation::protocol("MAX_FRAME_SIZE has a value that it cannot have"));
                }
                self.peer.max_frame = value as usize;
            }
            _ => {}
        }
        Ok(())
    }

    fn initial_window(&mut self, window: i64) -> Result<(), Violation> {
        let change = window - self.peer.initial_window;
        self.peer.initial_window = window;
        for stream in self.streams.values_mut() {
            stream.send_window += change;
            if stream.send_window > MAX_WINDOW {
                return Err(Violation::new(ErrorCode::FLOW_CONTROL_ERROR, "a window is too large"));
            }
        }
        let all: Vec<u32> = self.streams.keys().copied().collect();
        for id in all {
            self.send_unsent(id);
        }
        Ok(())
    }

    pub(super) fn take_ping(&mut self, head: &Head, payload: &[u8]) -> Result<(), Violation> {
        let Ok(payload) = <[u8; 8]>::try_from(payload) else {
            return Err(Violation::new(ErrorCode::FRAME_SIZE_ERROR, "PING has a wrong length"));
        };
        if head.stream != 0 {
            return Err(Violation::protocol("PING came on a stream"));
        }
        if head.has(flag::ACK) {
            self.pong(payload);
            return Ok(());
        }
        // Peers that measure a path send one each round trip. Answers that are not read are bounded.
        self.control_room()?;
        frame::ping(&mut self.out.bytes, true, payload);
        Ok(())
    }

    pub(super) fn go_away(&mut self, head: &Head, payload: &[u8]) -> Result<(), Violation> {
        let (Some(last), Some(code)) = (u32_at(payload), payload.get(4..).and_then(u32_at)) else {
            return Err(Violation::new(ErrorCode::FRAME_SIZE_ERROR, "GOAWAY has a wrong length"));
        };
        if head.stream != 0 {
            return Err(Violation::protocol("GOAWAY came on a stream"));
        }
        self.peer_going = true;
        self.call_next();
        if !self.server {
            let last = last & 0x7fff_ffff;
            for (_, stream) in self.streams.iter_mut().filter(|(id, s)| **id > last && !s.is_closed()) {
                stream.reset = Some(ResetCause::NotProcessed);
                self.unsent -= stream.discard_unsent();
                stream.wake_receiver();
                stream.wake_sender();
            }
            let over = self.streams.iter().filter(|(_, stream)| stream.is_closed());
            for id in over.map(|(id, _)| *id).collect::<Vec<u32>>() {
                self.forget_if_done(id);
            }
        }
        if code != ErrorCode::NO_ERROR.0 {
            // What it has begun to answer it may still finish.
            self.peer_code = Some(ErrorCode(code));
        }
        Ok(())
    }

    pub(super) fn window_update(&mut self, head: &Head, payload: &[u8]) -> Result<(), Violation> {
        let (Some(by), 4) = (u32_at(payload), payload.len()) else {
            return Err(Violation::new(ErrorCode::FRAME_SIZE_ERROR, "WINDOW_UPDATE has a wrong length"));
        };
        let by = i64::from(by & 0x7fff_ffff);
        if head.stream == 0 {
            self.send_window += by;
            if by == 0 {
                return Err(Violation::protocol("a window grows by nothing"));
            }
            if self.send_window > MAX_WINDOW {
                return Err(Violation::new(
                    ErrorCode::FLOW_CONTROL_ERROR,
                    "the connection's window is too large",
                ));
            }
            self.give_turns();
            return Ok(());
        }
        self.check_not_idle(head.stream)?;
        let Some(stream) = self.streams.get_mut(&head.stream) else { return Ok(()) };
        stream.send_window += by;
        if by == 0 {
            return self.fail(head.stream, ErrorCode::PROTOCOL_ERROR);
        }
        if stream.send_window > MAX_WINDOW {
            return self.fail(head.stream, ErrorCode::FLOW_CONTROL_ERROR);
        }
        self.send_unsent(head.stream);
        Ok(())
    }
}
