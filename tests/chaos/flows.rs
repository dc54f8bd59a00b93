//! Runs of a Flow of six tasks while those who carry them out, and the server, are killed or held up: all end, a task that was recorded
//! as done is called no more, and nothing is recorded twice.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;
use tulle_tests::chaos::{figure, full, length};
use tulle_tests::counting::CountingService;
use tulle_tests::flow_mesh::FlowMesh;
use tulle_tests::harness::{alone, run};

/// How long all runs may take to end once nobody is killed any more.
const AFTERWARDS: Duration = Duration::from_secs(90);
const TASKS: usize = 6;
const FLOW: &str = "six";

struct Mesh(FlowMesh);

impl Mesh {
    #[track_caller]
    fn start(runners: usize, latency: Duration) -> Self {
        let mesh = Self(FlowMesh::start(CountingService::start(latency), runners, &[]));
        mesh.apply();
        mesh
    }

    #[track_caller]
    fn apply(&self) {
        let task = |i: usize| {
            format!(
                "    - t{i}:\n        call: http\n        with: {{method: post, endpoint: '${{ \"http://tasks/\" + \
                 $workflow.id + \"/t{i}\" }}', body: {{task: {i}}}}}\n"
            )
        };
        let tasks: String = (1..=TASKS).map(task).collect();
        let text = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: tasks, namespace: default}}\n\
             spec: {{selector: {{app: tasks}}, ports: [{{port: 80, appProtocol: http}}]}}\n---\n\
             apiVersion: tulle.dev/v1alpha1\nkind: Flow\nmetadata: {{name: {FLOW}, namespace: default}}\n\
             spec:\n  trigger: {{http: {{}}}}\n  workflow:\n    document: {{dsl: '1.0.3', namespace: t, name: six, \
             version: '1.0.0'}}\n    do:\n{tasks}"
        );
        let file = self.0.home.write("flow.yaml", &text).display().to_string();
        self.0.home.tulle(&["apply", "-f", &file]).ok();
    }

    /// Starts that many runs, as a workload of the mesh does, and does not wait for them.
    #[track_caller]
    fn begin(&self, count: usize) {
        let script = format!(
            "i=0; while [ $i -lt {count} ]; do i=$((i+1)); until curl -sf -m 10 -o /dev/null -H 'prefer: respond-async' \
             -H \"idempotency-key: k$i\" -d '{{\"n\":'$i'}}' http://{FLOW}/; do sleep 0.2; done; done"
        );
        let starter = self.0.home.start(&["run", "starter", "--", "sh", "-c", &script]);
        assert!(starter.wait(Duration::from_secs(60)).success(), "{}", starter.stderr());
    }

    fn get(&self, path: &str) -> Option<Value> {
        let path = format!("/apis/tulle.dev/v1alpha1/namespaces/default/{path}");
        let mut command = self.0.home.command("kubectl");
        command.args(["get", "--raw", &path]).env("KUBECONFIG", self.0.home.kubeconfig());
        serde_json::from_str(&run(&mut command).stdout).ok()
    }

    /// Each run and its state.
    fn states(&self) -> Option<Vec<(String, String)>> {
        let list = self.get("flowruns")?;
        let state = |run: &Value| {
            let text = |pointer| run.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
            (text("/metadata/name"), text("/status/state"))
        };
        Some(list["items"].as_array()?.iter().map(state).collect())
    }

    /// The names of all runs, once they are over and each has ended well.
    #[track_caller]
    fn ended(&self, count: usize) -> Vec<String> {
        let mut last = Vec::new();
        let begun = Instant::now();
        while begun.elapsed() < AFTERWARDS {
            last = self.states().unwrap_or_default();
            if last.len() == count && last.iter().all(|(_, state)| is_over(state)) {
                break;
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        let mut counts = BTreeMap::<&str, usize>::new();
        for (_, state) in &last {
            *counts.entry(state).or_default() += 1;
        }
        let ill: Vec<_> = last.iter().filter(|(_, state)| state != "Completed").take(3).collect();
        let error = |run: &str| self.get(&format!("flowruns/{run}")).map(|run| run["status"].to_string());
        let errors: Vec<_> = ill.iter().map(|(run, _)| error(run)).collect();
        assert_eq!(counts, BTreeMap::from([("Completed", count)]), "{ill:?} {errors:#?}");
        last.into_iter().map(|(run, _)| run).collect()
    }

    /// Holds what was called against what was recorded. Returns how many calls there were.
    #[track_caller]
    fn check(&self, runs: &[String], kills: usize) -> usize {
        let mut calls: BTreeMap<String, Vec<(String, u64)>> = BTreeMap::new();
        let counted = self.0.service.counted();
        for call in &counted {
            calls.entry(call.path.clone()).or_default().push((call.key.clone(), call.at));
        }
        assert_eq!(calls.len(), runs.len() * TASKS, "each task of each run was called");
        for (path, calls) in &calls {
            assert!(calls.len() <= 1 + kills, "{path} was called {} times", calls.len());
            assert!(calls.iter().all(|(key, _)| *key == calls[0].0 && !key.is_empty()), "{path}: {calls:?}");
        }
        for run in runs {
            let history = self.get(&format!("flowruns/{run}/history")).unwrap();
            let entries = history["entries"].as_array().unwrap();
            let answers: Vec<_> =
                entries.iter().filter(|entry| entry.pointer("/event/Answered").is_some()).collect();
            assert_eq!(answers.len(), TASKS, "{run}: each answer is recorded once: {entries:#?}");
            for (i, answer) in answers.iter().enumerate() {
                let path = format!("/{run}/t{}", i + 1);
                assert_eq!(answer.pointer("/event/Answered/result/Ok").and_then(Value::as_str), Some(&*path));
                let recorded = answer["at"].as_u64().unwrap();
                let late: Vec<_> = calls[&path].iter().filter(|(_, at)| *at > recorded).collect();
                assert!(
                    late.is_empty(),
                    "{path} was recorded at {recorded}, and called after that: {late:?}"
                );
            }
        }
        counted.len()
    }
}

fn is_over(state: &str) -> bool {
    ["Completed", "Faulted", "Cancelled"].contains(&state)
}

/// Numbers that differ from run to run, which are shown where something fails.
struct Chance(u64);

impl Chance {
    fn new() -> Self {
        let seed = std::env::var("TULLE_CHAOS_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = seed.unwrap_or_else(tulle_tests::counting::now_millis) | 1;
        println!("TULLE_CHAOS_SEED={seed}");
        Self(seed)
    }

    /// Up to that many milliseconds.
    fn pause(&mut self, most: u64) {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        std::thread::sleep(Duration::from_millis(self.0 % most));
    }
}

#[test]
fn runs_go_on_over_kills_of_runner_and_server() {
    let _alone = alone();
    let (count, kills) = if full() { (200, 50) } else { (200, 5) };
    // Of the times between kills some are as long: each run has most of its tasks begun several times, and done in between.
    let latency = length(Duration::from_millis(1500), Duration::from_millis(1700));
    let mut mesh = Mesh::start(1, latency);
    let mut chance = Chance::new();
    mesh.begin(count);
    for _ in 0..kills {
        chance.pause(800);
        mesh.0.kill_runner(0);
        chance.pause(800);
        mesh.0.kill_server();
    }
    let open = mesh.states().unwrap_or_default().iter().filter(|(_, state)| !is_over(state)).count();
    figure("flows", "runs that were not over after the last kill", open);
    let runs = mesh.ended(count);
    let calls = mesh.check(&runs, 2 * kills);
    figure("flows", "runs that ended well over kills", format!("{} of {count}", runs.len()));
    figure("flows", "kills of runner and server", 2 * kills);
    figure("flows", "calls a task", format!("{:.2}", calls as f64 / (count * TASKS) as f64));
}

#[test]
fn runs_go_on_elsewhere_when_their_runner_is_gone_or_held_up() {
    let _alone = alone();
    let count = 40;
    let mut mesh = Mesh::start(2, Duration::from_millis(1500));
    mesh.begin(count);
    // Its lease is 2 s; it does not know that time goes by, and goes on with what it had.
    let held = mesh.0.runners[0].1.as_ref().unwrap();
    held.signal(Signal::SIGSTOP);
    std::thread::sleep(Duration::from_secs(5));
    held.signal(Signal::SIGCONT);
    std::thread::sleep(Duration::from_secs(2));
    mesh.0.end_runner(1);
    let begun = Instant::now();
    let runs = mesh.ended(count);
    // Two moves at most: each makes again what was under way.
    mesh.check(&runs, 2);
    figure(
        "flows",
        "runs that ended well after their runner was held up, and the other one killed",
        runs.len(),
    );
    figure("flows", "all were over after", format!("{:.1} s", begun.elapsed().as_secs_f64()));
}
