//! What evaluations cost: by hand, `cargo test -p tulle-flow --test it -- --ignored --nocapture costs`.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tulle_flow::evaluator::Evaluator;
use tulle_flow::schema::check;

use crate::{evaluators, expression, given};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "prints measurements"]
async fn of_expressions() {
    let evaluator = Evaluator::new(evaluators());
    let lines: Vec<_> = (0..10).map(|n| json!({"sku": format!("sku-{n}"), "n": n, "each": 1.5})).collect();
    let order = json!({"id": "o-1", "customer": {"name": "x", "address": {"city": "y"}}, "lines": lines});
    for text in [
        ".customer.address.city",
        ".lines[0].n > 2 and .id == \"o-1\"",
        "{id, city: .customer.address.city, first: .lines[0]}",
        "\"\\(.id)-\\(.customer.name)\"",
        ".",
    ] {
        let expression = expression(text);
        let each = time(10_000, || expression.evaluate_simple(given(&order)).unwrap().unwrap());
        println!("simple  {:>8} ns  {text}", each.as_nanos());
    }
    for text in ["[.lines[] | .n * .each] | add", ".lines | map(select(.n > 4)) | length"] {
        let began = Instant::now();
        let expression = expression(text);
        let parsed = began.elapsed();
        let began = Instant::now();
        evaluator.evaluate(&expression, given(&order)).await.unwrap();
        let first = began.elapsed();
        let began = Instant::now();
        for _ in 0..2000 {
            evaluator.evaluate(&expression, given(&order)).await.unwrap();
        }
        let each = began.elapsed() / 2000;
        println!("complex {:>8} µs  {text} (read in {parsed:?}; the first time {first:?})", each.as_micros());
    }
    let began = Instant::now();
    for number in 0..200 {
        let text = format!("[.lines[] | .n * .each] | add + {number}");
        evaluator.evaluate(&expression(&text), given(&order)).await.unwrap();
    }
    println!("complex {:>8} µs  each for the first time", (began.elapsed() / 200).as_micros());
    let large = Value::from("x".repeat(200 << 10));
    let length = expression("[.] | map(length)");
    let began = Instant::now();
    for _ in 0..100 {
        evaluator.evaluate(&length, given(&large)).await.unwrap();
    }
    println!("complex {:>8} µs  of 200 KiB", (began.elapsed() / 100).as_micros());
    let schema = json!({"type": "object", "required": ["id", "lines"], "properties": {"lines": {"items": {"required": ["sku"]}}}});
    check(&evaluator, &schema, &order).await.unwrap();
    let began = Instant::now();
    for _ in 0..2000 {
        check(&evaluator, &schema, &order).await.unwrap();
    }
    println!("schema  {:>8} µs  of an order", (began.elapsed() / 2000).as_micros());
    for process in evaluator.idle() {
        let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
        let wanted = ["VmRSS", "RssAnon", "VmData", "VmPeak", "Threads"];
        for line in status.lines().filter(|line| wanted.iter().any(|name| line.starts_with(name))) {
            println!("process {line}");
        }
    }
}

fn time<T>(times: u32, mut what: impl FnMut() -> T) -> Duration {
    let began = Instant::now();
    for _ in 0..times {
        std::hint::black_box(what());
    }
    began.elapsed() / times
}
