//! For tests: something that has entered a workload.

use std::net::Ipv4Addr;
use std::rc::Rc;
use std::sync::Arc;

use tulle_model::identity::{SpiffeId, TrustDomain};
use tulle_model::name::WorkloadName;

use super::visits::{Entered, Entrance, Visits};
use crate::metrics::WorkerMetrics;
use crate::peer::Peer;
use crate::state::{LocalWorkload, NodeState};

/// See the module; [`leave`] takes the workload away.
pub(super) fn visit() -> (Rc<Visits>, Entered) {
    let (visits, metrics) = (Rc::new(Visits::default()), WorkerMetrics::new(Arc::default()));
    let peer = Peer::Plain((Ipv4Addr::LOCALHOST, 5).into());
    let domain = TrustDomain::new("mesh.test").expect("a name");
    let workload = Arc::new(LocalWorkload {
        name: WorkloadName::new("default", "a"),
        service: "a".into(),
        identity: SpiffeId::workload(&domain, "default", "a").expect("an identity"),
        app_address: Ipv4Addr::LOCALHOST.into(),
        ports: vec![80],
        certificate: None,
        draining: false,
        in_process: None,
        outside: None,
    });
    let entered = visits.enter(&metrics, Entrance::to(&peer, &workload, 80), 1, true, None);
    (visits, entered)
}

pub(super) fn leave(visits: &Visits) {
    assert_eq!(visits.withdraw(&NodeState::default()), 1);
}
