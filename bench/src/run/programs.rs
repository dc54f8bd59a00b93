//! Where programs are found.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Where programs are looked for.
pub struct Programs {
    folders: Vec<PathBuf>,
}

impl Programs {
    /// In `first`, then as a shell of the administrator would.
    pub fn new(first: &[PathBuf]) -> Self {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let system = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
        // Programs are started in folders of their own.
        let first = first.iter().map(|folder| std::path::absolute(folder).unwrap_or_else(|_| folder.clone()));
        Self { folders: first.chain(std::env::split_paths(&path)).chain(system).collect() }
    }

    pub fn find(&self, program: &str) -> Result<PathBuf> {
        let direct = Path::new(program);
        if direct.components().count() > 1 {
            return Ok(direct.to_owned());
        }
        let found = self.folders.iter().map(|folder| folder.join(program)).find(|path| path.is_file());
        found.with_context(|| format!("`{program}` is not installed (nor in a folder given with --programs)"))
    }
}
