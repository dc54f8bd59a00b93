//! What was asked of the workloads of this node, on one worker: each distinct summary ([`tulle_model::summary`]) is told once in
//! a while. A request that is like one before costs a hash, and one look at a small table.

use std::cell::{Cell, RefCell};
use std::hash::{BuildHasher, Hash, Hasher};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tulle_model::authorization::{RequestSeen, Traffic};
use tulle_model::grpc::is_grpc;
use tulle_model::name::WorkloadName;
use tulle_model::snapshot::{FastMap, WorkloadConfig};
use tulle_model::summary::{ADDRESSES, Callee, Comer, LONGEST, OF_EDGE, Summary, Wish, fold_into};

use super::visits::Entrance;
use crate::metrics::WorkerRegistry;
use crate::peer::Peer;
use crate::state::LocalWorkload;

/// What is told once is told again after that time, if it is seen again.
const PERIOD: Duration = Duration::from_secs(600);
/// How many requests are known as they came; a power of two.
const LATELY: usize = 512;
/// How many are told apart in a period; what is over is told as one of its edge, as far as there is room for a quarter more.
const MOST: usize = 20_000;
/// How many may wait to be taken.
const WAITING: usize = 4_096;
/// A longer method is none that anybody looks for.
const LONGEST_METHOD: usize = 32;

/// Those of one worker.
#[derive(Default)]
pub(crate) struct Summaries {
    /// Counts [`PERIOD`]s. It is part of all hashes, so that none of an older one is found.
    period: Cell<u64>,
    /// The hashes of requests as they came, each at the place that its last bits say. Empty until there is one.
    lately: RefCell<Box<[u64]>>,
    known: RefCell<Known>,
}

/// What was told in this period.
#[derive(Default)]
struct Known {
    /// Hashes. What makes them differs with every worker and run, so that no peer can choose what is taken for known.
    told: FastMap<u64, ()>,
    /// How many there are of each edge, by its hash.
    edges: FastMap<u64, usize>,
    addresses: FastMap<WorkloadName, Vec<IpAddr>>,
    /// The last path that was folded.
    path: String,
}

impl Summaries {
    /// Something came. `config`: what the server says of the workload.
    pub fn note(
        &self,
        registry: &WorkerRegistry,
        entrance: Entrance<'_>,
        config: Option<&WorkloadConfig>,
        seen: Traffic<'_>,
        allowed: bool,
    ) {
        let hash = self.hash(entrance, seen, allowed);
        let place = hash as usize % LATELY;
        if self.lately.borrow().get(place) == Some(&hash) {
            return;
        }
        if self.is_told(registry, entrance, config, seen, allowed) {
            let mut lately = self.lately.borrow_mut();
            if lately.is_empty() {
                *lately = vec![0; LATELY].into();
            }
            lately[place] = hash;
        }
    }

    fn hash(
        &self,
        Entrance { peer, workload, port, .. }: Entrance<'_>,
        seen: Traffic<'_>,
        allowed: bool,
    ) -> u64 {
        let known = self.known.borrow();
        let mut hasher = known.told.hasher().build_hasher();
        hasher.write_u64(self.period.get() << 17 | u64::from(port) << 1 | u64::from(allowed));
        match peer {
            Peer::Mesh(identity) => hasher.write(identity.as_str().as_bytes()),
            Peer::Plain(address) => address.ip().hash(&mut hasher),
        }
        hasher.write(workload.name.namespace.as_bytes());
        hasher.write(workload.name.name.as_bytes());
        if let Traffic::Request(RequestSeen { method, path, .. }) = seen {
            hasher.write(method.as_bytes());
            hasher.write(path.as_bytes());
        }
        hasher.finish()
    }

    /// Tells of it, if that was not done in this period; whether it is done. Where there is no room it is not.
    #[cold]
    fn is_told(
        &self,
        registry: &WorkerRegistry,
        Entrance { peer, workload, port, .. }: Entrance<'_>,
        config: Option<&WorkloadConfig>,
        seen: Traffic<'_>,
        allowed: bool,
    ) -> bool {
        let known = &mut *self.known.borrow_mut();
        known.path.clear();
        let request = match seen {
            Traffic::Request(request) => Some(request),
            _ => None,
        };
        let method = request.map_or("", |request| request.method);
        let method = if method.len() > LONGEST_METHOD { "*" } else { method };
        let is_call = request.is_some_and(|request| {
            method == "POST" && is_grpc(request.headers) && request.path.len() <= LONGEST
        });
        match request {
            Some(request) if is_call => known.path.push_str(request.path),
            Some(request) => fold_into(&mut known.path, request.path),
            None => {}
        }
        let address = match peer {
            Peer::Mesh(_) => None,
            Peer::Plain(address) => known.address(&workload.name, address.ip().to_canonical()),
        };
        let identity = match peer {
            Peer::Mesh(identity) => identity.as_str(),
            Peer::Plain(_) => "",
        };
        let edge = known.told.hasher().hash_one((identity, &workload.name, allowed));
        let of =
            |what: (&str, &str, bool, bool, Option<IpAddr>)| known.told.hasher().hash_one((edge, port, what));
        let key = of((method, &known.path, request.is_some(), is_call, address));
        if known.told.contains_key(&key) {
            return true;
        }
        let count = known.edges.get(&edge).copied().unwrap_or_default();
        let is_full = count >= OF_EDGE || known.told.len() >= MOST;
        let key = if is_full { of(("", "", request.is_some(), false, None)) } else { key };
        if known.told.contains_key(&key) || known.told.len() >= MOST + MOST / 4 {
            return true;
        }
        let (to, port) = Callee::of(config, &workload.name, &workload.service, port);
        let path: Arc<str> = known.path.as_str().into();
        let asked = match request {
            None => Wish::Tcp,
            Some(_) if is_call => Wish::Grpc { path },
            Some(_) => Wish::Http { method: method.into(), path },
        };
        let from = match peer {
            Peer::Mesh(identity) => Comer::Mesh(identity.clone()),
            Peer::Plain(_) => Comer::Outside(address),
        };
        let summary = Summary { from, to, port, asked, allowed };
        let mut waiting = registry.summaries.lock();
        if waiting.len() >= WAITING {
            return false;
        }
        waiting.push(if is_full { summary.coarse() } else { summary });
        drop(waiting);
        known.told.insert(key, ());
        *known.edges.entry(edge).or_default() += 1;
        true
    }

    /// To be asked from time to time: what is seen from now on is told again, if that was long ago. `age`: of the worker.
    pub fn renew(&self, age: Duration) {
        let period = age.as_secs() / PERIOD.as_secs();
        if self.period.replace(period) != period {
            let mut known = self.known.borrow_mut();
            known.told.clear();
            known.told.shrink_to(LATELY);
            (known.edges, known.addresses) = Default::default();
        }
    }
}

impl Known {
    /// Under which address it is told; `None` where there are too many.
    fn address(&mut self, workload: &WorkloadName, address: IpAddr) -> Option<IpAddr> {
        if !self.addresses.contains_key(workload) {
            self.addresses.insert(workload.clone(), Vec::new());
        }
        let known = self.addresses.get_mut(workload)?;
        if !known.contains(&address) {
            if known.len() >= ADDRESSES {
                return None;
            }
            known.push(address);
        }
        Some(address)
    }
}

/// A connection of bytes to a process. It is told of with its first byte from the caller: those that are opened to see who speaks
/// first, and carry nothing, are none of the caller's.
pub(crate) struct Unsaid {
    summaries: Rc<Summaries>,
    registry: Arc<WorkerRegistry>,
    peer: Peer,
    workload: Arc<LocalWorkload>,
    config: Option<Arc<WorkloadConfig>>,
    port: u16,
}

impl Unsaid {
    pub fn new(
        summaries: Rc<Summaries>,
        registry: Arc<WorkerRegistry>,
        Entrance { peer, workload, port, .. }: Entrance<'_>,
        config: Option<Arc<WorkloadConfig>>,
    ) -> Self {
        Self { summaries, registry, peer: peer.clone(), workload: workload.clone(), config, port }
    }

    pub fn say(&self) {
        let entrance = Entrance::to(&self.peer, &self.workload, self.port);
        self.summaries.note(&self.registry, entrance, self.config.as_deref(), Traffic::Bytes, true);
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use http::HeaderMap;
    use tulle_model::identity::{SpiffeId, TrustDomain};

    use super::*;

    struct SummaryStage {
        summaries: Summaries,
        registry: WorkerRegistry,
        workload: Arc<LocalWorkload>,
        web: Peer,
    }

    impl SummaryStage {
        fn new() -> Self {
            let domain = TrustDomain::new("mesh.test").unwrap();
            let workload = LocalWorkload {
                name: WorkloadName::new("shop", "c-1"),
                service: "c".into(),
                identity: SpiffeId::workload(&domain, "shop", "c").unwrap(),
                app_address: Ipv4Addr::LOCALHOST.into(),
                ports: vec![80],
                certificate: None,
                draining: false,
                in_process: None,
                outside: None,
            };
            Self {
                summaries: Summaries::default(),
                registry: WorkerRegistry::default(),
                workload: Arc::new(workload),
                web: Peer::Mesh(SpiffeId::workload(&domain, "shop", "web").unwrap()),
            }
        }

        fn asks(&self, peer: &Peer, method: &str, path: &str, headers: &HeaderMap, allowed: bool) {
            let request = RequestSeen { method, path, authority: "c", headers, tokens: &[] };
            let entrance = Entrance::to(peer, &self.workload, 80);
            self.summaries.note(&self.registry, entrance, None, Traffic::Request(request), allowed);
        }

        fn get(&self, path: &str) {
            self.asks(&self.web, "GET", path, &HeaderMap::new(), true);
        }

        /// What is told since the last time.
        fn told(&self) -> Vec<Summary> {
            std::mem::take(&mut *self.registry.summaries.lock())
        }

        fn said(&self) -> Vec<String> {
            let said = self.told().into_iter().map(|summary| {
                let asked = match summary.asked {
                    Wish::Tcp => "bytes".to_owned(),
                    Wish::Http { method, path } => format!("{method} {path}"),
                    Wish::Grpc { path } => format!("call {path}"),
                    Wish::Requests => "requests".to_owned(),
                };
                let from = summary.from.to_string();
                let from = from.rsplit('/').next().unwrap();
                format!("{from} {asked}{}", if summary.allowed { "" } else { " denied" })
            });
            said.collect()
        }
    }

    #[test]
    fn each_is_told_once_in_a_while() {
        let stage = SummaryStage::new();
        let grpc = HeaderMap::from_iter([(
            http::header::CONTENT_TYPE,
            http::HeaderValue::from_static("application/grpc"),
        )]);
        let plain = |last| Peer::Plain(([192, 0, 2, last], 5).into());
        let all = || {
            for number in 0..1000 {
                stage.get(&format!("/items/{number}"));
                stage.get("/items");
            }
            stage.asks(&stage.web, "PUT", "/items", &HeaderMap::new(), true);
            stage.asks(&stage.web, "PUT", "/items", &HeaderMap::new(), false);
            stage.asks(&stage.web, "POST", "/a.B/C12345", &grpc, true);
            stage.asks(&plain(1), "GET", "/", &HeaderMap::new(), true);
            let entrance = Entrance::to(&stage.web, &stage.workload, 80);
            stage.summaries.note(&stage.registry, entrance, None, Traffic::Bytes, true);
            // A connection that may have no request in it.
            stage.summaries.note(&stage.registry, entrance, None, Traffic::Requests, false);
        };
        let expected = [
            "web GET /items/{x}",
            "web GET /items",
            "web PUT /items",
            "web PUT /items denied",
            "web call /a.B/C12345",
            "192.0.2.1 GET /",
            "web bytes",
            "web bytes denied",
        ];
        all();
        assert_eq!(stage.said(), expected);
        all();
        stage.summaries.renew(PERIOD - Duration::from_secs(1));
        all();
        assert_eq!(stage.said(), [""; 0]);
        stage.summaries.renew(PERIOD);
        all();
        assert_eq!(stage.said(), expected);
    }

    #[test]
    fn floods_are_told_as_one() {
        let stage = SummaryStage::new();
        for number in 0..3 * OF_EDGE {
            stage.get(&format!("/name/{}", "x".repeat(number % 40) + &format!("{}", number % 997)));
            stage.asks(&stage.web, &format!("M{number}"), "/", &HeaderMap::new(), true);
        }
        let told = stage.told();
        assert_eq!(told.len(), OF_EDGE + 1);
        assert_eq!(told.last().unwrap().asked, Wish::Requests);
        for number in 0..3 * ADDRESSES {
            let peer = Peer::Plain(([192, 0, 2, number as u8], 5).into());
            stage.asks(&peer, "GET", "/", &HeaderMap::new(), true);
        }
        let told = stage.told();
        assert_eq!(told.len(), ADDRESSES + 1);
        assert_eq!(told.last().unwrap().from, Comer::Outside(None));
        // What nobody takes is told later.
        let domain = TrustDomain::new("mesh.test").unwrap();
        for number in 0..WAITING + 10 {
            let peer = Peer::Mesh(SpiffeId::workload(&domain, "shop", &format!("w{number}")).unwrap());
            stage.asks(&peer, "GET", "/", &HeaderMap::new(), true);
        }
        assert_eq!(stage.told().len(), WAITING);
        for number in WAITING..WAITING + 10 {
            let peer = Peer::Mesh(SpiffeId::workload(&domain, "shop", &format!("w{number}")).unwrap());
            stage.asks(&peer, "GET", "/", &HeaderMap::new(), true);
        }
        assert_eq!(stage.told().len(), 10);
    }
}
