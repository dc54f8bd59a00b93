//! Records after the handshake: what a peer seals in them, and what is done to them on the way.

use std::cell::RefCell;
use std::sync::Arc;

use arbitrary::{Result, Unstructured};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use rustls_pki_types::{PrivateKeyDer, ServerName};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tulle_identity::Svid;
use tulle_model::identity::{SpiffeId, TrustDomain};

use super::super::handshake;
use super::{
    CLOSE_NOTIFY, HEADER, KEY_UPDATE, Key, MAX_KEY_UPDATES, MAX_PLAINTEXT, NEW_SESSION_TICKET, OVERHEAD,
    Rekey, TlsStream, USER_CANCELED, content, payload_length,
};
use crate::certificate::WorkloadCertificate;

/// One answer to changes of keys waits to be sent, and no more.
const UNSENT: usize = 5 + OVERHEAD;

thread_local! {
    static ENDS: RefCell<Option<Ends>> = const { RefCell::new(None) };
}

/// Both ends of a connection.
struct Ends {
    /// The sockets need one. Nothing passes through them.
    runtime: Runtime,
    client: TlsStream,
    server: TlsStream,
}

impl Ends {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
        let runtime = runtime.expect("a runtime is made");
        let (client, server) = runtime.block_on(async {
            let (near, far) = sockets().await.expect("loopback works");
            let (identity, certificate) = certificate().expect("a certificate is made");
            let name = identity.server_name().expect("it has one");
            let name = ServerName::try_from(name).expect("it is one");
            let answered = async { handshake::hello(far).await?.accept(certificate.server()).await };
            tokio::join!(handshake::connect(Arc::new(certificate.client(&identity)), name, near), answered)
        });
        let [client, server] = [client, server].map(|end| end.expect("they trust each other").stream);
        Self { runtime, client, server }
    }
}

/// What one end of a connection sends; which end, the first byte says. The other reads each byte of it once and in
/// order, or ends the connection, and owes little.
///
/// # Panics
/// Where that is not so.
pub fn tls(input: &[u8]) {
    ENDS.with_borrow_mut(|ends| {
        let ends = ends.get_or_insert_with(Ends::new);
        let _within = ends.runtime.enter();
        let mut input = Unstructured::new(input);
        let (near, far) = match input.arbitrary().unwrap_or(false) {
            true => (&mut ends.client, &mut ends.server),
            false => (&mut ends.server, &mut ends.client),
        };
        let mut wire = Wire::default();
        // That the input is at its end is no fault.
        while let Ok(true) = wire.send(&mut input, near, far) {}
        wire.receive(&mut input, far);
        renew(near, far);
        renew(far, near);
    });
}

/// What the other end is to make of what is sent.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
enum Fate {
    #[default]
    Open,
    /// It has been told that nothing follows.
    Closed,
    /// It has to refuse what comes.
    Broken,
}

#[derive(Default)]
struct Wire {
    sealed: Vec<u8>,
    plain: Vec<u8>,
    fate: Fate,
    updates: u32,
}

impl Wire {
    /// Sends something; whether more may follow.
    fn send(&mut self, input: &mut Unstructured<'_>, near: &mut TlsStream, far: &TlsStream) -> Result<bool> {
        if input.is_empty() || self.fate != Fate::Open || self.sealed.len() > 200_000 {
            return Ok(false);
        }
        match input.int_in_range(0..=8)? {
            0 => {
                let length = match input.int_in_range(0..=15)? {
                    0 => MAX_PLAINTEXT - input.int_in_range(0..=1)?,
                    _ => input.int_in_range(0..=300)?,
                };
                let before = self.plain.len();
                self.plain.extend((before..before + length).map(|place| (place % 251) as u8));
                near.seal_into(content::APPLICATION_DATA, &self.plain[before..], &mut self.sealed);
                if length > 0 {
                    self.updates = 0;
                }
            }
            1 => {
                let wanted = input.int_in_range(0..=2)?;
                near.seal_into(content::HANDSHAKE, &[KEY_UPDATE, 0, 0, 1, wanted], &mut self.sealed);
                self.updates += 1;
                match wanted == 2 || self.updates > MAX_KEY_UPDATES {
                    true => self.fate = Fate::Broken,
                    false => near.renew_sealing(),
                }
            }
            2 => {
                let message = piece(input, 40)?;
                let rest = behind_tickets(message);
                if rest.first() != Some(&KEY_UPDATE) {
                    near.seal_into(content::HANDSHAKE, message, &mut self.sealed);
                    let taken = far.is_client() && !message.is_empty() && rest.is_empty();
                    self.fate = if taken { Fate::Open } else { Fate::Broken };
                }
            }
            3 => {
                let alert = piece(input, 3)?;
                near.seal_into(content::ALERT, alert, &mut self.sealed);
                self.fate = match alert {
                    [_, CLOSE_NOTIFY] => Fate::Closed,
                    [_, USER_CANCELED] => Fate::Open,
                    _ => Fate::Broken,
                };
            }
            4 => {
                let kind = input.arbitrary()?;
                if !(content::ALERT..=content::APPLICATION_DATA).contains(&kind) {
                    near.seal_into(kind, b"text", &mut self.sealed);
                    self.fate = Fate::Broken;
                }
            }
            5 => {
                // Zeros behind the content's kind are padding.
                let mut padded = b"padded\x17".to_vec();
                padded.resize(padded.len() + input.int_in_range(0..=40)?, 0);
                near.seal_into(0, &padded, &mut self.sealed);
                self.plain.extend(b"padded");
                self.updates = 0;
            }
            6 => {
                let start = self.sealed.len();
                near.seal_into(content::APPLICATION_DATA, b"changed", &mut self.sealed);
                // With another length, the rest would be awaited.
                let place = input.int_in_range(0..=self.sealed.len() - start - 3)?;
                let place = if place < 3 { start + place } else { start + place + 2 };
                self.sealed[place] ^= input.int_in_range(1..=255)?;
                self.fate = Fate::Broken;
            }
            7 => {
                let start = self.sealed.len();
                near.seal_into(content::APPLICATION_DATA, b"once", &mut self.sealed);
                self.plain.extend(b"once");
                let again = self.sealed[start..].to_vec();
                self.sealed.extend(again);
                self.fate = Fate::Broken;
            }
            _ => {
                // What is not sealed, if it is whole.
                let bytes = piece(input, 60)?;
                self.fate = match payload_length(bytes) {
                    Ok(Some((_, length))) if bytes.len() >= HEADER + length => Fate::Broken,
                    Err(_) => Fate::Broken,
                    Ok(_) => return Ok(true),
                };
                self.sealed.extend_from_slice(bytes);
            }
        }
        Ok(true)
    }

    /// Reads what came, in pieces of any size.
    fn receive(&self, input: &mut Unstructured<'_>, far: &mut TlsStream) {
        let (mut got, mut waiting, mut failed) = (Vec::new(), Vec::new(), false);
        let mut wire = &self.sealed[..];
        while !wire.is_empty() && !failed {
            // All of the rest when the input is at its end.
            let count = input.int_in_range(1..=wire.len()).unwrap_or(wire.len());
            let count = if input.is_empty() { wire.len() } else { count };
            let (now, later) = wire.split_at(count);
            wire = later;
            waiting.extend_from_slice(now);
            match far.open(&mut waiting, &mut |bytes| got.extend_from_slice(bytes)) {
                Ok(opened) => drop(waiting.drain(..opened)),
                Err(_) => failed = true,
            }
            assert!(far.unsent.len() <= UNSENT, "{} bytes wait to be sent", far.unsent.len());
            if input.arbitrary().unwrap_or(false) {
                (far.unsent, far.key_update_unsent) = (Vec::new(), false);
            }
        }
        assert!(got == self.plain, "{} of {} bytes", got.len(), self.plain.len());
        let fate = match (failed, far.peer_closed) {
            (true, _) => Fate::Broken,
            (false, true) => Fate::Closed,
            (false, false) => Fate::Open,
        };
        assert_eq!(fate, self.fate);
    }
}

impl TlsStream {
    fn is_client(&self) -> bool {
        matches!(self.rekey, Rekey::Client(_))
    }

    fn seal_into(&mut self, content: u8, plaintext: &[u8], out: &mut Vec<u8>) {
        let start = out.len();
        out.resize(start + plaintext.len() + OVERHEAD, 0);
        self.sealing.seal(content, plaintext, &mut out[start..]).expect("there is room");
    }

    fn renew_sealing(&mut self) {
        let (sequence, secrets) = self.rekey.sealing().expect("there is a next key");
        self.sealing = Key::new(&secrets, sequence).expect("it is one");
    }

    fn renew_opening(&mut self) {
        let (sequence, secrets) = self.rekey.opening().expect("there is a next key");
        self.opening = Key::new(&secrets, sequence).expect("it is one");
    }
}

/// Brings both ends to the same new key of one direction, whatever the last input did to them.
fn renew(near: &mut TlsStream, far: &mut TlsStream) {
    (far.unsent, far.key_update_unsent, far.key_updates) = (Vec::new(), false, 0);
    (far.peer_closed, far.closed) = (false, false);
    near.renew_sealing();
    let mut probe = Vec::new();
    near.seal_into(content::APPLICATION_DATA, b"probe", &mut probe);
    for _ in 0..1000 {
        far.renew_opening();
        if far.open(&mut probe.clone(), &mut |_| {}).is_ok() {
            return;
        }
    }
    panic!("the keys of both ends are the same no more");
}

fn piece<'i>(input: &mut Unstructured<'i>, most: usize) -> Result<&'i [u8]> {
    let length = input.int_in_range(0..=most)?.min(input.len());
    input.bytes(length)
}

/// What follows the session tickets that the messages begin with.
fn behind_tickets(mut messages: &[u8]) -> &[u8] {
    while let [NEW_SESSION_TICKET, a, b, c, rest @ ..] = messages {
        let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        let Some(rest) = rest.get(length..) else { break };
        messages = rest;
    }
    messages
}

async fn sockets() -> std::io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let near = TcpStream::connect(listener.local_addr()?).await?;
    Ok((near, listener.accept().await?.0))
}

fn certificate() -> std::result::Result<(SpiffeId, WorkloadCertificate), Box<dyn std::error::Error>> {
    let identity = SpiffeId::workload(&TrustDomain::new("mesh.test")?, "default", "a")?;
    let ca_key = KeyPair::generate()?;
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = ca.self_signed(&ca_key)?.der().clone();
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(identity.as_str().try_into()?)];
    let leaf = params.signed_by(&key, &Issuer::new(ca, ca_key))?;
    let key = PrivateKeyDer::try_from(key.serialize_der())?;
    let svid = Svid::new(vec![leaf.der().clone()], key, &[root])?;
    Ok((identity, WorkloadCertificate::new(svid, Arc::default())))
}
