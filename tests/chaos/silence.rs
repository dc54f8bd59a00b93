//! Clients that say nothing or stop in the middle, everywhere at once: nobody else waits for them, newcomers come in,
//! and each is sent away when its time is over.

use std::time::Duration;

use serde_json::Value;
use tulle_tests::chaos::{self, is_prompt};
use tulle_tests::harness::{Process, alone, client, eventually, python, require_root, run};

use crate::two_nodes::{Load, mesh, metric};

const PATIENCE: Duration = Duration::from_secs(20);
const RATE: &str = "100";

/// What a workload does to service c, on how many connections, what it is told then, and how many seconds after all are
/// open at the earliest and at the latest.
struct Kind {
    name: &'static str,
    connections: usize,
    said: &'static str,
    after: (f64, f64),
    /// What counts it: the side, and what.
    stall: (&'static str, &'static str),
}

const KINDS: [Kind; 5] = [
    Kind { name: "heads", connections: 500, said: "408", after: (25.0, 45.0), stall: ("client", "head") },
    Kind { name: "blocks", connections: 500, said: "ended", after: (25.0, 45.0), stall: ("client", "head") },
    Kind { name: "bodies", connections: 500, said: "408", after: (50.0, 80.0), stall: ("client", "body") },
    Kind { name: "answers", connections: 50, said: "ended", after: (50.0, 80.0), stall: ("client", "write") },
    // 32 interim answers, five a second; those that many are read late.
    Kind {
        name: "interim",
        connections: 50,
        said: "504",
        after: (3.0, 30.0),
        stall: ("application", "interim"),
    },
];

fn outcome(process: &Process) -> Value {
    assert!(process.wait(Duration::from_secs(60)).success(), "{}\n{}", process.stdout(), process.stderr());
    serde_json::from_str(process.stdout().lines().last().unwrap()).unwrap()
}

#[test]
fn who_is_silent_keeps_nobody_out() {
    require_root!();
    let _alone = alone();
    let mesh = mesh();
    let seconds = chaos::length(Duration::from_secs(3), Duration::from_secs(85)).as_secs().to_string();
    let (python, load, slow) = (python().display().to_string(), client("load.py"), client("slow.py"));
    let usual = Load::of(&mesh.one.run_client("polite", &[&load, "http://c:9091/", RATE, "3"]));
    assert!(usual.failures.is_empty(), "{:?}", usual.failures);
    let started = |process: Process| {
        process.wait_for_line("start", PATIENCE, |line| line == "started");
        process
    };

    // From within the mesh, each as a workload of its own.
    let abusers = KINDS.map(|kind| {
        let count = kind.connections.to_string();
        let process = mesh.one.run_client(kind.name, &[&slow, kind.name, "c", "9091", &count, &seconds]);
        (kind, process)
    });
    let names = mesh.one.run_client("names", &[&slow, "names", "c", "53", "300", &seconds]);
    // From processes beside it: the links' port of another host, and the admin port of this one.
    let strangers = [(mesh.hosts.addresses[1], "15008", "3000"), ("127.0.0.1", "15020", "500")].map(
        |(address, port, count)| {
            let arguments = [&slow, "silence", address, port, count, &seconds];
            started(Process::spawn(mesh.one.command(&python).args(arguments)))
        },
    );
    let abusers = abusers.map(|(kind, process)| (kind, started(process)));
    let names = started(names);

    let polite = mesh.one.run_client("polite", &[&load, "http://c:9091/", RATE, &seconds]);
    // A newcomer needs a link of its own, for its identity.
    let fresh = mesh.one.start(&["run", "fresh", "--", "curl", "-sS", "-m", "2", "http://c:9091/"]);
    assert!(fresh.wait(PATIENCE).success(), "{}", fresh.stderr());
    for home in [&mesh.one, &mesh.two] {
        let metrics = ["-sSf", "-m", "2", "-o", "/dev/null", "http://127.0.0.1:15020/metrics"];
        run(home.command("curl").args(metrics)).ok();
    }

    let polite = Load::of(&polite);
    chaos::figure(
        "silence",
        "p99 of the polite, without and with, ms",
        format!("{}, {}", usual.p99, polite.p99),
    );
    assert!(polite.failures.is_empty(), "{:?}", polite.failures);
    assert!(is_prompt(polite.p99, usual.p99), "{} ms, {} ms without", polite.p99, usual.p99);
    for (kind, process) in &abusers {
        let seen = outcome(process);
        chaos::figure("silence", kind.name, &seen);
        if !chaos::full() {
            continue;
        }
        assert_eq!(seen["said"][kind.said], kind.connections, "{}: {seen}", kind.name);
        // After an answer to a whole request another one may follow.
        let open = if kind.name == "interim" { kind.connections } else { 0 };
        assert_eq!(seen["open"], open, "{}: {seen}", kind.name);
        let (first, last) = (seen["first"].as_f64().unwrap(), seen["last"].as_f64().unwrap());
        assert!(first >= kind.after.0 && last <= kind.after.1, "{}: {seen}", kind.name);
        let (side, what) = kind.stall;
        let line = format!("tulle_stalls_total{{side=\"{side}\",what=\"{what}\"");
        let counted = eventually("the count of stalls", PATIENCE, || {
            let counted = (metric(&mesh.one, &line) + metric(&mesh.two, &line)) as usize;
            (counted >= kind.connections).then_some(counted)
        });
        chaos::figure("silence", &format!("counted as {what} of {side}"), counted);
    }
    let names = outcome(&names);
    chaos::figure("silence", "DNS over TCP beside 300 silent connections", &names["queries"]);
    assert_eq!(names["queries"]["failed"], Value::Null, "{names}");
    assert!(names["queries"]["answered"].as_u64() > Some(0), "{names}");
    let [links, admin] = strangers.map(|stranger| outcome(&stranger));
    chaos::figure("silence", "silent connections to the links' port", &links);
    chaos::figure("silence", "silent connections to the admin port", &admin);
    let refused = ["overload", "timeout"].map(|result| {
        metric(&mesh.two, &format!("tulle_tls_handshakes_total{{side=\"server\",result=\"{result}\"}}"))
    });
    chaos::figure("silence", "handshakes ended for room, and for their time", format!("{refused:?}"));
}
