//! By hand: `cargo test -p tulle-flow --test it -- --ignored --nocapture runner::costs`.

use std::time::Instant;

use http::{HeaderMap, StatusCode};
use serde_json::json;
use tulle_flow::evaluator::Evaluator;
use tulle_flow::runner::{CallAnswer, Caller, OutgoingCall, Runner, RunnerLimits};
use tulle_model::flow::fault::Fault;
use tulle_model::flow::history::RunName;

use super::{Around, call, workflow};
use crate::memory::TestClock;

/// Answers at once.
pub(super) struct AtOnce;

impl Caller for AtOnce {
    async fn call(&self, _: OutgoingCall) -> Result<CallAnswer, Fault> {
        let mut headers = HeaderMap::new();
        headers.insert(http::header::CONTENT_TYPE, "application/json".parse().expect("it is a header"));
        Ok(CallAnswer { status: StatusCode::OK, headers, body: r#"{"id":7}"#.into(), trace: None })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "prints measurements"]
async fn of_runs() {
    const RUNS: usize = 10_000;
    let around = Around::new();
    let workflow = workflow(json!(["a", "b", "c", "d", "e"].map(|name| call(name, "/"))));
    let runs: Vec<RunName> = (0..RUNS).map(|run| around.begin_of(&format!("r{run}"), &workflow)).collect();
    let evaluator = Evaluator::new(crate::evaluators());
    let runner =
        Runner::new(around.book.clone(), AtOnce, evaluator, TestClock::new(0), RunnerLimits::default());
    let began = Instant::now();
    let mut ended = Vec::new();
    for run in &runs {
        runner.carry_on(around.book.lease(run, vec![])).expect("it is not full");
        ended.push(runner.ended(run));
    }
    for outcome in ended {
        outcome.await;
    }
    let each = began.elapsed() / RUNS as u32;
    println!("{:>8} µs  a run of five calls, with two threads", each.as_micros());
}
