//! What nodes of a home have left of their capture, whatever their names were.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use tulle_model::name::WorkloadName;
use tulle_sys::cgroup;
use tulle_sys::nft::{self, NftError};

use super::host::{CGROUP, RUN};
use super::rules;
use crate::scope::Whose;

/// Found, and not removed yet.
pub(crate) struct Remains {
    /// Of a node each.
    folders: Vec<PathBuf>,
    /// The cgroups in these.
    pub workloads: Vec<(WorkloadName, PathBuf)>,
    tables: Vec<String>,
    /// What stands for as long as the host runs.
    run: Vec<PathBuf>,
}

impl Remains {
    pub fn of(whose: &Whose) -> io::Result<Self> {
        let folders = folders(whose)?;
        let mut workloads = Vec::new();
        for entry in
            folders.iter().map(fs::read_dir).collect::<io::Result<Vec<_>>>()?.into_iter().flatten().flatten()
        {
            let directory = entry.file_name().to_string_lossy().into_owned();
            if let Some((namespace, name)) = directory.split_once('.')
                && entry.file_type()?.is_dir()
            {
                workloads.push((WorkloadName::new(namespace, name), entry.path()));
            }
        }
        Ok(Self { folders, workloads, tables: tables(whose)?, run: named(Path::new(RUN), whose)? })
    }

    /// Removes all that was found, the cgroups with the processes that are left in them. Returns what it was: cgroups
    /// of workloads and tables.
    pub fn remove(self) -> io::Result<(Vec<PathBuf>, Vec<String>)> {
        for folder in &self.folders {
            cgroup::destroy(folder)?;
            // Another node of this host may have cgroups beside it.
            let _ = folder.parent().map(fs::remove_dir);
        }
        // Last: as long as a process is there, its rules are.
        for table in &self.tables {
            nft::apply(&rules::removal(table), |_| ()).map_err(io::Error::other)?;
        }
        for folder in &self.run {
            fs::remove_dir_all(folder)?;
        }
        let cgroups = self.workloads.into_iter().map(|(_, path)| path);
        Ok((cgroups.collect(), self.tables))
    }
}

fn folders(whose: &Whose) -> io::Result<Vec<PathBuf>> {
    match cgroup::unified_mount()? {
        Some(mount) => named(&mount.join(CGROUP), whose),
        None => Ok(Vec::new()),
    }
}

/// The folders in another that have a scope as their name.
fn named(folder: &Path, whose: &Whose) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        // Where we may not look, we have made nothing.
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) => {
            return Ok(Vec::new());
        }
        other => other?,
    };
    let of_home = entries.flatten().filter(|entry| whose.is(&entry.file_name().to_string_lossy()));
    Ok(of_home.map(|entry| entry.path()).filter(|path| path.is_dir()).collect())
}

/// Without rights, or without nft, nobody has made any.
fn tables(whose: &Whose) -> io::Result<Vec<String>> {
    if !tulle_sys::is_root() {
        return Ok(Vec::new());
    }
    let all = match nft::tables() {
        Err(NftError::NotInstalled) => return Ok(Vec::new()),
        other => other.map_err(io::Error::other)?,
    };
    let ours = |table: &String| rules::scope_of(table).is_some_and(|scope| whose.is(scope));
    Ok(all.into_iter().filter(ours).collect())
}
