use std::sync::Arc;
use std::time::SystemTime;

use serde_json::{Value, json};
use tokio::time::advance;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tulle_wire::node::Workload;

use super::*;
use crate::audit::Audit;
use crate::enrolment::{Enrolment, TokenRequest};
use crate::events::Events;
use crate::fleet::workloads::{self, HeldWorkloads};
use crate::fleet::{KnownNode, Leases, Lost};
use crate::flows::KnownFlows;
use crate::objects::Objects;
use crate::store::Store;

const LEASE: Duration = Duration::from_secs(10);
const MILLISECOND: Duration = Duration::from_millis(1);
/// The boot of the server's own host.
const HOST: &str = "host";

pub(in crate::fleet) type Read = mpsc::Receiver<Result<ReportReply, Status>>;
pub(in crate::fleet) type AdmissionAnswer = oneshot::Receiver<Result<(), Status>>;

/// A server that has just started; the node `n1` has joined.
async fn fleet() -> Arc<Fleet> {
    let store = Store::in_memory();
    let objects = Objects::open(store.clone()).await.unwrap();
    let enrolment = Enrolment::new(store.clone(), "f00d".to_owned());
    let now = SystemTime::now();
    let request = TokenRequest {
        identities: vec!["*".to_owned()],
        flows: Vec::new(),
        ttl: Duration::from_secs(60),
        node: None,
        replace: false,
    };
    let token = enrolment.create_token(request, now).await.unwrap().text;
    let admission = enrolment.check(&token, "n1", now).await.unwrap();
    enrolment.admit(admission, u64::MAX, now).await.unwrap();
    let (events, leases) =
        (Events::new(objects.clone()), Leases { forget_stale: Duration::ZERO, ..Leases::default() });
    // Nothing of it is read here.
    let audit = Audit::open(std::path::Path::new("/dev/null/audit")).unwrap();
    let (writers, stop) = ((events, audit), CancellationToken::new());
    let flows = KnownFlows::open(objects.clone()).await.unwrap();
    let mut fleet = Fleet::start(objects, store, (enrolment, flows), writers, Arc::default(), leases, stop)
        .await
        .unwrap();
    Arc::get_mut(&mut fleet).unwrap().boot_id = HOST.to_owned();
    fleet
}

/// The node's task, whose messages the test hands on itself.
fn task(fleet: &Arc<Fleet>, node: &str, held: &HeldWorkloads) -> NodeTask {
    let known = KnownNode { mailbox: mpsc::channel(1).0, record: None, lost: Lost::default() };
    fleet.nodes.lock().insert(node.into(), known);
    NodeTask::new(fleet.clone(), node.into(), held)
}

async fn n1() -> NodeTask {
    task(&fleet().await, "n1", &HeldWorkloads::default())
}

/// The node's task with a stream, of the process `i1` on the boot `b1`; the server has run for some time.
pub(in crate::fleet) async fn connected() -> (NodeTask, Read) {
    let mut task = n1().await;
    advance(LEASE).await;
    let (older, read, mut answer) = newcomer(1, "i1", "b1");
    task.opened(older).await;
    assert_eq!(told(&mut answer), ADMITTED);
    let mut read = read;
    assert_eq!(read.try_recv().unwrap().unwrap().ping, 0);
    (task, read)
}

pub(in crate::fleet) fn newcomer(
    session: u64,
    instance: &str,
    boot: &str,
) -> (Newcomer, Read, AdmissionAnswer) {
    let (replies, read) = mpsc::channel(4);
    let (admitted, answer) = oneshot::channel();
    let info = NodeInfo {
        name: "n1".to_owned(),
        link_address: "10.0.0.1:15008".to_owned(),
        instance: instance.to_owned(),
        boot_id: boot.to_owned(),
        ..NodeInfo::default()
    };
    (
        Newcomer { session, stamp: None, info, peer: format!("10.0.0.{session}:4000"), replies, admitted },
        read,
        answer,
    )
}

/// What a newcomer has been told; nothing where it waits.
pub(in crate::fleet) fn told(answer: &mut AdmissionAnswer) -> Option<Result<(), Code>> {
    answer.try_recv().ok().map(|answer| answer.map_err(|status| status.code()))
}

pub(in crate::fleet) const ADMITTED: Option<Result<(), Code>> = Some(Ok(()));
pub(in crate::fleet) const WAITS: Option<Result<(), Code>> = None;

pub(in crate::fleet) fn refused(code: Code) -> Option<Result<(), Code>> {
    Some(Err(code))
}

/// So many steps in which nothing is heard.
async fn steps(task: &mut NodeTask, count: u32) {
    for _ in 0..count {
        advance(STEP).await;
        task.look_at_waiting().await;
    }
}

fn late(silence: &Silence, late: Duration) -> Instant {
    silence.due + late
}

#[test]
fn a_step_in_which_nobody_listened_does_not_count() {
    let mut silence = Silence::new(Instant::now());
    silence.ask(None);
    for _ in 0..100 {
        silence.step(late(&silence, Duration::from_secs(3)));
    }
    silence.step(late(&silence, STEP / 2));
    assert!(!silence.is_long() && silence.steps == 0);
    for step in 0..STEPS {
        assert!(!silence.is_long(), "{step}");
        silence.step(late(&silence, Duration::from_millis(5)));
    }
    assert!(silence.is_long());
    assert_eq!(STEP * STEPS, PATIENCE);
}

#[test]
fn a_slow_reader_is_not_silent_and_is_asked_when_there_is_room() {
    let (replies, mut read) = mpsc::channel(2);
    for _ in 0..2 {
        replies.try_send(Ok(ReportReply::default())).unwrap();
    }
    let mut silence = Silence::new(Instant::now());
    silence.ask(Some(&replies));
    for _ in 0..2 * STEPS {
        silence.step(silence.due);
        silence.ask(Some(&replies));
    }
    assert!(!silence.is_long());
    for _ in 0..2 {
        read.try_recv().unwrap().unwrap();
    }
    silence.ask(Some(&replies));
    silence.ask(Some(&replies));
    assert_eq!(read.try_recv().unwrap().unwrap().ping, silence.ping);
    assert!(read.try_recv().is_err(), "asked twice");
    for _ in 0..STEPS {
        silence.step(silence.due);
    }
    assert!(silence.is_long());
}

#[test]
fn a_peer_is_the_same_whatever_its_port() {
    assert_eq!(host("[::1]:90"), host("[::1]:91"));
    assert_ne!(host("10.0.0.1:90"), host("10.0.0.2:90"));
}

#[tokio::test(start_paused = true)]
async fn a_newcomer_is_let_in_at_once_where_nobody_else_may_bear_the_name() {
    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Older {
        None,
        Open,
        Ended,
    }
    use Older::{Ended, Open};
    let (leased, stale) = (LeaseState::Leased, LeaseState::Stale);
    let moment = PATIENCE - MILLISECOND;
    let (start, later) = (Duration::ZERO, LEASE);
    // The older stream; the boot that is known; that of the newcomer; the state; how long ago the stream ended;
    // whether the node was heard; for how long the server runs. Whether the newcomer is let in.
    let none = Older::None;
    for (older, known, boot, state, ended, heard, runs, expected) in [
        // Nothing is known of it.
        (none, "", "b2", leased, None, false, start, true),
        (none, "", "b2", leased, Some(moment), true, later, true),
        // The older stream is open.
        (Open, "b1", "b1", leased, None, true, later, false),
        (Open, "b1", "b2", leased, None, true, later, false),
        (Open, "b1", "b2", stale, None, true, later, false),
        // It has just ended, and the same host comes back; or another.
        (Ended, "b1", "b1", leased, None, true, later, true),
        (none, "b1", "b1", leased, Some(moment), true, later, true),
        (none, "b1", "b2", leased, Some(moment), true, later, false),
        (none, "b1", "b2", leased, Some(PATIENCE), true, later, true),
        (none, "b1", "b2", stale, Some(moment), true, later, true),
        // The server's own host; one that does not say.
        (none, "b1", HOST, leased, Some(moment), true, later, true),
        (none, "b1", "", leased, Some(moment), true, later, false),
        // The server has just started and expects it.
        (none, "b1", "b2", leased, None, false, start, false),
        (none, "b1", "b2", leased, None, false, later - MILLISECOND, false),
        (none, "b1", "b2", leased, None, false, later, true),
        (none, "b1", "b2", leased, None, true, start, true),
        (none, "b1", "b1", leased, None, false, start, true),
    ] {
        let case = format!("{older:?} {known:?} {boot:?} {state:?} {ended:?} {heard} {runs:?}");
        let mut task = n1().await;
        advance(runs).await;
        task.boot_id = known.to_owned();
        task.state = state;
        task.instance = if heard { "i1".to_owned() } else { String::new() };
        task.closed_at = ended.map(|_| Instant::now());
        advance(ended.unwrap_or_default()).await;
        let (replies, mut read) = mpsc::channel(1);
        if older != Older::None {
            task.session = Some((1, replies));
        }
        if older == Ended {
            read.close();
        }
        let (newcomer, _read, mut answer) = newcomer(2, "i2", boot);
        task.opened(newcomer).await;
        assert_eq!(told(&mut answer), if expected { ADMITTED } else { WAITS }, "{case}");
        assert_eq!(task.waiting.is_none(), expected, "{case}");
        if older == Open {
            let ping = read.try_recv().unwrap().unwrap().ping;
            let waiting = task.waiting.as_ref().unwrap();
            assert!(ping != 0 && waiting.is_answered_by(ping) && !waiting.is_answered_by(ping ^ 1), "{case}");
            assert_eq!(waiting.due(), Instant::now() + STEP);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_host_whose_boot_is_not_known_is_nobodys_own() {
    let mut fleet = fleet().await;
    Arc::get_mut(&mut fleet).unwrap().boot_id.clear();
    let task = task(&fleet, "n1", &HeldWorkloads::default());
    assert!(!task.is_restart(&NodeInfo::default()));
}

#[tokio::test(start_paused = true)]
async fn who_may_nothing_keeps_nobody_waiting() {
    let mut task = task(&fleet().await, "n2", &HeldWorkloads::default());
    let (newcomer, _read, mut answer) = newcomer(1, "i1", "b1");
    task.opened(newcomer).await;
    assert_eq!(told(&mut answer), refused(Code::PermissionDenied));
    assert!(task.waiting.is_none() && task.session.is_none());
    // Nor is one let in whose grant was taken back while it waited.
    let (mut task, _older) = connected().await;
    let (newcomer, _read, mut answer) = self::newcomer(2, "i2", "b1");
    task.opened(newcomer).await;
    task.fleet.enrolment.revoke("n1", SystemTime::now()).await.unwrap();
    steps(&mut task, STEPS).await;
    assert_eq!(told(&mut answer), refused(Code::PermissionDenied));
}

#[tokio::test(start_paused = true)]
async fn of_two_that_wait_the_newer_counts_unless_only_the_other_is_the_node_itself() {
    let aborted = refused(Code::Aborted);
    for (first, second, of_first, of_second) in [
        ("b1", "b2", WAITS, aborted),
        ("b1", "b1", aborted, WAITS),
        ("b2", "b2", aborted, WAITS),
        ("b2", "b1", aborted, WAITS),
    ] {
        let (mut task, mut older) = connected().await;
        let (one, _read_one, mut answer_one) = newcomer(2, "i2", first);
        task.opened(one).await;
        let ping = older.try_recv().unwrap().unwrap().ping;
        steps(&mut task, STEPS - 1).await;
        let (other, _read_other, mut answer_other) = newcomer(3, "i3", second);
        task.opened(other).await;
        assert_eq!(
            (told(&mut answer_one), told(&mut answer_other)),
            (of_first, of_second),
            "{first} {second}"
        );
        // What was asked, and the silence since, stand.
        assert!(task.waiting.as_ref().unwrap().is_answered_by(ping));
        assert!(older.try_recv().is_err(), "asked twice");
        steps(&mut task, 1).await;
        let waits = task.waiting.is_some();
        assert_eq!(waits, first == "b2" && second == "b2", "{first} {second}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_same_host_takes_the_place_of_a_silent_stream_and_another_waits_for_the_lease() {
    let (mut task, mut older) = connected().await;
    let (same, _read, mut answer) = newcomer(2, "i2", "b1");
    task.opened(same).await;
    steps(&mut task, STEPS - 1).await;
    assert_eq!(told(&mut answer), WAITS);
    steps(&mut task, 1).await;
    assert_eq!(told(&mut answer), ADMITTED);
    assert_ne!(older.try_recv().unwrap().unwrap().ping, 0);
    assert_eq!(older.try_recv().unwrap().unwrap_err().code(), Code::Aborted, "the older one is told");
    assert_eq!(task.session.as_ref().unwrap().0, 2);

    let (mut task, _older) = connected().await;
    let (other, _read, mut answer) = newcomer(2, "i2", "b2");
    task.opened(other).await;
    steps(&mut task, 2 * STEPS).await;
    assert_eq!(told(&mut answer), WAITS, "the lease runs");
    task.state = LeaseState::Stale;
    steps(&mut task, 1).await;
    assert_eq!(told(&mut answer), ADMITTED);
}

#[tokio::test(start_paused = true)]
async fn a_stale_node_is_given_the_time_to_answer() {
    let (mut task, _older) = connected().await;
    let (other, _read, mut answer) = newcomer(2, "i2", "b2");
    task.opened(other).await;
    task.state = LeaseState::Stale;
    steps(&mut task, STEPS - 1).await;
    assert_eq!(told(&mut answer), WAITS);
    steps(&mut task, 1).await;
    assert_eq!(told(&mut answer), ADMITTED);
}

#[tokio::test(start_paused = true)]
async fn another_host_follows_a_stream_that_has_ended_but_not_while_the_node_is_expected_back() {
    let (mut task, older) = connected().await;
    let (other, _read, mut answer) = newcomer(2, "i2", "b2");
    task.opened(other).await;
    drop(older);
    steps(&mut task, STEPS - 1).await;
    assert_eq!(told(&mut answer), WAITS);
    steps(&mut task, 1).await;
    assert_eq!(told(&mut answer), ADMITTED);

    let mut task = n1().await;
    task.boot_id = "b1".to_owned();
    let (other, _read, mut answer) = newcomer(2, "i2", "b2");
    task.opened(other).await;
    steps(&mut task, LEASE.div_duration_f64(STEP) as u32 - 1).await;
    assert_eq!(told(&mut answer), WAITS, "the server has just started");
    steps(&mut task, 1).await;
    assert_eq!(told(&mut answer), ADMITTED);
}

#[tokio::test(start_paused = true)]
async fn one_that_reports_and_answers_nothing_keeps_a_newcomer_waiting_for_three_leases() {
    for (state, expected) in [
        (LeaseState::Leased, refused(Code::AlreadyExists)),
        (LeaseState::Stale, ADMITTED),
        (LeaseState::Gone, ADMITTED),
    ] {
        let (mut task, _older) = connected().await;
        // It does not read, so nobody knows whether it would answer.
        let full = ReportReply::default();
        while task.session.as_ref().unwrap().1.try_send(Ok(full.clone())).is_ok() {}
        let (other, _read, mut answer) = newcomer(2, "i2", "b2");
        task.opened(other).await;
        steps(&mut task, (LEASE * 3).div_duration_f64(STEP) as u32).await;
        assert_eq!(told(&mut answer), WAITS, "{state:?}");
        task.state = state;
        steps(&mut task, 1).await;
        assert_eq!(told(&mut answer), expected, "{state:?}");
        let fenced = u64::from(state == LeaseState::Leased);
        assert_eq!(task.fleet.metrics.nodes_fenced.get(), fenced);
        let shown = task.fleet.nodes.lock()["n1"].record.as_ref().unwrap().fenced.clone();
        assert_eq!(shown.map(|fenced| fenced.peer), (fenced == 1).then(|| "10.0.0.2:4000".to_owned()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_newcomer_that_has_gone_away_is_forgotten() {
    let (mut task, _older) = connected().await;
    let (same, _read, answer) = newcomer(2, "i2", "b1");
    task.opened(same).await;
    drop(answer);
    steps(&mut task, 1).await;
    assert!(task.waiting.is_none());
}

#[tokio::test(start_paused = true)]
async fn who_waits_when_the_stream_ends_follows_at_once_or_after_it_could_have_come_back() {
    let (mut task, _older) = connected().await;
    let (same, _read, mut answer) = newcomer(2, "i2", "b1");
    task.opened(same).await;
    task.closed().await;
    assert_eq!(told(&mut answer), ADMITTED);

    let (mut task, _older) = connected().await;
    let (other, _read, mut answer) = newcomer(2, "i2", "b2");
    task.opened(other).await;
    steps(&mut task, STEPS - 1).await;
    task.closed().await;
    assert!(task.session.is_none() && task.closed_at == Some(Instant::now()));
    assert!(!task.fleet.is_connected("n1"));
    steps(&mut task, STEPS - 1).await;
    assert_eq!(told(&mut answer), WAITS, "it may come back");
    steps(&mut task, 1).await;
    assert_eq!(told(&mut answer), ADMITTED);
    assert!(task.fleet.is_connected("n1"));
}

#[tokio::test(start_paused = true)]
async fn the_boot_of_a_nodes_host_outlives_the_server() {
    let (task, _read) = connected().await;
    assert_eq!(task.fleet.enrolment.grant("n1").await.unwrap().unwrap().boot_id, "b1");
    let mut next = NodeTask::new(task.fleet.clone(), "n1".into(), &HeldWorkloads::default());
    next.recall_boot().await;
    assert_eq!(next.boot_id, "b1");
}

pub(in crate::fleet) fn workload() -> Workload {
    Workload {
        namespace: "default".to_owned(),
        name: "w".to_owned(),
        address: "10.0.0.1".to_owned(),
        service_account: "w".to_owned(),
        ready: true,
        ..Workload::default()
    }
}

async fn link_address(objects: &Objects) -> Option<Value> {
    let object = objects.get(KindId::Workload.kind(), "default", "w").await.unwrap();
    object.map(|object| object["spec"]["node"]["linkAddress"].clone())
}

#[tokio::test(start_paused = true)]
async fn a_node_that_moves_keeps_its_workloads_and_they_say_where_it_is() {
    let (mut task, _read) = connected().await;
    let objects = task.fleet.objects.clone();
    task.reported = vec![workload()];
    task.write().await;
    assert_eq!(link_address(&objects).await, Some(json!("10.0.0.1:15008")), "{:?}", task.refused);
    task.closed().await;
    let (mut moved, _read, mut answer) = newcomer(2, "i2", "b1");
    moved.info.link_address = "10.0.0.9:15008".to_owned();
    task.opened(moved).await;
    assert_eq!(told(&mut answer), ADMITTED);
    assert_eq!(link_address(&objects).await, Some(json!("10.0.0.9:15008")));

    // A server that starts knows the workloads, and is told of them with the first report only.
    let held = workloads::held(&objects).await.unwrap().remove("n1").unwrap();
    for address in ["10.0.0.9:15008", "10.0.0.7:15008"] {
        let mut next = self::task(&task.fleet, "n1", &held);
        let (mut again, _read, mut answer) = newcomer(3, "i2", "b1");
        again.info.link_address = address.to_owned();
        next.admit(again).await;
        assert_eq!(told(&mut answer), ADMITTED);
        assert!(link_address(&objects).await.is_some(), "{address}");
    }
}

#[tokio::test(start_paused = true)]
async fn certificates_go_to_the_process_that_bears_the_name() {
    let moment = PATIENCE - MILLISECOND;
    let ok = None;
    let wait = Some(Code::Unavailable);
    // The process that is known, its boot, whether it is connected, how long ago it was heard; who asks, its boot; the boot
    // that the store knows; whether the server has just started.
    let none = None::<(&str, &str, bool, Duration)>;
    let there = Some(("i1", "b1", true, moment));
    let old = Some(("i1", "b1", true, LEASE));
    let lately = Some(("i1", "b1", false, moment));
    let gone = Some(("i1", "b1", false, PATIENCE));
    let recorded = Some(("", "", false, moment));
    for (known, instance, boot, stored, starts, expected) in [
        (none, "i2", "b2", "b1", true, wait),
        (recorded, "i2", "b2", "b1", true, wait),
        (none, "i2", "b2", "b1", false, ok),
        (none, "i2", "b1", "b1", true, ok),
        (none, "i2", "", "b1", true, ok),
        (none, "i2", "b2", "", true, ok),
        (none, "i2", HOST, "b1", true, ok),
        (there, "i1", "b1", "b1", true, ok),
        (there, "i1", "b2", "b1", false, ok),
        (there, "i2", "b1", "b1", false, wait),
        (there, "i2", "b2", "b1", false, wait),
        (there, "", "b1", "b1", false, ok),
        (old, "i2", "b1", "b1", false, wait),
        (lately, "i2", "b2", "b1", false, wait),
        (lately, "i2", "b1", "b1", false, ok),
        (lately, "i2", "", "b1", false, ok),
        (lately, "i1", "b2", "b1", false, ok),
        (gone, "i2", "b2", "b1", false, ok),
    ] {
        let case = format!("{known:?} {instance:?} {boot:?} {stored:?} {starts}");
        let (mut task, _read) = connected().await;
        if starts {
            task = n1().await;
        }
        let mut record = crate::fleet::lease::record_of("n1", &HeldWorkloads::default());
        if let Some((instance, boot, connected, _)) = known {
            record.info.instance = instance.to_owned();
            record.info.boot_id = boot.to_owned();
            record.connected = connected;
        }
        task.fleet.nodes.lock().get_mut("n1").unwrap().record = known.map(|_| record);
        advance(known.map_or(Duration::ZERO, |(.., ago)| ago)).await;
        let answer = task.fleet.check_bearer("n1", instance, boot, stored);
        assert_eq!(answer.err().map(|status| status.code()), expected, "{case}");
    }
}
