//! What AuthorizationPolicies have denied and reported, by policy.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tulle_model::authorization::{Denial, INVALID_TOKEN, Matched, TOKEN_REQUIRED};
use tulle_model::name::{NamespacedName, WorkloadName};
use tulle_model::snapshot::FastMap;

use super::WorkerRegistry;

/// How many are counted apart, of one worker: what is over is counted without a policy.
const MOST: usize = 10_000;

/// What is counted apart.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct AuthorizationKey {
    pub workload: WorkloadName,
    /// `None` where there are several, of which none allows.
    pub policy: Option<NamespacedName>,
    pub result: &'static str,
}

/// One worker's counts.
#[derive(Default)]
pub(super) struct Authorizations(Mutex<FastMap<AuthorizationKey, u64>>);

impl Authorizations {
    fn count(&self, workload: &WorkloadName, policy: Option<&NamespacedName>, result: &'static str) {
        let mut counts = self.0.lock();
        let mut key = AuthorizationKey { workload: workload.clone(), policy: policy.cloned(), result };
        if counts.len() >= MOST && !counts.contains_key(&key) {
            key.policy = None;
        }
        *counts.entry(key).or_default() += 1;
    }

    /// Forgets workloads that are gone.
    pub fn forget(&self, exists: impl Fn(&WorkloadName) -> bool) {
        self.0.lock().retain(|key, _| exists(&key.workload));
    }
}

impl WorkerRegistry {
    pub(crate) fn denied(&self, workload: &WorkloadName, denial: &Denial<'_>) {
        let (policy, result) = match denial {
            Denial::By(Matched { policy, .. }) | Denial::NoRequest(policy) => (Some(&policy.name), "denied"),
            Denial::NoAllowPolicy(_) | Denial::ByDefault => (None, "no-allow-policy"),
            Denial::Plaintext => (None, "plaintext"),
            Denial::AmbiguousPath(policy, _) => (Some(&policy.name), "ambiguous-path"),
            Denial::InvalidToken(policy, _) => (Some(&policy.name), INVALID_TOKEN),
            Denial::TokenMissing(policy) => (Some(&policy.name), TOKEN_REQUIRED),
        };
        self.authorizations.count(workload, policy, result);
    }

    /// What came of a question about a request that was not simply let in.
    pub(crate) fn asked(&self, workload: &WorkloadName, policy: &NamespacedName, result: &'static str) {
        self.authorizations.count(workload, Some(policy), result);
    }

    pub(crate) fn audited(&self, workload: &WorkloadName, matched: &Matched<'_>) {
        self.authorizations.count(workload, Some(&matched.policy.name), "audited");
    }
}

/// All of all workers.
pub(super) fn sums(workers: &[Arc<WorkerRegistry>]) -> BTreeMap<AuthorizationKey, u64> {
    let mut sums = BTreeMap::new();
    for worker in workers {
        for (key, count) in worker.authorizations.0.lock().iter() {
            *sums.entry(key.clone()).or_default() += count;
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use tulle_model::snapshot::{AccessPolicy, Action};

    use super::*;

    #[test]
    fn workers_are_added_up_and_the_series_are_bounded() {
        let workload = WorkloadName::new("shop", "c-1");
        let policy = |name: &str| AccessPolicy {
            name: NamespacedName::new("shop", name),
            action: Action::Deny,
            at: None,
            issuers: Vec::new(),
            rules: Vec::new(),
            external: None,
        };
        let workers = [Arc::new(WorkerRegistry::default()), Arc::new(WorkerRegistry::default())];
        for worker in &workers {
            worker.denied(&workload, &Denial::By(Matched { policy: &policy("p"), rule: 0 }));
        }
        workers[0].denied(&workload, &Denial::NoAllowPolicy(&policy("p")));
        workers[0].audited(&workload, &Matched { policy: &policy("a"), rule: 1 });
        let sum = |policy: Option<&str>, result| {
            let policy = policy.map(|name| NamespacedName::new("shop", name));
            let key = AuthorizationKey { workload: workload.clone(), policy, result };
            sums(&workers).get(&key).copied()
        };
        assert_eq!(sums(&workers).len(), 3);
        assert_eq!(sum(None, "no-allow-policy"), Some(1));
        assert_eq!((sum(Some("a"), "audited"), sum(Some("p"), "denied")), (Some(1), Some(2)));
        for number in 0..MOST {
            let policy = policy(&format!("p{number}"));
            workers[0].denied(&workload, &Denial::By(Matched { policy: &policy, rule: 0 }));
        }
        assert_eq!(workers[0].authorizations.0.lock().len(), MOST + 1);
        assert_eq!(sum(None, "denied"), Some(3));
        workers[0].authorizations.forget(|_| false);
        assert_eq!((sums(&workers).len(), sum(Some("p"), "denied")), (1, Some(1)));
    }
}
