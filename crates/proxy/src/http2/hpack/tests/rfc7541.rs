//! The examples of RFC 7541, appendix C.

use super::super::integer::{self, Reader};
use super::*;

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u32> = hex.chars().filter_map(|c| c.to_digit(16)).collect();
    digits.chunks(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect()
}

/// Decodes a block; then the table must have that size, and these entries, the newest first.
fn check(decoder: &mut Decoder, hex: &str, fields: &[(&str, &str)], size: usize, table: &[(&str, &str)]) {
    let owned = |pairs: &[(&str, &str)]| -> Vec<_> {
        pairs.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_owned())).collect()
    };
    let decoded = decode(decoder, &bytes(hex)).unwrap();
    assert_eq!(decoded.iter().map(text).collect::<Vec<_>>(), owned(fields));
    let entries: Vec<_> = (0..decoder.table().len())
        .map(|index| text(decoder.table().get(index).unwrap().field.as_ref().unwrap()))
        .collect();
    assert_eq!(entries, owned(table));
    assert_eq!(decoder.table().size(), size);
}

#[test]
fn c1_integers() {
    for (value, prefix, hex) in [(10, 5, "0a"), (1337, 5, "1f9a0a"), (42, 8, "2a")] {
        let mut out = Vec::new();
        integer::encode(value, prefix, 0, &mut out);
        assert_eq!(out, bytes(hex));
        assert_eq!(Reader::new(&out).integer(prefix), Ok(value));
    }
}

#[test]
fn c2_representations() {
    let custom = [("custom-key", "custom-header")];
    check(
        &mut Decoder::new(4096),
        "400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572",
        &custom,
        55,
        &custom,
    );
    check(
        &mut Decoder::new(4096),
        "040c 2f73 616d 706c 652f 7061 7468",
        &[(":path", "/sample/path")],
        0,
        &[],
    );
    let mut decoder = Decoder::new(4096);
    check(&mut decoder, "1008 7061 7373 776f 7264 0673 6563 7265 74", &[("password", "secret")], 0, &[]);
    check(&mut decoder, "82", &[(":method", "GET")], 0, &[]);
}

#[test]
fn a_field_never_to_be_indexed_is_marked() {
    let fields =
        decode(&mut Decoder::new(4096), &bytes("1008 7061 7373 776f 7264 0673 6563 7265 74")).unwrap();
    assert!(matches!(&fields[..], [Field::Header(_, value)] if value.is_sensitive()));
    assert_eq!(encode(&mut Encoder::new(), &fields), bytes("1008 7061 7373 776f 7264 0673 6563 7265 74"));
}

const REQUESTS: [&[(&str, &str)]; 3] = [
    &[(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "www.example.com")],
    &[
        (":method", "GET"),
        (":scheme", "http"),
        (":path", "/"),
        (":authority", "www.example.com"),
        ("cache-control", "no-cache"),
    ],
    &[
        (":method", "GET"),
        (":scheme", "https"),
        (":path", "/index.html"),
        (":authority", "www.example.com"),
        ("custom-key", "custom-value"),
    ],
];

fn requests(blocks: [&str; 3]) {
    let mut decoder = Decoder::new(4096);
    let table =
        [("custom-key", "custom-value"), ("cache-control", "no-cache"), (":authority", "www.example.com")];
    check(&mut decoder, blocks[0], REQUESTS[0], 57, &table[2..]);
    check(&mut decoder, blocks[1], REQUESTS[1], 110, &table[1..]);
    check(&mut decoder, blocks[2], REQUESTS[2], 164, &table);
}

#[test]
fn c3_requests_without_huffman() {
    requests([
        "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
        "8286 84be 5808 6e6f 2d63 6163 6865",
        "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
    ]);
}

#[test]
fn c4_requests_with_huffman() {
    requests([
        "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
        "8286 84be 5886 a8eb 1064 9cbf",
        "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
    ]);
}

const COOKIE: &str = "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1";

fn responses(blocks: [&str; 3]) {
    let mut decoder = Decoder::new(4096);
    // The examples' table holds 256 bytes.
    decode(&mut decoder, &bytes("3f e1 01")).unwrap();
    let (date, later) = ("Mon, 21 Oct 2013 20:13:21 GMT", "Mon, 21 Oct 2013 20:13:22 GMT");
    let first = [
        (":status", "302"),
        ("cache-control", "private"),
        ("date", date),
        ("location", "https://www.example.com"),
    ];
    let mut table: Vec<_> = first.iter().copied().rev().collect();
    check(&mut decoder, blocks[0], &first, 222, &table);
    let second = [(":status", "307"), first[1], first[2], first[3]];
    table.insert(0, second[0]);
    table.pop();
    check(&mut decoder, blocks[1], &second, 222, &table);
    let third = [
        (":status", "200"),
        first[1],
        ("date", later),
        first[3],
        ("content-encoding", "gzip"),
        ("set-cookie", COOKIE),
    ];
    check(
        &mut decoder,
        blocks[2],
        &third,
        215,
        &[("set-cookie", COOKIE), ("content-encoding", "gzip"), ("date", later)],
    );
}

#[test]
fn c5_responses_without_huffman() {
    responses([
        "4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 \
         2032 303a 3133 3a32 3120 474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 \
         6c65 2e63 6f6d",
        "4803 3330 37c1 c0bf",
        "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d \
         54c0 5a04 677a 6970 7738 666f 6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049 \
         5541 5851 5745 4f49 553b 206d 6178 2d61 6765 3d33 3630 303b 2076 6572 7369 6f6e \
         3d31",
    ]);
}

#[test]
fn c6_responses_with_huffman() {
    responses([
        "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 \
         2d1b ff6e 919d 29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3",
        "4883 640e ffc1 c0bf",
        "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab \
         77ad 94e7 821d d7f2 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f \
         9587 3160 65c0 03ed 4ee5 b106 3d50 07",
    ]);
}

#[test]
fn strings_of_the_examples_are_coded_as_there() {
    for (string, hex) in [
        ("www.example.com", "f1e3 c2e5 f23a 6ba0 ab90 f4ff"),
        ("no-cache", "a8eb 1064 9cbf"),
        ("302", "6402"),
        ("Mon, 21 Oct 2013 20:13:21 GMT", "d07a be94 1054 d444 a820 0595 040b 8166 e082 a62d 1bff"),
        (
            COOKIE,
            "94e7 821d d7f2 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 \
             3160 65c0 03ed 4ee5 b106 3d50 07",
        ),
    ] {
        let mut coded = Vec::new();
        huffman::encode(string.as_bytes(), &mut coded);
        assert_eq!(coded, bytes(hex));
        assert_eq!(huffman::encoded_len(string.as_bytes()), coded.len());
    }
}
