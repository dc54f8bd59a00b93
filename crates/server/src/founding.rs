//! Whether the state on disk is a whole mesh's, that of a first start that was not finished, or a part
//! of one. Nodes trust the root that they joined with and nothing else, so a new mesh is begun only
//! where there is nothing of an older one.
//!
//! States: *none*: nothing is there, or the master key alone, under which nothing is sealed yet: a first
//! start begins and leaves its mark before anything else; *unfinished*: the mark is there; what is missing is
//! made, and no node can have joined, as the mark goes before the server listens (a first start from before
//! there was a mark left a store that names no root and has no nodes, and no root); *whole*: all parts are
//! there, and the store names a root that is there. Anything else is refused.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tulle_model::identity::TrustDomain;
use tulle_model::registry::KindId;

use crate::ca::CaError;
use crate::ca::mesh::MeshAuthority;
use crate::enrolment;
use crate::objects;
use crate::store::{Precondition, Store, StoreError};

/// The mark of a first start that is not finished.
const MARK: &str = "first-start";
const MARK_TEXT: &str = "The first start of this server was not finished. The next one finishes it.\n";
/// Where the store keeps whose it is; no request of the API reaches it.
pub const OWNER: &str = "/tulle/mesh";

/// How often the folder is looked at anew when another server changes it meanwhile.
const LOOKS: usize = 5;

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
    /// The same of all roots that were trusted when this was written; older servers kept the first only.
    #[serde(default)]
    pub roots: Vec<String>,
    pub trust_domain: String,
}

impl Owner {
    pub fn of(authority: &MeshAuthority) -> Self {
        Self {
            root: authority.root_fingerprint(),
            roots: authority.root_fingerprints(),
            trust_domain: authority.trust_domain().as_str().to_owned(),
        }
    }

    /// All roots by which the store is known.
    fn roots(&self) -> Vec<&str> {
        let mut roots: Vec<_> = self.roots.iter().chain([&self.root]).map(String::as_str).collect();
        roots.sort_unstable();
        roots.dedup();
        roots
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
    /// an authority of the user's own (`foreign`), its root is not there. Blocks.
    pub async fn look(folder: &Path, foreign: bool) -> Result<Self, StateError> {
        // Another server may begin or end its first start meanwhile.
        for _ in 0..LOOKS {
            if let Some(state) = Self::look_once(folder, foreign).await? {
                return Ok(state);
            }
        }
        Err(StateError::InUse(folder.to_owned()))
    }

    /// As [`State::look`]; `None` where another server has changed the folder meanwhile.
    async fn look_once(folder: &Path, foreign: bool) -> Result<Option<Self>, StateError> {
        let path = folder.join(MARK);
        let marked = exists(&path);
        if !marked {
            match whole(folder, foreign) {
                Ok(true) => return Ok(Some(Self { folder: folder.to_owned(), mark: None })),
                Ok(false) => {}
                Err(_) if exists(&path) => return Ok(None),
                Err(_) if !foreign && is_older_first_start(folder).await => {
                    tracing::info!("the store here has never had a root nor a node");
                }
                Err(part) => return Err(part),
            }
        }
        let opened = if marked { File::open(&path) } else { make_mark(&path) };
        let failed = |source| StateError::Read { path: path.clone(), source };
        let file = match opened {
            Ok(file) => file,
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::AlreadyExists) => return Ok(None),
            Err(source) if marked => return Err(failed(source)),
            Err(source) => return Err(CaError::File { action: "write", path, source }.into()),
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(StateError::InUse(folder.to_owned())),
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        // Who had the lock may have ended its first start, and removed the file that is locked now.
        let own = file.metadata().map_err(failed)?.ino();
        if fs::metadata(&path).map_or(0, |there| there.ino()) != own {
            return Ok(None);
        }
        if marked {
            tracing::info!("the first start was not finished: going on with it");
        }
        Ok(Some(Self { folder: folder.to_owned(), mark: Some(file) }))
    }

    /// Whether this is a first start: what is missing is made.
    pub fn is_new(&self) -> bool {
        self.mark.is_some()
    }

    /// Checks that a store is of this trust domain; one that says nothing is looked at later.
    pub async fn check_domain(&self, store: &Store, domain: &TrustDomain) -> Result<(), StateError> {
        match self.owner(store).await? {
            Some((owner, _)) if owner.trust_domain != domain.as_str() => {
                Err(StateError::TrustDomain { kept: owner.trust_domain })
            }
            _ => Ok(()),
        }
    }

    /// Checks that the store is this authority's, by a root that it was known by and that is trusted still,
    /// and keeps the roots that are trusted now: they are replaced one after the other. A store from before
    /// stores said so becomes this authority's.
    pub async fn check_owner(&self, store: &Store, authority: &MeshAuthority) -> Result<(), StateError> {
        let path = self.folder.join(STORE);
        let now = Owner::of(authority);
        let known = match self.owner(store).await? {
            Some((kept, revision)) => {
                let roots = now.roots();
                if !kept.roots().iter().any(|known| roots.contains(known)) {
                    return Err(StateError::Foreign {
                        folder: self.folder.clone(),
                        store: path,
                        expected: kept.roots().join(" or "),
                        found: roots.join(" and "),
                    });
                }
                if kept == now {
                    return Ok(());
                }
                Precondition::Revision(revision)
            }
            None if self.is_new() || self.has_held_a_mesh(store).await? => Precondition::Absent,
            None => return Err(StateError::Empty { folder: self.folder.clone(), store: path }),
        };
        if let Err(error) = store.put(OWNER, now.encode(), known).await {
            tracing::warn!(%error, "the store does not say yet whose it is");
        }
        Ok(())
    }

    /// Whether there is anything that only a server that has run leaves; users may have deleted the rest.
    async fn has_held_a_mesh(&self, store: &Store) -> Result<bool, StateError> {
        let mesh = objects::key_of(KindId::Mesh.kind(), "", "");
        let namespaces = objects::key_of(KindId::Namespace.kind(), "", "");
        for prefix in [mesh.as_str(), namespaces.as_str(), enrolment::NODES] {
            if !store.list(prefix, None, 1).await.map_err(|source| self.failed(source))?.items.is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
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

    /// Whose the store is, and the revision at which that was written.
    async fn owner(&self, store: &Store) -> Result<Option<(Owner, u64)>, StateError> {
        let Some(stored) = store.get(OWNER).await.map_err(|source| self.failed(source))? else {
            return Ok(None);
        };
        let unreadable = |e: serde_json::Error| self.failed(StoreError::Database(format!("{OWNER}: {e}")));
        let owner = serde_json::from_slice(&stored.value).map_err(unreadable)?;
        Ok(Some((owner, stored.revision)))
    }

    fn failed(&self, source: StoreError) -> StateError {
        StateError::Store { folder: self.folder.clone(), source }
    }
}

fn exists(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

/// Makes the mark, which must not be there; it is on disk when this returns.
fn make_mark(path: &Path) -> std::io::Result<File> {
    let mut file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(MARK_TEXT.as_bytes())?;
    file.sync_all()?;
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()?;
    Ok(file)
}

/// Whether all parts of a mesh are there; false where none is.
fn whole(folder: &Path, foreign: bool) -> Result<bool, StateError> {
    let parts: Vec<(&str, bool)> =
        [(STORE, true), (MASTER_KEY, true), ("ca/root.pem", !foreign), ("ca/root.key", !foreign)].into();
    let others = ["ca/trust-domain", "ca/issuer.pem", "ca/issuer.key", "api/api-root.key", "api/admin.key"];
    let size = |part: &str| fs::metadata(folder.join(part)).map_or(0, |file| file.len());
    let exists = |part: &str| exists(&folder.join(part));
    let all = parts.iter().map(|(part, _)| *part).chain(others);
    let there: Vec<_> = all.filter(|part| size(part) > 0).collect();
    let missing: Vec<_> = parts
        .iter()
        .filter(|(part, needed)| *needed && size(part) == 0)
        .map(|(part, _)| format!("{part} is {}", if exists(part) { "empty" } else { "missing" }))
        .collect();
    if !there.is_empty() && missing.is_empty() {
        return Ok(true);
    }
    // An empty file is a lost one's: nothing that is begun leaves one. A master key alone was put there for
    // a mesh that is to begin.
    let lost = parts.iter().any(|(part, _)| exists(part) && size(part) == 0);
    if !lost && (there.is_empty() || there == [MASTER_KEY]) {
        return Ok(false);
    }
    let (there, many) = match there.as_slice() {
        [] => ("files of one".to_owned(), true),
        there => (there.join(", "), there.len() > 1),
    };
    Err(StateError::Part { folder: folder.to_owned(), missing: missing.join(", "), there, many })
}

/// Whether this is what a killed first start left before there was a mark: a store that no node has joined
/// and that names no root, and no root.
async fn is_older_first_start(folder: &Path) -> bool {
    if exists(&folder.join("ca/root.pem")) || !exists(&folder.join(STORE)) {
        return false;
    }
    let Ok(store) = Store::open(&folder.join(STORE)) else { return false };
    let none = async |prefix| store.list(prefix, None, 1).await.is_ok_and(|list| list.items.is_empty());
    none(OWNER).await && none(enrolment::NODES).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ca::mesh::AuthorityFiles;
    use crate::ca::seal::MasterKey;

    fn look(folder: &Path, foreign: bool) -> Result<State, StateError> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(State::look(folder, foreign))
    }

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
            match look(folder.path(), false) {
                Ok(state) => {
                    // A master key may be put there before the first start.
                    assert!([0, 0b0010, 0b1111].contains(&chosen), "{chosen:b}");
                    assert_eq!(state.is_new(), chosen != 0b1111);
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
            let message = look(folder.path(), false).unwrap_err().to_string();
            assert!(message.contains(&format!("{part} is empty")), "{message}");
            assert!(message.contains("from a backup") && message.contains("away"), "{message}");
        }
    }

    #[test]
    fn a_first_start_goes_on_until_it_is_finished_and_is_one_servers() {
        let folder = tempfile::tempdir().unwrap();
        let state = look(folder.path(), false).unwrap();
        assert!(state.is_new());
        assert!(matches!(look(folder.path(), false), Err(StateError::InUse(_))));
        drop(state);
        fs::create_dir(folder.path().join("ca")).unwrap();
        fs::write(folder.path().join("ca/root.key"), "key").unwrap();
        let mut state = look(folder.path(), false).unwrap();
        assert!(state.is_new());
        state.finish().unwrap();
        assert!(matches!(look(folder.path(), false), Err(StateError::Part { .. })));
    }

    #[test]
    fn of_many_first_starts_at_once_one_goes_on() {
        for _ in 0..100 {
            let folder = tempfile::tempdir().unwrap();
            let (folder, barrier) = (folder.path(), &std::sync::Barrier::new(8));
            let begin = || {
                barrier.wait();
                look(folder, false)
            };
            let looked: Vec<_> = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..8).map(|_| scope.spawn(begin)).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            assert_eq!(looked.iter().filter(|state| state.is_ok()).count(), 1, "{looked:?}");
            assert!(
                looked.iter().flat_map(Result::as_ref).all(State::is_new)
                    && looked
                        .iter()
                        .filter_map(|l| l.as_ref().err())
                        .all(|e| matches!(e, StateError::InUse(_))),
                "{looked:?}"
            );
        }
    }

    #[test]
    fn a_mark_that_goes_meanwhile_is_no_error() {
        for _ in 0..200 {
            let folder = tempfile::tempdir().unwrap();
            let mut first = look(folder.path(), false).unwrap();
            fs::create_dir(folder.path().join("ca")).unwrap();
            for part in [STORE, MASTER_KEY, "ca/root.pem", "ca/root.key"] {
                fs::write(folder.path().join(part), "x").unwrap();
            }
            std::thread::scope(|scope| {
                let second = scope.spawn(|| look(folder.path(), false));
                first.finish().unwrap();
                match second.join().unwrap() {
                    // It finds the whole mesh, and its store in use.
                    Ok(state) => assert!(!state.is_new()),
                    Err(error) => assert!(matches!(error, StateError::InUse(_)), "{error}"),
                }
            });
        }
    }

    fn authority(home: &Path, given: Option<(&Path, &Path, &Path)>) -> MeshAuthority {
        let master = MasterKey::open_or_make(&home.join(MASTER_KEY)).unwrap();
        let files = given.map(|(certificate, key, roots)| AuthorityFiles {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            roots: Some(roots.to_owned()),
        });
        let domain = TrustDomain::new("mesh.local").unwrap();
        let now = std::time::SystemTime::now();
        MeshAuthority::open(&home.join("ca"), master, &domain, files.as_ref(), true, now).unwrap()
    }

    #[tokio::test]
    async fn roots_are_replaced_one_after_the_other() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, content: &str| {
            let path = folder.path().join(name);
            fs::write(&path, content).unwrap();
            path
        };
        let make = |name: &str| {
            let root_key = rcgen::KeyPair::generate().unwrap();
            let mut params = rcgen::CertificateParams::default();
            params.distinguished_name.push(rcgen::DnType::CommonName, format!("{name} root"));
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            let root = params.self_signed(&root_key).unwrap();
            let issuer = rcgen::Issuer::from_ca_cert_der(root.der(), root_key).unwrap();
            params.distinguished_name.push(rcgen::DnType::CommonName, format!("{name} issuing"));
            let key = rcgen::KeyPair::generate().unwrap();
            let issuing = params.signed_by(&key, &issuer).unwrap();
            (
                file(&format!("{name}.pem"), &issuing.pem()),
                file(&format!("{name}.key"), &key.serialize_pem()),
                root.pem(),
            )
        };
        let (old, new) = (make("old"), make("new"));
        let bundle = |roots: &[&str]| file("roots.pem", &roots.concat());
        let open = |of: &(PathBuf, PathBuf, String), roots: &[&str]| {
            authority(folder.path(), Some((&of.0, &of.1, &bundle(roots))))
        };
        let (store, state) = (Store::in_memory(), State { folder: folder.path().to_owned(), mark: None });
        let owner = Owner::of(&open(&old, &[&old.2]));
        // As an older server kept it.
        let kept = serde_json::json!({ "root": owner.root, "trustDomain": owner.trust_domain });
        store.put(OWNER, kept.to_string().into_bytes(), Precondition::Absent).await.unwrap();
        for (of, roots) in [
            (&old, vec![&old.2]),
            (&old, vec![&old.2, &new.2]),
            (&new, vec![&new.2, &old.2]),
            (&new, vec![&new.2]),
        ] {
            let roots: Vec<_> = roots.into_iter().map(String::as_str).collect();
            let authority = open(of, &roots);
            state.check_owner(&store, &authority).await.unwrap();
            assert_eq!(state.owner(&store).await.unwrap().unwrap().0, Owner::of(&authority));
        }
        let refused = state.check_owner(&store, &open(&old, &[&old.2])).await;
        assert!(matches!(refused, Err(StateError::Foreign { .. })), "{refused:?}");
    }

    #[tokio::test]
    async fn a_store_with_nodes_or_namespaces_has_held_a_mesh() {
        let namespace = objects::key_of(KindId::Namespace.kind(), "", "default");
        let node = format!("{}web-1", enrolment::NODES);
        for (key, held) in [(namespace.as_str(), true), (node.as_str(), true), ("/tulle/other", false)] {
            let folder = tempfile::tempdir().unwrap();
            let authority = authority(folder.path(), None);
            let state = State { folder: folder.path().to_owned(), mark: None };
            let store = Store::in_memory();
            store.put(key, "{}", Precondition::Absent).await.unwrap();
            let checked = state.check_owner(&store, &authority).await;
            assert_eq!(checked.is_ok(), held, "{key}: {checked:?}");
            assert_eq!(state.owner(&store).await.unwrap().is_some(), held, "{key}");
        }
    }

    #[tokio::test]
    async fn a_store_keeps_its_trust_domain() {
        let folder = tempfile::tempdir().unwrap();
        let state = State { folder: folder.path().to_owned(), mark: None };
        let store = Store::in_memory();
        let check = async |domain: &str| state.check_domain(&store, &TrustDomain::new(domain).unwrap()).await;
        check("other.local").await.unwrap();
        let owner = Owner { root: "00".to_owned(), roots: Vec::new(), trust_domain: "mesh.local".to_owned() };
        store.put(OWNER, owner.encode(), Precondition::Absent).await.unwrap();
        check("mesh.local").await.unwrap();
        let error = check("other.local").await.unwrap_err();
        assert!(matches!(&error, StateError::TrustDomain { kept } if kept == "mesh.local"), "{error}");
    }

    #[test]
    fn what_is_in_the_way_of_the_mark_is_said_and_is_no_other_server() {
        let folder = tempfile::tempdir().unwrap();
        // A mark that cannot be opened, and a folder that is none.
        let mark = folder.path().join(MARK);
        std::os::unix::fs::symlink(&mark, &mark).unwrap();
        let error = look(folder.path(), false).unwrap_err();
        assert!(matches!(error, StateError::Read { .. }), "{error}");
        let file = folder.path().join("file");
        fs::write(&file, "x").unwrap();
        let error = look(&file, false).unwrap_err();
        assert!(matches!(error, StateError::Write(_)), "{error}");
    }

    #[test]
    fn what_is_there_of_a_mesh_is_named() {
        for (parts, expected) in [
            (&["ca/root.key"][..], "but ca/root.key is there"),
            (&["ca/root.key", "ca/root.pem"], "but ca/root.pem, ca/root.key are there"),
        ] {
            let folder = tempfile::tempdir().unwrap();
            fs::create_dir(folder.path().join("ca")).unwrap();
            for part in parts {
                fs::write(folder.path().join(part), "x").unwrap();
            }
            let message = look(folder.path(), false).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }

    #[tokio::test]
    async fn a_store_beside_a_root_is_none_of_a_killed_first_start() {
        let folder = tempfile::tempdir().unwrap();
        drop(Store::create(&folder.path().join(STORE), "/registry/x", b"{}").unwrap());
        fs::create_dir(folder.path().join("ca")).unwrap();
        fs::write(folder.path().join("ca/root.pem"), "x").unwrap();
        let error = State::look(folder.path(), false).await.unwrap_err();
        assert!(matches!(error, StateError::Part { .. }), "{error}");
    }

    #[tokio::test]
    async fn a_killed_first_start_from_before_the_mark_is_gone_on_with() {
        for (key, unfinished) in [("/registry/x", true), (OWNER, false), ("/tulle/nodes/web-1", false)] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join(STORE);
            drop(Store::create(&path, key, b"{}").unwrap());
            fs::write(folder.path().join(MASTER_KEY), "key").unwrap();
            match State::look(folder.path(), false).await {
                Ok(state) => assert!(unfinished && state.is_new(), "{key}"),
                Err(error) => {
                    assert!(!unfinished && matches!(error, StateError::Part { .. }), "{key}: {error}")
                }
            }
        }
    }
}
