//! The keys of the records of runs. Names are those of Kubernetes, so that none has a `/`.

use bytes::Bytes;

use super::RunName;

/// What a record of a run is. The letters stand in the store, and stay.
#[derive(Debug, Clone, Copy)]
pub(super) enum RecordPart {
    /// Its input, and what else is known from its start on.
    Info,
    Checkpoint,
    /// What it has made, once it is over.
    Outcome,
}

/// The range of keys that begin with a prefix.
pub(super) fn under(prefix: &str) -> (Bytes, Bytes) {
    let mut end = prefix.as_bytes().to_vec();
    // Prefixes end with `/`, and what is behind that is `0`.
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    (Bytes::copy_from_slice(prefix.as_bytes()), end.into())
}

const HEADERS: &str = "flow/h/";

/// All runs, those of a namespace, or those of a Flow, in the order of their names.
pub(super) fn headers(namespace: Option<&str>, flow: Option<&str>) -> String {
    match (namespace, flow) {
        (Some(namespace), Some(flow)) => format!("{HEADERS}{namespace}/{flow}/"),
        (Some(namespace), None) => format!("{HEADERS}{namespace}/"),
        (None, _) => HEADERS.to_owned(),
    }
}

pub(super) fn header(run: &RunName) -> Bytes {
    format!("{}{}", headers(Some(&run.namespace), Some(&run.flow)), run.run).into()
}

pub(super) fn run_of_header(key: &[u8]) -> Option<RunName> {
    run_of(key, HEADERS)
}

fn run_of(key: &[u8], prefix: &str) -> Option<RunName> {
    let mut names = std::str::from_utf8(key).ok()?.strip_prefix(prefix)?.split('/');
    let mut next = || names.next().map(std::sync::Arc::from);
    Some(RunName { namespace: next()?, flow: next()?, run: next()? })
}

/// The runs that somebody is to carry out now.
pub(super) const ACTIVE: &str = "flow/a/";

pub(super) fn active(run: &RunName) -> Bytes {
    format!("{ACTIVE}{}/{}/{}", run.namespace, run.flow, run.run).into()
}

pub(super) fn run_of_active(key: &[u8]) -> Option<RunName> {
    run_of(key, ACTIVE)
}

/// The runs that wait, in the order in which their time comes.
pub(super) const WAITING: &str = "flow/t/";

pub(super) fn waiting(run: &RunName, until: u64) -> Bytes {
    format!("{WAITING}{until:016x}/{}/{}/{}", run.namespace, run.flow, run.run).into()
}

/// When a run that waits is due.
pub(super) fn due_of_waiting(key: &[u8]) -> Option<u64> {
    let until = std::str::from_utf8(key).ok()?.strip_prefix(WAITING)?;
    u64::from_str_radix(until.split_once('/')?.0, 16).ok()
}

/// All that wait until a time, itself included.
pub(super) fn waiting_until(until: u64) -> (Bytes, Bytes) {
    (WAITING.into(), format!("{WAITING}{:016x}", until.saturating_add(1)).into())
}

pub(super) fn run_of_waiting(key: &[u8]) -> Option<RunName> {
    let until = std::str::from_utf8(key).ok()?.strip_prefix(WAITING)?;
    run_of(until.split_once('/')?.1.as_bytes(), "")
}

/// The runs that nobody carries on until somebody says so.
pub(super) const SUSPENDED: &str = "flow/s/";

pub(super) fn suspended(run: &RunName) -> Bytes {
    format!("{SUSPENDED}{}/{}/{}", run.namespace, run.flow, run.run).into()
}

pub(super) fn run_of_suspended(key: &[u8]) -> Option<RunName> {
    run_of(key, SUSPENDED)
}

/// The runs that wait for their turn, in the order in which they came: names of runs begin with the time.
pub(super) const QUEUED: &str = "flow/q/";

pub(super) fn queued_of(namespace: &str, flow: &str) -> String {
    format!("{QUEUED}{namespace}/{flow}/")
}

pub(super) fn queued(run: &RunName) -> Bytes {
    format!("{}{}", queued_of(&run.namespace, &run.flow), run.run).into()
}

pub(super) fn run_of_queued(key: &[u8]) -> Option<RunName> {
    run_of(key, QUEUED)
}

/// The runs that are over, in the order in which they have ended.
pub(super) const OVER: &str = "flow/e/";

pub(super) fn over_of(namespace: &str, flow: &str) -> String {
    format!("{OVER}{namespace}/{flow}/")
}

pub(super) fn over(run: &RunName, ended: u64) -> Bytes {
    format!("{}{ended:016x}/{}", over_of(&run.namespace, &run.flow), run.run).into()
}

/// Which run it is, and when it has ended.
pub(super) fn run_of_over(key: &[u8]) -> Option<(RunName, u64)> {
    let mut parts = std::str::from_utf8(key).ok()?.strip_prefix(OVER)?.split('/');
    let (namespace, flow) = (parts.next()?.into(), parts.next()?.into());
    let ended = u64::from_str_radix(parts.next()?, 16).ok()?;
    Some((RunName { namespace, flow, run: parts.next()?.into() }, ended))
}

/// All records of a run but those that it is found by.
pub(super) fn inside(run: &RunName) -> String {
    format!("flow/r/{}/{}/{}/", run.namespace, run.flow, run.run)
}

pub(super) fn part(run: &RunName, part: RecordPart) -> Bytes {
    let letter = match part {
        RecordPart::Info => 'i',
        RecordPart::Checkpoint => 'c',
        RecordPart::Outcome => 'o',
    };
    format!("{}{letter}", inside(run)).into()
}

/// The entries of a history from one on.
pub(super) fn entries(run: &RunName, first: u32) -> Bytes {
    format!("{}e/{first:08x}", inside(run)).into()
}

/// A workflow, by its hash, and the runs that go by it.
pub(super) const WORKFLOWS: &str = "flow/w/";

pub(super) fn workflow(namespace: &str, hash: &str) -> Bytes {
    format!("{WORKFLOWS}{namespace}/{hash}").into()
}

/// The namespace and the hash.
pub(super) fn workflow_of(key: &[u8]) -> Option<(&str, &str)> {
    std::str::from_utf8(key).ok()?.strip_prefix(WORKFLOWS)?.split_once('/')
}

pub(super) const USES: &str = "flow/u/";

pub(super) fn uses(namespace: &str, hash: &str) -> String {
    format!("{USES}{namespace}/{hash}/")
}

pub(super) fn usage(run: &RunName, hash: &str) -> Bytes {
    format!("{}{}/{}", uses(&run.namespace, hash), run.flow, run.run).into()
}

/// The run that goes by a workflow.
pub(super) fn run_of_usage(key: &[u8]) -> Option<RunName> {
    let mut parts = std::str::from_utf8(key).ok()?.strip_prefix(USES)?.split('/');
    let namespace = parts.next()?.into();
    parts.next()?;
    Some(RunName { namespace, flow: parts.next()?.into(), run: parts.next()?.into() })
}

pub(super) const GIVEN: &str = "flow/n/";

/// The name that a caller has given a run, as a hash of both.
pub(super) fn given(run: &RunName, hash: &str) -> Bytes {
    format!("{GIVEN}{}/{}/{hash}", run.namespace, run.flow).into()
}
