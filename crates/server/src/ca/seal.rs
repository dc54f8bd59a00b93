//! Keys at rest. Every private key of the server lies in a file of its own, sealed with AES-256-GCM
//! under the master key. Whoever copies a backup without the master key has no key at all; the
//! master key may lie elsewhere (a mounted secret, a tmpfs).

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use zeroize::Zeroizing;

use super::CaError;

/// Marks the form of a sealed file.
const MAGIC: &[u8] = b"tulle-sealed-1\n";

/// Seals and opens the server's private keys.
pub struct MasterKey {
    key: RandomizedNonceKey,
    bytes: Zeroizing<Vec<u8>>,
}

impl MasterKey {
    /// Reads the master key, or makes one where there is none yet.
    pub fn open_or_make(path: &Path) -> Result<Self, CaError> {
        if matches!(fs::symlink_metadata(path), Err(e) if e.kind() == std::io::ErrorKind::NotFound) {
            let bytes = Zeroizing::new(rand::random::<[u8; 32]>());
            let text = Zeroizing::new(hex(&*bytes) + "\n");
            write_private(path, text.as_bytes())?;
        }
        Self::open(path)
    }

    /// Reads the master key. Refuses one that others than its owner may read.
    pub fn open(path: &Path) -> Result<Self, CaError> {
        let text = Zeroizing::new(fs::read_to_string(path).map_err(file("read", path))?);
        let mode = fs::metadata(path).map_err(file("read", path))?.permissions().mode();
        if mode & 0o077 != 0 {
            return Err(CaError::Content {
                path: path.to_owned(),
                problem: format!(
                    "its mode is {:o}, so others than its owner may read the master key; \
                     run `chmod 600` on it, and replace the keys if others had access",
                    mode & 0o777
                ),
            });
        }
        let invalid = || CaError::Content {
            path: path.to_owned(),
            problem: "is no master key: 64 hexadecimal digits are expected; put it back from a backup"
                .to_owned(),
        };
        let bytes = Zeroizing::new(unhex(text.trim()).ok_or_else(invalid)?);
        let key = RandomizedNonceKey::new(&AES_256_GCM, &bytes).map_err(|_| invalid())?;
        Ok(Self { key, bytes })
    }

    /// What other keys are derived from, each for one purpose (RFC 5869).
    pub fn secret(&self) -> &[u8] {
        &self.bytes
    }

    /// Writes `secret` sealed. The file's name is bound to it: sealed files cannot be swapped.
    pub fn write(&self, path: &Path, secret: &[u8]) -> Result<(), CaError> {
        let mut sealed = secret.to_vec();
        let nonce = self.key.seal_in_place_append_tag(Aad::from(name(path)), &mut sealed).map_err(|_| {
            CaError::Content { path: path.to_owned(), problem: "cannot be sealed".to_owned() }
        })?;
        let mut content = MAGIC.to_vec();
        content.extend_from_slice(nonce.as_ref());
        content.extend_from_slice(&sealed);
        write_private(path, &content)
    }

    /// Reads what [`MasterKey::write`] wrote; `None` where there is no such file.
    pub fn read(&self, path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, CaError> {
        let content = match fs::read(path) {
            Ok(content) => content,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(file("read", path)(e)),
        };
        let invalid = |problem: &str| CaError::Content { path: path.to_owned(), problem: problem.to_owned() };
        let rest = content.strip_prefix(MAGIC).ok_or_else(|| invalid("is no sealed key of this server"))?;
        let (nonce, sealed) =
            rest.split_at_checked(NONCE_LEN).ok_or_else(|| invalid("is shorter than a sealed key"))?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| invalid("has no nonce"))?;
        let mut secret = Zeroizing::new(sealed.to_vec());
        let length = self
            .key
            .open_in_place(nonce, Aad::from(name(path)), &mut secret)
            .map_err(|_| {
                invalid(
                    "cannot be opened: it was sealed under another master key, or changed; put it and the \
                     master.key that it was sealed under back from a backup",
                )
            })?
            .len();
        secret.truncate(length);
        Ok(Some(secret))
    }
}

fn name(path: &Path) -> Vec<u8> {
    path.file_name().unwrap_or_default().as_encoded_bytes().to_vec()
}

/// Replaces a file as a whole, readable by its owner only; it is on disk when this returns.
pub fn write_private(path: &Path, content: &[u8]) -> Result<(), CaError> {
    let parent = path.parent().unwrap_or(Path::new("."));
    let temporary = PathBuf::from(format!("{}.new", path.display()));
    let write = || -> std::io::Result<()> {
        fs::create_dir_all(parent)?;
        let _ = fs::remove_file(&temporary);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        fs::File::open(parent)?.sync_all()
    };
    write().map_err(|error| {
        // A part of a file would only take the room that others need.
        let _ = fs::remove_file(&temporary);
        file("write", path)(error)
    })
}

/// Turns an I/O error into one that names the file.
pub(super) fn file(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> CaError {
    let path = path.to_owned();
    move |source| CaError::File { action, path, source }
}

/// Lower case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The bytes of a text of hexadecimal digits.
pub fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_opens_under_the_same_master_key_and_name_only() {
        let dir = tempfile::tempdir().unwrap();
        let master = dir.path().join("master.key");
        let sealed = dir.path().join("a.key");
        MasterKey::open_or_make(&master).unwrap().write(&sealed, b"secret").unwrap();
        assert_eq!(fs::metadata(&master).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!fs::read(&sealed).unwrap().windows(6).any(|w| w == b"secret"));

        let again = MasterKey::open(&master).unwrap();
        assert_eq!(again.read(&sealed).unwrap().unwrap().as_slice(), b"secret");
        assert!(again.read(&dir.path().join("none")).unwrap().is_none());
        fs::copy(&sealed, dir.path().join("b.key")).unwrap();
        assert!(again.read(&dir.path().join("b.key")).is_err(), "under another name");
        let other = MasterKey::open_or_make(&dir.path().join("other")).unwrap();
        assert!(other.read(&sealed).is_err(), "under another key");
        let mut content = fs::read(&sealed).unwrap();
        *content.last_mut().unwrap() ^= 1;
        fs::write(&sealed, content).unwrap();
        assert!(again.read(&sealed).is_err(), "changed");
    }

    #[test]
    fn a_sealed_key_that_cannot_be_read_is_none_that_is_absent() {
        let dir = tempfile::tempdir().unwrap();
        let master = MasterKey::open_or_make(&dir.path().join("master.key")).unwrap();
        let folder = dir.path().join("root.key");
        assert!(master.read(&folder).unwrap().is_none());
        fs::create_dir(&folder).unwrap();
        assert!(master.read(&folder).is_err());
    }

    #[test]
    fn hexadecimal_digits_come_in_pairs() {
        assert_eq!(hex(&[0, 0x0f, 0xa9, 0xff]), "000fa9ff");
        for (text, bytes) in [
            ("", Some(vec![])),
            ("000fA9ff", Some(vec![0, 0x0f, 0xa9, 0xff])),
            ("0", None),
            ("abc", None),
            ("zz", None),
            ("+f", None),
            ("0x0f", None),
            ("é", None),
        ] {
            assert_eq!(unhex(text), bytes, "{text}");
        }
    }

    #[test]
    fn a_master_key_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let master = dir.path().join("master.key");
        MasterKey::open_or_make(&master).unwrap();
        fs::set_permissions(&master, fs::Permissions::from_mode(0o640)).unwrap();
        let message = MasterKey::open(&master).err().unwrap().to_string();
        assert!(message.contains("chmod 600"), "{message}");
    }
}
