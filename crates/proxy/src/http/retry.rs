//! Whether a failed attempt is made again elsewhere.

use std::cell::RefCell;
use std::time::Duration;

use http::Method;
use tokio::time::Instant;
use tulle_model::name::ServiceName;
use tulle_model::retry_budget::RetryBudget;
use tulle_model::snapshot::FastMap;

use crate::app_pool::is_idempotent;
use crate::budget::Shed;
use crate::error::{UpstreamError, UpstreamErrorKind};
use crate::http2::Reason;

/// Attempts at one request. Answers of workloads that are stopping and waits for links don't count.
const ATTEMPTS: u32 = 3;
/// With them, so many.
const ATTEMPTS_IN_ALL: u32 = 10;
/// How often a request may be sent back for nobody's fault, and how long it then waits at first; that doubles.
const SENT_BACK: u32 = 10;
const PAUSE: Duration = Duration::from_millis(5);
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

/// What was attempted of one request.
#[derive(Debug, Default, Clone, Copy)]
pub struct Attempts {
    made: u32,
    /// Those that say nothing of the service: a workload was stopping, a link was not open yet.
    uncounted: u32,
    /// Those that were sent back for nobody's fault, which are not among those made.
    sent_back: u32,
}

impl Attempts {
    pub fn made(&self) -> u32 {
        self.made
    }

    pub fn begin(&mut self) {
        self.made += 1;
    }

    /// The last attempt was sent back for nobody's fault (see [`UpstreamError::is_nobodys`]): it does not count.
    /// Whether another may follow.
    pub fn take_back(&mut self) -> bool {
        self.made -= 1;
        self.sent_back += 1;
        self.sent_back <= SENT_BACK
    }

    /// How long the next one should wait.
    pub fn pause(&self) -> Duration {
        PAUSE * (1 << self.sent_back.min(SENT_BACK))
    }

    /// Whether another attempt may follow, apart from the budget: the failed one has certainly not
    /// reached the application, or the request does no harm when it is done twice.
    pub fn may_repeat(&mut self, method: &Method, error: &UpstreamError) -> bool {
        if matches!(error.kind, UpstreamErrorKind::Draining | UpstreamErrorKind::LinkPending) {
            self.uncounted += 1;
        }
        // The caller's share is the same, wherever it goes. Another application may have room.
        if let UpstreamErrorKind::Shed(Shed::Memory | Shed::Descriptors) = error.kind {
            return false;
        }
        let left = self.made - self.uncounted.min(self.made) < ATTEMPTS && self.made < ATTEMPTS_IN_ALL;
        let lost = match error.kind {
            UpstreamErrorKind::ConnectionLost | UpstreamErrorKind::ShedThere(_) => true,
            // What another attempt does not change, or makes worse (RFC 9113, section 7).
            UpstreamErrorKind::Reset(code) => !matches!(
                Reason(code),
                Reason::PROTOCOL_ERROR
                    | Reason::ENHANCE_YOUR_CALM
                    | Reason::INADEQUATE_SECURITY
                    | Reason::HTTP_1_1_REQUIRED
            ),
            _ => false,
        };
        let harmless = lost && is_idempotent(method);
        left && (error.safe_to_retry || harmless)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_does_no_harm_is_repeated() {
        let repeat = |method, error: UpstreamError| {
            let mut attempts = Attempts::default();
            attempts.begin();
            attempts.may_repeat(&method, &error)
        };
        let lost = || UpstreamError::after_sending(UpstreamErrorKind::ConnectionLost, "");
        assert!(repeat(Method::GET, lost()));
        assert!(repeat(Method::PUT, lost()));
        assert!(!repeat(Method::POST, lost()));
        assert!(repeat(Method::POST, UpstreamError::safe(UpstreamErrorKind::Connect, "")));
        assert!(!repeat(Method::GET, UpstreamError::after_sending(UpstreamErrorKind::Timeout, "")));
    }

    #[test]
    fn attempts_are_limited() {
        let count = |kind| {
            let mut attempts = Attempts::default();
            attempts.begin();
            while attempts.may_repeat(&Method::POST, &UpstreamError::safe(kind, "")) {
                attempts.begin();
            }
            attempts.made()
        };
        assert_eq!(count(UpstreamErrorKind::Connect), ATTEMPTS);
        assert_eq!(count(UpstreamErrorKind::Draining), ATTEMPTS_IN_ALL);
        assert_eq!(count(UpstreamErrorKind::LinkPending), ATTEMPTS_IN_ALL);
    }

    #[test]
    fn what_is_shed_and_what_was_tried_often_enough_is_not_repeated() {
        let mut attempts = Attempts::default();
        attempts.begin();
        let shed = UpstreamError::safe(UpstreamErrorKind::Shed(crate::budget::Shed::Memory), "");
        assert!(!attempts.may_repeat(&Method::GET, &shed));
        // A wait does not count, and the attempts beside it do.
        let pending = UpstreamError::safe(UpstreamErrorKind::LinkPending, "");
        let refused = UpstreamError::safe(UpstreamErrorKind::Connect, "");
        assert!(attempts.may_repeat(&Method::POST, &pending));
        for _ in 1..ATTEMPTS {
            attempts.begin();
            assert!(attempts.may_repeat(&Method::POST, &refused));
        }
        attempts.begin();
        assert!(!attempts.may_repeat(&Method::POST, &refused));
        assert_eq!(attempts.made(), ATTEMPTS + 1);
        // A reset by the application may have come after it did something.
        let reset = UpstreamError::after_sending(UpstreamErrorKind::Reset(2), "");
        let mut attempts = Attempts::default();
        attempts.begin();
        assert!(attempts.may_repeat(&Method::GET, &reset));
        assert!(!attempts.may_repeat(&Method::POST, &reset));
        for code in [1, 11, 12, 13] {
            let told = UpstreamError::after_sending(UpstreamErrorKind::Reset(code), "");
            assert!(!attempts.may_repeat(&Method::GET, &told), "{code}");
        }
    }

    #[test]
    fn what_is_sent_back_for_nobodys_fault_waits_longer_each_time_and_not_for_ever() {
        let mut attempts = Attempts::default();
        assert_eq!(attempts.pause(), PAUSE);
        let mut pauses = Vec::new();
        loop {
            attempts.begin();
            if !attempts.take_back() {
                break;
            }
            assert_eq!(attempts.made(), 0);
            pauses.push(attempts.pause());
        }
        assert_eq!(pauses.len(), SENT_BACK as usize);
        assert!(pauses.windows(2).all(|two| two[1] == 2 * two[0]), "{pauses:?}");
        assert_eq!(pauses[0], 2 * PAUSE);
        assert_eq!(attempts.pause(), PAUSE * 1024);
    }

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
