//! What clients made with gRPC's C core (Python's among them) say as `:authority` on a Unix socket is the socket's path,
//! percent-encoded. A host may be so (RFC 3986, section 3.2.2); the crate `http` knows none, and h2 resets the stream. On a
//! socket of one host the name means nothing, so each `%` of it becomes a `-` before h2 reads it: of the same length, in
//! the header block (RFC 7541) and in the table that is made of it. All else goes through as it came.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, ReadBuf};

/// RFC 9113, section 3.4.
const PREFACE: usize = 24;
/// RFC 9113, section 4.1.
const FRAME_HEAD: usize = 9;
const HEADERS: u8 = 1;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
/// What h2 takes, as it asks for no more. It refuses what is longer.
const LONGEST_FRAME: usize = 16_384;
const READ: usize = 4096;

/// What a client sends on a connection.
pub(super) struct Authority {
    input: BytesMut,
    /// How much of the input goes through.
    passing: usize,
    /// How much of what is still to come does, too.
    to_pass: usize,
}

impl Authority {
    pub fn new() -> Self {
        Self { input: BytesMut::new(), passing: 0, to_pass: PREFACE }
    }

    pub fn poll_read(
        &mut self,
        stream: &mut (impl AsyncRead + Unpin),
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.passing == 0 {
            let mut chunk = [0; READ];
            let mut read = ReadBuf::new(&mut chunk);
            ready!(Pin::new(&mut *stream).poll_read(cx, &mut read))?;
            if read.filled().is_empty() {
                // What is left is half a frame, of which nobody will see the rest.
                return Poll::Ready(Ok(()));
            }
            self.take(read.filled());
        }
        let length = self.passing.min(out.remaining());
        out.put_slice(&self.input[..length]);
        self.input.advance(length);
        self.passing -= length;
        Poll::Ready(Ok(()))
    }

    fn take(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
        loop {
            let rest = self.input.len() - self.passing;
            let length = rest.min(self.to_pass);
            self.passing += length;
            self.to_pass -= length;
            let next = &mut self.input[self.passing..];
            let Some(&[high, middle, low, kind, flags]) = next.first_chunk() else { return };
            let length = FRAME_HEAD + (usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low));
            if kind == HEADERS && length <= FRAME_HEAD + LONGEST_FRAME {
                let Some(frame) = next.get_mut(..length) else { return };
                // What makes no sense is h2's to refuse.
                let _ = rewrite(&mut frame[FRAME_HEAD..], flags);
            }
            self.to_pass = length;
        }
    }
}

/// Rewrites the payload of HEADERS (RFC 9113, section 6.2). `None` where it ends within a field.
fn rewrite(payload: &mut [u8], flags: u8) -> Option<()> {
    let padded = usize::from(flags & PADDED != 0);
    let priority = if flags & PRIORITY != 0 { 5 } else { 0 };
    let mut block = Block { bytes: payload, at: padded + priority };
    while let Some(first) = block.bytes.get(block.at).copied() {
        match first {
            // RFC 7541, section 6: in a table; a literal that goes into it; the table's size; other literals.
            0x80.. => _ = block.integer(7)?,
            0x40.. => block.literal(6)?,
            0x20.. => _ = block.integer(5)?,
            _ => block.literal(4)?,
        }
    }
    Some(())
}

/// A header block, and where we are in it.
struct Block<'a> {
    bytes: &'a mut [u8],
    at: usize,
}

impl Block<'_> {
    /// RFC 7541, section 5.1.
    fn integer(&mut self, prefix: u32) -> Option<usize> {
        let most = (1 << prefix) - 1;
        let mut value = usize::from(*self.bytes.get(self.at)?) & most;
        self.at += 1;
        if value < most {
            return Some(value);
        }
        for shift in [0, 7, 14, 21] {
            let byte = *self.bytes.get(self.at)?;
            self.at += 1;
            value += usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    /// RFC 7541, section 5.2; and whether it is as it is written, with no code of Huffman's.
    fn string(&mut self) -> Option<(&mut [u8], bool)> {
        let is_plain = self.bytes.get(self.at)? & 0x80 == 0;
        let length = self.integer(7)?;
        let text = self.bytes.get_mut(self.at..self.at.checked_add(length)?)?;
        self.at += length;
        Some((text, is_plain))
    }

    fn literal(&mut self, prefix: u32) -> Option<()> {
        let is_authority = match self.integer(prefix)? {
            0 => self.string()?.0 == b":authority",
            // RFC 7541, appendix A.
            index => index == 1,
        };
        let (value, is_plain) = self.string()?;
        if is_authority && is_plain {
            value.iter_mut().filter(|byte| **byte == b'%').for_each(|byte| *byte = b'-');
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    fn field(first: u8, name: &str, value: &str) -> Vec<u8> {
        let text = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
        let name = if name.is_empty() { Vec::new() } else { text(name) };
        [vec![first], name, text(value)].concat()
    }

    fn through(bytes: &[u8], step: usize) -> Vec<u8> {
        let mut authority = Authority::new();
        let mut out = Vec::new();
        for chunk in bytes.chunks(step) {
            authority.take(chunk);
            out.extend_from_slice(&authority.input[..authority.passing]);
            authority.input.advance(authority.passing);
            authority.passing = 0;
        }
        out
    }

    #[test]
    fn the_authority_alone_is_changed() {
        let path = "/a%2Fb";
        let [mut blocks, mut expected] = [Vec::new(), Vec::new()];
        for (out, host) in [(&mut blocks, "tmp%2Fx%2Fy"), (&mut expected, "tmp-2Fx-2Fy")] {
            out.extend_from_slice(&[0; PREFACE]);
            out.extend(frame(4, 0, &[0; 12]));
            for first in [0x40, 0x00, 0x10] {
                let block = [
                    &[0x83, 0x3f, 0x01][..],
                    &field(first, ":path", path),
                    &field(first, ":authority", host),
                ];
                out.extend(frame(HEADERS, 4, &block.concat()));
            }
            // By its number in the table; padded, and with a priority.
            let block =
                [&[2, 0, 0, 0, 0, 7][..], &field(0x41, "", host), &field(0x44, "", path), b"%%"].concat();
            out.extend(frame(HEADERS, 4 | PADDED | PRIORITY, &block));
            out.extend(frame(0, 0, &field(0x41, "", "tmp%2Fx")));
            out.extend(frame(HEADERS, 4, &field(0x41, "", host)));
        }
        for step in [1, 2, 7, 100, 10_000] {
            assert_eq!(through(&blocks, step), expected, "{step}");
        }
    }

    #[test]
    fn what_makes_no_sense_goes_through() {
        let long = "x%".repeat(60);
        for block in [
            &[0x41][..],
            &[0x41, 0x05, b'%'],
            &[0x41, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
            &[0x7f, 0xff, 0xff, 0xff, 0xff, 0x7f],
            // Huffman's code is left as it is.
            &[0x41, 0x81, b'%'],
            &[0xff, 0xff],
            &field(0x42, "", &long),
        ] {
            let bytes = [&[0; PREFACE][..], &frame(HEADERS, 4, block)].concat();
            assert_eq!(through(&bytes, 3), bytes);
        }
        // Longer than any frame that h2 takes: it is not held back.
        let bytes = [&[0; PREFACE][..], &[0x01, 0, 0, HEADERS, 4, 0, 0, 0, 1], &[0x41; 30]].concat();
        assert_eq!(through(&bytes, 5), bytes);
    }

    #[test]
    fn whatever_comes_goes_through_in_its_length() {
        for _ in 0..2000 {
            let block: [u8; 40] = rand::random();
            let flags = rand::random::<u8>();
            let bytes = [&[0; PREFACE][..], &frame(HEADERS, flags, &block)].concat();
            let out = through(&bytes, 11);
            assert_eq!(out.len(), bytes.len());
            let differ = bytes.iter().zip(&out).filter(|(a, b)| a != b);
            assert!(differ.clone().all(|pair| pair == (&b'%', &b'-')), "{block:?}");
        }
    }

    #[tokio::test]
    async fn it_is_read_as_it_comes() {
        struct Read(Authority, tokio::io::DuplexStream);
        impl AsyncRead for Read {
            fn poll_read(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                out: &mut ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                let this = self.get_mut();
                this.0.poll_read(&mut this.1, cx, out)
            }
        }
        let (mut client, server) = tokio::io::duplex(64);
        let bytes = [&[0; PREFACE][..], &frame(HEADERS, 4, &field(0x41, "", "a%2Fb")), &frame(6, 0, &[7; 8])];
        let bytes = bytes.concat();
        let mut read = Read(Authority::new(), server);
        let mut out = Vec::new();
        let sent = bytes.clone();
        let sending = async move { client.write_all(&sent).await };
        let (sent, got) = tokio::join!(sending, read.read_to_end(&mut out));
        sent.unwrap();
        assert_eq!(got.unwrap(), bytes.len());
        assert!(out.windows(5).any(|w| w == b"a-2Fb"));
    }
}
