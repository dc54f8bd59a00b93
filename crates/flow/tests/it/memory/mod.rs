//! What is around a runner, in memory: a book, and a clock that goes on when nobody has anything to do.

mod book;
mod clock;

use std::time::Duration;

use tulle_flow::evaluator::Evaluator;

pub use self::book::{Crash, MemoryBook, RunFacts};
pub use self::clock::TestClock;

/// Returns when all tasks of this thread wait for the clock, or for nothing.
pub async fn all_wait(evaluator: &Evaluator) {
    /// How often others get their turn: more than anything takes that waits for nobody.
    const TURNS: usize = 500;
    loop {
        for _ in 0..TURNS {
            tokio::task::yield_now().await;
        }
        if evaluator.busy() == 0 {
            return;
        }
        // A process is at it.
        tokio::time::sleep(Duration::from_micros(200)).await;
    }
}
