//! Watches of runs: what exists, then changes as they come, as [`super::watch`] has it for objects. Versions are the numbers of
//! changes ([`crate::flows::RunChanges`]).

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use serde_json::{Value, json};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, interval, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;
use tulle_model::kinds::flow_run::FLOW;

use super::caller::{Caller, named_by_selector};
use super::flow_runs::{gone, object};
use super::path::{Query, Target};
use super::render::Rendering;
use super::reply::{self, Reply};
use super::selector::Selector;
use super::status::Failure;
use super::watch::{BOOKMARKS, INITIAL_EVENTS_END, LONGEST_TIMEOUT, LOOK, TIMEOUT, line};
use crate::flows::{Flows, RunChange, RunHeader, RunName};

/// How many runs are looked at together.
const PAGE: usize = 500;

/// `GET` with `watch=true`.
pub(super) async fn start(
    flows: &Arc<Flows>,
    caller: &Caller,
    (target, query, rendering): (&Target, &Query, Rendering),
    permit: OwnedSemaphorePermit,
    shutdown: CancellationToken,
) -> Result<Reply, Failure> {
    let name = target.name.clone().or_else(|| named_by_selector(target, "watch", query));
    let allowed = Box::new(caller.still(target, name.as_deref().unwrap_or_default()));
    let mut selector = Selector::parse(query, target.kind)?;
    if let Some(name) = &target.name {
        selector = selector.named(name);
    }
    let bookmarks = query.flag("allowWatchBookmarks");
    let version = query.number("resourceVersion")?.filter(|version| *version > 0);
    let initial = query.switch("sendInitialEvents");
    let length = match query.number("timeoutSeconds")?.filter(|seconds| *seconds > 0) {
        Some(seconds) => std::time::Duration::from_secs(seconds).min(LONGEST_TIMEOUT),
        None => TIMEOUT + TIMEOUT.mul_f64(rand::random()),
    };
    let mut watch = RunWatch {
        flows: flows.clone(),
        target: target.clone(),
        rendering,
        selector,
        pending: VecDeque::new(),
        seen: HashSet::new(),
        // From before the list: what is seen twice is the same.
        from: flows.changes().latest(),
        bookmarks,
        ends: Instant::now() + length,
        first: true,
        over: false,
        allowed,
        shutdown,
        _permit: permit,
    };
    let shows = initial.unwrap_or(version.is_none());
    match (&target.namespace, name) {
        // Of one, the others need not be read.
        (Some(namespace), Some(name)) => {
            if let Some(header) = flows.find(namespace, &name).await? {
                watch.know(header, shows);
            }
        }
        _ => watch.look_at_all(shows).await?,
    }
    if shows && initial.is_some() && bookmarks {
        let bookmark = watch.bookmark(json!({ INITIAL_EVENTS_END: "true" }));
        watch.pending.push_back(bookmark);
    }
    if let Some(version) = version.filter(|_| !shows) {
        watch.go_back_to(version);
    }
    Ok(reply::stream(stream::unfold(watch, |mut watch| async move {
        let line = watch.line().await?;
        Some((line, watch))
    })))
}

struct RunWatch {
    flows: Arc<Flows>,
    target: Target,
    rendering: Rendering,
    selector: Selector,
    pending: VecDeque<Bytes>,
    /// The runs that the client knows.
    seen: HashSet<RunName>,
    from: u64,
    bookmarks: bool,
    ends: Instant,
    /// Whether no table has been sent yet.
    first: bool,
    over: bool,
    /// Whether the user may still watch.
    allowed: Box<dyn Fn() -> bool + Send + Sync>,
    shutdown: CancellationToken,
    /// One of the watches that the server allows at once.
    _permit: OwnedSemaphorePermit,
}

impl RunWatch {
    /// Takes in what there is; the client knows it, or is told.
    async fn look_at_all(&mut self, shows: bool) -> Result<(), Failure> {
        let mut past = None;
        loop {
            let namespace = self.target.namespace.as_deref();
            let flow = self.selector.label(FLOW).filter(|_| namespace.is_some());
            let page = self.flows.book().list(namespace, flow, past.as_ref(), PAGE).await?;
            page.headers.into_iter().for_each(|header| self.know(header, shows));
            match page.next {
                Some(next) => past = Some(next),
                None => return Ok(()),
            }
        }
    }

    /// The client knows a run, where the selector has it, or is told.
    fn know(&mut self, header: RunHeader, shows: bool) {
        let object = object(&header, self.from);
        if self.selector.matches(&object) {
            self.seen.insert(header.name);
            if shows {
                let line = self.event("ADDED", &object);
                self.pending.push_back(line);
            }
        }
    }

    /// Takes it for what the client knows that was there at a version.
    fn go_back_to(&mut self, version: u64) {
        let since = self.flows.changes().after(version).unwrap_or_default();
        for (_, change) in since.into_iter().rev() {
            match change {
                RunChange::Began(header) => drop(self.seen.remove(&header.name)),
                RunChange::Gone(name) => drop(self.seen.insert(name)),
                RunChange::Now(_) => {}
            }
        }
        self.from = version;
    }

    /// The next line; none at the end.
    async fn line(&mut self) -> Option<Bytes> {
        let mut changes = self.flows.changes().follow();
        let mut look = interval(LOOK);
        let bookmark = sleep_until(Instant::now() + BOOKMARKS);
        tokio::pin!(bookmark);
        loop {
            if self.over {
                return None;
            }
            if !(self.allowed)() {
                self.over = true;
                let message = "the watch ends: its user may not watch these objects any more";
                let forbidden = Failure::new(http::StatusCode::FORBIDDEN, "Forbidden", message);
                return Some(line("ERROR", forbidden.object()));
            }
            if let Some(pending) = self.pending.pop_front() {
                return Some(pending);
            }
            changes.borrow_and_update();
            match self.flows.changes().after(self.from) {
                Some(new) => new.into_iter().for_each(|(number, change)| self.take_in(number, change)),
                None => {
                    self.over = true;
                    let message = format!("too old resource version: {}", self.from);
                    return Some(line("ERROR", Failure::expired(message).object()));
                }
            }
            if !self.pending.is_empty() {
                continue;
            }
            tokio::select! {
                changed = timeout_at(self.ends, changes.changed()) => match changed {
                    Ok(Ok(())) => {}
                    Ok(Err(_)) | Err(_) => return None,
                },
                _ = look.tick() => {}
                () = &mut bookmark, if self.bookmarks => return Some(self.bookmark(Value::Null)),
                () = self.shutdown.cancelled() => return None,
            }
        }
    }

    /// What a change means to a client that sees only what its selector matches.
    fn take_in(&mut self, number: u64, change: RunChange) {
        self.from = number;
        let (name, object, is_there) = match change {
            RunChange::Began(header) | RunChange::Now(header) => {
                let object = object(&header, number);
                let is_shown = self.selector.matches(&object);
                (header.name, object, is_shown)
            }
            RunChange::Gone(name) => {
                let object = gone(&name, number);
                (name, object, false)
            }
        };
        if self.target.namespace.as_deref().is_some_and(|of| of != &*name.namespace) {
            return;
        }
        let kind = match (self.seen.contains(&name), is_there) {
            (false, false) => return,
            (false, true) => "ADDED",
            (true, true) => "MODIFIED",
            (true, false) => "DELETED",
        };
        if is_there {
            self.seen.insert(name);
        } else {
            self.seen.remove(&name);
        }
        let line = self.event(kind, &object);
        self.pending.push_back(line);
    }

    fn event(&mut self, kind: &str, object: &Value) -> Bytes {
        let first = std::mem::take(&mut self.first);
        line(kind, self.rendering.event(self.target.kind, object, first))
    }

    fn bookmark(&self, annotations: Value) -> Bytes {
        let mut metadata = json!({ "resourceVersion": self.from.to_string(), "creationTimestamp": null });
        if !annotations.is_null() {
            metadata["annotations"] = annotations;
        }
        line("BOOKMARK", self.rendering.bookmark(self.target.kind, metadata))
    }
}
