//! Where the node's socket stands in the file system. It is made again where somebody removes it, unless another
//! node has taken over the home meanwhile; where the home takes no files, it stands in the run-time folder.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use parking_lot::Mutex;
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::files;
use crate::lock::HomeLock;
use crate::scope;

/// The socket's name in `$TULLE_HOME`.
pub(crate) const SOCKET: &str = "node.sock";

/// How often we look whether it is still there.
const LOOK: Duration = Duration::from_millis(250);

/// Where clients look for the socket of the node of `home`, in this order.
pub(crate) fn places(home: &Path) -> Vec<PathBuf> {
    let run_time = run_time_folder().map(|folder| folder.join(format!("{}.sock", scope::of_home(home))));
    [Some(home.join(SOCKET)), run_time].into_iter().flatten().collect()
}

/// For what goes with the next start of the host.
fn run_time_folder() -> Option<PathBuf> {
    let folder = match tulle_sys::is_root() {
        true => PathBuf::from("/run"),
        false => PathBuf::from(std::env::var_os("XDG_RUNTIME_DIR")?),
    };
    folder.is_absolute().then(|| folder.join("tulle"))
}

/// The socket of a running node.
pub(crate) struct SocketFile {
    home: PathBuf,
    claim: Mutex<Claim>,
}

/// What a running node has of its home: the lock on it, and the socket.
struct Claim {
    lock: HomeLock,
    /// Where it stands, and which file it is (device, number).
    stands: Option<(PathBuf, (u64, u64))>,
    /// No more, as the node stops.
    gone: bool,
}

/// What has become of the file.
enum Look {
    Stands,
    MadeAgain(UnixListener, PathBuf),
    /// Another node has the home.
    TakenOver,
    Failed(anyhow::Error),
}

impl SocketFile {
    /// Opens the socket, for its owner only, for the node that holds `lock`.
    pub fn bind(home: &Path, lock: HomeLock) -> anyhow::Result<(UnixListener, Arc<Self>)> {
        let (listener, path) = bind(home)?;
        let stands = Some((path.clone(), identity(&path)?));
        let claim = Mutex::new(Claim { lock, stands, gone: false });
        Ok((listener, Arc::new(Self { home: home.to_owned(), claim })))
    }

    /// Watches the file, and hands out a new listener each time that it had to be made again.
    pub async fn keep(self: Arc<Self>, made: mpsc::Sender<UnixListener>) {
        let mut said = String::new();
        loop {
            sleep(LOOK).await;
            let problem = match self.look() {
                Look::Stands => String::new(),
                Look::MadeAgain(listener, path) => {
                    tracing::warn!("the node's socket was removed: it is made again, at {}", path.display());
                    let _ = made.send(listener).await;
                    String::new()
                }
                Look::TakenOver => format!(
                    "another node has taken over {}: commands reach that one, and this one goes on with its \
                     workloads until it is stopped",
                    self.home.display()
                ),
                Look::Failed(e) => format!("the node's socket was removed, and cannot be made again: {e:#}"),
            };
            if !problem.is_empty() && problem != said {
                tracing::warn!("{problem}");
            }
            said = problem;
        }
    }

    /// Whether the home is this node's, and it does not stop.
    pub fn is_in_force(&self) -> bool {
        let claim = self.claim.lock();
        !claim.gone && claim.lock.is_in_force()
    }

    fn look(&self) -> Look {
        let mut claim = self.claim.lock();
        if claim.gone {
            return Look::Stands;
        }
        let stands =
            claim.stands.as_ref().is_some_and(|(path, id)| identity(path).is_ok_and(|now| now == *id));
        // Asked after that: where another node has taken over meanwhile, what is missing is not ours to make.
        if !claim.lock.is_in_force() {
            let folder = self.home.join("node");
            let taken = files::create_private_folder(&folder)
                .map_err(Into::into)
                .and_then(|()| HomeLock::take(&folder));
            match taken {
                Ok(lock) => claim.lock = lock,
                Err(e) if e.is::<crate::InUse>() => return Look::TakenOver,
                Err(e) => return Look::Failed(e),
            }
        }
        if stands {
            return Look::Stands;
        }
        let made = bind(&self.home).and_then(|(listener, path)| Ok((listener, identity(&path)?, path)));
        match made {
            Ok((listener, id, path)) => {
                claim.stands = Some((path.clone(), id));
                Look::MadeAgain(listener, path)
            }
            Err(e) => Look::Failed(e),
        }
    }

    /// Takes it away, where it is still this node's.
    pub fn remove(&self) {
        let mut claim = self.claim.lock();
        claim.gone = true;
        if let Some((path, id)) = claim.stands.take()
            && identity(&path).is_ok_and(|now| now == id)
        {
            let _ = fs::remove_file(path);
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let file = fs::symlink_metadata(path)?;
    Ok((file.dev(), file.ino()))
}

/// At the first place that takes it.
fn bind(home: &Path) -> anyhow::Result<(UnixListener, PathBuf)> {
    let first = home.join(SOCKET);
    // Nobody else can enter the folder where it is made; it moves when its mode is right.
    let why = match bind_at(&first, &home.join("node").join("sock.new")) {
        Ok(listener) => return Ok((listener, first)),
        Err(e) => e,
    };
    let elsewhere = places(home).into_iter().find(|place| *place != first).and_then(|place| {
        files::create_private_folder(place.parent()?).ok()?;
        Some((bind_at(&place, &place.with_extension("new")).ok()?, place))
    });
    match elsewhere {
        Some((listener, place)) => {
            tracing::warn!(
                "{} cannot be made ({why}): the node's socket is {}",
                first.display(),
                place.display()
            );
            Ok((listener, place))
        }
        None => Err(why).with_context(|| {
            format!("the node's socket {} cannot be opened (its path may have 107 bytes)", first.display())
        }),
    }
}

fn bind_at(path: &Path, temporary: &Path) -> io::Result<UnixListener> {
    let _ = fs::remove_file(temporary);
    let listener = UnixListener::bind(temporary)?;
    fs::set_permissions(temporary, Permissions::from_mode(0o600))?;
    fs::rename(temporary, path)?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixStream;

    use super::*;

    fn start(home: &Path) -> (UnixListener, Arc<SocketFile>) {
        files::create_private_folder(&home.join("node")).unwrap();
        let lock = HomeLock::take(&home.join("node")).unwrap();
        SocketFile::bind(home, lock).unwrap()
    }

    async fn answers(home: &Path) -> bool {
        UnixStream::connect(home.join(SOCKET)).await.is_ok()
    }

    #[tokio::test]
    async fn what_is_removed_comes_back() {
        let home = tempfile::tempdir().unwrap();
        let (_first, file) = start(home.path());
        assert!(matches!(file.look(), Look::Stands) && answers(home.path()).await);
        // The file; something else in its place; the node's own state, too; all.
        let removals: [fn(&Path); 4] = [
            |home| fs::remove_file(home.join(SOCKET)).unwrap(),
            |home| {
                fs::remove_file(home.join(SOCKET)).unwrap();
                fs::write(home.join(SOCKET), "").unwrap();
            },
            |home| {
                fs::remove_file(home.join(SOCKET)).unwrap();
                fs::remove_dir_all(home.join("node")).unwrap();
            },
            |home| fs::remove_dir_all(home).unwrap(),
        ];
        // As a node does, which serves all the time: the kernel keeps the number of the file for as long.
        let mut served = Vec::new();
        for remove in removals {
            remove(home.path());
            let Look::MadeAgain(listener, _) = file.look() else { panic!("it is not made again") };
            served.push(listener);
            assert!(answers(home.path()).await);
            assert!(matches!(file.look(), Look::Stands));
        }
        // The lock is made again by itself, before another node can take it.
        fs::remove_file(home.path().join("node/lock")).unwrap();
        assert!(matches!(file.look(), Look::Stands));
        assert!(HomeLock::take(&home.path().join("node")).is_err());
        file.remove();
        assert!(!home.path().join(SOCKET).exists());
        assert!(matches!(file.look(), Look::Stands), "a node that stops makes none");
    }

    #[tokio::test]
    async fn a_new_node_keeps_what_it_took_over() {
        let home = tempfile::tempdir().unwrap();
        let (_first, old) = start(home.path());
        fs::remove_dir_all(home.path()).unwrap();
        let (_second, new) = start(home.path());
        assert!(matches!(old.look(), Look::TakenOver) && matches!(new.look(), Look::Stands));
        old.remove();
        assert!(answers(home.path()).await, "the old one takes away what is not its own");
    }
}
