//! What nodes can subscribe to, in its present form, and who has subscribed to what.
//!
//! The controller publishes; every stream has a set of *dirty* names (subscribed, and changed since
//! it was last sent) and is woken when that grows. However fast things change, a slow node costs one
//! entry for each name that it subscribes to, and gets the latest form of each.
//!
//! What each node has confirmed stays here, in the server that it is connected to. Only the sums of it are
//! written ([`Publication::progress`]): each confirmation would be a write of the store.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tulle_model::name::{ServiceName, WorkloadName};
use tulle_wire::type_url;

/// How many streams a node may have: it needs one, and may leave a few behind when it reconnects.
pub const STREAMS_OF_A_NODE: usize = 8;

/// The types, in the order in which changes are sent: endpoints before the services that refer to
/// them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ResourceType {
    Mesh,
    /// For the node that runs the workload alone.
    Workload,
    Endpoints,
    Service,
}

impl ResourceType {
    pub const ALL: [Self; 4] = [Self::Mesh, Self::Workload, Self::Endpoints, Self::Service];

    pub fn url(self) -> &'static str {
        match self {
            Self::Mesh => type_url::MESH,
            Self::Workload => type_url::WORKLOAD,
            Self::Endpoints => type_url::ENDPOINTS,
            Self::Service => type_url::SERVICE,
        }
    }

    pub fn from_url(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|t| t.url() == url)
    }
}

/// The name of a resource.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    pub kind: ResourceType,
    /// `namespace/name`; `default` for the mesh.
    pub name: Arc<str>,
}

impl Key {
    pub fn new(kind: ResourceType, name: impl Into<Arc<str>>) -> Self {
        Self { kind, name: name.into() }
    }
}

/// The present form of a resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// A hash of the body: the same on every server, and across restarts.
    pub version: Arc<str>,
    /// An encoded message of its type.
    pub body: Bytes,
    /// The only node that may have it; `None`: all may.
    reader: Option<Arc<str>>,
}

/// A form of a resource that is to be published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Form {
    body: Vec<u8>,
    reader: Option<Arc<str>>,
}

impl Form {
    /// Of an encoded message.
    pub fn new(body: Vec<u8>) -> Self {
        Self { body, reader: None }
    }

    /// The same, for that node alone.
    pub fn only_for(reader: Arc<str>, body: Vec<u8>) -> Self {
        Self { body, reader: Some(reader) }
    }
}

/// There is a resource, for another node than the one that asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Withheld;

/// How far the nodes are with a set of services.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// How many nodes subscribe to any of the services.
    pub nodes: usize,
    /// How many of them have confirmed the present form of all that they subscribe to.
    pub confirmed: usize,
    /// Nodes that refuse it, and why.
    pub refused: Vec<(Arc<str>, String)>,
}

/// What a node has said of what it was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeAnswer {
    /// Nothing yet, or it is not connected.
    None,
    /// It is in force there.
    Confirmed,
    Refused(String),
}

/// The shared state of discovery.
#[derive(Default)]
pub struct Publication {
    state: Mutex<PublicationState>,
    next_stream: AtomicU64,
    progressed: Mutex<HashSet<Key>>,
    progress: Notify,
}

#[derive(Default)]
struct PublicationState {
    resources: HashMap<Key, Resource>,
    subscribers: HashMap<Key, HashMap<u64, Subscriber>>,
    streams: HashMap<u64, Arc<StreamHandle>>,
}

struct Subscriber {
    stream: Arc<StreamHandle>,
    /// The version that the node confirmed; `Some(None)`: that there is no such resource.
    confirmed: Option<Option<Arc<str>>>,
    refused: Option<String>,
}

/// A stream as the publisher sees it.
#[derive(Debug)]
pub struct StreamHandle {
    id: u64,
    pub node: Arc<str>,
    dirty: Mutex<BTreeSet<Key>>,
    wake: Notify,
    /// The node may have no streams any more.
    pub revoked: CancellationToken,
}

impl StreamHandle {
    /// Waits until something may have become dirty.
    pub async fn woken(&self) {
        self.wake.notified().await;
    }

    pub fn is_clean(&self) -> bool {
        self.dirty.lock().is_empty()
    }

    /// Takes up to `limit` dirty names of the first type that has any.
    pub fn take_dirty(&self, limit: usize) -> Vec<Key> {
        let mut dirty = self.dirty.lock();
        let Some(kind) = dirty.first().map(|key| key.kind) else { return Vec::new() };
        let mut taken = Vec::new();
        while taken.len() < limit
            && dirty.first().is_some_and(|key| key.kind == kind)
            && let Some(key) = dirty.pop_first()
        {
            taken.push(key);
        }
        taken
    }

    /// Gives names back that did not fit.
    pub fn mark_dirty(&self, keys: impl IntoIterator<Item = Key>) {
        self.dirty.lock().extend(keys);
    }
}

impl Publication {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Publishes changes; `None` says that the resource is gone. Those that are the same as before
    /// wake nobody. Streams see all changes of one call together.
    pub fn publish(&self, changes: impl IntoIterator<Item = (Key, Option<Form>)>) -> usize {
        let mut changed = 0;
        let mut woken: HashMap<u64, Arc<StreamHandle>> = HashMap::new();
        let mut affected = Vec::new();
        let mut state = self.state.lock();
        for (key, form) in changes {
            let next = form.map(|Form { body, reader }| Resource {
                version: version(&body),
                body: body.into(),
                reader,
            });
            let PublicationState { resources, subscribers, .. } = &mut *state;
            let known = |resource: &Resource| (resource.version.clone(), resource.reader.clone());
            if resources.get(&key).map(known) == next.as_ref().map(known) {
                continue;
            }
            changed += 1;
            match next {
                Some(resource) => resources.insert(key.clone(), resource),
                None => resources.remove(&key),
            };
            for (id, subscriber) in subscribers.get(&key).into_iter().flatten() {
                subscriber.stream.dirty.lock().insert(key.clone());
                woken.entry(*id).or_insert_with(|| subscriber.stream.clone());
            }
            affected.push(key);
        }
        drop(state);
        for stream in woken.values() {
            stream.wake.notify_one();
        }
        self.note_progress(affected);
        changed
    }

    /// The present form of a resource, for a node.
    ///
    /// # Errors
    /// Where another node alone may have it.
    pub fn get(&self, node: &str, key: &Key) -> Result<Option<Resource>, Withheld> {
        match self.state.lock().resources.get(key) {
            Some(resource) if resource.reader.as_deref().is_some_and(|reader| reader != node) => {
                Err(Withheld)
            }
            known => Ok(known.cloned()),
        }
    }

    /// Opens a stream of a node; none where it has too many.
    pub fn open(&self, node: Arc<str>) -> Option<Arc<StreamHandle>> {
        let mut state = self.state.lock();
        if state.streams.values().filter(|stream| stream.node == node).count() >= STREAMS_OF_A_NODE {
            return None;
        }
        let id = self.next_stream.fetch_add(1, Ordering::Relaxed);
        let (dirty, wake, revoked) = (Mutex::default(), Notify::new(), CancellationToken::new());
        let handle = Arc::new(StreamHandle { id, node, dirty, wake, revoked });
        state.streams.insert(id, handle.clone());
        Some(handle)
    }

    /// Ends the streams of a node.
    pub fn revoke(&self, node: &str) {
        let state = self.state.lock();
        state
            .streams
            .values()
            .filter(|stream| *stream.node == *node)
            .for_each(|stream| stream.revoked.cancel());
    }

    /// Subscribes a stream; the names become dirty.
    pub fn subscribe(&self, stream: &Arc<StreamHandle>, keys: &[Key]) {
        let mut state = self.state.lock();
        for key in keys {
            let subscriber = Subscriber { stream: stream.clone(), confirmed: None, refused: None };
            state.subscribers.entry(key.clone()).or_default().insert(stream.id, subscriber);
        }
        stream.mark_dirty(keys.iter().cloned());
        drop(state);
        stream.wake.notify_one();
        self.note_progress(keys.iter().cloned());
    }

    pub fn unsubscribe(&self, stream: &StreamHandle, keys: &[Key]) {
        let mut state = self.state.lock();
        for key in keys {
            forget(&mut state.subscribers, key, stream.id);
            stream.dirty.lock().remove(key);
        }
        drop(state);
        self.note_progress(keys.iter().cloned());
    }

    /// Forgets a stream and its subscriptions.
    pub fn close(&self, stream: &StreamHandle, keys: &[Key]) {
        self.unsubscribe(stream, keys);
        self.state.lock().streams.remove(&stream.id);
    }

    /// Notes that the node has taken these versions.
    pub fn confirm(&self, stream: &StreamHandle, sent: &[(Key, Option<Arc<str>>)]) {
        self.answer(stream, sent, None);
    }

    /// Notes that the node has refused these versions.
    pub fn refuse(&self, stream: &StreamHandle, sent: &[(Key, Option<Arc<str>>)], why: &str) {
        self.answer(stream, sent, Some(why));
    }

    fn answer(&self, stream: &StreamHandle, sent: &[(Key, Option<Arc<str>>)], refused: Option<&str>) {
        let mut state = self.state.lock();
        for (key, version) in sent {
            if let Some(subscriber) =
                state.subscribers.get_mut(key).and_then(|streams| streams.get_mut(&stream.id))
            {
                if refused.is_none() {
                    subscriber.confirmed = Some(version.clone());
                }
                subscriber.refused = refused.map(str::to_owned);
            }
        }
        drop(state);
        self.note_progress(sent.iter().map(|(key, _)| key.clone()));
    }

    /// How far the nodes are with these services.
    pub fn progress(&self, services: &[ServiceName]) -> Progress {
        /// One node, by the latest of its streams.
        struct NodeProgress<'a> {
            stream: u64,
            confirmed: bool,
            refused: Option<&'a String>,
        }
        let state = self.state.lock();
        let mut nodes: HashMap<&Arc<str>, NodeProgress<'_>> = HashMap::new();
        for service in services {
            let key = Key::new(ResourceType::Service, service.to_string());
            let present = state.resources.get(&key).map(|r| &r.version);
            for (&id, subscriber) in state.subscribers.get(&key).into_iter().flatten() {
                let confirmed = subscriber.confirmed.as_ref().is_some_and(|v| v.as_ref() == present);
                let seen = nodes.entry(&subscriber.stream.node).or_insert(NodeProgress {
                    stream: id,
                    confirmed: true,
                    refused: None,
                });
                if id > seen.stream {
                    *seen = NodeProgress { stream: id, confirmed: true, refused: None };
                }
                if id == seen.stream {
                    seen.confirmed &= confirmed;
                    seen.refused = seen.refused.or(subscriber.refused.as_ref());
                }
            }
        }
        let mut refused: Vec<_> = nodes
            .iter()
            .filter_map(|(node, p)| p.refused.map(|why| ((*node).clone(), why.clone())))
            .collect();
        refused.sort();
        let confirmed = nodes.values().filter(|p| p.confirmed && p.refused.is_none()).count();
        Progress { nodes: nodes.len(), confirmed, refused }
    }

    /// What a node has answered to the present form of a workload.
    pub fn answer_of(&self, node: &str, workload: &WorkloadName) -> NodeAnswer {
        let state = self.state.lock();
        let key = Key::new(ResourceType::Workload, workload.to_string());
        let streams = state.subscribers.get(&key).into_iter().flatten();
        let latest = streams.filter(|(_, of)| *of.stream.node == *node).max_by_key(|(id, _)| **id);
        let Some((_, subscriber)) = latest else { return NodeAnswer::None };
        if let Some(why) = &subscriber.refused {
            return NodeAnswer::Refused(why.clone());
        }
        let present = state.resources.get(&key).map(|resource| &resource.version);
        match &subscriber.confirmed {
            Some(confirmed) if confirmed.as_ref() == present => NodeAnswer::Confirmed,
            _ => NodeAnswer::None,
        }
    }

    /// Waits until the progress of services and workloads may have changed, and says of which.
    pub async fn progressed(&self) -> HashSet<Key> {
        loop {
            let services = std::mem::take(&mut *self.progressed.lock());
            if !services.is_empty() {
                return services;
            }
            self.progress.notified().await;
        }
    }

    /// How many streams are open, and how many subscriptions they have.
    pub fn load(&self) -> (usize, usize) {
        let state = self.state.lock();
        (state.streams.len(), state.subscribers.values().map(HashMap::len).sum())
    }

    fn note_progress(&self, keys: impl IntoIterator<Item = Key>) {
        let counts = |key: &Key| matches!(key.kind, ResourceType::Service | ResourceType::Workload);
        let mut counted = keys.into_iter().filter(counts).peekable();
        if counted.peek().is_some() {
            self.progressed.lock().extend(counted);
            self.progress.notify_one();
        }
    }
}

fn forget(subscribers: &mut HashMap<Key, HashMap<u64, Subscriber>>, key: &Key, stream: u64) {
    if let Some(streams) = subscribers.get_mut(key) {
        streams.remove(&stream);
        if streams.is_empty() {
            subscribers.remove(key);
        }
    }
}

/// The version of a body.
pub fn version(body: &[u8]) -> Arc<str> {
    crate::ca::seal::hex(&digest(&SHA256, body).as_ref()[..8]).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key::new(ResourceType::Service, name)
    }

    fn version_of(publication: &Publication, key: &Key) -> Arc<str> {
        publication.get("n1", key).unwrap().unwrap().version
    }

    #[test]
    fn what_is_for_one_node_is_withheld_from_others_and_may_change_hands() {
        let publication = Publication::new();
        let key = Key::new(ResourceType::Workload, "a/b");
        let [mine, theirs] = ["n1", "n2"].map(|node| publication.open(node.into()).unwrap());
        for stream in [&mine, &theirs] {
            publication.subscribe(stream, std::slice::from_ref(&key));
            assert_eq!(stream.take_dirty(10), vec![key.clone()]);
        }
        let for_node = |node: &str| [(key.clone(), Some(Form::only_for(node.into(), b"1".to_vec())))];
        let seen = || ["n1", "n2"].map(|node| publication.get(node, &key).map(|found| found.is_some()));
        assert_eq!(seen(), [Ok(false), Ok(false)]);
        for (node, expected) in [("n1", [Ok(true), Err(Withheld)]), ("n2", [Err(Withheld), Ok(true)])] {
            assert_eq!(publication.publish(for_node(node)), 1, "though it says the same");
            assert_eq!(publication.publish(for_node(node)), 0);
            assert_eq!(seen(), expected);
            // Who may no longer have it hears of it, too.
            assert!([&mine, &theirs].iter().all(|stream| stream.take_dirty(10) == vec![key.clone()]));
        }
    }

    #[test]
    fn only_what_changed_becomes_dirty_and_endpoints_go_first() {
        let publication = Publication::new();
        let stream = publication.open("n1".into()).unwrap();
        let endpoints = Key::new(ResourceType::Endpoints, "a/b");
        publication.subscribe(&stream, &[key("a/b"), endpoints.clone()]);
        assert_eq!(stream.take_dirty(10), vec![endpoints.clone()]);
        assert_eq!(stream.take_dirty(10), vec![key("a/b")]);

        let body = |text: &str| Some(Form::new(text.as_bytes().to_vec()));
        assert_eq!(publication.publish([(key("a/b"), body("1")), (key("a/c"), body("1"))]), 2);
        assert_eq!(publication.publish([(key("a/b"), body("1")), (endpoints.clone(), body("1"))]), 1);
        assert_eq!(stream.take_dirty(10), vec![endpoints]);
        assert_eq!(stream.take_dirty(10), vec![key("a/b")]);
        publication.unsubscribe(&stream, &[key("a/b")]);
        publication.publish([(key("a/b"), None)]);
        assert!(stream.is_clean());
    }

    #[test]
    fn a_node_has_a_bounded_number_of_streams() {
        let publication = Publication::new();
        let streams: Vec<_> =
            (0..STREAMS_OF_A_NODE).map(|_| publication.open("n1".into()).unwrap()).collect();
        assert!(publication.open("n1".into()).is_none());
        assert!(publication.open("n2".into()).is_some());
        publication.close(&streams[0], &[]);
        assert!(publication.open("n1".into()).is_some());
    }

    #[test]
    fn progress_counts_the_nodes_that_confirmed_the_present_form() {
        let publication = Publication::new();
        let service: ServiceName = "a/b".parse().unwrap();
        let progress = || publication.progress(std::slice::from_ref(&service));
        publication.publish([(key("a/b"), Some(Form::new(b"1".to_vec())))]);
        assert_eq!(progress(), Progress::default());
        let (one, two) = (publication.open("n1".into()).unwrap(), publication.open("n2".into()).unwrap());
        publication.subscribe(&one, &[key("a/b")]);
        publication.subscribe(&two, &[key("a/b")]);
        let first = Some(version_of(&publication, &key("a/b")));
        publication.confirm(&one, &[(key("a/b"), first.clone())]);
        assert_eq!((progress().confirmed, progress().nodes), (1, 2));
        publication.refuse(&two, &[(key("a/b"), first.clone())], "no regex");
        assert_eq!(progress().refused, vec![("n2".into(), "no regex".to_owned())]);

        // A change takes everyone back; a node's newer stream counts instead of its older one.
        publication.publish([(key("a/b"), Some(Form::new(b"2".to_vec())))]);
        assert_eq!(progress().confirmed, 0);
        let again = publication.open("n1".into()).unwrap();
        publication.subscribe(&again, &[key("a/b")]);
        let second = Some(version_of(&publication, &key("a/b")));
        publication.confirm(&again, &[(key("a/b"), second)]);
        assert_eq!((progress().confirmed, progress().nodes), (1, 2));
        publication.close(&two, &[key("a/b")]);
        assert_eq!((progress().confirmed, progress().nodes), (1, 1));
    }
}
