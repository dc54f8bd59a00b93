//! The names that the node's DNS has resolved for its workloads outside of the mesh: the proxy holds what they send there to them.
//! It is only told and asked where egress is `Listed`, once for a connection that leaves: its locks are on no path that others take.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tulle_model::egress::resolved::Resolved;
use tulle_model::host::folded;
use tulle_model::name::WorkloadName;
use tulle_model::snapshot::FastMap;

/// Of all workloads of a node. Locks are held for moments only.
pub struct ResolvedNames {
    /// What the tables count time from.
    since: Instant,
    tables: Mutex<FastMap<WorkloadName, Arc<Mutex<Resolved>>>>,
}

/// Those of one workload, until it is dropped.
pub struct NameTable {
    all: Arc<ResolvedNames>,
    workload: WorkloadName,
    own: Arc<Mutex<Resolved>>,
}

impl Default for ResolvedNames {
    fn default() -> Self {
        Self { since: Instant::now(), tables: Mutex::default() }
    }
}

impl ResolvedNames {
    /// An empty table for a workload, in the place of what an earlier one of that name had.
    pub fn open(self: &Arc<Self>, workload: WorkloadName) -> NameTable {
        let own = Arc::<Mutex<Resolved>>::default();
        self.tables.lock().insert(workload.clone(), own.clone());
        NameTable { all: self.clone(), workload, own }
    }

    /// The names that an address was resolved for.
    pub fn names(&self, workload: &WorkloadName, address: IpAddr) -> Vec<Arc<str>> {
        let table = self.tables.lock().get(workload).cloned();
        table.map(|table| table.lock().names(address, self.since.elapsed())).unwrap_or_default()
    }
}

impl NameTable {
    pub fn workload(&self) -> &WorkloadName {
        &self.workload
    }

    /// Takes in what a name was resolved to, and how long that lasts.
    pub fn enter(&self, name: &str, addresses: &[(IpAddr, Duration)]) {
        let name: Arc<str> = folded(name).into();
        let now = self.all.since.elapsed();
        let mut own = self.own.lock();
        for (address, lasts) in addresses {
            own.enter(&name, *address, *lasts, now);
        }
    }
}

impl Drop for NameTable {
    fn drop(&mut self) {
        let mut tables = self.all.tables.lock();
        if tables.get(&self.workload).is_some_and(|table| Arc::ptr_eq(table, &self.own)) {
            tables.remove(&self.workload);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_its_workloads_as_long_as_that_is_there() {
        let all = Arc::<ResolvedNames>::default();
        let [web, api] = ["web", "api"].map(|name| WorkloadName::new("shop", name));
        let address: IpAddr = "192.0.2.1".parse().unwrap();
        let first = all.open(web.clone());
        first.enter("API.example.com.", &[(address, Duration::from_secs(1))]);
        assert_eq!(all.names(&web, address), ["api.example.com".into()]);
        assert!(all.names(&api, address).is_empty());
        // The next one of that name begins anew, and stays when the first goes late.
        let second = all.open(web.clone());
        assert!(all.names(&web, address).is_empty());
        second.enter("b.example.com", &[(address, Duration::from_secs(1))]);
        drop(first);
        assert_eq!(all.names(&web, address), ["b.example.com".into()]);
        drop(second);
        assert!(all.tables.lock().is_empty());
    }
}
