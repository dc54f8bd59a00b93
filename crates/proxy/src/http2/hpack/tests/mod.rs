mod properties;
mod rfc7541;
mod rules;

use super::*;

/// The list's limit where none matters.
const NO_LIMIT: ListLimit = ListLimit { bytes: usize::MAX, fields: usize::MAX };

fn bytes(bytes: usize) -> ListLimit {
    ListLimit { bytes, ..NO_LIMIT }
}

/// A field as text, as it would stand in RFC 7541.
fn text(field: &Field) -> (String, Vec<u8>) {
    let (name, value) = match field {
        Field::Method(method) => (":method", method.as_str().as_bytes()),
        Field::Scheme(scheme) => (":scheme", scheme.as_str().as_bytes()),
        Field::Authority(authority) => (":authority", authority.as_str().as_bytes()),
        Field::Path(path) => (":path", path.uri.as_str().as_bytes()),
        Field::Protocol(protocol) => (":protocol", protocol.as_bytes()),
        Field::Status(status) => (":status", status.as_str().as_bytes()),
        Field::Header(name, value) => (name.as_str(), value.as_bytes()),
    };
    (name.to_owned(), value.to_owned())
}

fn decode(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<Field>, DecodeError> {
    let mut fields = Vec::new();
    decoder.decode(block, NO_LIMIT, |field| {
        fields.push(field);
        Ok(())
    })?;
    Ok(fields)
}

fn encode(encoder: &mut Encoder, fields: &[Field]) -> Vec<u8> {
    let mut block = Vec::new();
    encoder.begin(&mut block);
    for field in fields {
        match field {
            Field::Method(method) => encoder.method(method, &mut block),
            Field::Scheme(scheme) => encoder.scheme(scheme.as_str(), &mut block),
            Field::Authority(authority) => encoder.authority(authority.as_str(), &mut block),
            Field::Path(path) => encoder.path(path.uri.as_str().as_bytes(), &mut block),
            Field::Protocol(protocol) => encoder.protocol(protocol.to_str().unwrap(), &mut block),
            Field::Status(status) => encoder.status(*status, &mut block),
            Field::Header(name, value) => encoder.header(name, value, &mut block),
        }
    }
    block
}

fn header(name: &'static str, value: &'static str) -> Field {
    Field::Header(HeaderName::from_static(name), HeaderValue::from_static(value))
}
