//! The Flows that there are, followed as they are written.
//!
//! States as those of [`crate::access`]: *loaded* when this is opened, *following* from then on; where the store fails, what was
//! known stays, and it is tried again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tulle_model::kinds::flow::{DEFAULT_PORT, Flow, FlowConcurrency, FlowHistory, FlowHttpTrigger};
use tulle_model::name::NamespacedName;
use tulle_model::port_settings::duration;
use tulle_model::registry::KindId;

use crate::objects::{ObjectError, ObjectEvent, ObjectWatch, Objects};

/// How long it is waited until the store is asked again after it failed.
const RETRY: Duration = Duration::from_secs(1);
/// How many changes are taken in together.
const BATCH: usize = 256;
/// What a Flow has that does not say (its schema's `x-default`).
const DEFAULT_ACCOUNT: &str = "default";
const DEFAULT_WAIT: Duration = Duration::from_secs(25);
const DEFAULT_RUNS: u32 = 1_000;
const DEFAULT_AGE: Duration = Duration::from_secs(168 * 3600);

/// All of them, by name.
pub type AllFlows = BTreeMap<NamespacedName, Arc<KnownFlow>>;

/// A Flow, with its defaults.
#[derive(Debug, Clone, PartialEq)]
pub struct KnownFlow {
    pub name: NamespacedName,
    pub uid: String,
    pub generation: i64,
    pub account: Arc<str>,
    pub workflow: Arc<Value>,
    pub trigger: Option<HttpTrigger>,
    /// How many runs go on at once.
    pub limit: Option<u32>,
    /// Whether one more waits for its turn; else it is refused.
    pub queues: bool,
    /// How many runs that are over are kept, and for how long.
    pub keep: usize,
    pub age: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpTrigger {
    pub port: u16,
    pub wait: Duration,
    /// Whether the input is the request, with these headers of it.
    pub request: bool,
    pub headers: Vec<String>,
}

impl KnownFlow {
    /// `None`: it is no Flow that a server of this version could have written.
    fn read(object: &Value) -> Option<Self> {
        let text = |field: &str| object["metadata"][field].as_str().map(str::to_owned);
        let name = NamespacedName::new(text("namespace")?, text("name")?);
        let generation = object["metadata"]["generation"].as_i64().unwrap_or(1);
        let Flow { spec, .. } = serde_json::from_value(object.clone()).ok()?;
        let FlowConcurrency { limit, overflow } = spec.concurrency.clone().unwrap_or_default();
        let FlowHistory { runs, age } = spec.history.unwrap_or_default();
        let http = |http: FlowHttpTrigger| HttpTrigger {
            port: http.port.unwrap_or(DEFAULT_PORT),
            wait: http.wait.and_then(|wait| duration(&wait)).unwrap_or(DEFAULT_WAIT),
            request: http.input.as_deref() == Some("request"),
            headers: http.headers,
        };
        Some(Self {
            name,
            uid: text("uid").unwrap_or_default(),
            generation,
            account: spec.service_account.as_deref().unwrap_or(DEFAULT_ACCOUNT).into(),
            workflow: Arc::new(spec.workflow),
            trigger: spec.trigger.and_then(|trigger| trigger.http).map(http),
            limit: spec.concurrency.is_some().then_some(limit),
            queues: overflow.as_deref() != Some("Refuse"),
            keep: runs.unwrap_or(DEFAULT_RUNS) as usize,
            age: age.and_then(|age| duration(&age)).unwrap_or(DEFAULT_AGE),
        })
    }
}

/// The Flows; clones share them.
#[derive(Clone)]
pub struct KnownFlows {
    objects: Objects,
    all: watch::Sender<Arc<AllFlows>>,
    /// Where following goes on.
    stream: Arc<Mutex<Option<ObjectWatch>>>,
}

impl KnownFlows {
    /// Those of a store as it is.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub async fn open(objects: Objects) -> Result<Self, ObjectError> {
        let (all, stream) = load(&objects).await?;
        Ok(Self { objects, all: watch::Sender::new(all.into()), stream: Arc::new(Mutex::new(Some(stream))) })
    }

    pub fn all(&self) -> Arc<AllFlows> {
        self.all.borrow().clone()
    }

    pub fn get(&self, name: &NamespacedName) -> Option<Arc<KnownFlow>> {
        self.all.borrow().get(name).cloned()
    }

    /// Tells of changes.
    pub fn changes(&self) -> watch::Receiver<Arc<AllFlows>> {
        self.all.subscribe()
    }

    /// Whether a Flow of a namespace calls as that service account.
    pub fn names_account(&self, namespace: &str, account: &str) -> bool {
        of_account(&self.all.borrow(), namespace, account).next().is_some()
    }

    /// The Flows of a namespace that call as a service account.
    pub fn of_account(&self, namespace: &str, account: &str) -> Vec<NamespacedName> {
        of_account(&self.all.borrow(), namespace, account).cloned().collect()
    }

    /// Follows the store until `stop`.
    pub async fn follow(self, stop: CancellationToken) {
        loop {
            let stream = self.stream.lock().take();
            let result = match stream {
                Some(stream) => tokio::select! {
                    () = stop.cancelled() => return,
                    result = self.take_in(stream) => result,
                },
                None => Ok(()),
            };
            if let Err(error) = result {
                tracing::warn!(%error, "the Flows are read anew");
            }
            match load(&self.objects).await {
                Ok((all, stream)) => {
                    self.all.send_replace(all.into());
                    *self.stream.lock() = Some(stream);
                }
                Err(error) => {
                    tracing::error!(%error, "the Flows cannot be read: what was known stays");
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = tokio::time::sleep(RETRY) => {}
                    }
                }
            }
        }
    }

    /// Takes in changes until the store fails.
    async fn take_in(&self, mut stream: ObjectWatch) -> Result<(), ObjectError> {
        loop {
            let events = stream.next_batch(BATCH).await?;
            self.all.send_modify(|all| {
                let all = Arc::make_mut(all);
                for ObjectEvent { namespace, name, object, .. } in events {
                    let name = NamespacedName::new(namespace, name);
                    match object.map(|object| KnownFlow::read(&object)) {
                        Some(Some(flow)) => drop(all.insert(name, Arc::new(flow))),
                        Some(None) => {
                            tracing::error!(flow = %name, "a Flow cannot be read: it stays as it was")
                        }
                        None => drop(all.remove(&name)),
                    }
                }
            });
        }
    }
}

fn of_account<'a>(
    all: &'a AllFlows,
    namespace: &str,
    account: &str,
) -> impl Iterator<Item = &'a NamespacedName> {
    let of_namespace = all.range(NamespacedName::new(namespace, "")..);
    let of_namespace = of_namespace.take_while(move |(name, _)| *name.namespace == *namespace);
    of_namespace.filter(move |(_, flow)| *flow.account == *account).map(|(name, _)| name)
}

/// All that is known, and what follows it.
async fn load(objects: &Objects) -> Result<(AllFlows, ObjectWatch), ObjectError> {
    // From before the list: what is taken in twice is the same.
    let revision = objects.revision().await?;
    let kind = KindId::Flow.kind();
    let flows = objects.list(kind, None).await?.items;
    let known = flows.iter().filter_map(KnownFlow::read).map(|flow| (flow.name.clone(), Arc::new(flow)));
    Ok((known.collect(), objects.watch(kind, None, revision).await?))
}
