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

/// All runs of a namespace, or of a Flow, in the order of their names.
pub(super) fn headers(namespace: &str, flow: Option<&str>) -> String {
    match flow {
        Some(flow) => format!("flow/h/{namespace}/{flow}/"),
        None => format!("flow/h/{namespace}/"),
    }
}

pub(super) fn header(run: &RunName) -> Bytes {
    format!("{}{}", headers(&run.namespace, Some(&run.flow)), run.run).into()
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

/// All that wait until a time, itself included.
pub(super) fn waiting_until(until: u64) -> (Bytes, Bytes) {
    (WAITING.into(), format!("{WAITING}{:016x}", until.saturating_add(1)).into())
}

pub(super) fn run_of_waiting(key: &[u8]) -> Option<RunName> {
    let until = std::str::from_utf8(key).ok()?.strip_prefix(WAITING)?;
    run_of(until.split_once('/')?.1.as_bytes(), "")
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
pub(super) fn workflow(namespace: &str, hash: &str) -> Bytes {
    format!("flow/w/{namespace}/{hash}").into()
}

pub(super) fn uses(namespace: &str, hash: &str) -> String {
    format!("flow/u/{namespace}/{hash}/")
}

pub(super) fn usage(run: &RunName, hash: &str) -> Bytes {
    format!("{}{}/{}", uses(&run.namespace, hash), run.flow, run.run).into()
}

/// The name that a caller has given a run, as a hash of both.
pub(super) fn given(run: &RunName, hash: &str) -> Bytes {
    format!("flow/n/{}/{}/{hash}", run.namespace, run.flow).into()
}
