//! What is on disk of a run can be read with the server's master key alone: inputs and answers are the business of others.

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, Prk, Salt};
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::FlowsError;

/// What the keys are for: others would come of the same master key for anything else.
const PURPOSE: &[u8] = b"tulle flow runs 2 ";

/// Each record has a key of its own. Of one key for all, so many records would be sealed in the end that two of them might have
/// the same random nonce (NIST SP 800-38D, section 8.3: 2^32 at most).
pub struct Seal {
    master: Prk,
}

impl Seal {
    /// `secret` is what nobody but the server has.
    pub fn new(secret: &[u8]) -> Self {
        Self { master: Salt::new(HKDF_SHA256, &[]).extract(secret) }
    }

    fn of_record(&self, key: &[u8]) -> Result<RandomizedNonceKey, FlowsError> {
        let cannot = |_| FlowsError::Unreadable { key: shown(key), why: "no key can be made for it" };
        let mut bytes = zeroize::Zeroizing::new([0; 32]);
        let purpose = [PURPOSE, key];
        let expanded = self.master.expand(&purpose, HKDF_SHA256).map_err(cannot)?;
        expanded.fill(&mut *bytes).map_err(cannot)?;
        RandomizedNonceKey::new(&AES_256_GCM, &*bytes).map_err(cannot)
    }

    /// A value for a record; it can be opened under the record's key alone.
    pub fn seal<T: Serialize>(&self, key: &[u8], value: &T) -> Result<Bytes, FlowsError> {
        let cannot = || FlowsError::Unreadable { key: shown(key), why: "it cannot be sealed" };
        self.seal_bytes(key, serde_json::to_vec(value).map_err(|_| cannot())?)
    }

    /// The same for what is bytes already.
    pub fn seal_bytes(&self, key: &[u8], mut sealed: Vec<u8>) -> Result<Bytes, FlowsError> {
        let cannot = || FlowsError::Unreadable { key: shown(key), why: "it cannot be sealed" };
        let nonce = self
            .of_record(key)?
            .seal_in_place_append_tag(Aad::from(key), &mut sealed)
            .map_err(|_| cannot())?;
        sealed.extend_from_slice(nonce.as_ref());
        Ok(sealed.into())
    }

    pub fn open<T: DeserializeOwned>(&self, key: &[u8], sealed: &[u8]) -> Result<T, FlowsError> {
        let plain = self.open_bytes(key, sealed)?;
        let unread = |_| FlowsError::Unreadable { key: shown(key), why: "it is of another version" };
        serde_json::from_slice(&plain).map_err(unread)
    }

    pub fn open_bytes(&self, key: &[u8], sealed: &[u8]) -> Result<Vec<u8>, FlowsError> {
        let unreadable = |why| FlowsError::Unreadable { key: shown(key), why };
        let at = sealed.len().checked_sub(NONCE_LEN).ok_or_else(|| unreadable("it is too short"))?;
        let (sealed, nonce) = sealed.split_at(at);
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| unreadable("it has no nonce"))?;
        let mut bytes = sealed.to_vec();
        let plain = self.of_record(key)?.open_in_place(nonce, Aad::from(key), &mut bytes).map_err(|_| {
            unreadable("it was sealed under another master key, or changed; put both back from one backup")
        })?;
        let length = plain.len();
        bytes.truncate(length);
        Ok(bytes)
    }
}

fn shown(key: &[u8]) -> String {
    key.escape_ascii().to_string()
}
