//! How much of what this worker sends to each service may be retries.

use std::cell::RefCell;
use std::time::Duration;

use tokio::time::Instant;
use tulle_model::name::ServiceName;
use tulle_model::retry_budget::RetryBudget;
use tulle_model::snapshot::FastMap;

/// Services with a budget of their own on a worker; beyond that all start anew.
const MAX_BUDGETS: usize = 4096;

/// One retry budget for each destination of a worker.
pub struct Budgets {
    started: Instant,
    services: RefCell<FastMap<ServiceName, RetryBudget>>,
}

impl Default for Budgets {
    fn default() -> Self {
        Self { started: Instant::now(), services: RefCell::default() }
    }
}

impl Budgets {
    fn with<T>(
        &self,
        service: &ServiceName,
        now: Instant,
        act: impl FnOnce(&mut RetryBudget, Duration) -> T,
    ) -> T {
        let now = now.saturating_duration_since(self.started);
        let mut services = self.services.borrow_mut();
        if let Some(budget) = services.get_mut(service) {
            return act(budget, now);
        }
        if services.len() >= MAX_BUDGETS {
            services.clear();
        }
        act(services.entry(service.clone()).or_default(), now)
    }

    /// Counts a request that began `now`.
    pub fn record_request(&self, service: &ServiceName, now: Instant) {
        self.with(service, now, |budget, now| budget.record_request(now));
    }

    pub fn try_retry(&self, service: &ServiceName) -> bool {
        self.with(service, Instant::now(), |budget, now| budget.try_retry(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_service_has_a_budget_of_its_own() {
        let budgets = Budgets::default();
        let [one, other] = ["one", "other"].map(|name| ServiceName::new("default", name));
        let spent = (0..10_000).take_while(|_| budgets.try_retry(&one)).count();
        // Ten a second over ten seconds, and none of them for requests.
        assert_eq!(spent, 100);
        assert!(budgets.try_retry(&other));
        for _ in 0..500 {
            budgets.record_request(&one, Instant::now());
        }
        assert_eq!(
            (0..10_000).take_while(|_| budgets.try_retry(&one)).count(),
            100,
            "a fifth of the requests"
        );
        // When there are too many, all start anew.
        for number in 2..MAX_BUDGETS {
            budgets.try_retry(&ServiceName::new("many", number.to_string()));
        }
        assert_eq!(budgets.services.borrow().len(), MAX_BUDGETS);
        assert!(!budgets.try_retry(&one));
        budgets.try_retry(&ServiceName::new("default", "last"));
        assert_eq!(budgets.services.borrow().len(), 1);
        assert!(budgets.try_retry(&one));
    }
}
