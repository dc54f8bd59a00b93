//! Inbound capture: the rules know by what workloads are entered.

use std::io;

use super::Host;
use crate::capture::entrances::{Entrances, entrance_of};
use crate::capture::{inbound_rules, rules};

impl Host {
    /// Has what comes to workloads enter by these; `None`: it is not captured any more.
    pub(in crate::capture) fn enter_by(&self, entrances: Option<Entrances>) -> io::Result<()> {
        let mut state = self.state.lock();
        if state.ended || state.entrances == entrances {
            return Ok(());
        }
        let mut script = String::new();
        if state.entrances.is_some() != entrances.is_some() {
            inbound_rules::turn(&mut script, &self.table, &state.node, entrances.is_some());
        }
        for (name, workload) in &mut state.workloads {
            let in_force = workload.in_force().is_some();
            let Some(opening) = &mut workload.opening else { continue };
            let entrance = entrance_of(entrances.as_ref(), name);
            if opening.entrance == entrance {
                continue;
            }
            let before = std::mem::replace(opening, rules::Opening { entrance, ..*opening });
            if in_force {
                inbound_rules::entrance(&mut script, "delete", &self.table, before);
                inbound_rules::entrance(&mut script, "add", &self.table, *opening);
            }
        }
        state.entrances = entrances;
        if script.is_empty() {
            return Ok(());
        }
        let applied = state.table.apply(&script).or_else(|e| {
            tracing::debug!("inbound capture: {e}: the rules are made anew");
            self.rebuild(&mut state)
        });
        applied.map_err(io::Error::other)
    }
}
