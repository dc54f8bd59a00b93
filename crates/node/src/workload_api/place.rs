//! Where the socket of the Workload API stands: where every user can reach it, as workloads may run as others than the node.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::{UnixListener, UnixStream};
use tokio::time::sleep;

use crate::scope;
use crate::socket_file::SocketFile;

/// Root's own folder for them, as its home is closed to others.
const FOLDER: &str = "/run/tulle-spiffe";
/// In the home of other users: their workloads are theirs.
const SOCKET: &str = "workload.sock";
/// How often we look whether it is still there.
const LOOK: Duration = Duration::from_millis(500);

/// Where it may stand for the node of `home`, in this order.
pub(crate) fn places(home: &Path) -> Vec<PathBuf> {
    let in_home = home.join(SOCKET);
    let name = format!("{}.sock", scope::of_home(home));
    if tulle_sys::is_root() {
        return vec![Path::new(FOLDER).join(name), in_home];
    }
    let run_time = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute());
    [Some(in_home), run_time.map(|folder| folder.join("tulle-spiffe").join(name))]
        .into_iter()
        .flatten()
        .collect()
}

/// The socket of a running node. It is made again where somebody removes it, and goes with this.
pub(super) struct Endpoint {
    listener: UnixListener,
    path: PathBuf,
    /// Which file it is (device, number).
    id: (u64, u64),
}

impl Endpoint {
    /// At the first place that takes it.
    pub fn bind(home: &Path) -> anyhow::Result<Self> {
        let mut why = None;
        for path in places(home) {
            match Self::bind_at(path) {
                Ok(endpoint) => return Ok(endpoint),
                Err(e) => _ = why.get_or_insert(e),
            }
        }
        Err(why.unwrap_or_else(|| io::ErrorKind::NotFound.into()))
            .context("the socket of the SPIFFE Workload API cannot be made")
    }

    fn bind_at(path: PathBuf) -> io::Result<Self> {
        if let Some(folder) = path.parent().filter(|folder| !folder.exists()) {
            fs::DirBuilder::new().recursive(true).mode(0o755).create(folder)?;
            // Whatever the mask of this process is.
            fs::set_permissions(folder, Permissions::from_mode(0o755))?;
        }
        let temporary = path.with_extension("new");
        let _ = fs::remove_file(&temporary);
        let listener = UnixListener::bind(&temporary)?;
        fs::set_permissions(&temporary, Permissions::from_mode(0o666))?;
        let id = identity(&temporary)?;
        fs::rename(&temporary, &path)?;
        Ok(Self { listener, path, id })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn listener(&self) -> &UnixListener {
        &self.listener
    }

    /// The next connection. Looks meanwhile whether the file is still there, and makes it again, unless another node has
    /// the home by now.
    pub async fn accept(&mut self, home: &SocketFile) -> io::Result<UnixStream> {
        let mut said = false;
        loop {
            tokio::select! {
                accepted = self.listener.accept() => return accepted.map(|(stream, _)| stream),
                () = sleep(LOOK) => {}
            }
            if self.stands() || !home.is_in_force() {
                continue;
            }
            match Self::bind_at(self.path.clone()) {
                Ok(new) => {
                    tracing::warn!("{} was removed: it is made again", self.path.display());
                    *self = new;
                    said = false;
                }
                Err(e) if !said => {
                    said = true;
                    tracing::warn!("{} was removed, and cannot be made again: {e}", self.path.display());
                }
                Err(_) => {}
            }
        }
    }

    fn stands(&self) -> bool {
        identity(&self.path).is_ok_and(|now| now == self.id)
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        if self.stands() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let file = fs::symlink_metadata(path)?;
    Ok((file.dev(), file.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files;
    use crate::lock::HomeLock;

    #[tokio::test]
    async fn what_is_removed_comes_back_and_goes_with_the_node() {
        let home = tempfile::tempdir().unwrap();
        files::create_private_folder(&home.path().join("node")).unwrap();
        let lock = HomeLock::take(&home.path().join("node")).unwrap();
        let (_control, file) = SocketFile::bind(home.path(), lock).unwrap();
        let mut endpoint = Endpoint::bind(home.path()).unwrap();
        let path = endpoint.path().to_owned();
        assert!(places(home.path()).contains(&path));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o666);
        let folder = fs::metadata(path.parent().unwrap()).unwrap().permissions().mode();
        assert!(!tulle_sys::is_root() || folder & 0o777 == 0o755, "{folder:o}");
        fs::remove_file(&path).unwrap();
        let connecting = async {
            loop {
                match UnixStream::connect(&path).await {
                    Ok(stream) => return stream,
                    Err(_) => tokio::task::yield_now().await,
                }
            }
        };
        let (accepted, _client) = tokio::join!(endpoint.accept(&file), connecting);
        accepted.unwrap();
        // Another node's is left where it is.
        let second = Endpoint::bind(home.path()).unwrap();
        drop(endpoint);
        assert!(path.exists());
        drop(second);
        assert!(!path.exists());
    }
}
