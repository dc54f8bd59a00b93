//! Conntrack zones: one for each captured workload and each time that it is added.
//!
//! The kernel decides once per entry of its connection table where packets are redirected to, and finds the entry by
//! zone, addresses and ports. In a zone of its own no workload meets what the kernel remembers of another one's source
//! ports, of a process outside of the mesh, or of an earlier run.
//!
//! The nodes of a host share one table (each network namespace has its own), so a node claims blocks of zones: a file
//! for each, locked while the node runs, with the node's scope in it. What a dead node has left in the kernel may still
//! use its zones, so its blocks are taken once its nftables table is gone. With namespace capture there is one node in a
//! network namespace, and nothing to claim.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use tulle_sys::{conntrack, nft};

use super::rules;

/// The first zone of ours: others count from 1.
const FIRST: u16 = 0x8000;
const BLOCK: u16 = 256;
const BLOCKS: u16 = 128;

/// The zones of one node.
pub(super) struct Zones {
    scope: String,
    /// Where they are claimed; `None`: all are this node's.
    folder: Option<PathBuf>,
    blocks: Vec<(PathBuf, Flock<File>)>,
    /// The one that has been free for longest comes first.
    free: VecDeque<Zone>,
}

#[derive(Debug, Clone, Copy)]
struct Zone {
    number: u16,
    /// The kernel may still know connections of it.
    used: bool,
}

impl Zones {
    /// None yet. `folder` is one for all nodes of this host.
    pub(super) fn new(scope: &str, folder: &Path) -> io::Result<Self> {
        let network = fs::metadata("/proc/thread-self/ns/net")?.ino();
        let folder = folder.join("zones").join(network.to_string());
        let folder = Some(folder);
        Ok(Self { scope: scope.to_owned(), folder, blocks: Vec::new(), free: VecDeque::new() })
    }

    /// Those of a network namespace that has no other node.
    pub(super) fn of_namespace() -> Self {
        Self { scope: String::new(), folder: None, blocks: Vec::new(), free: VecDeque::new() }
    }

    /// A zone in which the kernel knows no connection.
    ///
    /// # Errors
    /// Where all zones are taken.
    pub(super) fn take(&mut self) -> io::Result<u16> {
        if self.free.is_empty() {
            self.claim()?;
        }
        let full =
            || io::Error::other(format!("all conntrack zones from {FIRST} on are in use on this host"));
        let zone = self.free.pop_front().ok_or_else(full)?;
        if zone.used {
            forget(zone.number, 1);
        }
        Ok(zone.number)
    }

    /// For a workload whose packets go to this zone no more.
    pub(super) fn give_back(&mut self, number: u16) {
        self.free.push_back(Zone { number, used: true });
    }

    /// For other nodes; none is in use any more.
    pub(super) fn release(&mut self) {
        self.free.clear();
        for (path, _locked) in self.blocks.drain(..) {
            // While it is locked, so that nobody has it yet.
            let _ = fs::remove_file(path);
        }
        // Other nodes may have files there.
        let _ = self.folder.as_ref().map(fs::remove_dir);
    }

    /// One block more, if there is one.
    fn claim(&mut self) -> io::Result<()> {
        let Some(folder) = self.folder.clone() else {
            self.have(FIRST);
            return Ok(());
        };
        let tables = nft::tables().map_err(io::Error::other)?;
        for block in 0..BLOCKS {
            let path = folder.join(block.to_string());
            fs::create_dir_all(&folder)?;
            if let Some(file) = lock(&path, &self.scope, &tables)? {
                self.blocks.push((path, file));
                self.have(FIRST + block * BLOCK);
                return Ok(());
            }
        }
        Ok(())
    }

    /// Takes a block of which the kernel may know something.
    fn have(&mut self, first: u16) {
        forget(first, BLOCK);
        self.free.extend((first..=first + (BLOCK - 1)).map(|number| Zone { number, used: false }));
    }
}

fn forget(first: u16, count: u16) {
    match conntrack::forget(&(first..=first + (count - 1))) {
        Ok(0) => {}
        Ok(n) => tracing::debug!("{n} connections of earlier workloads are forgotten (zone {first})"),
        // Then what the kernel remembers leads to a listener that no other workload reaches: nobody gets a wrong answer.
        Err(e) => {
            tracing::warn!(
                "connections that the kernel remembers of earlier workloads cannot be deleted: {e}"
            );
        }
    }
}

/// The block's file, locked; `None` where it is another's.
fn lock(path: &Path, scope: &str, tables: &[String]) -> io::Result<Option<Flock<File>>> {
    loop {
        let file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        let Ok(mut file) = Flock::lock(file, FlockArg::LockExclusiveNonblock) else { return Ok(None) };
        // Its owner may have removed it between the two lines above.
        if !fs::metadata(path).is_ok_and(|there| file.metadata().is_ok_and(|ours| ours.ino() == there.ino()))
        {
            continue;
        }
        let mut owner = String::new();
        file.read_to_string(&mut owner)?;
        if owner != scope && tables.contains(&rules::table_name(&owner)) {
            return Ok(None);
        }
        file.set_len(0)?;
        file.rewind()?;
        file.write_all(scope.as_bytes())?;
        return Ok(Some(file));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_belongs_to_one_node() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("0");
        let first = lock(&path, "a", &[]).unwrap().unwrap();
        assert!(lock(&path, "b", &[]).unwrap().is_none(), "it runs");
        drop(first);
        let left = [rules::table_name("a")];
        assert!(lock(&path, "b", &left).unwrap().is_none(), "it has left rules");
        drop(lock(&path, "a", &left).unwrap().expect("it is back"));
        assert!(lock(&path, "b", &[]).unwrap().is_some(), "it has left nothing");
    }

    #[test]
    fn the_zones_of_a_host_end_with_the_kernels() {
        assert_eq!(u32::from(FIRST) + u32::from(BLOCK) * u32::from(BLOCKS) - 1, u32::from(u16::MAX));
    }
}
