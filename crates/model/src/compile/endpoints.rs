//! Where a service runs: the workloads that its selector selects, and what EndpointSlices of others say.

use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::Compiler;
use crate::identity::SpiffeId;
use crate::kinds::endpoint_slice::form::SliceForm;
use crate::kinds::service::form::{ServiceForm, ServicePortForm, TargetPort};
use crate::kinds::workload::form::WorkloadForm;
use crate::name::{ServiceName, WorkloadName};
use crate::snapshot::{Endpoint, EndpointSet, PortMapping};

impl Compiler {
    pub(super) fn compile_endpoints(&mut self, name: &ServiceName) -> Option<EndpointSet> {
        self.work.endpoints += 1;
        let form = self.services.get(name).filter(|form| !form.is_alias())?;
        let selected = self.endpoints_of_workloads(name, form);
        let given = self.given_endpoints(name, form);
        if given.is_empty() {
            return Some(EndpointSet::new(name.clone(), selected));
        }
        let (mut endpoints, mut hostnames): (Vec<_>, Vec<_>) =
            given.into_iter().map(|(endpoint, hostname)| ((Arc::new(endpoint), 0), hostname)).unzip();
        endpoints.extend(selected);
        hostnames.resize(endpoints.len(), Arc::default());
        Some(EndpointSet::new(name.clone(), endpoints).with_hostnames(hostnames))
    }

    /// Those that slices of others say and no workload is, each with its name in the service.
    pub(super) fn given_endpoints(
        &self,
        name: &ServiceName,
        form: &ServiceForm,
    ) -> Vec<(Endpoint, Arc<str>)> {
        let mut given = self.endpoints_of_slices(name, form);
        if given.is_empty() {
            return given;
        }
        // A workload is reached as one, and only when it is ready, also where a slice has its address.
        let mut taken: HashSet<(IpAddr, PortMapping)> = HashSet::new();
        // Where no port is said, of neither, the address is all that there is to compare.
        let mut addresses: HashSet<IpAddr> = HashSet::new();
        let mut whole: HashSet<IpAddr> = HashSet::new();
        for (_, workload) in self.selected(name, form) {
            let Some(address) = workload.address else { continue };
            let ports = ports_of_workload(form, workload);
            addresses.insert(address);
            if form.is_portless() && ports.is_empty() {
                whole.insert(address);
            }
            taken.extend(ports.into_iter().map(|port| (address, port)));
        }
        given.retain_mut(|(endpoint, _)| {
            let address = endpoint.address;
            if endpoint.ports.is_empty() || whole.contains(&address) {
                return !addresses.contains(&address);
            }
            endpoint.ports.retain(|port| !taken.contains(&(address, *port)));
            !endpoint.ports.is_empty()
        });
        given
    }

    /// The workloads that the service selects, ready or not.
    pub(super) fn selected<'a>(
        &'a self,
        name: &'a ServiceName,
        form: &'a ServiceForm,
    ) -> impl Iterator<Item = (&'a WorkloadName, &'a WorkloadForm)> {
        // Without a selector it selects none.
        let candidates =
            (!form.selector.is_empty()).then(|| self.selectors.workloads(&name.namespace, &form.selector));
        candidates.into_iter().flatten().filter_map(|workload| {
            let found = self.workloads.get(workload).filter(|w| form.selects(&w.labels, &w.account))?;
            Some((workload, found))
        })
    }

    /// Those that may take traffic, each with the time since when it is stale.
    fn endpoints_of_workloads(&self, name: &ServiceName, form: &ServiceForm) -> Vec<(Arc<Endpoint>, i64)> {
        let endpoint = |(workload, found): (&WorkloadName, &WorkloadForm)| {
            Some((Arc::new(self.endpoint_of_workload(form, workload, found)?), found.stale_since))
        };
        self.selected(name, form).filter_map(endpoint).collect()
    }

    /// `None`: it may not take traffic, or has none of the ports of a service that has some.
    fn endpoint_of_workload(
        &self,
        service: &ServiceForm,
        name: &WorkloadName,
        workload: &WorkloadForm,
    ) -> Option<Endpoint> {
        let address = workload.address.filter(|_| workload.ready)?;
        let ports = ports_of_workload(service, workload);
        if ports.is_empty() && !service.is_portless() {
            return None;
        }
        Some(Endpoint {
            workload: Some(name.clone()),
            identity: workload.node.is_some().then(|| SpiffeId::of(&self.domain, &workload.account)),
            node: workload.node.clone(),
            address,
            ports,
        })
    }

    /// The slices of others that say where a service runs. Who carries a Flow out, nobody says but nodes.
    pub(super) fn slices_of(
        &self,
        name: &ServiceName,
        form: &ServiceForm,
    ) -> impl Iterator<Item = &SliceForm> {
        let slices = (!form.is_flow()).then(|| self.slices_by_service.get(name));
        slices.into_iter().flatten().filter_map(|slice| self.slices.get(slice))
    }

    /// What the slices of others say, each endpoint with its name in the service.
    fn endpoints_of_slices(&self, name: &ServiceName, form: &ServiceForm) -> Vec<(Endpoint, Arc<str>)> {
        let mut endpoints: Vec<(Endpoint, Arc<str>)> = Vec::new();
        for slice in self.slices_of(name, form) {
            let ports = ports_of_slice(form, slice);
            if ports.is_empty() && !form.is_portless() {
                continue;
            }
            for (address, hostname) in &slice.addresses {
                let (address, ports) = (*address, ports.clone());
                let endpoint = Endpoint { workload: None, node: None, address, ports, identity: None };
                endpoints.push((endpoint, hostname.clone()));
            }
        }
        // By their order among those of the same address, as slices have it.
        endpoints.sort_by_key(|(endpoint, _)| endpoint.address);
        let mut merged: Vec<(Endpoint, Arc<str>)> = Vec::new();
        for (mut later, hostname) in endpoints {
            let at_its_address = merged.partition_point(|(kept, _)| kept.address < later.address);
            let is_first = at_its_address == merged.len();
            for (kept, _) in &mut merged[at_its_address..] {
                take_over(kept, &mut later.ports);
            }
            if is_first || !later.ports.is_empty() {
                merged.push((later, hostname));
            }
        }
        merged
    }
}

/// Has an endpoint answer for ports of the service that another at its address says, and leaves those that it answers for in
/// another place. Slices may overlap for a while (Kubernetes, EndpointSlice), and several processes may share an address.
fn take_over(endpoint: &mut Endpoint, ports: &mut Vec<PortMapping>) {
    ports.retain(|port| match endpoint.target_port(port.service_port) {
        Some(target) => target != port.target_port,
        None => {
            endpoint.ports.push(*port);
            false
        }
    });
    endpoint.ports.sort_by_key(|port| port.service_port);
}

/// Which ports of the service the endpoints of a slice offer, and where; of one without ports, all that they have.
fn ports_of_slice(service: &ServiceForm, slice: &SliceForm) -> Vec<PortMapping> {
    if service.is_portless() {
        let numbers: BTreeSet<u16> = slice.ports.iter().map(|&(_, number)| number).collect();
        let mapping = |number| PortMapping { service_port: number, target_port: number };
        return numbers.into_iter().map(mapping).collect();
    }
    let mapping = |port: &ServicePortForm| {
        let target = slice.ports.iter().find(|(name, _)| **name == *port.name)?;
        Some(PortMapping { service_port: port.number, target_port: target.1 })
    };
    service.ports.iter().filter_map(mapping).collect()
}

/// Which ports of the service a workload offers, and where; of one without ports, all that it has.
pub(super) fn ports_of_workload(service: &ServiceForm, workload: &WorkloadForm) -> Vec<PortMapping> {
    mapped(service, workload, WorkloadForm::port)
}

/// The same, and of a workload that says no ports those that it is not asked for, but might listen at: what is said of the
/// service's ports, who may enter for instance, holds there as well.
pub(super) fn ports_meant(service: &ServiceForm, workload: &WorkloadForm) -> Vec<PortMapping> {
    mapped(service, workload, WorkloadForm::port_meant)
}

fn mapped(
    service: &ServiceForm,
    workload: &WorkloadForm,
    port_of: impl Fn(&WorkloadForm, &TargetPort) -> Option<u16>,
) -> Vec<PortMapping> {
    if service.is_portless() {
        return workload.own_ports();
    }
    let mapping = |port: &ServicePortForm| {
        let target_port = port_of(workload, &port.target)?;
        Some(PortMapping { service_port: port.number, target_port })
    };
    service.ports.iter().filter_map(mapping).collect()
}
