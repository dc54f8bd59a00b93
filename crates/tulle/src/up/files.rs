//! The files that an entry of `resources:` names, and what tells that a file has changed.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What tells one content of a file from another, without reading it: when it was written, its size, its number.
pub type Mark = (i64, i64, u64, u64);

pub fn mark(file: &std::fs::Metadata) -> Mark {
    (file.mtime(), file.mtime_nsec(), file.size(), file.ino())
}

/// The file of that name in the folder; with `*` in its last part, all files that fit, in order.
pub fn matching(folder: &Path, pattern: &str) -> Vec<PathBuf> {
    let path = folder.join(pattern);
    let Some(last) = path.file_name().and_then(|n| n.to_str()).filter(|n| n.contains('*')) else {
        return if path.exists() { vec![path] } else { Vec::new() };
    };
    let entries = path.parent().and_then(|parent| std::fs::read_dir(parent).ok());
    let paths = entries.into_iter().flatten().flatten().map(|entry| entry.path());
    let fits =
        |path: &PathBuf| path.file_name().and_then(|n| n.to_str()).is_some_and(|name| fits(last, name));
    let mut found: Vec<_> = paths.filter(|path| path.is_file() && fits(path)).collect();
    found.sort();
    found
}

fn fits(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((start, rest)) => name.strip_prefix(start).is_some_and(|name| {
            (0..=name.len()).filter(|&at| name.is_char_boundary(at)).any(|at| fits(rest, &name[at..]))
        }),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn stars_fit_anything() {
        assert!(super::fits("*.yaml", "a.yaml") && super::fits("a*b*", "axbx") && super::fits("x", "x"));
        assert!(!super::fits("*.yaml", "a.json") && !super::fits("a*b", "ba"));
    }
}
