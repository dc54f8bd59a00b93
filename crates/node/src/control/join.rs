//! How a host becomes a node: it trades a join token for a certificate of its own, once, and keeps it.

use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail};
use tokio::time::timeout;
use tonic::Code;
use tulle_identity::Fingerprint;
use tulle_model::identity::{SpiffeId, Subject, TrustDomain};
use tulle_model::name::dns_label_problem;
use tulle_wire::node::JoinRequest;
use tulle_wire::node::node_service_client::NodeServiceClient;

use super::credential::{Credential, KeyRequest};
use super::{CALL_DEADLINE, channel, tls};
use crate::backoff::Backoff;
use crate::dialer::Dialer;
use crate::keeper::KeptFile;

/// The node's credential: the one in `file` if it is good, else a new one for `token`. Waits for a
/// server that does not answer, for ever.
///
/// A token other than the one that the credential was had for is tried, as it may allow more; the
/// credential stays where the server does not take it, or does not answer.
///
/// # Errors
/// Where the server refuses the token, or there is neither a credential nor a token; the message says
/// what to do.
pub async fn join(
    (server, dialer): (&str, Dialer),
    name: &str,
    token: Option<&str>,
    file: &KeptFile,
) -> anyhow::Result<Joined> {
    if let Some(problem) = dns_label_problem(name) {
        bail!("the node's name `{name}` {problem}");
    }
    let token = token.map(Token::parse).transpose()?;
    match reusable(name, token.as_ref(), &file.path)? {
        Ok(credential) => {
            let used = file.beside(JOINED_WITH);
            let new = token.filter(|token| {
                crate::files::read_if_there(&used.path)
                    .ok()
                    .flatten()
                    .is_none_or(|id| id != token.id.as_bytes())
            });
            let Some(token) = new else { return Ok(Joined { credential, new_mesh: false }) };
            match timeout(REJOIN_DEADLINE, trade((server, dialer), name, &token)).await {
                Ok(Ok(credential)) => {
                    keep(&credential, &token, file);
                    return Ok(Joined { credential, new_mesh: false });
                }
                Ok(Err(why)) => {
                    tracing::warn!("this node goes on with the certificate that it has: {why:#}");
                    used.keep(token.id.as_bytes().to_vec());
                }
                Err(_) => tracing::warn!(
                    "the server at {server} does not answer: this node goes on with the certificate that it \
                     has, and tries its new token at the next start"
                ),
            }
            Ok(Joined { credential, new_mesh: false })
        }
        Err(why) => {
            let Some(token) = token else {
                bail!(
                    "{why}, so this node has to join the mesh: make a token where the server runs with \
                     `tulle token create` and start this node with `--token <token>`"
                );
            };
            let credential = trade((server, dialer), name, &token).await?;
            keep(&credential, &token, file);
            Ok(Joined { credential, new_mesh: true })
        }
    }
}

/// Where the id of the token is kept that the node has joined with, or was refused with.
const JOINED_WITH: &str = "joined-with";
/// How long a server may take that a node needs no more.
const REJOIN_DEADLINE: Duration = Duration::from_secs(5);

/// The token is used up: where the disk takes nothing, the node is in the mesh nevertheless.
fn keep(credential: &Credential, token: &Token<'_>, file: &KeptFile) {
    credential.keep(file);
    file.beside(JOINED_WITH).keep(token.id.as_bytes().to_vec());
}

/// A node that has joined.
pub struct Joined {
    pub credential: Credential,
    /// It has joined just now: what else is on disk may be of another mesh.
    pub new_mesh: bool,
}

/// The credential on disk, or why it is of no use.
fn reusable(
    name: &str,
    token: Option<&Token<'_>>,
    file: &Path,
) -> anyhow::Result<Result<Credential, String>> {
    let Some(credential) = Credential::load(file)? else {
        return Ok(Err(format!("there is no certificate of this node in {}", file.display())));
    };
    let Ok(svid) = credential.decode() else {
        return Ok(Err(format!("{} is damaged", file.display())));
    };
    if !credential.is_valid(SystemTime::now()) {
        return Ok(Err(format!(
            "the certificate of this node in {} has expired by this host's clock",
            file.display()
        )));
    }
    if svid.identity().subject() != Subject::Node(name) {
        return Ok(Err(format!("{} is for {}, not for `{name}`", file.display(), svid.identity())));
    }
    if let Some(token) = token
        && !credential.comes_with(token.root)
    {
        return Ok(Err(format!("the certificate of this node in {} is of another mesh", file.display())));
    }
    Ok(Ok(credential))
}

/// What was given is no join token.
#[derive(Debug, thiserror::Error)]
#[error(
    "this is no join token: one has three parts with dots between them, the first of them 64 hexadecimal digits; was it \
     copied as a whole?"
)]
pub struct MalformedToken;

/// `<hex SHA-256 of the root certificate's DER>.<id>.<secret>`
struct Token<'a> {
    text: &'a str,
    /// No secret.
    id: &'a str,
    root: Fingerprint,
}

impl<'a> Token<'a> {
    fn parse(text: &'a str) -> Result<Self, MalformedToken> {
        let text = text.trim();
        let root = text.split_once('.').and_then(|(root, rest)| {
            let (id, secret) = rest.split_once('.')?;
            (!id.is_empty() && !secret.is_empty()).then_some((id, decode_fingerprint(root)?))
        });
        let (id, root) = root.ok_or(MalformedToken)?;
        Ok(Self { text, id, root })
    }
}

fn decode_fingerprint(hex: &str) -> Option<Fingerprint> {
    let mut bytes = [0; 32];
    if hex.len() != 64 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    for (byte, digits) in bytes.iter_mut().zip(hex.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(bytes)
}

async fn trade(
    (server, dialer): (&str, Dialer),
    name: &str,
    token: &Token<'_>,
) -> anyhow::Result<Credential> {
    let channel = channel::channel(server, tls::joining(token.root), dialer);
    let mut client = NodeServiceClient::new(channel);
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
    loop {
        let key = KeyRequest::generate()?;
        let request =
            JoinRequest { token: token.text.to_owned(), node: name.to_owned(), csr: key.csr.clone() };
        let why = match timeout(CALL_DEADLINE, client.join(request)).await {
            Ok(Ok(response)) => {
                let response = response.into_inner();
                let domain =
                    TrustDomain::new(&response.trust_domain).context("the server's answer makes no sense")?;
                return key.certified(SpiffeId::node(&domain, name)?, response.certificate);
            }
            Ok(Err(status)) if is_final(&status) => {
                bail!(
                    "the server at {server} refuses this node: {}",
                    channel::explain_status(&status).trim_end_matches('.')
                );
            }
            Ok(Err(status)) => channel::explain_status(&status),
            Err(_) => "no answer".to_owned(),
        };
        if why.contains("join token names") {
            bail!("{server}: {why}");
        }
        tracing::warn!("the server at {server} cannot be reached, this node waits for it: {why}");
        backoff.wait().await;
    }
}

/// Whether asking again cannot help.
fn is_final(status: &tonic::Status) -> bool {
    matches!(
        status.code(),
        Code::InvalidArgument
            | Code::Unauthenticated
            | Code::PermissionDenied
            | Code::NotFound
            | Code::AlreadyExists
            | Code::FailedPrecondition
            | Code::Unimplemented
    )
}

#[cfg(test)]
mod tests;
