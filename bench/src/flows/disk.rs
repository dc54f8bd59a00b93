//! What the store lies on: how long a run takes depends on how fast it makes something durable.

use std::fs::File;
use std::io::{Seek, Write};
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use nix::sys::statfs::{TMPFS_MAGIC, fstatfs};
use serde::Serialize;

const WRITES: usize = 100;
const PAGE: [u8; 4096] = [0x5a; 4096];

#[derive(Debug, Clone, Copy, Serialize)]
pub struct Disk {
    /// Nothing on it outlives the machine.
    pub in_memory: bool,
    /// Writing 4 KiB and having them on the disk: the median, in milliseconds.
    pub sync_p50: f64,
    /// The 99th percentile.
    pub sync_p99: f64,
}

/// Tries the disk under a folder.
pub fn look_at(folder: &Path) -> Result<Disk> {
    let path = folder.join("disk");
    let mut file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    let in_memory = fstatfs(&file)?.filesystem_type() == TMPFS_MAGIC;
    let mut times = Vec::with_capacity(WRITES);
    for _ in 0..WRITES {
        let begun = Instant::now();
        file.rewind()?;
        file.write_all(&PAGE)?;
        file.sync_data()?;
        times.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    std::fs::remove_file(&path)?;
    times.sort_unstable_by(f64::total_cmp);
    Ok(Disk { in_memory, sync_p50: times[WRITES / 2], sync_p99: times[WRITES * 99 / 100] })
}
