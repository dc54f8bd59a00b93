//! Whatever is encoded decodes to the same; whatever is decoded ends.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn value() -> impl Strategy<Value = HeaderValue> {
    prop_oneof![
        // Few, so that they repeat.
        (0..6u8).prop_map(|n| HeaderValue::from_str(&format!("value-{n}")).unwrap()),
        vec(any::<u8>(), 0..300).prop_filter_map("valid", |bytes| {
            let bytes: Vec<u8> =
                bytes.into_iter().map(|byte| byte.max(b'!')).filter(|&b| b != 0x7f).collect();
            HeaderValue::from_bytes(&bytes).ok()
        }),
        Just(HeaderValue::from_str(&"long".repeat(1200)).unwrap()),
    ]
}

fn name() -> impl Strategy<Value = HeaderName> {
    prop_oneof![
        "x-[a-c]".prop_map(|name| HeaderName::from_bytes(name.as_bytes()).unwrap()),
        "[a-z0-9!#$%&'*+.^_`|~-]{1,40}".prop_map(|name| HeaderName::from_bytes(name.as_bytes()).unwrap()),
        prop::sample::select(vec![
            "accept",
            "accept-encoding",
            "cookie",
            "set-cookie",
            "authorization",
            "date",
            "content-length",
            "traceparent",
            "x-request-id",
            "user-agent",
        ])
        .prop_map(HeaderName::from_static),
    ]
}

fn field() -> impl Strategy<Value = Field> {
    prop_oneof![
        prop::sample::select(vec![Method::GET, Method::POST, Method::PATCH]).prop_map(Field::Method),
        prop::sample::select(vec!["http", "https", "other"])
            .prop_map(|scheme| Field::Scheme(Scheme::try_from(scheme).unwrap())),
        "[a-c]{1,2}(:[1-9]{1,3})?"
            .prop_map(|authority| Field::Authority(Authority::try_from(authority.as_str()).unwrap())),
        "/[a-z]?[a-z/]{0,40}(\\?[a-z]{0,3})?"
            .prop_map(|path| Field::Path(Path::parse(path.as_bytes()).unwrap())),
        (100..1000u16).prop_map(|status| Field::Status(StatusCode::from_u16(status).unwrap())),
        Just(Field::Protocol(HeaderValue::from_static("websocket"))),
        (name(), value()).prop_map(|(name, value)| Field::Header(name, value)),
        (name(), value()).prop_map(|(name, value)| Field::Header(name, value)),
        (name(), value(), any::<bool>()).prop_map(|(name, mut value, sensitive)| {
            value.set_sensitive(sensitive);
            Field::Header(name, value)
        }),
    ]
}

proptest! {
    #[test]
    fn blocks_decode_to_what_was_encoded(
        blocks in vec((vec(field(), 0..20), vec(0..6000usize, 0..3)), 1..12),
        huffman: bool,
    ) {
        let mut encoder = Encoder::new().with_huffman(huffman);
        let mut decoder = Decoder::new(4096);
        for (fields, sizes) in blocks {
            // What sizes the peer announces, this decoder would allow.
            for size in sizes {
                encoder.set_table_size(size);
            }
            let block = encode(&mut encoder, &fields);
            let decoded = decode(&mut decoder, &block);
            prop_assert_eq!(decoded.unwrap(), fields);
        }
    }

    #[test]
    fn any_bytes_are_decoded_within_bounds(
        blocks in vec(vec(prop_oneof![any::<u8>(), 0x40..0x50u8, 0xb0..0xd0u8, 0..8u8], 0..200), 1..20),
        limit in 0..2000usize,
    ) {
        let mut decoder = Decoder::new(4096);
        for block in blocks {
            let mut size = 0;
            let result = decoder.decode(&block, bytes(limit), |field| {
                let (name, value) = text(&field);
                size += name.len() + value.len() + ENTRY_OVERHEAD;
                Ok(())
            });
            prop_assert!(size <= limit);
            prop_assert!(decoder.table().size() <= decoder.table().max());
            prop_assert!(decoder.table().max() <= 4096);
            if matches!(result, Err(DecodeError::Compression(_))) {
                break;
            }
        }
    }

    #[test]
    fn strings_decode_to_what_was_encoded(text in vec(any::<u8>(), 0..300)) {
        let mut coded = Vec::new();
        huffman::encode(&text, &mut coded);
        prop_assert_eq!(coded.len(), huffman::encoded_len(&text));
        let mut decoded = Vec::new();
        huffman::decode(&coded, &mut decoded).unwrap();
        prop_assert_eq!(decoded, text);
    }

    /// There is one way to code a string, so what decodes must be it.
    #[test]
    fn codes_are_refused_or_the_only_one(coded in vec(prop_oneof![any::<u8>(), Just(0xff)], 0..60)) {
        let mut decoded = Vec::new();
        if huffman::decode(&coded, &mut decoded).is_ok() {
            let mut again = Vec::new();
            huffman::encode(&decoded, &mut again);
            prop_assert_eq!(again, coded);
        }
    }

    /// An implementation that shares nothing with this one understands what is encoded here.
    #[test]
    fn others_decode_what_is_encoded(
        blocks in vec((vec(field(), 1..20), vec(0..6000usize, 0..3)), 1..12),
        huffman: bool,
    ) {
        let mut encoder = Encoder::new().with_huffman(huffman);
        let mut other = fluke_hpack::Decoder::new();
        for (fields, sizes) in blocks {
            for size in sizes {
                encoder.set_table_size(size);
            }
            let decoded = other.decode(&encode(&mut encoder, &fields)).unwrap();
            prop_assert_eq!(decoded, texts(&fields));
        }
    }

    #[test]
    fn what_others_encode_is_decoded(blocks in vec(vec(field(), 0..20), 1..12)) {
        let mut other = fluke_hpack::Encoder::new();
        let mut decoder = Decoder::new(4096);
        for fields in blocks {
            let texts = texts(&fields);
            let block = other.encode(texts.iter().map(|(name, value)| (&name[..], &value[..])));
            prop_assert_eq!(decode(&mut decoder, &block).unwrap(), fields);
        }
    }

    /// Where this decoder is stricter it refuses; it never reads something else.
    #[test]
    fn what_is_decoded_reads_the_same_to_others(blocks in vec(vec(representation(), 1..12), 1..20)) {
        let mut decoder = Decoder::new(4096);
        let mut other = fluke_hpack::Decoder::new();
        for block in blocks {
            let block = block.concat();
            let decoded = decode(&mut decoder, &block);
            if let Err(DecodeError::Compression(_)) = decoded {
                break;
            }
            let others = other.decode(&block).unwrap();
            if let Ok(fields) = decoded {
                prop_assert_eq!(others, texts(&fields));
            }
        }
    }
}

fn texts(fields: &[Field]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let bytes = |field| {
        let (name, value) = text(field);
        (name.into_bytes(), value)
    };
    fields.iter().map(bytes).collect()
}

/// One that is likely to make sense, of any kind but a size update.
fn representation() -> impl Strategy<Value = Vec<u8>> {
    let string = || {
        prop_oneof![
            "[a-z]{1,4}".prop_map(|text| [&[text.len() as u8][..], text.as_bytes()].concat()),
            "[a-z]{1,4}".prop_map(|text| {
                let mut coded = vec![0x80 | huffman::encoded_len(text.as_bytes()) as u8];
                huffman::encode(text.as_bytes(), &mut coded);
                coded
            }),
            Just(vec![1, b'A']),
            Just(vec![1, b'\n']),
        ]
    };
    let literal = |flags: u8, prefix: u32| {
        (0..70usize, string(), string()).prop_map(move |(index, name, value)| {
            let mut out = Vec::new();
            integer::encode(index, prefix, flags, &mut out);
            if index == 0 {
                out.extend(name);
            }
            out.extend(value);
            out
        })
    };
    prop_oneof![
        (1..70u8).prop_map(|index| vec![0x80 | index]),
        literal(0x40, 6),
        literal(0x40, 6),
        literal(0x00, 4),
        literal(0x10, 4),
    ]
}
