//! Whether the state on disk is a whole mesh's, that of a first start that was not finished, or a part
//! of one. Nodes trust the root that they joined with and nothing else, so a new mesh is begun only
//! where there is nothing of an older one.
//!
//! States: *none*: nothing is there, a first start begins and leaves its mark before anything else;
//! *unfinished*: the mark is there; what is missing is made, and no node can have joined, as the mark goes
//! before the server listens; *whole*: all parts are there, and the store names the root that is there.
//! Anything else is refused.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tulle_model::identity::TrustDomain;
use tulle_model::registry::KindId;

use crate::ca::CaError;
use crate::ca::mesh::MeshAuthority;
use crate::ca::seal::write_private;
use crate::objects;
use crate::store::{Precondition, Store, StoreError};

/// The mark of a first start that is not finished.
const MARK: &str = "first-start";
const MARK_TEXT: &str = "The first start of this server was not finished. The next one finishes it.\n";
/// Where the store keeps whose it is; no request of the API reaches it.
pub const OWNER: &str = "/tulle/mesh";

/// The store's file in the server's folder.
pub const STORE: &str = "store.redb";
/// The key that seals all others.
pub const MASTER_KEY: &str = "master.key";

/// Why a server does not take the state that it finds for its own.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error(
        "the state in {} is a part of a mesh's: {missing}, but {there} {verb} there; {}",
        folder.display(), what_to_do(folder), verb = if *many { "are" } else { "is" }
    )]
    Part { folder: PathBuf, missing: String, there: String, many: bool },
    #[error("{}: it has never held a mesh, and the authority beside it has; {}", store.display(), what_to_do(folder))]
    Empty { folder: PathBuf, store: PathBuf },
    #[error(
        "{}: it is the store of another mesh: its root has the SHA-256 {expected}, and the authority here \
         {found}; {}", store.display(), what_to_do(folder)
    )]
    Foreign { folder: PathBuf, store: PathBuf, expected: String, found: String },
    #[error(
        "this server's state belongs to the trust domain `{kept}`; a mesh cannot change it, so start with \
         `--trust-domain {kept}`, or with another home for a new mesh"
    )]
    TrustDomain { kept: String },
    #[error("another server makes its first start with {}; stop one of them", .0.display())]
    InUse(PathBuf),
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Write(#[from] CaError),
    #[error("the store of {} cannot be read: {source}", folder.display())]
    Store { folder: PathBuf, source: StoreError },
}

fn what_to_do(folder: &Path) -> String {
    format!(
        "put the whole folder back from a backup. A new mesh, which every node has to join anew, begins \
         where there is none: move {} away for that",
        folder.display()
    )
}

/// Whose a store is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Owner {
    /// The SHA-256 of the mesh's root, in hexadecimal digits.
    pub root: String,
    pub trust_domain: String,
}

impl Owner {
    pub fn of(authority: &MeshAuthority) -> Self {
        Self {
            root: authority.root_fingerprint(),
            trust_domain: authority.trust_domain().as_str().to_owned(),
        }
    }

    /// As the store keeps it.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::json!(self).to_string().into_bytes()
    }
}

/// The state that a server starts with.
#[derive(Debug)]
pub struct State {
    folder: PathBuf,
    /// The mark, locked, of a first start.
    mark: Option<File>,
}

impl State {
    /// Looks at the server's folder, which exists, and begins a first start where nothing is in it. With
    /// an authority of the user's own (`foreign`), its root is not there.
    pub fn look(folder: &Path, foreign: bool) -> Result<Self, StateError> {
        let mark = folder.join(MARK);
        let parts: Vec<(&str, bool)> =
            [(STORE, true), (MASTER_KEY, true), ("ca/root.pem", !foreign), ("ca/root.key", !foreign)].into();
        let others =
            ["ca/trust-domain", "ca/issuer.pem", "ca/issuer.key", "api/api-root.key", "api/admin.key"];
        let size = |part: &str| fs::metadata(folder.join(part)).map_or(0, |file| file.len());
        let exists = |part: &str| fs::symlink_metadata(folder.join(part)).is_ok();
        let marked = exists(MARK);
        if !marked {
            let all = parts.iter().map(|(part, _)| *part).chain(others);
            let there: Vec<_> = all.filter(|part| size(part) > 0).collect();
            let missing: Vec<_> = parts
                .iter()
                .filter(|(part, needed)| *needed && size(part) == 0)
                .map(|(part, _)| format!("{part} is {}", if exists(part) { "empty" } else { "missing" }))
                .collect();
            if !there.is_empty() && missing.is_empty() {
                return Ok(Self { folder: folder.to_owned(), mark: None });
            }
            // An empty file is a lost one's: nothing that is begun leaves one.
            if !there.is_empty() || parts.iter().any(|(part, _)| exists(part)) {
                let (there, many) = match there.as_slice() {
                    [] => ("files of one".to_owned(), true),
                    there => (there.join(", "), there.len() > 1),
                };
                return Err(StateError::Part {
                    folder: folder.to_owned(),
                    missing: missing.join(", "),
                    there,
                    many,
                });
            }
            write_private(&mark, MARK_TEXT.as_bytes())?;
        }
        let file = File::open(&mark).map_err(|source| StateError::Read { path: mark.clone(), source })?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(StateError::InUse(folder.to_owned())),
            Err(TryLockError::Error(source)) => return Err(StateError::Read { path: mark, source }),
        }
        if marked {
            tracing::info!("the first start was not finished: going on with it");
        }
        Ok(Self { folder: folder.to_owned(), mark: Some(file) })
    }

    /// Whether this is a first start: what is missing is made.
    pub fn is_new(&self) -> bool {
        self.mark.is_some()
    }

    /// Checks that a store is of this trust domain; one that says nothing is looked at later.
    pub fn check_domain(&self, store: &Store, domain: &TrustDomain) -> Result<(), StateError> {
        match self.owner(store)? {
            Some(owner) if owner.trust_domain != domain.as_str() => {
                Err(StateError::TrustDomain { kept: owner.trust_domain })
            }
            _ => Ok(()),
        }
    }

    /// Checks that the store is this authority's. One from before stores said so becomes it.
    pub async fn check_owner(&self, store: &Store, authority: &MeshAuthority) -> Result<(), StateError> {
        let path = self.folder.join(STORE);
        let Some(owner) = self.owner(store)? else {
            let mesh = store.get(&objects::key_of(KindId::Mesh.kind(), "", "default"));
            if mesh.map_err(|source| self.failed(source))?.is_none() {
                return Err(StateError::Empty { folder: self.folder.clone(), store: path });
            }
            let written = store.put(OWNER, Owner::of(authority).encode(), Precondition::Absent).await;
            if let Err(error) = written {
                tracing::warn!(%error, "the store does not say yet whose it is");
            }
            return Ok(());
        };
        if !authority.root_fingerprints().contains(&owner.root) {
            return Err(StateError::Foreign {
                folder: self.folder.clone(),
                store: path,
                expected: owner.root,
                found: authority.root_fingerprint(),
            });
        }
        Ok(())
    }

    /// Ends a first start; from now on nodes may join.
    pub fn finish(&mut self) -> Result<(), StateError> {
        if self.mark.is_none() {
            return Ok(());
        }
        let path = self.folder.join(MARK);
        let removed = fs::remove_file(&path).and_then(|()| File::open(&self.folder)?.sync_all());
        removed.map_err(|source| CaError::File { action: "remove", path, source })?;
        self.mark = None;
        Ok(())
    }

    fn owner(&self, store: &Store) -> Result<Option<Owner>, StateError> {
        let Some(stored) = store.get(OWNER).map_err(|source| self.failed(source))? else { return Ok(None) };
        let unreadable = |e: serde_json::Error| self.failed(StoreError::Database(format!("{OWNER}: {e}")));
        serde_json::from_slice(&stored.value).map(Some).map_err(unreadable)
    }

    fn failed(&self, source: StoreError) -> StateError {
        StateError::Store { folder: self.folder.clone(), source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_state_or_none_is_taken() {
        let all = [STORE, MASTER_KEY, "ca/root.pem", "ca/root.key"];
        for chosen in 0..1u32 << all.len() {
            let folder = tempfile::tempdir().unwrap();
            fs::create_dir(folder.path().join("ca")).unwrap();
            let there = |i: usize| chosen & 1 << i != 0;
            for (i, part) in all.iter().enumerate().filter(|(i, _)| there(*i)) {
                fs::write(folder.path().join(part), [i as u8]).unwrap();
            }
            match State::look(folder.path(), false) {
                Ok(state) => {
                    assert!(chosen == 0 || chosen == 0b1111, "{chosen:b}");
                    assert_eq!(state.is_new(), chosen == 0);
                }
                Err(StateError::Part { missing, .. }) => {
                    for (i, part) in all.iter().enumerate() {
                        assert_eq!(missing.contains(part), !there(i), "{chosen:b}: {missing}");
                    }
                }
                Err(other) => panic!("{other}"),
            }
        }
    }

    #[test]
    fn an_empty_file_is_a_lost_one() {
        for part in [STORE, MASTER_KEY] {
            let folder = tempfile::tempdir().unwrap();
            fs::write(folder.path().join(part), "").unwrap();
            let message = State::look(folder.path(), false).unwrap_err().to_string();
            assert!(message.contains(&format!("{part} is empty")), "{message}");
            assert!(message.contains("from a backup") && message.contains("away"), "{message}");
        }
    }

    #[test]
    fn a_first_start_goes_on_until_it_is_finished_and_is_one_servers() {
        let folder = tempfile::tempdir().unwrap();
        let state = State::look(folder.path(), false).unwrap();
        assert!(state.is_new());
        assert!(matches!(State::look(folder.path(), false), Err(StateError::InUse(_))));
        drop(state);
        fs::write(folder.path().join(MASTER_KEY), "key").unwrap();
        let mut state = State::look(folder.path(), false).unwrap();
        assert!(state.is_new());
        state.finish().unwrap();
        assert!(matches!(State::look(folder.path(), false), Err(StateError::Part { .. })));
    }
}
