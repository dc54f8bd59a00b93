//! What nodes can subscribe to, in its present form, and who has subscribed to what.
//!
//! The controller publishes; every stream has a set of *dirty* names (subscribed, and changed since
//! it was last sent) and is woken when that grows. However fast things change, a slow node costs one
//! entry for each name that it subscribes to, and gets the latest form of each.
//!
//! A node is told what its workloads may use: nothing of Services while it runs none, and of a Service the consumer routes of the
//! namespaces in which it runs some ([`forms`]). Which workloads it runs is known from what is published of these.
//!
//! What each node has confirmed stays here, in the server that it is connected to. Only the sums of it are
//! written ([`Publication::progress`]): each confirmation would be a write of the store.

mod forms;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tulle_model::name::{ServiceName, WorkloadName};
use tulle_wire::type_url;

pub use self::forms::{Form, Resource, Withheld};
use self::forms::{Published, Readers};

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
    resources: HashMap<Key, Published>,
    subscribers: HashMap<Key, HashMap<u64, Subscriber>>,
    streams: HashMap<u64, OpenStream>,
    /// What each node runs, of those that run something, or say what they run: these ask for what their first workload uses before they
    /// tell of it.
    nodes: HashMap<Arc<str>, RunningNode>,
}

struct OpenStream {
    handle: Arc<StreamHandle>,
    keys: HashSet<Key>,
}

#[derive(Default)]
struct RunningNode {
    workloads: HashSet<Key>,
    /// Of these.
    namespaces: BTreeSet<Arc<str>>,
    /// How many streams it reports on.
    reports: usize,
}

impl RunningNode {
    fn set(&mut self, workload: &Key, runs: bool) {
        match runs {
            true => self.workloads.insert(workload.clone()),
            false => self.workloads.remove(workload),
        };
        let namespaces = self.workloads.iter().filter_map(|key| key.name.split_once('/'));
        self.namespaces = namespaces.map(|(namespace, _)| namespace.into()).collect();
    }

    /// The namespaces whose routes it may have, where it may have any Service at all.
    fn sees(&self) -> Option<BTreeSet<Arc<str>>> {
        (self.reports > 0 || !self.workloads.is_empty()).then(|| self.namespaces.clone())
    }
}

impl PublicationState {
    /// What a node may have of a name.
    fn of_node(&mut self, node: &str, key: &Key) -> Result<Option<Resource>, Withheld> {
        let runs = self.nodes.get(node);
        match key.kind {
            ResourceType::Mesh | ResourceType::Workload => {}
            ResourceType::Service | ResourceType::Endpoints if runs.is_none() => return Err(Withheld::Idle),
            ResourceType::Service | ResourceType::Endpoints => {}
        }
        let Some(published) = self.resources.get_mut(key) else { return Ok(None) };
        match (&published.readers, runs) {
            (Readers::Node { name, .. }, _) if **name != *node => Err(Withheld::OfAnother),
            (Readers::OfService(_), Some(runs)) => Ok(Some(published.part(&runs.namespaces))),
            _ => Ok(Some(published.whole.clone())),
        }
    }

    /// Notes which node runs a workload, and returns the names that nodes may have other forms of now, with their streams.
    fn move_workload(
        &mut self,
        workload: &Key,
        from: Option<Arc<str>>,
        to: Option<Arc<str>>,
    ) -> Vec<(u64, Key)> {
        let moves = [(from, false), (to, true)].into_iter();
        let moves = moves.filter_map(|(node, runs)| Some((node?, runs)));
        moves.flat_map(|(node, runs)| self.change_node(&node, |of| of.set(workload, runs))).collect()
    }

    /// Changes what is known of a node, and returns as [`PublicationState::move_workload`].
    fn change_node(&mut self, node: &Arc<str>, change: impl FnOnce(&mut RunningNode)) -> Vec<(u64, Key)> {
        let known = self.nodes.entry(node.clone()).or_default();
        let before = known.sees();
        change(known);
        let now = known.sees();
        if now.is_none() {
            self.nodes.remove(node);
        }
        if before == now { Vec::new() } else { self.concerned(node, before, now) }
    }

    /// Marks names for their streams, which are to be woken.
    fn mark(&self, names: &[(u64, Key)], woken: &mut HashMap<u64, Arc<StreamHandle>>) {
        for (stream, key) in names {
            if let Some(stream) = self.streams.get(stream) {
                stream.handle.dirty.lock().insert(key.clone());
                woken.insert(stream.handle.id, stream.handle.clone());
            }
        }
    }

    /// What the streams of a node have subscribed to that depends on the namespaces in which it runs workloads.
    fn concerned(
        &self,
        node: &str,
        before: Option<BTreeSet<Arc<str>>>,
        now: Option<BTreeSet<Arc<str>>>,
    ) -> Vec<(u64, Key)> {
        let all = before.is_none() || now.is_none();
        let (before, now) = (before.unwrap_or_default(), now.unwrap_or_default());
        let depends = |key: &&Key| match key.kind {
            ResourceType::Mesh | ResourceType::Workload => false,
            ResourceType::Service | ResourceType::Endpoints if all => true,
            ResourceType::Endpoints => false,
            ResourceType::Service => match self.resources.get(*key).map(|published| &published.readers) {
                Some(Readers::OfService(of)) => {
                    before.symmetric_difference(&now).any(|namespace| of.consumers.contains(namespace))
                }
                _ => false,
            },
        };
        let streams = self.streams.iter().filter(|(_, stream)| *stream.handle.node == *node);
        streams
            .flat_map(|(id, stream)| stream.keys.iter().filter(depends).map(|key| (*id, key.clone())))
            .collect()
    }
}

struct Subscriber {
    stream: Arc<StreamHandle>,
    /// The version that the node confirmed; `Some(None)`: that there is no such resource.
    confirmed: Option<Option<Arc<str>>>,
    refused: Option<String>,
}

impl Subscriber {
    /// What was confirmed, and why the last form was refused.
    fn answer(&self) -> (Option<Option<Arc<str>>>, Option<String>) {
        (self.confirmed.clone(), self.refused.clone())
    }
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

/// A stream on which a node says what it runs.
pub struct Reporting {
    publication: Arc<Publication>,
    node: Arc<str>,
}

impl Drop for Reporting {
    fn drop(&mut self) {
        self.publication.change_node(&self.node, |of| of.reports -= 1);
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
            let next = form.map(Published::new);
            let before = state.resources.get(&key);
            let is_same = match (before, &next) {
                (Some(before), Some(next)) => before.is_the_same(next),
                (None, None) => true,
                _ => false,
            };
            if is_same {
                continue;
            }
            changed += 1;
            let [from, to] = [before, next.as_ref()].map(|published| match published.map(|p| &p.readers) {
                Some(Readers::Node { name, .. }) => Some(name.clone()),
                _ => None,
            });
            match next {
                Some(published) => state.resources.insert(key.clone(), published),
                None => state.resources.remove(&key),
            };
            if from != to {
                let names = state.move_workload(&key, from, to);
                state.mark(&names, &mut woken);
                affected.extend(names.into_iter().map(|(_, key)| key));
            }
            for (id, subscriber) in state.subscribers.get(&key).into_iter().flatten() {
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
    /// Where it is not for that node.
    pub fn get(&self, node: &str, key: &Key) -> Result<Option<Resource>, Withheld> {
        self.state.lock().of_node(node, key)
    }

    /// A node says what it runs, until what is returned is dropped.
    pub fn reporting(self: &Arc<Self>, node: &Arc<str>) -> Reporting {
        self.change_node(node, |of| of.reports += 1);
        Reporting { publication: self.clone(), node: node.clone() }
    }

    fn change_node(&self, node: &Arc<str>, change: impl FnOnce(&mut RunningNode)) {
        let mut woken = HashMap::new();
        let mut state = self.state.lock();
        let names = state.change_node(node, change);
        state.mark(&names, &mut woken);
        drop(state);
        for stream in woken.values() {
            stream.wake.notify_one();
        }
        self.note_progress(names.into_iter().map(|(_, key)| key));
    }

    /// The Services of a namespace, by their names, each with the message that nodes get.
    pub fn services_of(&self, namespace: &str) -> BTreeMap<String, Bytes> {
        let state = self.state.lock();
        let of_namespace = state.resources.iter().filter(|(key, _)| key.kind == ResourceType::Service);
        let named = of_namespace.filter_map(|(key, published)| match key.name.split_once('/')? {
            (of, name) if of == namespace => Some((name.to_owned(), published.whole.body.clone())),
            _ => None,
        });
        named.collect()
    }

    /// Whether policies of a node's workloads have keys from there.
    pub fn reads_keys(&self, node: &str, source: &str) -> bool {
        let state = self.state.lock();
        let workloads = state.nodes.get(node).into_iter().flat_map(|node| &node.workloads);
        let mut published = workloads.filter_map(|key| state.resources.get(key));
        published.any(|published| match &published.readers {
            Readers::Node { key_sources, .. } => key_sources.contains(source),
            Readers::All | Readers::OfService(_) => false,
        })
    }

    /// Opens a stream of a node; none where it has too many.
    pub fn open(&self, node: Arc<str>) -> Option<Arc<StreamHandle>> {
        let mut state = self.state.lock();
        if state.streams.values().filter(|stream| stream.handle.node == node).count() >= STREAMS_OF_A_NODE {
            return None;
        }
        let id = self.next_stream.fetch_add(1, Ordering::Relaxed);
        let (dirty, wake, revoked) = (Mutex::default(), Notify::new(), CancellationToken::new());
        let handle = Arc::new(StreamHandle { id, node, dirty, wake, revoked });
        state.streams.insert(id, OpenStream { handle: handle.clone(), keys: HashSet::new() });
        Some(handle)
    }

    /// Ends the streams of a node.
    pub fn revoke(&self, node: &str) {
        let state = self.state.lock();
        state
            .streams
            .values()
            .filter(|stream| *stream.handle.node == *node)
            .for_each(|stream| stream.handle.revoked.cancel());
    }

    /// Subscribes a stream; the names become dirty.
    pub fn subscribe(&self, stream: &Arc<StreamHandle>, keys: &[Key]) {
        let mut state = self.state.lock();
        if let Some(stream) = state.streams.get_mut(&stream.id) {
            stream.keys.extend(keys.iter().cloned());
        }
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
            if let Some(stream) = state.streams.get_mut(&stream.id) {
                stream.keys.remove(key);
            }
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
        #[derive(Clone)]
        struct NodeProgress {
            stream: u64,
            confirmed: bool,
            refused: Option<String>,
        }
        let mut state = self.state.lock();
        let mut nodes: HashMap<Arc<str>, NodeProgress> = HashMap::new();
        for service in services {
            let key = Key::new(ResourceType::Service, service.to_string());
            let answers = state.subscribers.get(&key).into_iter().flatten();
            let answers: Vec<_> =
                answers.map(|(&id, of)| (id, of.stream.node.clone(), of.answer())).collect();
            for (id, node, (confirmed, refused)) in answers {
                // Who runs nothing uses nothing.
                let Ok(present) = state.of_node(&node, &key) else { continue };
                let confirmed = confirmed.is_some_and(|v| v == present.map(|resource| resource.version));
                let new = NodeProgress { stream: id, confirmed: true, refused: None };
                let seen = nodes.entry(node).or_insert_with(|| new.clone());
                if id > seen.stream {
                    *seen = new;
                }
                if id == seen.stream {
                    seen.confirmed &= confirmed;
                    seen.refused = seen.refused.take().or(refused);
                }
            }
        }
        let mut refused: Vec<_> =
            nodes.iter().filter_map(|(node, p)| Some((node.clone(), p.refused.clone()?))).collect();
        refused.sort();
        let confirmed = nodes.values().filter(|p| p.confirmed && p.refused.is_none()).count();
        Progress { nodes: nodes.len(), confirmed, refused }
    }

    /// What a node has answered to the present form of a workload.
    pub fn answer_of(&self, node: &str, workload: &WorkloadName) -> NodeAnswer {
        let mut state = self.state.lock();
        let key = Key::new(ResourceType::Workload, workload.to_string());
        let streams = state.subscribers.get(&key).into_iter().flatten();
        let latest = streams.filter(|(_, of)| *of.stream.node == *node).max_by_key(|(id, _)| **id);
        let Some((confirmed, refused)) = latest.map(|(_, subscriber)| subscriber.answer()) else {
            return NodeAnswer::None;
        };
        let Ok(present) = state.of_node(node, &key) else { return NodeAnswer::None };
        match (refused, confirmed) {
            (Some(why), _) => NodeAnswer::Refused(why),
            (None, Some(confirmed)) if confirmed == present.map(|resource| resource.version) => {
                NodeAnswer::Confirmed
            }
            (None, _) => NodeAnswer::None,
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

#[cfg(test)]
mod tests {
    use prost::Message;
    use tulle_model::port_settings::Http1Settings;
    use tulle_model::snapshot::{
        AppProtocol, HttpRouteTable, PortConfig, ServiceConfig, TlsRouteTable, WorkloadConfig,
    };

    use super::*;

    /// What is published of a workload that a node runs.
    fn running(node: &str, workload: &str) -> (Key, Option<Form>) {
        let config = WorkloadConfig::new(workload.parse().unwrap());
        (Key::new(ResourceType::Workload, workload), Some(Form::of_workload(node.into(), &config)))
    }

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
        let for_node = |node: &str| [running(node, "a/b")];
        let seen = || ["n1", "n2"].map(|node| publication.get(node, &key).map(|found| found.is_some()));
        assert_eq!(seen(), [Ok(false), Ok(false)]);
        for (node, expected) in
            [("n1", [Ok(true), Err(Withheld::OfAnother)]), ("n2", [Err(Withheld::OfAnother), Ok(true)])]
        {
            assert_eq!(publication.publish(for_node(node)), 1, "though it says the same");
            assert_eq!(publication.publish(for_node(node)), 0);
            assert_eq!(seen(), expected);
            // Who may no longer have it hears of it, too.
            assert!([&mine, &theirs].iter().all(|stream| stream.take_dirty(10) == vec![key.clone()]));
        }
    }

    #[test]
    fn a_node_that_runs_nothing_is_told_of_no_service_and_hears_when_that_changes() {
        let publication = Publication::new();
        publication.publish([(key("a/b"), Some(Form::new(b"1".to_vec())))]);
        let stream = publication.open("n1".into()).unwrap();
        let other = publication.open("n2".into()).unwrap();
        let keys = [key("a/b"), key("a/none"), Key::new(ResourceType::Endpoints, "a/b")];
        for stream in [&stream, &other] {
            publication.subscribe(stream, &keys);
            while !stream.take_dirty(10).is_empty() {}
        }
        let seen = |name: &str| publication.get("n1", &key(name)).map(|found| found.is_some());
        assert_eq!([seen("a/b"), seen("a/none")], [Err(Withheld::Idle), Err(Withheld::Idle)]);
        publication.publish([running("n1", "x/w"), running("n1", "x/v")]);
        assert_eq!([seen("a/b"), seen("a/none")], [Ok(true), Ok(false)]);
        assert_eq!((stream.take_dirty(10).len(), stream.take_dirty(10).len()), (1, 2));
        assert!(other.is_clean());
        let gone = |workload: &str| (Key::new(ResourceType::Workload, workload), None);
        publication.publish([gone("x/w")]);
        assert!(stream.is_clean() && seen("a/b") == Ok(true));
        publication.publish([gone("x/v")]);
        assert_eq!(seen("a/b"), Err(Withheld::Idle));
        assert!(!stream.is_clean());
    }

    #[test]
    fn a_node_that_says_what_it_runs_may_ask_for_what_it_is_about_to_use() {
        let publication = Publication::new();
        publication.publish([(key("a/b"), Some(Form::new(b"1".to_vec())))]);
        let stream = publication.open("n1".into()).unwrap();
        publication.subscribe(&stream, &[key("a/b")]);
        stream.take_dirty(10);
        let seen = || publication.get("n1", &key("a/b")).map(|found| found.is_some());
        assert_eq!(seen(), Err(Withheld::Idle));
        let [first, second] = [(); 2].map(|()| publication.reporting(&"n1".into()));
        assert_eq!((seen(), stream.take_dirty(10).len()), (Ok(true), 1), "what was withheld is told");
        drop(first);
        assert!(seen() == Ok(true) && stream.is_clean());
        publication.publish([running("n1", "x/w")]);
        assert!(stream.is_clean(), "it has what is for all");
        drop(second);
        assert_eq!(seen(), Ok(true), "it runs something");
        publication.publish([(Key::new(ResourceType::Workload, "x/w"), None)]);
        assert_eq!((seen(), stream.take_dirty(10).len()), (Err(Withheld::Idle), 1));
    }

    #[test]
    fn routes_of_consumers_are_for_nodes_that_run_something_in_their_namespace() {
        let publication = Publication::new();
        let port = |consumers| PortConfig {
            number: 80,
            name: "".into(),
            protocol: AppProtocol::Detect,
            http_routes: HttpRouteTable::default(),
            tls_routes: TlsRouteTable::default(),
            tcp_route: None,
            http_only: false,
            http1: Http1Settings::DEFAULT,
            consumers,
        };
        let consumers = ["x", "y"].map(|namespace| (namespace.into(), port(vec![])));
        let name: ServiceName = "a/b".parse().unwrap();
        let config = Arc::new(ServiceConfig::new(name.clone(), vec![port(consumers.to_vec())]));
        publication.publish([(key("a/b"), Some(Form::of_service(&config)))]);
        let consumers_told = |node: &str| {
            let resource = publication.get(node, &key("a/b")).unwrap().unwrap();
            let message = tulle_wire::discovery::Service::decode(resource.body).unwrap();
            let consumers = message.ports[0].consumers.iter();
            consumers.map(|consumer| consumer.namespace.clone()).collect::<Vec<_>>()
        };
        publication.publish([running("n1", "x/w"), running("n2", "z/w")]);
        assert_eq!((consumers_told("n1"), consumers_told("n2")), (vec!["x".to_owned()], vec![]));
        let stream = publication.open("n1".into()).unwrap();
        publication.subscribe(&stream, &[key("a/b")]);
        stream.take_dirty(10);
        publication.publish([running("n1", "z/v")]);
        assert!(stream.is_clean(), "nobody there has a route");
        publication.publish([running("n1", "y/v")]);
        assert_eq!(stream.take_dirty(10), vec![key("a/b")]);
        assert_eq!(consumers_told("n1"), ["x", "y"]);
        // Each node confirms its own form.
        let version = publication.get("n1", &key("a/b")).unwrap().unwrap().version;
        publication.confirm(&stream, &[(key("a/b"), Some(version))]);
        assert_eq!(publication.progress(&[name]).confirmed, 1);
        publication.publish([(Key::new(ResourceType::Workload, "x/w"), None)]);
        assert_eq!((stream.take_dirty(10), consumers_told("n1")), (vec![key("a/b")], vec!["y".to_owned()]));
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
        publication.publish(["n1", "n2"].map(|node| running(node, &format!("a/{node}"))));
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
