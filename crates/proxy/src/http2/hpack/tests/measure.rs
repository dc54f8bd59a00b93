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

fn report(what: &str, fields: &[Field], own: &[&'static str], huffman: bool) {
    let mut encoder = Encoder::new().with_huffman(huffman);
    let mut decoder = Decoder::new(4096);
    let mut out = Vec::with_capacity(1024);
    let own: Vec<_> = own.iter().map(|name| HeaderName::from_static(name)).collect();
    // More than the encoder remembers.
    let ids: Vec<_> = (0..1024u32)
        .map(|n| HeaderValue::from_str(&format!("{:08x}-6a5c-4a0c-8a51-6d1f6a0f4a53", n * 0x9e37)).unwrap())
        .collect();
    let mut round = 0;
    let mut block = |out: &mut Vec<u8>| {
        out.clear();
        encoder.begin(out);
        for field in fields {
            match field {
                Field::Method(method) => encoder.method(method, out),
                Field::Scheme(scheme) => encoder.scheme(scheme.as_str(), out),
                Field::Authority(authority) => encoder.authority(authority.as_str(), out),
                Field::Path(path) => encoder.path(path.as_str(), out),
                Field::Protocol(_) => {}
                Field::Status(status) => encoder.status(*status, out),
                Field::Header(name, value) => encoder.header(name, value, out),
            }
        }
        for name in &own {
            round += 1;
            encoder.header(name, &ids[round % ids.len()], out);
        }
    };
    for _ in 0..5 {
        block(&mut out);
        decode(&mut decoder, &out).unwrap();
    }
    let encoding = nanoseconds(|| {
        block(&mut out);
        black_box(&out);
    });
    let decoding = nanoseconds(|| {
        let result = decoder.decode(black_box(&out), 65_536, |field| {
            black_box(&field);
            Ok(())
        });
        result.unwrap();
    });
    println!(
        "{what}: {} fields, {} bytes, encode {encoding:.0} ns, decode {decoding:.0} ns",
        fields.len() + own.len(),
        out.len()
    );
}

#[test]
#[ignore = "a measurement"]
fn measure_blocks() {
    let own = ["x-request-id", "traceparent"];
    report("a request that repeats", &request(), &[], false);
    report("with two fields of its own", &request(), &own, false);
    report("the same, Huffman-coded", &request(), &own, true);
    let response = [
        Field::Status(StatusCode::OK),
        header("content-type", "text/plain"),
        header("content-length", "1024"),
        header("date", "Mon, 21 Oct 2013 20:13:21 GMT"),
        header("server", "fake"),
    ];
    report("a response that repeats", &response, &[], false);
}
