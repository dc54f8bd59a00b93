//! What a Flow adds to the calls that it makes: one client, one run at a time.

use anyhow::Result;

use super::figures::{Figure, Goal};
use super::mesh::FlowMesh;
use super::requests::{Requests, all_answered};
use super::{CaseSettings, FlowCase};

const CASE: &str = FlowCase::Overhead.name();
/// Each is measured so often, one after the other: what else the machine does meets all alike.
const ROUNDS: usize = 3;
/// The call by itself, and Flows of one and of three such calls.
const ASKED: [&str; 3] = ["c", "one", "three"];

pub fn measure(mesh: &FlowMesh, settings: &CaseSettings) -> Result<Vec<Figure>> {
    let mut medians = [[0.0; ROUNDS]; 3];
    for round in 0..ROUNDS {
        for (medians, name) in medians.iter_mut().zip(ASKED) {
            let requests = Requests {
                seconds: settings.seconds / ROUNDS as f64,
                warmup: settings.warmup / ROUNDS as f64,
                ..Requests::of(name, mesh.proxy())
            };
            let load = requests.make()?;
            all_answered(&load)?;
            medians[round] = load.latency.p50 / 1e3;
        }
    }
    let [call, one, three] = medians.map(middle);
    Ok(vec![
        Figure::new(CASE, "a call of a service, p50", call, "ms"),
        Figure::new(CASE, "a run of one such call, p50", one, "ms"),
        Figure::new(CASE, "what that adds", one - call, "ms").against(Goal::AtMost(2.0)),
        Figure::new(CASE, "a run of three calls, p50", three, "ms").against(Goal::AtMost(10.0)),
        Figure::new(CASE, "what a further task adds to its call", (three - one) / 2.0 - call, "ms"),
    ])
}

fn middle(mut values: [f64; ROUNDS]) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[ROUNDS / 2]
}
