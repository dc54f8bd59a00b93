//! What a resource is to the nodes that may have it: the same for all, to one alone, or to each its part.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use prost::Message;
use tulle_model::snapshot::{ServiceConfig, WorkloadConfig};
use tulle_wire::discovery as wire;

/// The present form of a resource, as a node gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// A hash of the body: the same on every server, and across restarts.
    pub version: Arc<str>,
    /// An encoded message of its type.
    pub body: Bytes,
}

impl Resource {
    fn new(body: Vec<u8>) -> Self {
        Self { version: version(&body), body: body.into() }
    }
}

/// A form of a resource that is to be published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Form {
    body: Vec<u8>,
    readers: Readers,
}

/// Who may have a resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Readers {
    All,
    /// Whoever may ask for Services; each gets what concerns its own namespaces.
    OfService(ReadersOfService),
    /// That node alone, which may have these sets of keys read again.
    Node {
        name: Arc<str>,
        key_sources: BTreeSet<Arc<str>>,
    },
}

/// A Service with routes of consumers (GEP-1324), which are for nodes that run workloads of their namespaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ReadersOfService {
    config: Arc<ServiceConfig>,
    pub(super) consumers: BTreeSet<Arc<str>>,
}

impl Form {
    /// Of an encoded message, for all.
    pub fn new(body: Vec<u8>) -> Self {
        Self { body, readers: Readers::All }
    }

    /// Of a Service.
    pub fn of_service(config: &Arc<ServiceConfig>) -> Self {
        let body = wire::Service::from(&**config).encode_to_vec();
        let consumers = config.ports.iter().flat_map(|port| &port.consumers);
        let consumers: BTreeSet<_> = consumers.map(|(namespace, _)| namespace.clone()).collect();
        let readers = match consumers.is_empty() {
            true => Readers::All,
            false => Readers::OfService(ReadersOfService { config: config.clone(), consumers }),
        };
        Self { body, readers }
    }

    /// Of a workload, for the node that runs it alone.
    pub fn of_workload(node: Arc<str>, config: &WorkloadConfig) -> Self {
        let sources = config.policies.issuers().iter().filter_map(|issuer| issuer.keys.source.clone());
        let readers = Readers::Node { name: node, key_sources: sources.collect() };
        Self { body: wire::Workload::from(config).encode_to_vec(), readers }
    }
}

/// A resource as it was published last.
pub(super) struct Published {
    /// For whoever may have all of it.
    pub(super) whole: Resource,
    pub(super) readers: Readers,
    /// What nodes get of a Service, by those of its consumers' namespaces in which they run workloads.
    parts: HashMap<Vec<Arc<str>>, Resource>,
}

/// How many forms of one Service are kept.
const PARTS: usize = 64;

impl Published {
    pub(super) fn new(form: Form) -> Self {
        Self { whole: Resource::new(form.body), readers: form.readers, parts: HashMap::new() }
    }

    pub(super) fn is_the_same(&self, form: &Self) -> bool {
        self.whole.version == form.whole.version && self.readers == form.readers
    }

    /// What a node gets that runs workloads in these namespaces.
    pub(super) fn part(&mut self, namespaces: &BTreeSet<Arc<str>>) -> Resource {
        let Readers::OfService(ReadersOfService { config, consumers }) = &self.readers else {
            return self.whole.clone();
        };
        let own: Vec<Arc<str>> = consumers.intersection(namespaces).cloned().collect();
        if own.len() == consumers.len() {
            return self.whole.clone();
        }
        if self.parts.len() >= PARTS && !self.parts.contains_key(&own) {
            self.parts.clear();
        }
        let part = self.parts.entry(own).or_insert_with_key(|own| {
            let mut config = ServiceConfig::clone(config);
            for port in &mut config.ports {
                port.consumers.retain(|(namespace, _)| own.contains(namespace));
            }
            Resource::new(wire::Service::from(&config).encode_to_vec())
        });
        part.clone()
    }
}

/// Why a node is not told of a name that it asks for, whether there is such a resource or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Withheld {
    /// It is another node's workload.
    OfAnother,
    /// It runs no workload that could use a Service.
    Idle,
}

/// The version of a body.
pub fn version(body: &[u8]) -> Arc<str> {
    crate::ca::seal::hex(&digest(&SHA256, body).as_ref()[..8]).into()
}
