//! How many copies of requests are under way, by who sends them and to whom: a service that does not keep up takes no places
//! of others.

use std::cell::RefCell;
use std::rc::Rc;

use tulle_model::name::{ServiceName, WorkloadName};
use tulle_model::snapshot::FastMap;

/// Copies from one workload to one service that may be under way in a worker.
const MOST: usize = 128;

/// Those of a worker.
#[derive(Default)]
pub(crate) struct Mirrors(RefCell<FastMap<(WorkloadName, ServiceName), usize>>);

/// One of them.
pub(crate) struct MirrorPlace {
    of: Rc<Mirrors>,
    key: (WorkloadName, ServiceName),
}

impl MirrorPlace {
    /// `None`: there are as many as may be.
    pub fn take(of: &Rc<Mirrors>, source: &WorkloadName, service: &ServiceName) -> Option<Self> {
        let key = (source.clone(), service.clone());
        let mut counts = of.0.borrow_mut();
        let count = counts.entry(key.clone()).or_default();
        (*count < MOST).then(|| {
            *count += 1;
            Self { of: of.clone(), key }
        })
    }
}

impl Drop for MirrorPlace {
    fn drop(&mut self) {
        let mut counts = self.of.0.borrow_mut();
        if let Some(count) = counts.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.key);
            }
        }
    }
}
