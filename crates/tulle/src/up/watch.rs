//! Services that start anew when files of theirs change (`watch` of a service).

use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::files::mark;
use super::services::{Services, Wish};

/// How often the files are looked at, where that takes no time.
const LOOK: Duration = Duration::from_millis(400);
/// So many times as long as a look has taken is waited for the next one: it is to cost next to nothing.
const PAUSE: u32 = 50;
/// How many files of a service are looked at.
const MOST_FILES: usize = 20_000;
/// Folders that tools fill, and nobody writes in.
const SKIPPED: [&str; 3] = ["node_modules", "target", "__pycache__"];

/// What there is of a service's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Look {
    hash: u64,
    is_all: bool,
}

/// Restarts services whose files change, for as long as this is polled.
pub async fn follow(services: &Services) {
    let mut known: BTreeMap<String, (Arc<[PathBuf]>, Look)> = BTreeMap::new();
    loop {
        let watched: Vec<(String, Arc<[PathBuf]>)> = services
            .wanted()
            .into_iter()
            .filter(|wanted| wanted.runs && !wanted.service.watch.is_empty())
            .map(|wanted| (wanted.service.name.clone(), wanted.service.watch.clone().into()))
            .collect();
        known.retain(|name, _| watched.iter().any(|(watched, _)| watched == name));
        let mut took = Duration::ZERO;
        for (name, paths) in watched {
            let began = Instant::now();
            let look = look_at(paths.clone()).await;
            took += began.elapsed();
            let before = known.insert(name.clone(), (paths.clone(), look));
            if before.is_none() && !look.is_all {
                let text = format!(
                    "{name}: watch: only the first {MOST_FILES} files are looked at: name fewer folders"
                );
                services.shared.screen.say(&text);
            }
            let Some((_, before)) = before.filter(|(of, before)| *of == paths && *before != look) else {
                continue;
            };
            // Tools write several files; the last of them counts.
            let mut last = look;
            for _ in 0..MOST_QUIET_LOOKS {
                sleep(QUIET).await;
                let now = look_at(paths.clone()).await;
                if now == last {
                    break;
                }
                last = now;
            }
            known.insert(name.clone(), (paths, last));
            // It may be as it was before by now.
            if last != before {
                services
                    .shared
                    .screen
                    .say(&format!("{name}: a file that it watches has changed: it starts anew"));
                let _ = services.wish(&name, Wish::Restart);
            }
        }
        sleep(LOOK.max(took * PAUSE).min(LONGEST_PAUSE)).await;
    }
}

/// For how long nothing may change before it starts anew, and how often that is waited for.
const QUIET: Duration = Duration::from_millis(150);
const MOST_QUIET_LOOKS: usize = 40;
/// However many files there are.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

async fn look_at(paths: Arc<[PathBuf]>) -> Look {
    let looked = spawn_blocking(move || look(&paths)).await;
    looked.unwrap_or(Look { hash: 0, is_all: true })
}

/// What tells files from what they were, without reading them: their names, sizes, numbers, and when they were written.
fn look(paths: &[PathBuf]) -> Look {
    let mut left = MOST_FILES;
    let mut hash = 0_u64;
    let mut folders: Vec<PathBuf> = Vec::new();
    for path in paths {
        see(path, &mut hash, &mut folders, &mut left);
    }
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            // Editors and version control keep things of their own there.
            if name.starts_with('.') || name.ends_with('~') || SKIPPED.contains(&&*name) {
                continue;
            }
            see(&entry.path(), &mut hash, &mut folders, &mut left);
            if left == 0 {
                return Look { hash, is_all: false };
            }
        }
    }
    Look { hash, is_all: true }
}

/// Adds a file; a folder is gone through later. In whatever order they come.
fn see(path: &Path, hash: &mut u64, folders: &mut Vec<PathBuf>, left: &mut usize) {
    *left = left.saturating_sub(1);
    let Ok(found) = fs::symlink_metadata(path) else { return };
    if found.is_dir() {
        folders.push(path.to_owned());
        return;
    }
    let mut hasher = DefaultHasher::new();
    (path, mark(&found)).hash(&mut hasher);
    *hash = hash.wrapping_add(hasher.finish());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_somebody_writes_are_seen() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["src/deep", "src/node_modules/x", "src/.git"] {
            fs::create_dir_all(at(name)).unwrap();
        }
        let paths = [at("src"), at("one.py")];
        let mut before = look(&paths);
        let mut is_other = |what: &str, expected: bool| {
            let now = look(&paths);
            assert_eq!(now != before, expected, "{what}");
            before = now;
        };
        let write = |name: &str, text: &str| fs::write(at(name), text).unwrap();
        write("src/deep/a.py", "a");
        is_other("a file below", true);
        is_other("nothing", false);
        write("src/deep/b", "b");
        fs::rename(at("src/deep/b"), at("src/deep/a.py")).unwrap();
        is_other("one of the same size in its place", true);
        write("one.py", "x");
        is_other("a file itself, which comes later", true);
        for name in ["src/node_modules/x/y.js", "src/.git/index", "src/.a.py.swp", "src/a.py~", "other.py"] {
            write(name, "x");
            is_other(name, false);
        }
        fs::remove_file(at("src/deep/a.py")).unwrap();
        is_other("one that is gone", true);
    }
}
