//! Inbound capture: the rules know the gates of workloads.

use std::io;

use super::Host;
use crate::capture::{Gates, inbound_rules, rules};

impl Host {
    /// Has what comes to workloads enter by these gates; `None`: it is not captured any more.
    pub(in crate::capture) fn enter_by(&self, gates: Option<Gates>) -> io::Result<()> {
        let mut state = self.state.lock();
        if state.ended || state.gates == gates {
            return Ok(());
        }
        let mut script = String::new();
        if state.gates.is_some() != gates.is_some() {
            inbound_rules::turn(&mut script, &self.table, &state.node, gates.is_some());
        }
        for (name, workload) in &mut state.workloads {
            let in_force = workload.in_force().is_some();
            let Some(opening) = &mut workload.opening else { continue };
            let now = gates.as_ref().and_then(|gates| gates.get(name).copied());
            if opening.inbound_port == now {
                continue;
            }
            let before = std::mem::replace(opening, rules::Opening { inbound_port: now, ..*opening });
            if in_force {
                inbound_rules::gate(&mut script, "delete", &self.table, before);
                inbound_rules::gate(&mut script, "add", &self.table, *opening);
            }
        }
        state.gates = gates;
        if script.is_empty() {
            return Ok(());
        }
        let applied = self.apply(&mut state, &script).or_else(|e| {
            tracing::debug!("inbound capture: {e}: the rules are made anew");
            self.rebuild(&mut state)
        });
        applied.map_err(io::Error::other)
    }
}
