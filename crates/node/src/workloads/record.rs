//! What the next process of this node has to know of a workload to end its processes well, should nobody
//! come back for them: one small file each.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tulle_model::name::WorkloadName;
use tulle_sys::family::Member;

use crate::files;

/// Of a workload that `tulle run` has started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Record {
    /// The number of the `tulle run`, and when it was started.
    owner: Option<(u32, u64)>,
    /// What its processes have after SIGTERM, in milliseconds.
    stop_timeout_ms: u64,
}

impl Record {
    pub fn new(owner: Option<Member>, stop_timeout: Duration) -> Self {
        Self {
            owner: owner.map(|owner| (owner.pid, owner.started)),
            stop_timeout_ms: u64::try_from(stop_timeout.as_millis()).unwrap_or(u64::MAX),
        }
    }

    pub fn owner(&self) -> Option<Member> {
        self.owner.map(|(pid, started)| Member { pid, started })
    }

    pub fn stop_timeout(&self) -> Duration {
        Duration::from_millis(self.stop_timeout_ms)
    }
}

/// The files, in `node/workloads/`.
#[derive(Debug, Clone)]
pub(crate) struct Records {
    folder: PathBuf,
}

impl Records {
    pub fn new(node_folder: &Path) -> Self {
        Self { folder: node_folder.join("workloads") }
    }

    /// # Errors
    /// Where it cannot be written. Then the next process of the node does not know who has started the workload.
    pub fn save(&self, workload: &WorkloadName, record: &Record) -> io::Result<()> {
        files::create_private_folder(&self.folder)?;
        files::write_private(&self.file(workload), &serde_json::to_vec(record)?)
    }

    /// `None` where there is none, or nothing that makes sense.
    pub fn load(&self, workload: &WorkloadName) -> Option<Record> {
        let content = files::read_if_there(&self.file(workload)).ok()??;
        serde_json::from_slice(&content).ok()
    }

    pub fn remove(&self, workload: &WorkloadName) {
        // One that stays is forgotten by the next start.
        let _ = std::fs::remove_file(self.file(workload));
    }

    /// The workloads that have one.
    pub fn list(&self) -> Vec<WorkloadName> {
        let Ok(entries) = std::fs::read_dir(&self.folder) else { return Vec::new() };
        let name = |entry: std::fs::DirEntry| {
            let file = entry.file_name().into_string().ok()?;
            let (namespace, name) = file.strip_suffix(".json")?.split_once('.')?;
            Some(WorkloadName::new(namespace, name))
        };
        entries.flatten().filter_map(name).collect()
    }

    /// All of them.
    pub fn clear(&self) -> io::Result<()> {
        match std::fs::remove_dir_all(&self.folder) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }

    /// A namespace has no dot, so names don't clash.
    fn file(&self, workload: &WorkloadName) -> PathBuf {
        self.folder.join(format!("{}.{}.json", workload.namespace, workload.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let records = Records::new(folder.path());
        let cart = WorkloadName::new("shop", "cart.1");
        assert_eq!(records.load(&cart), None);
        let record = Record::new(Some(Member { pid: 7, started: 11 }), Duration::from_secs(3));
        records.save(&cart, &record).unwrap();
        assert_eq!(records.load(&cart), Some(record));
        assert_eq!(records.list(), std::slice::from_ref(&cart));
        assert_eq!(record.owner(), Some(Member { pid: 7, started: 11 }));
        records.remove(&cart);
        assert_eq!(records.load(&cart), None);
        records.save(&cart, &record).unwrap();
        records.clear().unwrap();
        records.clear().unwrap();
        assert_eq!(records.load(&cart), None);
    }
}
