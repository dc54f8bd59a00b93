//! HPACK beside an implementation that shares nothing with this one.

use arbitrary::{Result, Unstructured};
use fluke_hpack::decoder::DecoderError;
use http::{HeaderName, HeaderValue, Method, StatusCode};

use super::{DecodeError, Decoder, ENTRY_OVERHEAD, Encoder, Field, ListLimit};
use crate::uri::Path;

type Text = (Vec<u8>, Vec<u8>);

const NO_LIMIT: ListLimit = ListLimit { bytes: usize::MAX, fields: usize::MAX };
const TABLE_SIZE: usize = 4096;

/// Blocks of one connection. What this implementation reads, the other reads the same; where it refuses a field only,
/// the tables stay the same. What it writes, both read.
///
/// # Panics
/// Where that is not so.
pub fn hpack(input: &[u8]) {
    let mut input = Unstructured::new(input);
    match input.arbitrary().unwrap_or(false) {
        // That the input is at its end is no fault.
        true => drop(write(&mut input)),
        false => drop(read(&mut input)),
    }
}

fn read(input: &mut Unstructured<'_>) -> Result<()> {
    let (mut decoder, mut other) = (Decoder::new(TABLE_SIZE), fluke_hpack::Decoder::new());
    let limit = ListLimit { bytes: usize::from(input.arbitrary::<u16>()?), fields: 100 };
    while !input.is_empty() {
        let length = usize::from(input.arbitrary::<u8>()?).min(input.len());
        let block = input.bytes(length)?;
        let mut fields = Vec::new();
        let mut size = 0;
        let decoded = decoder.decode(block, limit, |field| {
            let text = text(&field);
            size += text.0.len() + text.1.len() + ENTRY_OVERHEAD;
            fields.push(text);
            Ok(())
        });
        // The crumbs of a cookie are one field.
        let crumbs = fields.iter().filter(|(name, _)| name == b"cookie").count();
        assert!(size <= limit.bytes + crumbs * ("cookie".len() + ENTRY_OVERHEAD), "{size} {limit:?}");
        match decoded {
            Err(DecodeError::Compression(_)) => return Ok(()),
            Ok(()) => assert_eq!(fields, decode(&mut other, block)),
            Err(_) => assert_eq!(fields, decode(&mut other, block)[..fields.len()]),
        }
    }
    Ok(())
}

/// What the other makes of a block.
fn decode(other: &mut fluke_hpack::Decoder<'_>, block: &[u8]) -> Vec<Text> {
    match other.decode(block) {
        Ok(fields) => fields,
        // It takes no block of updates alone, but has done what they say. Trailers without a field may be one.
        Err(DecoderError::SizeUpdateAtEnd) => Vec::new(),
        Err(error) => panic!("{error:?}: {block:02x?}"),
    }
}

fn write(input: &mut Unstructured<'_>) -> Result<()> {
    let huffman = input.arbitrary()?;
    let mut encoder = Encoder::new().with_huffman(huffman);
    let (mut decoder, mut other) = (Decoder::new(TABLE_SIZE), fluke_hpack::Decoder::new());
    while !input.is_empty() {
        for _ in 0..input.int_in_range(0..=2)? {
            encoder.set_table_size(input.int_in_range(0..=6000)?);
        }
        let mut block = Vec::new();
        encoder.begin(&mut block);
        let mut wanted = Vec::new();
        for _ in 0..input.int_in_range(1..=12)? {
            let field = field(input)?;
            encode(&mut encoder, &field, &mut block);
            wanted.push(field);
        }
        let mut fields = Vec::new();
        let decoded = decoder.decode(&block, NO_LIMIT, |field| {
            fields.push(field);
            Ok(())
        });
        assert_eq!(decoded, Ok(()));
        assert_eq!(fields, wanted);
        for (field, wanted) in fields.iter().zip(&wanted) {
            if let (Field::Header(_, value), Field::Header(_, wanted)) = (field, wanted) {
                assert!(value.is_sensitive() || !wanted.is_sensitive(), "a secret may be indexed");
            }
        }
        assert_eq!(decode(&mut other, &block), wanted.iter().map(text).collect::<Vec<_>>());
    }
    Ok(())
}

fn field(input: &mut Unstructured<'_>) -> Result<Field> {
    const NAMES: [&str; 8] =
        ["accept", "cookie", "set-cookie", "authorization", "date", "traceparent", "x-a", "content-length"];
    Ok(match input.int_in_range(0..=9)? {
        0 => Field::Method(input.choose(&[Method::GET, Method::POST, Method::PATCH])?.clone()),
        1 => Field::Status(StatusCode::from_u16(input.int_in_range(100..=999)?).unwrap_or_default()),
        2 => Field::Scheme(
            if input.arbitrary()? { "http" } else { "https" }.try_into().unwrap_or(http::uri::Scheme::HTTP),
        ),
        3 => Field::Path(Path::parse(&[b"/", piece(input, 9)?].concat()).unwrap_or(Path::from_static("/"))),
        kind => {
            let name = match kind {
                4 => HeaderName::from_bytes(piece(input, 12)?).unwrap_or(HeaderName::from_static("x-b")),
                _ => HeaderName::from_static(input.choose(&NAMES)?),
            };
            let value = match kind {
                4 | 5 => piece(input, 90)?,
                _ => input.choose(&[&b"one"[..], b"two", b"", b"a value that is a little longer"])?,
            };
            let mut value =
                HeaderValue::from_bytes(value.trim_ascii()).unwrap_or(HeaderValue::from_static("x"));
            value.set_sensitive(input.ratio(1, 8)?);
            Field::Header(name, value)
        }
    })
}

fn piece<'i>(input: &mut Unstructured<'i>, most: usize) -> Result<&'i [u8]> {
    let length = input.int_in_range(0..=most)?.min(input.len());
    input.bytes(length)
}

fn encode(encoder: &mut Encoder, field: &Field, block: &mut Vec<u8>) {
    match field {
        Field::Method(method) => encoder.method(method, block),
        Field::Scheme(scheme) => encoder.scheme(scheme.as_str(), block),
        Field::Authority(authority) => encoder.authority(authority.as_str(), block),
        Field::Path(path) => encoder.path(sent(path), block),
        Field::Protocol(protocol) => encoder.protocol(protocol.to_str().unwrap_or_default(), block),
        Field::Status(status) => encoder.status(*status, block),
        Field::Header(name, value) => encoder.header(name, value, block),
    }
}

fn sent(path: &Path) -> &[u8] {
    path.sent.as_ref().map_or(path.uri.as_str().as_bytes(), |sent| &sent.0)
}

/// A field as the other implementation has it.
fn text(field: &Field) -> Text {
    let (name, value) = match field {
        Field::Method(method) => (":method", method.as_str().as_bytes()),
        Field::Scheme(scheme) => (":scheme", scheme.as_str().as_bytes()),
        Field::Authority(authority) => (":authority", authority.as_str().as_bytes()),
        Field::Path(path) => (":path", sent(path)),
        Field::Protocol(protocol) => (":protocol", protocol.as_bytes()),
        Field::Status(status) => (":status", status.as_str().as_bytes()),
        Field::Header(name, value) => (name.as_str(), value.as_bytes()),
    };
    (name.as_bytes().to_vec(), value.to_vec())
}
