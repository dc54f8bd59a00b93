//! What the server says of the workloads that this node runs. It is asked for each of them from when the node takes it until it
//! is gone; what was said before a restart is in force again when the workload comes back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use prost::Message;
use tulle_model::name::{ServiceName, WorkloadName};
use tulle_model::snapshot::{FastMap, WorkloadConfig};
use tulle_wire::xds::{DeltaDiscoveryRequest, Resource};
use tulle_wire::{discovery, type_url};

use super::{subscribe_again, unsubscribe};

/// How many that are gone, or have not come back, are remembered.
const MOST_KEPT: usize = 1000;

#[derive(Default)]
pub(super) struct OwnWorkloads {
    workloads: BTreeMap<WorkloadName, Own>,
    /// Whether the server that the node is connected to tells of workloads: an older one ends the stream of who asks.
    is_told: bool,
    /// Whether it is known that the server does not: what is not told then is open.
    is_untold: bool,
}

#[derive(Default)]
struct Own {
    /// The node has it; else it is remembered.
    runs: bool,
    config: Option<Arc<WorkloadConfig>>,
    resource: Option<Resource>,
    /// The server has said since that it knows nothing of it: it is asked as if it had said nothing.
    is_gone: bool,
    /// Why what it said last cannot be read.
    unread: Option<Arc<str>>,
}

impl Own {
    /// What the server need not say again.
    fn is_known(&self) -> Option<&Resource> {
        self.resource.as_ref().filter(|_| !self.is_gone)
    }
}

impl OwnWorkloads {
    /// Keeps what a file says of it.
    pub fn remember(&mut self, name: WorkloadName) {
        self.workloads.entry(name).or_default();
    }

    /// The node has these workloads now, and no others; what is to be said to the server.
    pub fn run<'n>(&mut self, names: impl Iterator<Item = &'n WorkloadName>) -> Vec<DeltaDiscoveryRequest> {
        let names: BTreeSet<_> = names.collect();
        // What was said of one that is gone holds for it should it come back, until the server has been asked again: it is not
        // open to anybody meanwhile.
        let mut gone = Vec::new();
        for (name, own) in self.workloads.iter_mut().filter(|(name, own)| own.runs && !names.contains(name)) {
            own.runs = false;
            gone.push(name.clone());
        }
        let kept = self.workloads.values().filter(|own| !own.runs).count();
        let mut over = kept.saturating_sub(MOST_KEPT);
        self.workloads.retain(|_, own| {
            own.runs || over == 0 || {
                over -= 1;
                false
            }
        });
        let mut new = Vec::new();
        for name in names {
            let own = self.workloads.entry(name.clone()).or_default();
            if !std::mem::replace(&mut own.runs, true) {
                new.push(name);
            }
        }
        let new: BTreeMap<_, _> =
            new.into_iter().map(|name| (name, self.workloads[name].is_known())).collect();
        let mut requests = Vec::new();
        if self.is_told && !gone.is_empty() {
            requests.push(unsubscribe(type_url::WORKLOAD, gone.iter().map(ToString::to_string)));
        }
        if self.is_told && !new.is_empty() {
            requests.push(subscribe_again(type_url::WORKLOAD, new));
        }
        requests
    }

    /// A new stream, to a server of which nothing is known yet.
    pub fn connected(&mut self) {
        self.is_told = false;
    }

    /// The server tells of workloads.
    pub fn told(&mut self) -> Option<DeltaDiscoveryRequest> {
        self.is_told = true;
        let own: BTreeMap<_, _> =
            self.workloads.iter().filter(|(_, o)| o.runs).map(|(n, o)| (n, o.is_known())).collect();
        (!own.is_empty()).then(|| subscribe_again(type_url::WORKLOAD, own))
    }

    /// The server does not tell of workloads: what another one said is not in force. Whether there was something.
    pub fn untold(&mut self) -> bool {
        let mut changed = !std::mem::replace(&mut self.is_untold, true);
        for own in self.workloads.values_mut() {
            own.resource = None;
            changed |= own.config.take().is_some();
        }
        changed
    }

    /// Takes over what the server says; whether that is something else than before.
    pub fn take(&mut self, resource: Resource) -> Result<bool, String> {
        let any = resource.resource.as_ref().ok_or("it is empty")?;
        let message = discovery::Workload::decode(any.value.as_slice()).map_err(|e| e.to_string())?;
        let config = WorkloadConfig::try_from(message).map_err(|e| e.to_string())?;
        // Not the node's any more: nothing to do.
        let Some(own) = self.workloads.get_mut(&config.name) else { return Ok(false) };
        own.resource = Some(resource);
        own.is_gone = false;
        let was_unread = own.unread.take().is_some();
        let changed = own.config.as_deref() != Some(&config);
        if changed {
            own.config = Some(Arc::new(config));
        }
        Ok(changed || was_unread)
    }

    /// What the server says of a workload makes no sense; whether that is new.
    pub fn cannot_read(&mut self, name: &str, why: &str) -> bool {
        let own = name.parse().ok().and_then(|name: WorkloadName| self.workloads.get_mut(&name));
        let Some(own) = own.filter(|own| own.unread.as_deref() != Some(why)) else { return false };
        own.unread = Some(why.into());
        true
    }

    /// Why what the server says of workloads cannot be read.
    pub fn unread(&self) -> FastMap<WorkloadName, Arc<str>> {
        self.workloads.iter().filter_map(|(name, own)| Some((name.clone(), own.unread.clone()?))).collect()
    }

    /// The server knows nothing of it, or says nothing. What it said last stays in force: the workload runs, and is not to be
    /// open to all.
    pub fn remove(&mut self, name: &WorkloadName) {
        if let Some(own) = self.workloads.get_mut(name) {
            own.is_gone = true;
            own.unread = None;
        }
    }

    /// The server has said something of workloads: those that it says nothing of are closed from now on. Whether that is new.
    pub fn heard(&mut self) -> bool {
        std::mem::take(&mut self.is_untold)
    }

    /// As it was before a restart.
    pub fn restore_untold(&mut self, is_untold: bool) {
        self.is_untold = is_untold;
    }

    /// Whether a workload of which nothing has been said is closed.
    pub fn is_closed_until_told(&self) -> bool {
        !self.is_untold
    }

    /// The services that policies of theirs have asked about requests.
    pub fn asked(&self) -> BTreeSet<ServiceName> {
        let configs = self.workloads.values().filter_map(|own| own.config.as_ref());
        let external =
            configs.flat_map(|config| config.policies.iter()).filter_map(|of| of.external.as_ref());
        external.map(|external| external.service.clone()).collect()
    }

    /// What is in force.
    pub fn configs(&self) -> FastMap<WorkloadName, Arc<WorkloadConfig>> {
        self.workloads.iter().filter_map(|(n, own)| Some((n.clone(), own.config.clone()?))).collect()
    }

    /// What the server said last of each. Of those that have not come back since a restart only while no server can be asked:
    /// else they would be kept for ever.
    pub fn resources(&self) -> impl Iterator<Item = Resource> {
        let kept = self.workloads.values().filter(|own| own.runs || !self.is_told);
        kept.filter_map(|own| own.resource.clone())
    }
}

#[cfg(test)]
mod tests {
    use prost_types::Any;
    use tulle_wire::xds::{DeltaDiscoveryResponse, ResourceError, ResourceName, Status};

    use super::super::Assembler;
    use super::*;

    fn name(text: &str) -> WorkloadName {
        text.parse().unwrap()
    }

    fn says(workload: &str, inbound_capture: bool, version: &str) -> DeltaDiscoveryResponse {
        let config = WorkloadConfig { inbound_capture, ..WorkloadConfig::new(name(workload)) };
        let value = discovery::Workload::from(&config).encode_to_vec();
        let resource = Resource {
            version: version.to_owned(),
            resource: Some(Any { type_url: type_url::WORKLOAD.to_owned(), value }),
            name: workload.to_owned(),
            aliases: Vec::new(),
        };
        DeltaDiscoveryResponse { resources: vec![resource], ..silence() }
    }

    fn silence() -> DeltaDiscoveryResponse {
        DeltaDiscoveryResponse {
            type_url: type_url::WORKLOAD.to_owned(),
            nonce: "1".to_owned(),
            ..Default::default()
        }
    }

    fn runs(assembler: &mut Assembler, names: &[&str]) {
        assembler.run(names.iter().map(|text| name(text)).collect::<Vec<_>>().iter());
    }

    /// What it says to the server of workloads: subscriptions with their versions, and what is over.
    fn said(assembler: &mut Assembler) -> (Vec<(String, String)>, Vec<String>) {
        let requests = assembler.take_requests().into_iter();
        let (mut subscribed, mut over) = (Vec::new(), Vec::new());
        for mut request in requests.filter(|request| request.type_url == type_url::WORKLOAD) {
            for name in request.resource_names_subscribe {
                let version = request.initial_resource_versions.remove(&name).unwrap_or_default();
                subscribed.push((name, version));
            }
            over.extend(request.resource_names_unsubscribe);
        }
        (subscribed, over)
    }

    fn captured(assembler: &mut Assembler) -> Option<Vec<(String, bool)>> {
        let snapshot = assembler.take_snapshot()?;
        let mut all: Vec<_> =
            snapshot.workloads.values().map(|w| (w.name.to_string(), w.inbound_capture)).collect();
        all.sort();
        Some(all)
    }

    fn pair(name: &str, version: &str) -> (String, String) {
        (name.to_owned(), version.to_owned())
    }

    #[test]
    fn a_workload_is_asked_for_as_long_as_the_node_has_it() {
        let mut assembler = Assembler::default();
        assembler.connected();
        assembler.told_of(type_url::WORKLOAD);
        runs(&mut assembler, &["shop/a", "shop/b"]);
        assert_eq!(said(&mut assembler), (vec![pair("shop/a", ""), pair("shop/b", "")], vec![]));
        runs(&mut assembler, &["shop/a", "shop/b"]);
        assert_eq!(said(&mut assembler), (vec![], vec![]));
        assembler.receive(says("shop/a", true, "v1"));
        assert_eq!(captured(&mut assembler), Some(vec![("shop/a".to_owned(), true)]));
        assembler.receive(says("shop/a", true, "v2"));
        assert_eq!(captured(&mut assembler), None, "it says the same");
        runs(&mut assembler, &["shop/b", "shop/c"]);
        assert_eq!(said(&mut assembler), (vec![pair("shop/c", "")], vec!["shop/a".to_owned()]));
        assert_eq!(captured(&mut assembler), None, "what was said holds should it come back");
        runs(&mut assembler, &["shop/a", "shop/b"]);
        assert_eq!(said(&mut assembler), (vec![pair("shop/a", "v2")], vec!["shop/c".to_owned()]));
        runs(&mut assembler, &["shop/b"]);
        said(&mut assembler);
        // An answer that was on its way.
        assembler.receive(says("shop/a", true, "v3"));
        assert_eq!(captured(&mut assembler), None);
    }

    #[test]
    fn what_is_said_no_more_stays_in_force_and_is_asked_for_anew() {
        let gone = DeltaDiscoveryResponse { removed_resources: vec!["shop/a".to_owned()], ..silence() };
        let error = ResourceError {
            resource_name: Some(ResourceName { name: "shop/a".to_owned() }),
            error_detail: Some(Status { code: 7, message: "another node's".to_owned() }),
        };
        let refused = DeltaDiscoveryResponse { resource_errors: vec![error], ..silence() };
        for ended in [gone, refused] {
            let mut assembler = Assembler::default();
            runs(&mut assembler, &["shop/a"]);
            assembler.receive(says("shop/a", true, "v1"));
            assert_eq!(captured(&mut assembler).unwrap().len(), 1);
            assembler.receive(ended);
            assert_eq!(captured(&mut assembler), None);
            assembler.connected();
            assembler.told_of(type_url::WORKLOAD);
            assert_eq!(said(&mut assembler), (vec![pair("shop/a", "")], vec![]));
            let mut restored = Assembler::restore(&assembler.save()).unwrap();
            assert_eq!(captured(&mut restored).unwrap().len(), 1, "nor is it lost by a restart");
        }
    }

    #[test]
    fn what_cannot_be_read_is_told_and_what_was_said_before_stays() {
        let mut assembler = Assembler::default();
        runs(&mut assembler, &["shop/a", "shop/b"]);
        assembler.receive(says("shop/a", true, "v1"));
        let mut nonsense = says("shop/a", true, "v2");
        let resource = nonsense.resources[0].clone();
        for name in ["shop/a", "shop/b"] {
            let any = Any { type_url: type_url::WORKLOAD.to_owned(), value: vec![255] };
            let resource = Resource { resource: Some(any), name: name.to_owned(), ..resource.clone() };
            nonsense.resources = vec![resource];
            assembler.receive(nonsense.clone());
        }
        let snapshot = assembler.take_snapshot().unwrap();
        let [a, b] = ["shop/a", "shop/b"].map(|workload| snapshot.closed_because(&name(workload)));
        assert_eq!(a, None, "its policies are known");
        assert!(b.as_deref().is_some_and(|why| why.contains("cannot read")), "{b:?}");
        assembler.receive(says("shop/b", true, "v3"));
        assert_eq!(assembler.take_snapshot().unwrap().closed_because(&name("shop/b")), None);
        let nacked = assembler.take_requests().into_iter().filter(|request| request.error_detail.is_some());
        assert_eq!(nacked.count(), 2);
    }

    #[test]
    fn a_workload_is_closed_until_it_is_told_of_unless_the_server_tells_of_none() {
        let mut assembler = Assembler::default();
        runs(&mut assembler, &["shop/a", "shop/b"]);
        let closed_after = |assembler: &mut Assembler, step: &dyn Fn(&mut Assembler)| {
            step(assembler);
            let snapshot = assembler.take_snapshot()?;
            Some(["shop/a", "shop/b"].map(|workload| snapshot.is_closed(&name(workload))))
        };
        let first_word = |assembler: &mut Assembler| assembler.receive(says("shop/a", true, "v1"));
        assert_eq!(closed_after(&mut assembler, &first_word), Some([false, true]));
        let connect_to_an_older_one = |assembler: &mut Assembler| {
            assembler.connected();
            assembler.told_of("");
        };
        assert_eq!(closed_after(&mut assembler, &connect_to_an_older_one), Some([false, false]));
        // Also over a restart.
        let mut restored = Assembler::restore(&assembler.save()).unwrap();
        let begins = |assembler: &mut Assembler| runs(assembler, &["shop/a", "shop/b"]);
        restored.changed = true;
        assert_eq!(closed_after(&mut restored, &begins), Some([false, false]));
        let connect_to_a_newer_one = |assembler: &mut Assembler| {
            assembler.connected();
            assembler.told_of(type_url::WORKLOAD);
        };
        // It says nothing before it is asked.
        assert!(closed_after(&mut assembler, &connect_to_a_newer_one).is_none());
        let first_word = |assembler: &mut Assembler| assembler.receive(says("shop/b", true, "v1"));
        assert_eq!(closed_after(&mut assembler, &first_word), Some([true, false]));
    }

    /// Such a one ends the stream of a node that asks for what it does not know.
    #[test]
    fn an_older_server_is_not_asked() {
        let mut assembler = Assembler::default();
        runs(&mut assembler, &["shop/a"]);
        assembler.connected();
        assembler.told_of("type.googleapis.com/tulle.discovery.v1.Other");
        runs(&mut assembler, &["shop/a", "shop/b"]);
        runs(&mut assembler, &["shop/b"]);
        assert_eq!(said(&mut assembler), (vec![], vec![]));
        // What a newer one said before is in force no more.
        assembler.receive(says("shop/b", true, "v1"));
        assert_eq!(captured(&mut assembler), Some(vec![("shop/b".to_owned(), true)]));
        assembler.connected();
        assembler.told_of("");
        assert_eq!(captured(&mut assembler), Some(vec![]));
        // Its successor is asked for all.
        assembler.connected();
        assembler.told_of(type_url::WORKLOAD);
        assert_eq!(said(&mut assembler), (vec![pair("shop/b", "")], vec![]));
    }

    #[test]
    fn what_was_said_before_a_restart_is_in_force_when_the_workload_comes_back() {
        let mut assembler = Assembler::default();
        runs(&mut assembler, &["shop/a"]);
        assembler.receive(says("shop/a", true, "v1"));
        let mut restored = Assembler::restore(&assembler.save()).unwrap();
        let told = vec![("shop/a".to_owned(), true)];
        assert_eq!(captured(&mut restored), Some(told.clone()));
        // While no server can be asked, it is kept for the next time, too.
        assert_eq!(captured(&mut Assembler::restore(&restored.save()).unwrap()), Some(told.clone()));
        restored.connected();
        restored.told_of(type_url::WORKLOAD);
        assert_eq!(said(&mut restored), (vec![], vec![]), "it is not there yet");
        runs(&mut restored, &[]);
        assert_eq!(captured(&mut restored), None);
        let mut forgotten = Assembler::restore(&restored.save()).unwrap();
        assert_eq!(captured(&mut forgotten), None, "there is nothing");
        runs(&mut restored, &["shop/a"]);
        assert_eq!(said(&mut restored), (vec![pair("shop/a", "v1")], vec![]));
        let mut again = Assembler::restore(&restored.save()).unwrap();
        assert_eq!(captured(&mut again), Some(told));
        runs(&mut restored, &[]);
        assert_eq!(said(&mut restored), (vec![], vec!["shop/a".to_owned()]));
        assert_eq!(captured(&mut restored), None, "it holds should it come back once more");
    }

    #[test]
    fn not_all_that_ever_ran_is_remembered() {
        let mut own = OwnWorkloads::default();
        for number in 0..MOST_KEPT + 10 {
            own.run([name(&format!("shop/w-{number}"))].iter());
        }
        own.run([].iter());
        assert_eq!(own.workloads.len(), MOST_KEPT);
    }
}
