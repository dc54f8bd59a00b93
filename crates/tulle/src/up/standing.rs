//! How the processes of `tulle up` are: for `tulle ps`, and for who waits for them.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tulle_node::process_state::LastExit;
use tulle_node::workloads::WorkloadStatus;

use super::service::WantedService;
use super::services::{Services, Shared};

/// The state of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It takes traffic, or runs where nothing can be asked.
    Ready,
    NotReady,
    /// For what it depends on.
    Waiting,
    /// It has ended, and is started again.
    Restarting,
    /// It has ended well, and is not started again.
    Completed,
    /// It has not ended well, and is not started again.
    Failed,
    /// As somebody wanted it.
    Stopped,
}

impl State {
    pub fn word(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::NotReady => "not ready",
            Self::Waiting => "waiting",
            Self::Restarting => "restarting",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Stopped => "stopped",
        }
    }

    /// Whether nobody need look at it.
    pub fn is_well(self) -> bool {
        matches!(self, Self::Ready | Self::Completed | Self::Stopped)
    }
}

/// How a process is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Standing {
    pub service: String,
    pub name: String,
    pub state: State,
    /// Since when it is in that state, in milliseconds since the epoch.
    #[serde(default)]
    pub since_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    #[serde(default)]
    pub restarts: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_exit: Option<LastExit>,
    /// What it said at last before that.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub last_lines: Vec<String>,
    /// When it is started again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_start_ms: Option<u64>,
    #[serde(default)]
    pub ports: Vec<u16>,
    /// Why it is not ready, or may soon not be; what it waits for.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// Since when the processes are as they are.
#[derive(Debug, Default)]
pub struct Standings(BTreeMap<String, (State, u64)>);

impl Standings {
    /// Takes note of how they are now, and says since when.
    pub fn know(&mut self, mut now: Vec<Standing>) -> Vec<Standing> {
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let at = u64::try_from(at.as_millis()).unwrap_or(u64::MAX);
        self.0.retain(|name, _| now.iter().any(|standing| standing.name == *name));
        for standing in &mut now {
            let known = self.0.entry(standing.name.clone()).or_insert((standing.state, at));
            if known.0 != standing.state {
                *known = (standing.state, at);
            }
            standing.since_ms = known.1;
        }
        now
    }
}

/// How all processes are, in the order of the file.
pub fn of_all(services: &Services) -> Vec<Standing> {
    let wanted = services.wanted();
    let known = services.shared.workloads.list();
    let waiting = services.waiting(&wanted, &known);
    of(&services.shared, &wanted, &known, &waiting)
}

/// The same, of what is known already.
pub fn of(
    shared: &Shared,
    wanted: &[WantedService],
    known: &[WorkloadStatus],
    waiting: &BTreeMap<String, String>,
) -> Vec<Standing> {
    let over = shared.over.borrow().clone();
    let inside = shared.inside.lock();
    let last_lines = shared.last_lines.lock();
    let mut all = Vec::new();
    for of in wanted {
        let stopped = (!of.runs).then(|| super::replica::name(&of.service, 0));
        for name in of.names().chain(stopped) {
            let workload = known.iter().find(|w| *w.name == *name && w.namespace == of.config.namespace);
            let id = tulle_model::name::WorkloadName::new(of.config.namespace.as_str(), name.as_str());
            let process = shared.workloads.process(&id).map(|process| process.borrow().clone());
            let exit = over.get(&name).cloned();
            let state = match (&exit, workload) {
                _ if !of.runs => State::Stopped,
                (Some(exit), _) if exit.exit_code == Some(0) => State::Completed,
                (Some(_), _) => State::Failed,
                (None, None) if waiting.contains_key(&name) => State::Waiting,
                (None, None) => State::NotReady,
                (None, Some(workload)) if workload.ready => State::Ready,
                (None, Some(workload)) if workload.next_start_ms.is_some() => State::Restarting,
                (None, Some(_)) => State::NotReady,
            };
            let reason = match state {
                State::Completed | State::Stopped => String::new(),
                State::Waiting => waiting.get(&name).cloned().unwrap_or_default(),
                _ => match shared.initializing.lock().get(&of.service.name) {
                    // Its old processes serve until then.
                    Some(why) => format!("starts anew when its init commands have ended well: {why}"),
                    None => workload.map(|workload| workload.reason.clone()).unwrap_or_default(),
                },
            };
            all.push(Standing {
                service: of.service.name.clone(),
                state,
                since_ms: 0,
                pid: process.as_ref().and_then(|process| process.process).map(|member| member.pid),
                restarts: workload.map_or(0, |workload| workload.restarts),
                last_exit: workload.and_then(|workload| workload.last_exit.clone()).or(exit),
                last_lines: last_lines.get(&name).cloned().unwrap_or_default(),
                next_start_ms: workload.and_then(|workload| workload.next_start_ms),
                ports: inside.get(&name).map(|inside| inside.ports.clone()).unwrap_or_default(),
                reason,
                name,
            });
        }
    }
    all
}
