//! A route is changed again and again through the server, while requests of two nodes go on: how long until each
//! change is in force, and what of it its clients notice.

pub mod clients;
mod routes;

use std::time::{Duration, Instant};

use tulle_tests::chaos::{figure, is_release};
use tulle_tests::harness::{Home, Process, alone, eventually};

use self::clients::{Api, Backends, Clients, Seen};
use self::routes::{Change, Write};

const CHANGES: usize = 200;
/// A change is in force after so long.
const LIMIT: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(20);
const SERVER: [&str; 2] = ["127.0.0.1:19461", "127.0.0.1:19462"];

/// A server and two nodes on this host. What the clients ask for is on the far node; they enter at a port of the near one.
struct Mesh {
    entry: u16,
    home: Home,
    // What runs ends in this order.
    _workloads: [Process; 2],
    _nodes: [(Process, Home); 2],
    _server: Process,
}

impl Mesh {
    #[track_caller]
    fn start(backends: &Backends) -> Self {
        let home = Home::new();
        let server = home.start(&["server", "--listen-api", SERVER[0], "--listen-nodes", SERVER[1]]);
        server.wait_for_line("server", PATIENCE, |line| line.contains("the server runs"));
        let services = home.write("services.yaml", &backends.services()).display().to_string();
        home.tulle(&["apply", "-f", &services]).ok();
        let node = |name: &str| {
            let node_home = Home::new();
            let token = home.tulle(&["token", "create"]).ok().trim().to_owned();
            let listen = ["--listen-links", "127.0.0.1:0", "--listen-admin", "127.0.0.1:0"];
            let joins = ["node", "--name", name, "--server", SERVER[1], "--token", &token];
            let arguments = [&joins[..], &listen, &["--capture", "explicit", "--workers", "2"]].concat();
            let node = node_home.start(&arguments);
            node.wait_for_line("node", PATIENCE, |line| line.contains(" runs, links at "));
            (node, node_home)
        };
        let nodes = [node("near"), node("far")];
        let ports = backends.ports();
        let mut run = vec!["run", "backends"];
        ports.iter().for_each(|port| run.extend(["--port", port]));
        run.extend(["--", "sleep", "600"]);
        let serving = nodes[1].1.start(&run);
        let environment = "echo port $C_SERVICE_PORT; exec sleep 600";
        let asking = nodes[0].1.start(&["run", "client", "--upstream", "c", "--", "sh", "-c", environment]);
        let line = asking.wait_for_line("port", PATIENCE, |line| line.starts_with("port "));
        let entry = line["port ".len()..].parse().unwrap();
        Self { entry, home, _workloads: [asking, serving], _nodes: nodes, _server: server }
    }
}

/// A change that was made.
struct Made {
    /// When it was sent to the server, and when that had answered.
    sent: Instant,
    answered: Instant,
    /// What requests see of it.
    expected: String,
    what: &'static str,
}

/// The changes, of which the first is how it was before.
struct Story(Vec<Made>);

impl Story {
    /// Why a request should not have seen that.
    fn is_wrong(&self, seen: &Seen) -> Option<String> {
        let since = |made: &&Made| made.answered + LIMIT <= seen.began;
        let oldest = self.0.iter().take_while(since).count().saturating_sub(1);
        let newest = self.0.iter().take_while(|made| made.sent <= seen.ended).count();
        let may_be = &self.0[oldest..newest];
        if may_be.iter().any(|made| made.expected == seen.what) {
            return None;
        }
        let until = self.0.get(oldest).map(|made| seen.began.saturating_duration_since(made.answered));
        Some(format!("{}, {until:?} after {}", seen.what, may_be[0].expected))
    }

    /// When the first request that had seen each change was over, and when the last that did not began, from the
    /// server's answer on.
    fn effects(&self, all: &[Seen]) -> Vec<(Duration, Duration)> {
        let effect = |at: usize| {
            let (before, made) = (&self.0[at - 1], &self.0[at]);
            let until = self.0.get(at + 1).map(|next| next.sent);
            let during = all
                .iter()
                .filter(|seen| seen.ended >= made.sent && until.is_none_or(|until| seen.began < until));
            let since = |then: Instant| then.saturating_duration_since(made.answered);
            let (mut first, mut last) = (PATIENCE, Duration::ZERO);
            for seen in during {
                if seen.what == made.expected {
                    first = first.min(since(seen.ended));
                } else if seen.what == before.expected {
                    last = last.max(since(seen.began));
                }
            }
            (first, last)
        };
        (1..self.0.len()).map(effect).collect()
    }
}

fn figures(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let ms = |time: Duration| format!("{:.1}", time.as_secs_f64() * 1000.0);
    figure("changes", &format!("{what}, median, ms"), ms(times[times.len() / 2]));
    figure("changes", &format!("{what}, worst, ms"), ms(times[times.len() - 1]));
}

#[test]
fn changes_of_a_route_are_in_force_within_a_second_and_no_request_fails() {
    let _alone = alone();
    let backends = Backends::serve();
    let mesh = Mesh::start(&backends);
    let mut api = Api::of(&mesh.home);
    eventually("an answer", PATIENCE, || (clients::status_of(mesh.entry, routes::PATH) == 200).then_some(()));
    let began = Instant::now();
    let mut clients = Clients::start(mesh.entry);
    let mut story = Story(vec![Made { sent: began, answered: began, expected: routes::own(), what: "none" }]);
    assert!(clients.wait_until_all_see(&routes::own(), began, PATIENCE), "{}", clients.last());
    let began = Instant::now();
    for number in 1..=CHANGES {
        let Change { what, write, expected } = routes::change(number);
        let sent = Instant::now();
        api.write(&write).unwrap_or_else(|why| panic!("change {number}, {what}: {why}"));
        story.0.push(Made { sent, answered: Instant::now(), expected: expected.clone(), what });
        let all_see = clients.wait_until_all_see(&expected, sent, PATIENCE);
        assert!(all_see, "change {number}, {what}: expected {expected}\n{}", clients.last());
        if what == routes::TIMEOUTS {
            assert_eq!(clients::status_of(mesh.entry, "/stuck"), 504, "change {number}");
        }
    }
    let took = began.elapsed();
    // Those that begin later than the limit see the last change.
    std::thread::sleep(LIMIT * 5 / 4);
    refused_and_unresolved(&mesh, &mut api, &mut clients, &mut story);

    let over = began.elapsed();
    let all = clients.stop();
    let wrong: Vec<_> = all.iter().filter_map(|seen| story.is_wrong(seen)).collect();
    let effects = story.effects(&all);
    let rate = all.len() as f64 / over.as_secs_f64();
    figure("changes", "requests", all.len());
    figure("changes", "requests that failed, or saw what was no longer in force", wrong.len());
    figure("changes", "requests a second", format!("{rate:.0}"));
    figure("changes", "changes a second", format!("{:.1}", CHANGES as f64 / took.as_secs_f64()));
    let (first, last): (Vec<_>, Vec<_>) = effects.iter().copied().unzip();
    figures("until a request has seen a change", first);
    figures("until no request begins that sees what was before", last);
    assert!(wrong.is_empty(), "{:#?}", &wrong[..wrong.len().min(20)]);
    for (at, (first, last)) in effects.into_iter().enumerate() {
        let made = &story.0[at + 1];
        assert!(first < LIMIT && last < LIMIT, "change {}, {}: {first:?}, {last:?}", at + 1, made.what);
    }
    // Other profiles are several times slower: with those, as many as this machine can.
    assert!(rate >= 0.95 * clients::RATE as f64 || !is_release(), "{rate} requests a second");
}

/// What cannot be a route is refused, and what leads nowhere is said; what else the route says stays in force.
fn refused_and_unresolved(mesh: &Mesh, api: &mut Api, clients: &mut Clients, story: &mut Story) {
    let mut change = |api: &mut Api, write: &Write, expected: String, what| {
        let sent = Instant::now();
        api.write(write).unwrap_or_else(|why| panic!("{what}: {why}"));
        story.0.push(Made { sent, answered: Instant::now(), expected: expected.clone(), what });
        assert!(clients.wait_until_all_see(&expected, sent, PATIENCE), "{what}: {}", clients.last());
    };
    let Change { what, write, expected } = routes::change(CHANGES + 1);
    change(api, &write, expected, what);
    let before = api.read("HTTPRoute", "r").unwrap();

    let refused = api.write(&routes::not_a_route()).unwrap_err();
    assert_eq!((&refused["code"], &refused["reason"]), (&422.into(), &"Invalid".into()), "{refused}");
    let cause = &refused["details"]["causes"][0];
    assert_eq!(cause["field"], routes::NOT_A_PATTERN, "{refused}");
    let file = mesh.home.write("refused.yaml", &routes::not_a_route().text().unwrap()).display().to_string();
    let applied = mesh.home.tulle(&["apply", "-f", &file]);
    assert!(!applied.status.success() && applied.stderr.contains(routes::NOT_A_PATTERN), "{applied:#?}");
    let after = api.read("HTTPRoute", "r").unwrap();
    assert_eq!(
        (&after["spec"], &after["metadata"]["generation"]),
        (&before["spec"], &before["metadata"]["generation"])
    );

    // Its clients go on meanwhile, and are asked in the end what they saw.
    let (write, expected) = routes::leads_nowhere(CHANGES + 2);
    change(api, &write, expected, "a backend that is not there");
    let resolved = eventually("a status of the backend", PATIENCE, || {
        let route = api.read("HTTPRoute", "r").unwrap();
        let conditions = route["status"]["parents"][0]["conditions"].as_array()?.clone();
        let resolved = conditions.into_iter().find(|condition| condition["type"] == "ResolvedRefs")?;
        (resolved["observedGeneration"] == route["metadata"]["generation"]).then_some(resolved)
    });
    assert_eq!((&resolved["status"], &resolved["reason"]), (&"False".into(), &"BackendNotFound".into()));
    assert!(resolved["message"].as_str().unwrap().contains("default/nowhere"), "{resolved}");
    assert_eq!(clients::status_of(mesh.entry, "/nowhere"), 500);
    let explain = |url| mesh.home.tulle(&["explain", "--from", "default/client", url]).ok();
    let explained = explain("http://c/nowhere");
    assert!(
        explained.contains("500 invalid-backend") && explained.contains("default/nowhere"),
        "{explained}"
    );
    assert!(explain("http://c/old/load").contains("Service default/v1 port 80"));
    let table = mesh.home.tulle(&["get", "httproutes", "-o", "wide"]).ok();
    assert!(table.contains("BackendNotFound"), "{table}");
}
