//! What a run found, as it is kept (results.json) and reported.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::load::Latency;

/// Raised when older files could be misread.
pub const FORMAT: u32 = 1;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Results {
    pub format: u32,
    pub machine: Machine,
    pub settings: Settings,
    pub peers: Vec<PeerInfo>,
    pub samples: Vec<Sample>,
    pub starts: Vec<Start>,
    pub memory: Vec<MemorySample>,
    /// What could not be measured, and why.
    #[serde(default)]
    pub failures: Vec<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Machine {
    pub kernel: String,
    pub cpu: String,
    pub cores: usize,
    pub memory: u64,
    /// Of the last minute, before the run began: what else the machine was doing.
    pub load_average: f64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Settings {
    pub rounds: usize,
    pub seconds: f64,
    pub warmup: f64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PeerInfo {
    pub name: String,
    pub title: String,
    pub between: String,
    pub package: String,
    pub version: String,
    pub settings: Vec<String>,
    pub binary_bytes: Option<u64>,
    /// Tulle itself, in one of its variants: never what Tulle is compared with.
    pub own: bool,
}

/// One scenario with one peer in one round.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Sample {
    pub round: usize,
    pub scenario: String,
    pub peer: String,
    pub load: Load,
    /// CPU seconds in the measured window: of the client side's proxy, of the server side's, of the service
    /// behind, and of a control plane beside.
    pub cpu_client: f64,
    pub cpu_server: f64,
    pub cpu_service: f64,
    pub cpu_control: f64,
    /// Before the load.
    pub memory_before_client: Memory,
    pub memory_before_server: Memory,
    /// During the last part of the window.
    pub memory_client: Memory,
    pub memory_server: Memory,
}

/// What `load` prints.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Load {
    pub connections: u64,
    pub seconds: f64,
    pub requests: u64,
    pub errors: u64,
    pub non_2xx: u64,
    /// Requests per second.
    pub rate: f64,
    pub bytes: u64,
    /// Requests that were due at a fixed rate and found no free connection until the end.
    #[serde(default)]
    pub missed: u64,
    /// The generator's own.
    pub cpu_seconds: f64,
    /// The generator's share of one core; at 1 it is the bottleneck.
    pub busy: f64,
    pub latency: Latency,
    /// CPU seconds of the watched processes in the measured window, in the order in which they were named.
    #[serde(default)]
    pub watched: Vec<f64>,
}

/// From the start of the client side's proxy to the first answer 200 through it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Start {
    pub round: usize,
    pub peer: String,
    pub milliseconds: f64,
}

/// Memory in bytes, of all processes of a tree together. Pages that they share count for each, but
/// in `proportional`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// VmRSS: pages in memory, also those of the program file.
    pub resident: u64,
    /// RssAnon: the part that no file stands behind (heap and stacks).
    pub anonymous: u64,
    /// Pss: shared pages divided by those who share them.
    pub proportional: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Moment {
    /// Started, one request served.
    Idle,
    /// Every scenario of the round has been there, all connections are closed.
    AfterLoad,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MemorySample {
    pub round: usize,
    pub peer: String,
    pub moment: Moment,
    pub client: Memory,
    pub server: Memory,
}

impl Results {
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let results: Self = serde_json::from_slice(&text)
            .with_context(|| format!("{} holds no results of a run", path.display()))?;
        ensure!(
            results.format == FORMAT,
            "{} has format {}, this program reads {FORMAT}",
            path.display(),
            results.format
        );
        Ok(results)
    }

    /// Replaces the file as a whole, so that a run that is cut short leaves the last complete one.
    pub fn write(&self, path: &Path) -> Result<()> {
        let part = path.with_extension("json.part");
        let text = serde_json::to_vec_pretty(self)?;
        std::fs::write(&part, text).with_context(|| format!("cannot write {}", part.display()))?;
        std::fs::rename(&part, path).with_context(|| format!("cannot write {}", path.display()))
    }
}
