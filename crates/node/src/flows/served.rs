//! The Flows that this node is told of, each with the workload that its calls are made as and its requests come to.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tulle_model::flow::workflow::Workflow;
use tulle_model::kinds::flow::{FLOW_LABEL, TRIGGER_PORT};
use tulle_model::name::{NamespacedName, WorkloadName};
use tulle_proxy::{Arrived, InProcess};
use tulle_wire::flow::FlowTold;

use super::workflow::read_workflow;
use crate::workloads::{Port, WorkloadSpec, Workloads};

/// How many requests may wait to be taken.
const ARRIVALS: usize = 256;
/// How many bytes a document between tasks has at most, as long as the server has not said that.
const MOST_DOCUMENT: usize = 256 << 10;
/// What the server may say.
const LARGEST_DOCUMENT: u64 = 1 << 20;
/// The port of a workload whose Flow nobody starts by a request.
const NO_TRIGGER: u16 = 1;

/// A Flow as the server has told it.
#[derive(Debug)]
pub(super) struct Flow {
    pub name: NamespacedName,
    pub uid: String,
    pub generation: i64,
    pub service_account: String,
    pub workflow: Arc<Workflow>,
    pub trigger: Option<HttpTrigger>,
}

/// How requests start it.
#[derive(Debug)]
pub(super) struct HttpTrigger {
    pub port: u16,
    pub wait: Duration,
    /// Whether its input is the request, and not its body alone.
    pub request: bool,
    /// In lower case.
    pub headers: Vec<String>,
}

/// How much of the time that a request has its answer may take.
const OF_ITS_TIME: f64 = 0.9;

impl HttpTrigger {
    /// How long a request waits for the end of its run, which has to be answered by then, if it has to.
    pub fn wait_within(&self, end: Option<Instant>) -> Duration {
        let left = end.map(|end| end.saturating_duration_since(Instant::now()).mul_f64(OF_ITS_TIME));
        left.map_or(self.wait, |left| left.min(self.wait))
    }
}

/// A Flow, and what of it is part of the mesh.
struct Served {
    flow: Arc<Flow>,
    workload: WorkloadName,
    never: Arc<[SocketAddr]>,
    most_body: usize,
}

pub(super) struct ServedFlows {
    node: String,
    workloads: Arc<Workloads>,
    /// Where the mesh's own processes listen.
    never: Mutex<Arc<[SocketAddr]>>,
    most_document: AtomicUsize,
    flows: Mutex<BTreeMap<NamespacedName, Served>>,
    /// Counts the changes.
    changed: watch::Sender<u64>,
}

impl Flow {
    /// `Err` says what this node does not understand of it.
    pub fn told(told: FlowTold) -> Result<Self, String> {
        let workflow = read_workflow(&told.workflow).map_err(|why| format!("its workflow {why}"))?;
        let trigger = told.http.map(|http| {
            Ok::<_, String>(HttpTrigger {
                port: u16::try_from(http.port).map_err(|_| format!("there is no port {}", http.port))?,
                wait: Duration::from_millis(http.wait_millis),
                request: http.request,
                headers: http.headers.into_iter().map(|name| name.to_ascii_lowercase()).collect(),
            })
        });
        Ok(Self {
            name: NamespacedName::new(told.namespace, told.name),
            uid: told.uid,
            generation: told.generation,
            service_account: told.service_account,
            workflow,
            trigger: trigger.transpose()?,
        })
    }

    fn port(&self) -> u16 {
        self.trigger.as_ref().map_or(NO_TRIGGER, |trigger| trigger.port)
    }
}

impl ServedFlows {
    pub fn new(node: &str, workloads: Arc<Workloads>) -> Arc<Self> {
        let (never, flows, changed) = (Mutex::default(), Mutex::default(), watch::Sender::new(0));
        let most_document = AtomicUsize::new(MOST_DOCUMENT);
        Arc::new(Self { node: node.to_owned(), workloads, never, most_document, flows, changed })
    }

    /// Where the mesh's own processes listen. It holds for Flows that are told afterwards, as all are that a new stream tells.
    pub fn keep_from(&self, addresses: Vec<SocketAddr>) {
        let mut never = self.never.lock();
        if **never != *addresses {
            *never = addresses.into();
        }
    }

    /// How many bytes a document between tasks may have; zero: the server does not say. It holds as [`Self::keep_from`] does.
    pub fn set_most_document(&self, most: u64) {
        if most > 0 {
            let most = most.min(LARGEST_DOCUMENT).try_into().unwrap_or(MOST_DOCUMENT);
            self.most_document.store(most, Ordering::Relaxed);
        }
    }

    pub fn most_document(&self) -> usize {
        self.most_document.load(Ordering::Relaxed)
    }

    pub fn get(&self, name: &NamespacedName) -> Option<Arc<Flow>> {
        Some(self.flows.lock().get(name)?.flow.clone())
    }

    /// Takes note of a Flow. Returns where its requests come, where these are to be listened to anew.
    pub fn set(&self, flow: Flow) -> anyhow::Result<Option<mpsc::Receiver<Arrived>>> {
        let flow = Arc::new(flow);
        let never = self.never.lock().clone();
        // It may be written with blanks.
        let most_body = 2 * self.most_document();
        let mut flows = self.flows.lock();
        if let Some(known) = flows.get_mut(&flow.name) {
            let same = known.flow.service_account == flow.service_account
                && known.flow.port() == flow.port()
                && Arc::ptr_eq(&known.never, &never)
                && known.most_body == most_body;
            if same {
                known.flow = flow;
                return Ok(None);
            }
            self.workloads.remove_in_process(&known.workload);
            flows.remove(&flow.name);
        }
        let (within, arrivals) = InProcess::new(ARRIVALS, most_body, never.clone());
        let workload = self.workloads.add_in_process(self.spec(&flow), within)?;
        flows.insert(flow.name.clone(), Served { flow, workload, never, most_body });
        drop(flows);
        self.changed.send_modify(|changes| *changes += 1);
        Ok(Some(arrivals))
    }

    pub fn remove(&self, name: &NamespacedName) {
        if let Some(served) = self.flows.lock().remove(name) {
            self.workloads.remove_in_process(&served.workload);
        }
    }

    /// All but these are gone.
    pub fn retain(&self, told: &BTreeSet<NamespacedName>) {
        let mut flows = self.flows.lock();
        for (_, served) in flows.extract_if(.., |name, _| !told.contains(name)) {
            self.workloads.remove_in_process(&served.workload);
        }
    }

    /// The workload that a Flow's calls are made as, once it has a certificate.
    pub async fn ready(&self, flow: &NamespacedName) -> WorkloadName {
        let mut changed = self.changed.subscribe();
        loop {
            changed.mark_unchanged();
            let served = self.flows.lock().get(flow).map(|served| served.workload.clone());
            match served {
                Some(workload) if self.workloads.has_certificate(&workload).await => return workload,
                // It is gone from the node, or not there yet.
                Some(_) | None => drop(changed.changed().await),
            }
        }
    }

    fn spec(&self, flow: &Flow) -> WorkloadSpec {
        let NamespacedName { namespace, name } = &flow.name;
        WorkloadSpec {
            namespace: namespace.as_ref().to_owned(),
            name: format!("{name}-flow-{}", self.node),
            service: name.as_ref().to_owned(),
            labels: BTreeMap::from([(FLOW_LABEL.to_owned(), name.as_ref().to_owned())]),
            service_account: flow.service_account.clone(),
            ports: vec![Port { name: TRIGGER_PORT.to_owned(), port: flow.port(), target_port: None }],
            app_address: std::net::Ipv4Addr::LOCALHOST.into(),
            probe: None,
            upstreams: Vec::new(),
            user: None,
            group: None,
            attached: false,
            stop_timeout_ms: 0,
        }
    }
}
