//! The protection of TLS 1.3's records (RFC 8446, section 5.2), for connections whose handshake rustls has
//! made. Records are sealed from where the plaintext lies and opened where they lie, so that nothing is
//! copied or allocated on the way.

use aws_lc_rs::aead::{
    AES_128_GCM, AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey,
};
use rustls::ConnectionTrafficSecrets;

/// The most plaintext that one record holds (section 5.1).
pub(super) const MAX_PLAINTEXT: usize = 1 << 14;
/// The header of a record.
pub(super) const HEADER: usize = 5;
/// What a sealed record is longer than its plaintext: header, content type and tag.
pub(super) const OVERHEAD: usize = HEADER + 1 + TAG;
/// The longest payload that a record may have (section 5.2).
const MAX_CIPHERTEXT: usize = MAX_PLAINTEXT + 256;
pub(super) const MAX_RECORD: usize = HEADER + MAX_CIPHERTEXT;
const TAG: usize = 16;
/// What a record holds (section 5.1).
pub(super) mod content {
    pub(crate) const ALERT: u8 = 21;
    pub(crate) const HANDSHAKE: u8 = 22;
    pub(crate) const APPLICATION_DATA: u8 = 23;
}

/// Why a record cannot be read. Each is the alert to send (section 6.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BadRecord {
    UnexpectedMessage = 10,
    /// `bad_record_mac`.
    Forged = 20,
    RecordOverflow = 22,
    DecodeError = 50,
    InternalError = 80,
}

/// The key of one direction, and how many records it has sealed or opened.
pub(super) struct Key {
    key: LessSafeKey,
    iv: [u8; 12],
    sequence: u64,
}

impl Key {
    /// `sequence`: how many records of the key there were before.
    pub(super) fn new(secrets: &ConnectionTrafficSecrets, sequence: u64) -> Result<Self, BadRecord> {
        let (algorithm, key, iv): (&'static Algorithm, _, _) = match secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (&CHACHA20_POLY1305, key, iv),
            _ => return Err(BadRecord::InternalError),
        };
        let bytes = key.as_ref().get(..algorithm.key_len()).ok_or(BadRecord::InternalError)?;
        let key = UnboundKey::new(algorithm, bytes).map_err(|_| BadRecord::InternalError)?;
        let iv = iv.as_ref().try_into().map_err(|_| BadRecord::InternalError)?;
        Ok(Self { key: LessSafeKey::new(key), iv, sequence })
    }

    /// How many records it has sealed or opened.
    pub(super) fn records(&self) -> u64 {
        self.sequence
    }

    /// The nonce of the next record (section 5.3): none is ever used twice, as the count does not wrap.
    fn next_nonce(&mut self) -> Nonce {
        let mut nonce = self.iv;
        for (byte, count) in nonce[4..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *byte ^= count;
        }
        self.sequence += 1;
        Nonce::assume_unique_for_key(nonce)
    }

    /// Seals up to [`MAX_PLAINTEXT`] bytes into `out`, which must have room for [`OVERHEAD`] more; gives the
    /// length of the record.
    pub(super) fn seal(&mut self, content: u8, plaintext: &[u8], out: &mut [u8]) -> Result<usize, BadRecord> {
        let length = plaintext.len() + 1 + TAG;
        let record = out.get_mut(..HEADER + length).ok_or(BadRecord::InternalError)?;
        let [high, low] = (length as u16).to_be_bytes();
        let header = [content::APPLICATION_DATA, 3, 3, high, low];
        record[..HEADER].copy_from_slice(&header);
        let (ciphertext, tail) = record[HEADER..].split_at_mut(plaintext.len());
        let nonce = self.next_nonce();
        self.key
            .seal_out_of_place_scatter(nonce, Aad::from(header), plaintext, ciphertext, &[content], tail)
            .map_err(|_| BadRecord::InternalError)?;
        Ok(HEADER + length)
    }

    /// Opens a record of which `header` is the head and `payload` the rest, where it lies; gives what it
    /// holds, and of which kind that is.
    pub(super) fn open<'p>(
        &mut self,
        header: [u8; HEADER],
        payload: &'p mut [u8],
    ) -> Result<(u8, &'p [u8]), BadRecord> {
        if header[0] != content::APPLICATION_DATA {
            return Err(BadRecord::UnexpectedMessage);
        }
        let nonce = self.next_nonce();
        let opened =
            self.key.open_in_place(nonce, Aad::from(header), payload).map_err(|_| BadRecord::Forged)?;
        // The content's kind is the last byte that is not padding (section 5.4).
        let Some(end) = opened.iter().rposition(|&byte| byte != 0) else {
            return Err(BadRecord::UnexpectedMessage);
        };
        if end > MAX_PLAINTEXT {
            return Err(BadRecord::RecordOverflow);
        }
        Ok((opened[end], &opened[..end]))
    }
}

/// The length of the payload of the record that `bytes` begin with; `None` if its head is not whole.
pub(super) fn payload_length(bytes: &[u8]) -> Result<Option<([u8; HEADER], usize)>, BadRecord> {
    let Some(header) = bytes.first_chunk::<HEADER>() else { return Ok(None) };
    let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
    if length > MAX_CIPHERTEXT {
        return Err(BadRecord::RecordOverflow);
    }
    Ok(Some((*header, length)))
}

#[cfg(test)]
mod tests {
    use rustls::crypto::cipher::{AeadKey, Iv};

    use super::*;

    fn key(byte: u8) -> Key {
        let secrets =
            ConnectionTrafficSecrets::Aes256Gcm { key: AeadKey::from([byte; 32]), iv: Iv::from([7; 12]) };
        Key::new(&secrets, 5).unwrap()
    }

    fn sealed(key: &mut Key, content: u8, plaintext: &[u8]) -> Vec<u8> {
        let mut out = vec![0; plaintext.len() + OVERHEAD];
        assert_eq!(key.seal(content, plaintext, &mut out).unwrap(), out.len());
        out
    }

    fn open(key: &mut Key, record: &mut [u8]) -> Result<(u8, Vec<u8>), BadRecord> {
        let (header, length) = payload_length(record)?.unwrap();
        assert_eq!(length, record.len() - HEADER);
        key.open(header, &mut record[HEADER..]).map(|(content, plaintext)| (content, plaintext.to_vec()))
    }

    /// RFC 8446, sections 5.1 and 5.2.
    #[test]
    fn records_are_as_large_as_the_standard_has_them() {
        assert_eq!((MAX_PLAINTEXT, MAX_CIPHERTEXT, MAX_RECORD, OVERHEAD), (16_384, 16_640, 16_645, 22));
    }

    #[test]
    fn records_are_opened_in_their_order_only() {
        let (mut near, mut far) = (key(1), key(1));
        let mut first = sealed(&mut near, content::APPLICATION_DATA, b"one");
        let mut second = sealed(&mut near, content::HANDSHAKE, &[0, 0]);
        let mut third = sealed(&mut near, content::APPLICATION_DATA, &[9; MAX_PLAINTEXT]);
        assert_eq!((near.records(), far.records()), (8, 5), "from which it follows when the key changes");
        assert_eq!(open(&mut far, &mut first).unwrap(), (content::APPLICATION_DATA, b"one".to_vec()));
        assert_eq!(open(&mut far, &mut third.clone()), Err(BadRecord::Forged));
        // That one was taken for the second. A new key of the same secrets is where the sender was.
        let mut far = key(1);
        far.sequence += 1;
        // Zeros before the content's kind are content.
        assert_eq!(open(&mut far, &mut second).unwrap(), (content::HANDSHAKE, vec![0, 0]));
        assert_eq!(open(&mut far, &mut third).unwrap().1.len(), MAX_PLAINTEXT);
    }

    /// Both ends of these tests would agree on another count, and other nodes and rustls would not.
    #[test]
    fn nonces_are_the_iv_with_the_count_of_records_in_its_last_bytes() {
        let mut key = key(1);
        for (sequence, end) in [(5, [0, 0, 5]), (6, [0, 0, 6]), (0x01_02_03, [1, 2, 3])] {
            key.sequence = sequence;
            let mut expected = [7; 12];
            expected[9..].iter_mut().zip(end).for_each(|(byte, count)| *byte = 7 ^ count);
            assert_eq!(key.next_nonce().as_ref(), &expected);
        }
    }

    #[test]
    fn what_was_changed_is_not_opened() {
        let record = sealed(&mut key(1), content::APPLICATION_DATA, b"text");
        for place in 0..record.len() {
            let mut changed = record.clone();
            changed[place] ^= 1;
            let Ok(Some((header, _))) = payload_length(&changed) else { continue };
            assert!(key(1).open(header, &mut changed[HEADER..]).is_err(), "byte {place}");
        }
        assert_eq!(open(&mut key(2), &mut record.clone()), Err(BadRecord::Forged));
    }

    #[test]
    fn padding_alone_is_refused_and_padding_behind_is_dropped() {
        let mut padded = sealed(&mut key(1), 0, b"text\x17\0\0\0");
        assert_eq!(open(&mut key(1), &mut padded).unwrap(), (content::APPLICATION_DATA, b"text".to_vec()));
        let mut empty = sealed(&mut key(1), 0, &[0; 40]);
        assert_eq!(open(&mut key(1), &mut empty), Err(BadRecord::UnexpectedMessage));
        assert_eq!(payload_length(&[23, 3, 3, 0x41, 0]), Ok(Some(([23, 3, 3, 0x41, 0], MAX_CIPHERTEXT))));
        assert_eq!(payload_length(&[23, 3, 3, 0x41, 1]), Err(BadRecord::RecordOverflow));
    }
}
