//! Watches: a stream of events, one JSON object a line.
//!
//! A watch ends with its timeout, with the server, or with an event of type `ERROR`. While nothing
//! happens, bookmarks tell the client how far it has come, if it asked for them. The stream makes an
//! event only when the connection takes one, so a slow client costs no memory; one that is so slow
//! that the store has compacted what it has not seen gets 410 and must list again.

use std::collections::VecDeque;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::CancellationToken;

use super::caller::{Caller, named_by_selector};
use super::path::{Query, Target};
use super::render::Rendering;
use super::reply::{self, Reply};
use super::selector::Selector;
use super::status::Failure;
use crate::access::SeenUpTo;
use crate::objects::{ObjectError, ObjectEvent, ObjectWatch, Objects};

/// How long a watch lasts when the client does not say: between one and two of these.
pub(super) const TIMEOUT: Duration = Duration::from_secs(30 * 60);
pub(super) const LONGEST_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);
/// How often a bookmark is sent.
pub(super) const BOOKMARKS: Duration = Duration::from_secs(30);
/// Says that all initial events have been sent.
pub(super) const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

/// How often it is looked at whether the user is still known, where nothing else happens.
pub(super) const LOOK: Duration = Duration::from_secs(5);

/// Who watches what.
pub(super) struct WatchRequest<'a> {
    pub(super) objects: &'a Objects,
    pub(super) caller: &'a Caller,
    pub(super) target: &'a Target,
    pub(super) query: &'a Query,
    pub(super) rendering: Rendering,
}

/// `GET` with `watch=true`.
pub(super) async fn start(
    reading: &WatchRequest<'_>,
    permit: OwnedSemaphorePermit,
    shutdown: CancellationToken,
) -> Result<Reply, Failure> {
    let WatchRequest { objects, caller, target, query, rendering } = *reading;
    // From before it was decided on: no change is missed.
    let changes = caller.access().changes();
    let name = target.name.clone().or_else(|| named_by_selector(target, "watch", query)).unwrap_or_default();
    let allowed = Box::new(caller.still(target, &name));
    let mut selector = Selector::parse(query, target.kind)?;
    if let Some(name) = &target.name {
        selector = selector.named(name);
    }
    let bookmarks = query.flag("allowWatchBookmarks");
    let version = query.number("resourceVersion")?.filter(|version| *version > 0);
    let asked_for_initial = query.switch("sendInitialEvents");
    let initial = match asked_for_initial {
        Some(_) if query.get("resourceVersionMatch") != Some("NotOlderThan") => {
            return Err(Failure::bad_request(
                "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
            ));
        }
        Some(wanted) => wanted,
        None => version.is_none(),
    };
    let timeout = match query.number("timeoutSeconds")?.filter(|seconds| *seconds > 0) {
        Some(seconds) => Duration::from_secs(seconds).min(LONGEST_TIMEOUT),
        None => TIMEOUT + TIMEOUT.mul_f64(rand::random()),
    };
    let mut pending = VecDeque::new();
    let mut from = match version {
        Some(version) => version,
        None => objects.revision().await?,
    };
    if initial {
        let list = objects.list(target.kind, target.namespace.as_deref()).await?;
        from = list.revision;
        let shown = list.items.into_iter().filter(|object| selector.matches(object));
        pending.extend(shown.map(Pending::Added));
        if asked_for_initial.is_some() && bookmarks {
            pending.push_back(Pending::InitialEventsEnd);
        }
    }
    let watch = match objects.watch(target.kind, target.namespace.as_deref(), from).await {
        Ok(watch) => Some(watch),
        Err(error @ ObjectError::Expired(_)) => {
            pending.push_back(Pending::Failed(Failure::from(error)));
            None
        }
        Err(error) => return Err(error.into()),
    };
    let state = WatchState {
        target: target.clone(),
        rendering,
        selector,
        pending,
        from,
        watch,
        bookmarks: bookmarks.then(|| Box::pin(tokio::time::sleep(BOOKMARKS))),
        ends: Box::pin(tokio::time::sleep(timeout)),
        shutdown,
        changes,
        allowed,
        look: tokio::time::interval(LOOK),
        first: true,
        _permit: permit,
    };
    Ok(reply::stream(stream::unfold(state, |mut state| async move {
        let line = state.line().await?;
        Some((line, state))
    })))
}

/// An event that needs no waiting for.
enum Pending {
    Added(Value),
    InitialEventsEnd,
    Failed(Failure),
}

struct WatchState {
    target: Target,
    rendering: Rendering,
    selector: Selector,
    pending: VecDeque<Pending>,
    /// The revision from which the watch started.
    from: u64,
    /// None once the watch has failed.
    watch: Option<ObjectWatch>,
    bookmarks: Option<Pin<Box<Sleep>>>,
    ends: Pin<Box<Sleep>>,
    shutdown: CancellationToken,
    /// Of who may do what.
    changes: watch::Receiver<SeenUpTo>,
    /// Whether the user may still watch.
    allowed: Box<dyn Fn() -> bool + Send + Sync>,
    look: tokio::time::Interval,
    /// Whether no table has been sent yet.
    first: bool,
    /// One of the watches that the server allows at once.
    _permit: OwnedSemaphorePermit,
}

impl WatchState {
    /// The next line; none at the end.
    async fn line(&mut self) -> Option<Bytes> {
        if self.watch.is_some() && !(self.allowed)() {
            return Some(self.forbidden());
        }
        if let Some(pending) = self.pending.pop_front() {
            return Some(match pending {
                Pending::Added(object) => self.event("ADDED", &object),
                Pending::InitialEventsEnd => self.bookmark(json!({ INITIAL_EVENTS_END: "true" })),
                Pending::Failed(failure) => line("ERROR", failure.object()),
            });
        }
        loop {
            let watch = self.watch.as_mut()?;
            let event = tokio::select! {
                biased;
                Ok(()) = self.changes.changed() => {
                    if !(self.allowed)() {
                        return Some(self.forbidden());
                    }
                    continue;
                }
                _ = self.look.tick() => {
                    if !(self.allowed)() {
                        return Some(self.forbidden());
                    }
                    continue;
                }
                event = watch.next() => event,
                () = next(&mut self.bookmarks) => return Some(self.bookmark(Value::Null)),
                () = &mut self.ends => return None,
                () = self.shutdown.cancelled() => return None,
            };
            match event {
                Ok(event) => {
                    if let Some(line) = self.change(&event) {
                        return Some(line);
                    }
                }
                Err(error) => {
                    self.watch = None;
                    return Some(line("ERROR", Failure::from(error).object()));
                }
            }
        }
    }

    /// The last line for who may watch no longer.
    fn forbidden(&mut self) -> Bytes {
        self.watch = None;
        self.pending.clear();
        let message = "the watch ends: its user may not watch these objects any more";
        line("ERROR", Failure::new(http::StatusCode::FORBIDDEN, "Forbidden", message).object())
    }

    /// What a change means to a client that sees only what its selector matches.
    fn change(&mut self, event: &ObjectEvent) -> Option<Bytes> {
        let shown = |object: &&Value| self.selector.matches(object);
        let now = event.object.as_deref().filter(shown);
        let before = event.previous.as_deref().filter(shown);
        match (before, now) {
            (None, Some(object)) => Some(self.event("ADDED", object)),
            (Some(_), Some(object)) => Some(self.event("MODIFIED", object)),
            (Some(object), None) => Some(self.event("DELETED", object)),
            (None, None) => None,
        }
    }

    fn event(&mut self, type_: &str, object: &Value) -> Bytes {
        let first = std::mem::take(&mut self.first);
        line(type_, self.rendering.event(self.target.kind, object, first))
    }

    fn bookmark(&mut self, annotations: Value) -> Bytes {
        if let Some(timer) = &mut self.bookmarks {
            timer.as_mut().reset(Instant::now() + BOOKMARKS);
        }
        let position = self.watch.as_ref().map_or(self.from, ObjectWatch::position);
        let mut metadata = json!({ "resourceVersion": position.to_string(), "creationTimestamp": null });
        if !annotations.is_null() {
            // Nothing after the list has been sent yet.
            metadata["resourceVersion"] = self.from.to_string().into();
            metadata["annotations"] = annotations;
        }
        line("BOOKMARK", self.rendering.bookmark(self.target.kind, metadata))
    }
}

async fn next(timer: &mut Option<Pin<Box<Sleep>>>) {
    match timer {
        Some(timer) => timer.await,
        None => std::future::pending().await,
    }
}

pub(super) fn line(type_: &str, object: Value) -> Bytes {
    let mut line = json!({ "type": type_, "object": object }).to_string();
    line.push('\n');
    Bytes::from(line)
}
