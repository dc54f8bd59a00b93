//! The time that runs go by.

use std::future::Future;

use tulle_model::flow::scope::Millis;

/// A clock, and who wakes by it.
pub trait Clock: Send + Sync + 'static {
    fn now(&self) -> Millis;

    /// Returns at that time, or somewhat before.
    fn sleep_until(&self, at: Millis) -> impl Future<Output = ()> + Send;
}
