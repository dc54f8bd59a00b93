//! How long a block takes. Nothing is asserted: `cargo test --release -p tulle-proxy hpack::tests::measure
//! -- --ignored --nocapture`.

use std::hint::black_box;
use std::time::Instant;

use super::*;

const ROUNDS: u32 = 200_000;

fn request() -> Vec<Field> {
    vec![
        Field::Method(Method::GET),
        Field::Scheme(Scheme::HTTP),
        Field::Authority(Authority::from_static("shop.default.svc:8080")),
        Field::Path(PathAndQuery::from_static("/api/v1/items?page=1")),
        header("user-agent", "load/1.0 (linux)"),
        header("accept", "*/*"),
        header("accept-encoding", "gzip, br"),
        header("content-type", "application/json"),
        header("x-forwarded-proto", "http"),
        header("x-forwarded-for", "10.1.2.3"),
        header("x-tulle-source", "spiffe://cluster.local/ns/default/sa/web"),
        header("x-tenant", "0123456789abcdef"),
    ]
}

/// The best of five.
fn nanoseconds(mut run: impl FnMut()) -> f64 {
    let once = |run: &mut dyn FnMut()| {
        let start = Instant::now();
        for _ in 0..ROUNDS {
            run();
        }
        start.elapsed().as_secs_f64() * 1e9 / f64::from(ROUNDS)
    };
    (0..5).map(|_| once(&mut run)).fold(f64::INFINITY, f64::min)
}

fn report(what: &str, fields: &[Field], huffman: bool) {
    let mut encoder = Encoder::new().with_huffman(huffman);
    let mut decoder = Decoder::new(4096);
    let mut block = Vec::new();
    for _ in 0..5 {
        block = encode(&mut encoder, fields);
        decode(&mut decoder, &block).unwrap();
    }
    let mut out = Vec::with_capacity(1024);
    let encoding = nanoseconds(|| {
        out.clear();
        encoder.begin(&mut out);
        for field in fields {
            match field {
                Field::Method(method) => encoder.method(method, &mut out),
                Field::Scheme(scheme) => encoder.scheme(scheme.as_str(), &mut out),
                Field::Authority(authority) => encoder.authority(authority.as_str(), &mut out),
                Field::Path(path) => encoder.path(path.as_str(), &mut out),
                Field::Protocol(_) => {}
                Field::Status(status) => encoder.status(*status, &mut out),
                Field::Header(name, value) => encoder.header(name, value, &mut out),
            }
        }
        black_box(&out);
    });
    let decoding = nanoseconds(|| {
        let result = decoder.decode(black_box(&block), 65_536, |field| {
            black_box(field);
            Ok(())
        });
        result.unwrap();
    });
    println!(
        "{what}: {} fields, {} bytes, encode {encoding:.0} ns, decode {decoding:.0} ns",
        fields.len(),
        block.len()
    );
}

#[test]
#[ignore = "a measurement"]
fn measure_blocks() {
    let repeated = request();
    report("repeated", &repeated, false);
    let mut unique = repeated.clone();
    unique.push(header("x-request-id", "0b7e2c54-6a5c-4a0c-8a51-6d1f6a0f4a53"));
    unique.push(header("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"));
    report("with two of its own", &unique, false);
    report("with two of its own, huffman", &unique, true);
    let response = vec![
        Field::Status(StatusCode::OK),
        header("content-type", "text/plain"),
        header("content-length", "1024"),
        header("date", "Mon, 21 Oct 2013 20:13:21 GMT"),
        header("server", "fake"),
    ];
    report("response", &response, false);
}
