//! Frames of HTTP/2 as a table writes them, and as they are read.

use super::table;

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub const HEADERS: u8 = 1;
pub const SETTINGS: u8 = 4;
pub const WINDOW_UPDATE: u8 = 8;

/// Frame types by number (RFC 9113, section 6).
const KINDS: [&str; 10] = [
    "DATA",
    "HEADERS",
    "PRIORITY",
    "RST_STREAM",
    "SETTINGS",
    "PUSH_PROMISE",
    "PING",
    "GOAWAY",
    "WINDOW_UPDATE",
    "CONTINUATION",
];

/// Error codes by number (RFC 9113, section 7).
const CODES: [&str; 14] = [
    "NO_ERROR",
    "PROTOCOL_ERROR",
    "INTERNAL_ERROR",
    "FLOW_CONTROL_ERROR",
    "SETTINGS_TIMEOUT",
    "STREAM_CLOSED",
    "FRAME_SIZE_ERROR",
    "REFUSED_STREAM",
    "CANCEL",
    "COMPRESSION_ERROR",
    "CONNECT_ERROR",
    "ENHANCE_YOUR_CALM",
    "INADEQUATE_SECURITY",
    "HTTP_1_1_REQUIRED",
];

pub fn code(number: u32) -> String {
    CODES.get(number as usize).map_or_else(|| format!("{number:#x}"), |name| (*name).to_owned())
}

pub fn kind(number: u8) -> String {
    KINDS.get(usize::from(number)).map_or_else(|| format!("{number:#x}"), |name| (*name).to_owned())
}

/// What words stand for that a table's pieces may have besides.
pub type Macros = dyn Fn(&str) -> Option<Vec<u8>> + Send + Sync;

/// A frame as it came.
#[derive(Debug, Clone)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    pub fn new(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Self {
        Self { kind, flags, stream, payload: payload.to_vec() }
    }

    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&(self.payload.len() as u32).to_be_bytes()[1..]);
        out.extend_from_slice(&[self.kind, self.flags]);
        out.extend_from_slice(&self.stream.to_be_bytes());
        out.extend_from_slice(&self.payload);
    }

    /// Takes the frame that `bytes` begin with.
    pub fn take(bytes: &mut Vec<u8>) -> Option<Self> {
        let [a, b, c, kind, flags, s, t, u, v] = *bytes.first_chunk::<9>()?;
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        let payload = bytes.get(9..9 + length)?.to_vec();
        bytes.drain(..9 + length);
        Some(Self { kind, flags, stream: u32::from_be_bytes([s, t, u, v]), payload })
    }

    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    pub fn number(&self, at: usize) -> u32 {
        self.payload.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |four| u32::from_be_bytes(*four))
    }
}

/// The bytes of a line `KIND FLAGS STREAM [PIECE + PIECE …]`. `macros` says what other words stand for.
pub fn line(text: &str, macros: &Macros) -> Vec<u8> {
    let mut words = text.splitn(4, ' ');
    let mut word = || words.next().unwrap_or_default();
    let kind = word();
    if kind == "bytes" {
        return pieces(text.strip_prefix("bytes ").unwrap(), macros);
    }
    if kind == "many" {
        // `many COUNT FIRST LINE`: on as many streams from the first on, which the line calls `*`.
        let (count, first, line_of) =
            (word().parse::<u32>().unwrap(), word().parse::<u32>().unwrap(), word());
        let of = |id: u32| {
            let id = id.to_string();
            let words = line_of.splitn(4, ' ').enumerate();
            let words = words.map(|(at, word)| if at == 2 && word == "*" { id.as_str() } else { word });
            line(&words.collect::<Vec<_>>().join(" "), macros)
        };
        return (0..count).flat_map(|number| of(first + 2 * number)).collect();
    }
    let kind = match KINDS.iter().position(|name| *name == kind) {
        Some(number) => number as u8,
        None => hex(kind.strip_prefix("0x").unwrap_or_else(|| panic!("{text}: what is {kind}")))[0],
    };
    let flags = match word() {
        "-" => 0,
        hexed if hexed.starts_with("0x") => hex(&hexed[2..])[0],
        letters => letters.chars().fold(0, |flags, letter| {
            flags
                | match letter {
                    // END_STREAM, or ACK.
                    'e' | 'a' => 0x1,
                    // END_HEADERS, PADDED, PRIORITY.
                    'h' => 0x4,
                    'p' => 0x8,
                    'P' => 0x20,
                    other => panic!("{text}: what is the flag {other}"),
                }
        }),
    };
    let stream = word();
    let stream = stream.parse().unwrap_or_else(|_| panic!("{text}: what is the stream {stream}"));
    let mut out = Vec::new();
    Frame::new(kind, flags, stream, &pieces(word(), macros)).write(&mut out);
    out
}

fn pieces(text: &str, macros: &Macros) -> Vec<u8> {
    let mut out = Vec::new();
    for piece in text.split(" + ").filter(|piece| !piece.is_empty()) {
        match piece.split_once(':') {
            Some(("hex", digits)) => out.extend(hex(&table::repeats(digits))),
            Some(("text", text)) => out.extend(table::bytes(text)),
            Some(("zeros", count)) => out.extend(vec![0; count.parse::<usize>().unwrap()]),
            Some(("fields", fields)) => {
                out.extend(block(fields));
                if fields.contains(":method") {
                    out.extend(macros("own").unwrap_or_default());
                }
            }
            _ => out.extend(macros(piece).unwrap_or_else(|| panic!("{text}: what is {piece}"))),
        }
    }
    out
}

pub fn hex(digits: &str) -> Vec<u8> {
    let digits: Vec<char> = digits.chars().filter(|char| *char != ' ').collect();
    assert!(digits.len().is_multiple_of(2), "half a byte");
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(&pair.iter().collect::<String>(), 16).expect("hexadecimal digits"))
        .collect()
}

/// Fields as a table writes them (`name: value | name: value`), without index and Huffman (RFC 7541, section 6.2.2).
pub fn block(fields: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let fields = table::repeats(fields);
    for field in fields.split(" | ").filter(|field| !field.is_empty()) {
        let colon = field[1..].find(':').unwrap_or_else(|| panic!("{field} has no colon")) + 1;
        let (name, value) = (&field[..colon], &field[colon + 1..]);
        let (name, value) = (table::bytes(name), table::bytes(value.strip_prefix(' ').unwrap_or(value)));
        out.push(0);
        for part in [name, value] {
            integer(part.len(), &mut out);
            out.extend_from_slice(&part);
        }
    }
    out
}

/// RFC 7541, section 5.1, with a prefix of seven bits.
fn integer(mut number: usize, out: &mut Vec<u8>) {
    if number < 127 {
        return out.push(number as u8);
    }
    out.push(127);
    number -= 127;
    while number >= 128 {
        out.push((number % 128) as u8 | 128);
        number /= 128;
    }
    out.push(number as u8);
}
