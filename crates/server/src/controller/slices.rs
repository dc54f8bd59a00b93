//! EndpointSlices of services that select workloads ([`tulle_model::compile::slices`]), written by a task of
//! its own.
//!
//! What a slice should be is compared with what is stored each time that anything about it changed, be it by
//! others: it comes back as it was, also where they took its labels away ([`own_service`]). Slices of users are never
//! touched: where one has a name that is ours, another name is taken.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tulle_model::compile::slices::{MANAGED_BY, OwnSlice, SERVICE_LABEL, own_service};
use tulle_model::name::ServiceName;
use tulle_model::registry::{Kind, KindId};

use crate::objects::{DeleteOptions, ObjectError, Objects, WriteOptions};

/// How long changes gather before slices are written: a service that starts has many at once.
const GATHER: Duration = Duration::from_millis(200);
/// How many services are written at once.
const CONCURRENT: usize = 16;
/// How many names are tried for a slice.
const NAMES: u8 = 8;
/// How long to wait before those are written again that the store did not take, at first and at most.
const LEAST_RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(60);

/// Takes what slices should be, and writes them.
pub struct SliceWriter {
    objects: Objects,
    told: Mutex<Told>,
    wake: Notify,
}

/// New since the task last looked.
#[derive(Default)]
struct Told {
    /// What a service's slices are to be.
    wanted: HashMap<ServiceName, Vec<OwnSlice>>,
    /// Slices of ours that are there, or were.
    seen: Vec<(ServiceName, String)>,
}

/// What the task knows of a service.
#[derive(Default)]
struct KnownService {
    wanted: Vec<OwnSlice>,
    /// The names of slices that may be there.
    held: BTreeSet<String>,
}

impl SliceWriter {
    pub fn new(objects: Objects) -> Arc<Self> {
        Arc::new(Self { objects, told: Mutex::default(), wake: Notify::new() })
    }

    /// Says what the slices of a service are to be.
    pub fn set(&self, service: ServiceName, slices: Vec<OwnSlice>) {
        self.told.lock().wanted.insert(service, slices);
        self.wake.notify_one();
    }

    /// Says that a slice is, or was until now, as it is given, by whomever it was written or deleted.
    pub fn changed(&self, slice: &Value) {
        if let Some(seen) = own_name(slice) {
            self.told.lock().seen.push(seen);
            self.wake.notify_one();
        }
    }

    /// Writes until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut known: HashMap<ServiceName, KnownService> = HashMap::new();
        let mut due: BTreeSet<ServiceName> = BTreeSet::new();
        let mut retry = LEAST_RETRY;
        let mut retry_at = None;
        // Of services that went while no server ran.
        match self.objects.list(kind(), None).await {
            Ok(list) => self.told.lock().seen.extend(list.items.iter().filter_map(own_name)),
            Err(error) => tracing::warn!(%error, "cannot list EndpointSlices"),
        }
        loop {
            let waits = retry_at.unwrap_or_else(tokio::time::Instant::now);
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.wake.notified() => {}
                () = tokio::time::sleep_until(waits), if retry_at.is_some() => {}
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(GATHER) => {}
            }
            let told = std::mem::take(&mut *self.told.lock());
            for (service, slices) in told.wanted {
                known.entry(service.clone()).or_default().wanted = slices;
                due.insert(service);
            }
            for (service, slice) in told.seen {
                known.entry(service.clone()).or_default().held.insert(slice);
                due.insert(service);
            }
            // One that waits to be tried again shows that the store takes nothing now.
            if retry_at.is_some_and(|at| tokio::time::Instant::now() < at) {
                continue;
            }
            let mut writing = Vec::with_capacity(due.len());
            for service in std::mem::take(&mut due) {
                if let Some(known) = known.remove(&service) {
                    let mut known = known;
                    writing.push(async {
                        let result = self.write(&service, &mut known).await;
                        (service, known, result)
                    });
                }
            }
            let written: Vec<_> = stream::iter(writing).buffer_unordered(CONCURRENT).collect().await;
            for (service, of_service, result) in written {
                if let Err(error) = result {
                    tracing::debug!(%service, %error, "cannot write EndpointSlices now");
                    due.insert(service.clone());
                }
                if !(of_service.wanted.is_empty() && of_service.held.is_empty()) || due.contains(&service) {
                    known.insert(service, of_service);
                }
            }
            if due.is_empty() {
                (retry, retry_at) = (LEAST_RETRY, None);
            } else {
                if retry == LEAST_RETRY {
                    // Once for each outage.
                    tracing::warn!(services = due.len(), "cannot write EndpointSlices; trying again later");
                }
                retry_at = Some(tokio::time::Instant::now() + retry);
                retry = (retry * 2).min(LONGEST_RETRY);
            }
        }
    }

    /// Has the store have what is wanted; an error where it should be tried again.
    async fn write(&self, service: &ServiceName, known: &mut KnownService) -> Result<(), ObjectError> {
        // A service that is gone by now has no slices.
        let owner = self.objects.get(KindId::Service.kind(), &service.namespace, &service.name).await?;
        let uid = owner.as_ref().and_then(|owner| owner["metadata"]["uid"].as_str());
        let mut left = std::mem::take(&mut known.held);
        for slice in uid.map(|_| known.wanted.as_slice()).unwrap_or_default() {
            match self.write_one(service, slice, uid.unwrap_or_default()).await {
                Ok(name) => {
                    left.remove(&name);
                    known.held.insert(name);
                }
                Err(error) => {
                    if let Err(error) = check(Err(error), service) {
                        known.held.append(&mut left);
                        return Err(error);
                    }
                    // Not written, and not to be deleted over that.
                    for name in (0..NAMES).map(|taken| slice.name_beside(service, taken)) {
                        if left.remove(&name) {
                            known.held.insert(name);
                        }
                    }
                }
            }
        }
        while let Some(name) = left.pop_first() {
            if let Err(error) = check(self.delete(service, &name).await, service) {
                known.held.insert(name);
                known.held.append(&mut left);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Writes a slice under the first of its names that nobody else has; returns which that is.
    async fn write_one(
        &self,
        service: &ServiceName,
        slice: &OwnSlice,
        uid: &str,
    ) -> Result<String, ObjectError> {
        for name in (0..NAMES).map(|taken| slice.name_beside(service, taken)) {
            if self.write_as(&name, service, slice, uid).await? {
                return Ok(name);
            }
            let namespace = &*service.namespace;
            tracing::debug!(namespace, name, "an EndpointSlice of somebody else has a name of ours");
        }
        let message = "EndpointSlices of somebody else have all of its names".to_owned();
        Err(ObjectError::Conflict { kind: kind(), name: slice.name.clone(), message })
    }

    /// Writes a slice under a name; whether it did: false where somebody else has it.
    async fn write_as(
        &self,
        name: &str,
        service: &ServiceName,
        slice: &OwnSlice,
        uid: &str,
    ) -> Result<bool, ObjectError> {
        let options = WriteOptions::controller();
        let wanted = slice.object(name, service, uid);
        let mut ours = true;
        let changed = self.objects.modify(kind(), &service.namespace, name, &options, |current| {
            let mut object = current.clone();
            ours = own_service(current).is_some();
            if !ours {
                return Ok(object);
            }
            // What others add to the metadata stays.
            for field in ["addressType", "endpoints", "ports"] {
                object[field] = wanted[field].clone();
            }
            let metadata = &mut object["metadata"];
            for label in [SERVICE_LABEL, MANAGED_BY] {
                metadata["labels"][label] = wanted["metadata"]["labels"][label].clone();
            }
            metadata["ownerReferences"] = wanted["metadata"]["ownerReferences"].clone();
            if let Some(metadata) = metadata.as_object_mut() {
                metadata.remove("resourceVersion");
            }
            Ok(object)
        });
        match changed.await {
            Err(ObjectError::NotFound { .. }) => {}
            result => return result.map(|_| ours),
        }
        match self.objects.create(kind(), &service.namespace, wanted, &options).await {
            // Somebody was faster: their write wakes us again.
            Err(ObjectError::AlreadyExists { .. }) => Ok(true),
            result => result.map(|_| true),
        }
    }

    async fn delete(&self, service: &ServiceName, name: &str) -> Result<(), ObjectError> {
        let Some(current) = self.objects.get(kind(), &service.namespace, name).await? else { return Ok(()) };
        // Others may have made it theirs, or another service's.
        if own_name(&current).is_none_or(|(of, _)| of != *service) {
            return Ok(());
        }
        let version = current["metadata"]["resourceVersion"].as_str().and_then(|v| v.parse().ok());
        let options = DeleteOptions { resource_version: version, ..DeleteOptions::default() };
        match self.objects.delete(kind(), &service.namespace, name, &options).await {
            Err(ObjectError::NotFound { .. } | ObjectError::Conflict { .. }) => Ok(()),
            result => result.map(drop),
        }
    }
}

/// Only what the store does not take is tried again; a namespace that goes takes its slices along.
fn check(result: Result<(), ObjectError>, service: &ServiceName) -> Result<(), ObjectError> {
    match result {
        Err(error @ ObjectError::Store(_)) => Err(error),
        Err(error @ (ObjectError::NotFound { .. } | ObjectError::Forbidden { .. })) => {
            tracing::debug!(%service, %error, "no EndpointSlice is written where the namespace goes");
            Ok(())
        }
        Err(error) => {
            tracing::warn!(%service, %error, "cannot write an EndpointSlice");
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

fn kind() -> &'static Kind {
    KindId::EndpointSlice.kind()
}

/// Of a slice of ours, its service and its name.
fn own_name(slice: &Value) -> Option<(ServiceName, String)> {
    let metadata = &slice["metadata"];
    let service = ServiceName::new(metadata["namespace"].as_str()?, own_service(slice)?);
    Some((service, metadata["name"].as_str()?.to_owned()))
}
