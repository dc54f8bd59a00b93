//! What a peer must not do, and what the encoder decides.

use super::*;

fn outcome(block: &[u8]) -> Result<Vec<Field>, DecodeError> {
    decode(&mut Decoder::new(4096), block)
}

fn compression(error: CompressionError) -> Result<Vec<Field>, DecodeError> {
    Err(DecodeError::Compression(error))
}

fn malformed(error: MalformedField) -> Result<Vec<Field>, DecodeError> {
    Err(DecodeError::Malformed(error))
}

/// A literal that is not indexed.
fn literal(name: &str, value: &[u8]) -> Vec<u8> {
    let mut block = vec![0, name.len() as u8];
    block.extend_from_slice(name.as_bytes());
    block.push(value.len() as u8);
    block.extend_from_slice(value);
    block
}

#[test]
fn what_fails_the_connection() {
    use CompressionError::*;
    for (block, error) in [
        (&[0x80][..], InvalidIndex),
        (&[0xbe], InvalidIndex),
        (&[0x7e, 1, b'a'], InvalidIndex),
        (&[0xff], Truncated),
        (&[0xff, 0x80], Truncated),
        (&[0xff, 0xff, 0xff, 0xff, 0xff, 0x0f], IntegerOverflow),
        (&[0xff, 0x80, 0x80, 0x80, 0x80, 0x00], IntegerOverflow),
        (&[0x00], Truncated),
        (&[0x00, 0x02, b'a'], Truncated),
        (&[0x00, 0x01, b'a'], Truncated),
        (&[0x40, 0x01, b'a', 0x7f, 0xff, 0xff, 0x7f], Truncated),
        (&[0x82, 0x20], MisplacedSizeUpdate),
        (&[0x3f, 0xe2, 0x1f], TableTooLarge),
        // The end of the string, spelled out; padding of a byte; padding with zeros.
        (&[0x00, 0x84, 0xff, 0xff, 0xff, 0xff, 0x00], InvalidHuffman),
        (&[0x00, 0x82, 0x1f, 0xff, 0x00], InvalidHuffman),
        (&[0x00, 0x81, 0x18, 0x00], InvalidHuffman),
    ] {
        assert_eq!(outcome(block), compression(error), "{block:x?}");
    }
}

#[test]
fn what_fails_the_stream() {
    for (name, value, error) in [
        ("Accept", &b"a"[..], MalformedField::Name),
        ("", b"a", MalformedField::Name),
        ("a b", b"a", MalformedField::Name),
        ("a:b", b"a", MalformedField::Name),
        ("a", b"\0", MalformedField::Value),
        ("a", b"b\r\nc: d", MalformedField::Value),
        ("a", b" b", MalformedField::Value),
        ("a", b"b\t", MalformedField::Value),
        ("a", b"\x7f", MalformedField::Value),
        (":a", b"b", MalformedField::UnknownPseudo),
        (":", b"b", MalformedField::UnknownPseudo),
        (":method", b"", MalformedField::PseudoValue),
        (":method", b"a b", MalformedField::PseudoValue),
        (":path", b"", MalformedField::PseudoValue),
        (":path", b"a", MalformedField::PseudoValue),
        (":path", b"?a", MalformedField::PseudoValue),
        (":path", b"/a b", MalformedField::PseudoValue),
        (":path", b"/a#b", MalformedField::PseudoValue),
        (":scheme", b"", MalformedField::PseudoValue),
        (":authority", b"", MalformedField::Authority),
        (":authority", b"u@a", MalformedField::Authority),
        (":authority", b"a:x", MalformedField::Authority),
        (":authority", b"a/b", MalformedField::Authority),
        (":protocol", b"", MalformedField::PseudoValue),
        (":protocol", b"\xff", MalformedField::PseudoValue),
        (":status", b"20", MalformedField::PseudoValue),
        (":status", b"2000", MalformedField::PseudoValue),
        (":status", b"099", MalformedField::PseudoValue),
    ] {
        assert_eq!(outcome(&literal(name, value)), malformed(error), "{name} {value:?}");
    }
    // The static table's first entry as it stands.
    assert_eq!(outcome(&[0x81]), malformed(MalformedField::Authority));
}

#[test]
fn a_malformed_field_has_its_place_in_the_table() {
    let mut decoder = Decoder::new(4096);
    let mut block = vec![0x82, 0x40, 1, b'A', 1, b'x', 0x40, 1, b'b', 1, 0, 0x40, 1, b'c', 1, b'd'];
    let mut taken = 0;
    let result = decoder.decode(&block, NO_LIMIT, |_| {
        taken += 1;
        Ok(())
    });
    assert_eq!(result, Err(MalformedField::Name.into()));
    assert_eq!(taken, 1);
    assert_eq!(decoder.table().size(), 3 * 34);
    assert_eq!(decode(&mut decoder, &[0xbe]), Ok(vec![header("c", "d")]));
    assert_eq!(decode(&mut decoder, &[0xbf]), malformed(MalformedField::Value));
    assert_eq!(decode(&mut decoder, &[0xc0]), malformed(MalformedField::Name));
    // A good value may follow a name whose first value was not.
    assert_eq!(decode(&mut decoder, &[0x0f, 48, 1, b'e']), Ok(vec![header("b", "e")]));
    block.truncate(6);
    block[5] = b'y';
    assert_eq!(decode(&mut decoder, &block), malformed(MalformedField::Name));
}

#[test]
fn an_error_of_the_taker_ends_the_list_but_not_the_block() {
    let mut decoder = Decoder::new(4096);
    let mut taken = 0;
    let result = decoder.decode(&[0x82, 0x84, 0x86, 0x40, 1, b'c', 1, b'd'], NO_LIMIT, |_| {
        taken += 1;
        if taken == 2 { Err(MalformedField::Name) } else { Ok(()) }
    });
    assert_eq!((result, taken), (Err(MalformedField::Name.into()), 2));
    assert_eq!(decode(&mut decoder, &[0xbe]), Ok(vec![header("c", "d")]));
}

#[test]
fn what_exceeds_the_list_is_decoded_and_not_handed_over() {
    let mut decoder = Decoder::new(4096);
    let mut fields = Vec::new();
    // GET counts 42, the second 34, of which one byte is missing.
    let block = [0x82, 0x40, 1, b'a', 1, b'b', 0x84, 0x40, 1, b'c', 1, b'd', 0x00, 1, b'A', 0];
    let result = decoder.decode(&block, bytes(75), |field| {
        fields.push(field);
        Ok(())
    });
    assert_eq!(result, Err(DecodeError::Oversized));
    assert_eq!(fields, [Field::Method(Method::GET)]);
    assert_eq!(decode(&mut decoder, &[0xbf, 0xbe]), Ok(vec![header("a", "b"), header("c", "d")]));
    assert_eq!(decoder.decode(&[0x82, 0xbe], bytes(76), |_| Ok(())), Ok(()));
}

/// RFC 9113, 8.2.3: crumbs are one field, with "; " between them.
#[test]
fn the_crumbs_of_a_cookie_count_as_one_field() {
    let crumbs: Vec<Field> = (0..300).map(|_| header("cookie", "crumb=1")).collect();
    let block = encode(&mut Encoder::new(), &crumbs);
    let joined = "cookie".len() + ENTRY_OVERHEAD + 300 * 7 + 299 * 2;
    let outcome = |bytes, fields| {
        let mut taken = 0;
        let result = Decoder::new(4096).decode(&block, ListLimit { bytes, fields }, |_| {
            taken += 1;
            Ok(())
        });
        (result, taken)
    };
    assert_eq!(outcome(joined, 1), (Ok(()), 300));
    assert_eq!(outcome(joined - 1, 1), (Err(DecodeError::Oversized), 299));
    assert_eq!(outcome(joined, 0), (Err(DecodeError::Oversized), 0));
}

#[test]
fn the_number_of_fields_is_limited_and_pseudo_headers_are_none() {
    let outcome =
        |block: &[u8]| Decoder::new(4096).decode(block, ListLimit { fields: 1, ..NO_LIMIT }, |_| Ok(()));
    assert_eq!(outcome(&[0x82, 0x84, 0x86, 0x40, 1, b'c', 1, b'd']), Ok(()));
    assert_eq!(outcome(&[0x82, 0x84, 0x40, 1, b'c', 1, b'd', 0xbe]), Err(DecodeError::Oversized));
}

#[test]
fn an_entry_larger_than_the_table_empties_it() {
    let mut decoder = Decoder::new(4096);
    assert!(decode(&mut decoder, &[0x3f, 0x10, 0x40, 1, b'a', 1, b'b']).is_ok());
    assert_eq!(decoder.table().len(), 1);
    let mut block = vec![0x40, 1, b'a', 40];
    block.extend_from_slice(&[b'b'; 40]);
    assert_eq!(decode(&mut decoder, &block).unwrap().len(), 1);
    assert_eq!((decoder.table().len(), decoder.table().size()), (0, 0));
}

#[test]
fn a_name_may_come_from_the_entry_that_gives_way() {
    let mut decoder = Decoder::new(4096);
    assert!(decode(&mut decoder, &[0x3f, 0x03, 0x40, 1, b'a', 1, b'b']).is_ok());
    assert_eq!(decode(&mut decoder, &[0x7e, 1, b'c']), Ok(vec![header("a", "c")]));
    assert_eq!(decode(&mut decoder, &[0xbe]), Ok(vec![header("a", "c")]));
    assert_eq!(decoder.table().len(), 1);
}

#[test]
fn a_higher_limit_may_be_used() {
    let mut decoder = Decoder::new(8192);
    assert!(decode(&mut decoder, &[0x3f, 0xe1, 0x3f, 0x82]).is_ok());
    assert_eq!(decode(&mut decoder, &[0x3f, 0xe2, 0x3f]), compression(CompressionError::TableTooLarge));
}

#[test]
fn what_repeats_is_indexed_and_what_does_not_is_not() {
    let mut encoder = Encoder::new();
    let request = |id: &'static str| {
        [
            Field::Method(Method::PUT),
            Field::Path(Path::from_static("/a/path")),
            header("user-agent", "a client"),
            header("x-request-id", id),
            header("x-custom", "value"),
        ]
    };
    let first = encode(&mut encoder, &request("0001"));
    let second = encode(&mut encoder, &request("0002"));
    let third = encode(&mut encoder, &request("0003"));
    let fourth = encode(&mut encoder, &request("0004"));
    assert!(third.len() < second.len() && second.len() <= first.len());
    // All is indexed but for the request's own: with the index of its name, 1 + 1 + 1 + 4.
    assert_eq!(fourth.len(), 4 + 7);
    let mut decoder = Decoder::new(4096);
    for (block, id) in [(first, "0001"), (second, "0002"), (third, "0003"), (fourth, "0004")] {
        assert_eq!(decode(&mut decoder, &block), Ok(request(id).to_vec()));
    }
}

#[test]
fn secrets_are_never_indexed() {
    let mut marked = HeaderValue::from_static("value");
    marked.set_sensitive(true);
    let secrets = [
        header("authorization", "Basic YTpi"),
        header("cookie", "session=1"),
        Field::Header(HeaderName::from_static("x-key"), marked),
    ];
    let mut encoder = Encoder::new();
    let first = encode(&mut encoder, &secrets);
    for _ in 0..5 {
        assert_eq!(encode(&mut encoder, &secrets), first);
    }
    let fields = decode(&mut Decoder::new(4096), &first).unwrap();
    assert!(fields.iter().all(|field| matches!(field, Field::Header(_, value) if value.is_sensitive())));
}

#[test]
fn all_sizes_since_the_last_block_are_told() {
    let mut encoder = Encoder::new();
    encoder.set_table_size(65_536);
    assert!(encode(&mut encoder, &[]).is_empty());
    encoder.set_table_size(100);
    encoder.set_table_size(0);
    encoder.set_table_size(50);
    assert_eq!(encode(&mut encoder, &[]), [0x20, 0x3f, 50 - 31]);
    assert!(encode(&mut encoder, &[]).is_empty());
    encoder.set_table_size(10);
    encoder.set_table_size(65_536);
    assert_eq!(encode(&mut encoder, &[]), [0x2a, 0x3f, 0xe1, 0x1f]);
}

#[test]
fn nothing_is_indexed_without_a_table() {
    let mut encoder = Encoder::new();
    encoder.set_table_size(0);
    let fields = [header("x-custom", "value"), header("accept-encoding", "gzip, deflate")];
    let mut decoder = Decoder::new(0);
    for _ in 0..4 {
        let block = encode(&mut encoder, &fields);
        assert_eq!(decode(&mut decoder, &block), Ok(fields.to_vec()));
        assert_eq!(decoder.table().len(), 0);
    }
}

#[test]
fn sizes_of_the_static_table_are_those_of_its_fields() {
    for index in 2..=static_table::LENGTH {
        let (field, size) = static_table::get(index).unwrap();
        let (name, value) = text(field);
        assert_eq!(size, name.len() + value.len() + ENTRY_OVERHEAD, "{name}");
    }
    assert!([0, 1, 62].into_iter().all(|index| static_table::get(index).is_none()));
}

#[test]
fn what_is_common_is_decoded_to_the_same() {
    let mut block = vec![0x40, 12];
    block.extend_from_slice(b"x-request-id\x10application/json\xbe");
    let field = header("x-request-id", "application/json");
    assert_eq!(outcome(&block), Ok(vec![field.clone(), field]));
}
