//! The files of folders.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The files in these folders and in folders below them, sorted, without those in folders that `enters` refuses.
pub fn below(mut folders: Vec<PathBuf>, enters: impl Fn(&Path) -> bool) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            let path = entry?.path();
            if !path.is_dir() {
                files.push(path);
            } else if enters(&path) {
                folders.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}
