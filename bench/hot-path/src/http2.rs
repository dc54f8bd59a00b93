//! HTTP/2 for a peer that has one stream at a time and says the same on each: frames of fixed bytes,
//! with the dynamic table of HPACK in use as any client has it (RFC 9113, RFC 7541).

use std::io::{BufReader, Read, Write};
use std::net::TcpStream;

use anyhow::{Context, Result, bail, ensure};

use crate::application::BODY;

const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const AWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;

const ACKNOWLEDGED: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// More than any run sends, so that no window has to be opened again in the middle of it.
const WINDOW: u32 = 1 << 30;

/// A gRPC message of 64 bytes, not compressed.
fn message() -> Vec<u8> {
    [&[0, 0, 0, 0, 64][..], &[b'm'; 64]].concat()
}

/// A header field, and the index of its name in the static table (0: it is not there).
type Field = (u8, &'static str, &'static str);

const GET: &[Field] = &[
    (4, ":path", "/1024"),
    (1, ":authority", "server.default"),
    (58, "user-agent", "hot-path/1"),
    (19, "accept", "*/*"),
];
const CALL: &[Field] = &[
    (4, ":path", "/hot.Path/Call"),
    (1, ":authority", "server.default"),
    (31, "content-type", "application/grpc"),
    (0, "te", "trailers"),
    (58, "user-agent", "hot-path/1"),
];
const ANSWER: &[Field] = &[(31, "content-type", "text/plain"), (28, "content-length", "1024")];
const GRPC_ANSWER: &[Field] = &[(31, "content-type", "application/grpc")];
const GRPC_END: &[Field] = &[(0, "grpc-status", "0")];

/// `:method GET`, `:method POST`, `:scheme http` and `:status 200`, whole entries of the static table.
const METHOD_GET: u8 = 0x82;
const METHOD_POST: u8 = 0x83;
const SCHEME_HTTP: u8 = 0x86;
const STATUS_200: u8 = 0x88;

/// Sends each field in full once, and from the dynamic table from then on.
#[derive(Default)]
struct Encoder {
    table: Vec<Field>,
}

impl Encoder {
    fn encode(&mut self, indexed: &[u8], fields: &[Field]) -> Vec<u8> {
        let mut block = indexed.to_vec();
        for field in fields {
            match self.table.iter().rev().position(|known| known == field) {
                Some(age) => block.push(0x80 | (62 + age as u8)),
                None => {
                    let (name_index, name, value) = field;
                    block.push(0x40 | name_index);
                    let name = if *name_index == 0 { Some(name) } else { None };
                    for text in name.into_iter().chain([value]) {
                        block.push(text.len() as u8);
                        block.extend_from_slice(text.as_bytes());
                    }
                    self.table.push(*field);
                }
            }
        }
        block
    }
}

struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

fn write_frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    out.extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

/// Settings as they are by default, and a large window.
fn write_greeting(out: &mut Vec<u8>) {
    write_frame(out, SETTINGS, 0, 0, &[]);
    write_frame(out, WINDOW_UPDATE, 0, 0, &WINDOW.to_be_bytes());
}

struct Connection {
    read: BufReader<TcpStream>,
    encoder: Encoder,
}

impl Connection {
    fn new(stream: TcpStream) -> Self {
        Self { read: BufReader::new(stream), encoder: Encoder::default() }
    }

    fn write(&self, bytes: &[u8]) -> Result<()> {
        Ok(self.read.get_ref().write_all(bytes)?)
    }

    /// The next frame of a stream; what concerns the connection is answered.
    fn next(&mut self) -> Result<Frame> {
        loop {
            let mut head = [0; 9];
            self.read.read_exact(&mut head).context("the connection ends")?;
            let [a, b, c, kind, flags, stream @ ..] = head;
            let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
            self.read.read_exact(&mut payload)?;
            let frame = Frame { kind, flags, stream: u32::from_be_bytes(stream), payload };
            match frame.kind {
                SETTINGS | PING if frame.flags & ACKNOWLEDGED == 0 => {
                    let mut out = Vec::new();
                    let payload = if frame.kind == PING { &frame.payload[..] } else { &[] };
                    write_frame(&mut out, frame.kind, ACKNOWLEDGED, 0, payload);
                    self.write(&out)?;
                }
                SETTINGS | PING | WINDOW_UPDATE => {}
                RESET | AWAY => bail!("refused: {:?}", frame.payload),
                _ => return Ok(frame),
            }
        }
    }
}

/// A client with one connection.
pub struct Http2Client {
    connection: Connection,
    grpc: bool,
    stream: u32,
}

impl Http2Client {
    pub fn new(stream: TcpStream, grpc: bool) -> Result<Self> {
        let mut greeting = PREFACE.to_vec();
        write_greeting(&mut greeting);
        let connection = Connection::new(stream);
        connection.write(&greeting)?;
        Ok(Self { connection, grpc, stream: 1 })
    }

    /// Sends a request and takes its answer.
    pub fn request(&mut self) -> Result<()> {
        let stream = self.stream;
        self.stream += 2;
        let encoder = &mut self.connection.encoder;
        let mut out = Vec::new();
        if self.grpc {
            let block = encoder.encode(&[METHOD_POST, SCHEME_HTTP], CALL);
            write_frame(&mut out, HEADERS, END_HEADERS, stream, &block);
            write_frame(&mut out, DATA, END_STREAM, stream, &message());
        } else {
            let block = encoder.encode(&[METHOD_GET, SCHEME_HTTP], GET);
            write_frame(&mut out, HEADERS, END_HEADERS | END_STREAM, stream, &block);
        }
        self.connection.write(&out)?;
        let mut received = 0;
        loop {
            let frame = self.connection.next()?;
            ensure!(frame.stream == stream, "a frame on stream {} instead of {stream}", frame.stream);
            if frame.kind == DATA {
                received += frame.payload.len();
            }
            if frame.flags & END_STREAM != 0 {
                break;
            }
        }
        let due = if self.grpc { message().len() } else { BODY.len() };
        ensure!(received == due, "an answer of {received} bytes instead of {due}");
        Ok(())
    }
}

/// Answers every request on a connection.
pub fn serve(mut stream: TcpStream, grpc: bool) -> Result<()> {
    let mut preface = [0; PREFACE.len()];
    stream.read_exact(&mut preface)?;
    ensure!(preface == *PREFACE, "not HTTP/2");
    let mut connection = Connection::new(stream);
    let mut greeting = Vec::new();
    write_greeting(&mut greeting);
    connection.write(&greeting)?;
    loop {
        let frame = connection.next()?;
        if frame.flags & END_STREAM == 0 || !matches!(frame.kind, DATA | HEADERS) {
            continue;
        }
        let mut out = Vec::new();
        let fields = if grpc { GRPC_ANSWER } else { ANSWER };
        let block = connection.encoder.encode(&[STATUS_200], fields);
        write_frame(&mut out, HEADERS, END_HEADERS, frame.stream, &block);
        if grpc {
            write_frame(&mut out, DATA, 0, frame.stream, &message());
            let end = connection.encoder.encode(&[], GRPC_END);
            write_frame(&mut out, HEADERS, END_HEADERS | END_STREAM, frame.stream, &end);
        } else {
            write_frame(&mut out, DATA, END_STREAM, frame.stream, &BODY);
        }
        connection.write(&out)?;
    }
}
