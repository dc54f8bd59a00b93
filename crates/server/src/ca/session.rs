//! What the tokens of sessions are sealed with (Gateway API, GEP-1619).

use std::path::Path;

use tulle_model::snapshot::SessionKey;

use super::seal::MasterKey;

/// The key that is kept in `dir`, or a new one. Where it cannot be kept, or read, sessions end with this process: no reason not to
/// start.
pub fn session_key(dir: &Path, master: &MasterKey) -> SessionKey {
    let path = dir.join("session.key");
    let kept = master.read(&path).unwrap_or_else(|error| {
        tracing::warn!(%error, "the key of sessions cannot be read; they begin anew");
        None
    });
    if let Some(key) = kept.and_then(|kept| kept.as_slice().try_into().ok()) {
        return SessionKey(key);
    }
    let key = SessionKey(rand::random());
    if let Err(error) = master.write(&path, &key.0) {
        tracing::warn!(%error, "the key of sessions is not kept over a restart");
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_last_over_a_restart_unless_their_key_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        let master = MasterKey::open_or_make(&dir.path().join("master.key")).unwrap();
        let first = session_key(dir.path(), &master);
        assert_eq!(session_key(dir.path(), &master), first);
        std::fs::write(dir.path().join("session.key"), "spoilt").unwrap();
        let second = session_key(dir.path(), &master);
        assert_ne!(second, first);
        assert_eq!(session_key(dir.path(), &master), second);
        let nowhere = dir.path().join("session.key/below-a-file");
        assert_ne!(session_key(&nowhere, &master), session_key(&nowhere, &master));
    }
}
