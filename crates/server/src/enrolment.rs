//! Who may join, and which identities each node may ask for.
//!
//! A join token is `<SHA-256 of the mesh's root>.<id>.<secret>`. It works once, for minutes, and
//! gives the node that redeems it a *grant*: the identities named in the token. The store keeps the
//! token's hash until it is redeemed or expires, and the grant from then on. A name that a live node
//! bears can only be taken with a token that names it.

use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use tonic::Status;
use tulle_model::legible::legible_start;
use tulle_model::name::{dns_label_problem, dns_subdomain_problem};
use tulle_model::stamp::Stamp;

use crate::ca::mesh::NODE_LIFETIME;
use crate::ca::seal::{hex, unhex};
use crate::revocations::Revocations;
use crate::store::{Precondition, Store, StoreError, Stored};
use crate::timestamp::seconds;
use crate::token_secret;

/// Outside of the API's keys: no API request reaches these.
const TOKENS: &str = "/tulle/tokens/";
/// The grants of nodes, by name.
pub(crate) const NODES: &str = "/tulle/nodes/";
/// How many tokens may be outstanding.
const TOKENS_LIMIT: usize = 10_000;
/// How many identities one token may name.
const IDENTITIES_LIMIT: usize = 1000;
/// The longest life of a token.
const TTL_LIMIT: Duration = Duration::from_secs(24 * 3600);
/// By how many seconds the clock may have been set back since a token was made: set back further, it would
/// live for longer than it was made for.
const CLOCK_GRACE: u64 = 300;
/// How many joinings of one name within a day are told apart.
const JOININGS: usize = 32;

/// Why a token is not made or not taken, or a node unknown.
#[derive(Debug, thiserror::Error)]
pub enum EnrolmentError {
    /// The request itself is wrong; the text says what is expected.
    #[error("{0}")]
    Invalid(String),
    /// The token does not open the door; the text says why.
    #[error("{0}")]
    Refused(String),
    #[error("the server's store failed: {0}")]
    Store(#[from] StoreError),
}

impl EnrolmentError {
    /// Of a node that has a certificate, and may nothing: its grant was revoked, or is of another store.
    pub(crate) fn not_known(node: &str) -> Self {
        Self::Refused(format!("the node `{node}` is not known here any more; join again with a new token"))
    }
}

/// What the node is told.
impl From<EnrolmentError> for Status {
    fn from(error: EnrolmentError) -> Self {
        let message = error.to_string();
        match error {
            EnrolmentError::Invalid(_) => Self::invalid_argument(message),
            EnrolmentError::Refused(_) => Self::permission_denied(message),
            EnrolmentError::Store(_) => Self::unavailable(message),
        }
    }
}

/// What a token is asked for.
#[derive(Debug, Clone)]
pub struct TokenRequest {
    /// `namespace/service-account`, `namespace/*`, or `*` for all.
    pub identities: Vec<String>,
    /// The namespaces whose Flows the node runs, or `*` for all.
    pub flows: Vec<String>,
    pub ttl: Duration,
    /// The only node that may redeem it; any node with a name that is free where none is given.
    pub node: Option<String>,
    /// Whether a node that bears its name already may be replaced although `node` does not name it.
    pub replace: bool,
}

/// A token for a node to join with.
#[derive(Debug, Clone)]
pub struct JoinToken {
    /// A secret: whoever has it may join.
    pub text: String,
    pub expires: SystemTime,
}

#[derive(Serialize, Deserialize)]
struct KeptToken {
    secret_sha256: String,
    identities: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    flows: Vec<String>,
    node: Option<String>,
    replace: bool,
    /// Seconds since the epoch, as `expires`.
    #[serde(default)]
    made: u64,
    expires: u64,
}

impl KeptToken {
    /// Why it is not good at `now`, seconds since the epoch.
    fn problem(&self, now: u64) -> Option<&'static str> {
        if now >= self.expires {
            Some("the join token has expired; make a new one with `tulle token create`")
        } else if now.saturating_add(CLOCK_GRACE) < self.made {
            Some(
                "the join token was made later than it is now by the server's clock, which was set back; make \
                 a new one with `tulle token create`",
            )
        } else {
            None
        }
    }
}

/// What a node may ask for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// `namespace/service-account`, `namespace/*`, or `*`.
    pub identities: Vec<String>,
    /// The namespaces whose Flows it runs, or `*`. A grant that an older server wrote has none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub flows: Vec<String>,
    /// Seconds since the epoch, as `certificate_expires`.
    pub joined: u64,
    /// When the last certificate that the node got for itself expires.
    pub certificate_expires: u64,
    /// The boot of the host that the node was last heard from; empty where it was not yet.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub boot_id: String,
    /// The joinings from which certificates may still be good, the present one first. A grant that an older server wrote has
    /// none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    joinings: Vec<Joining>,
}

/// By what the certificates of one joining are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Joining {
    stamp: u64,
    /// Seconds since the epoch: when all that was signed for the joining before has expired.
    since: u64,
}

impl Grant {
    /// Whether the node may have the identity of that service account.
    pub fn permits(&self, namespace: &str, service_account: &str) -> bool {
        self.identities.iter().any(|pattern| match pattern.split_once('/') {
            None => pattern == "*",
            Some((n, s)) => n == namespace && (s == "*" || s == service_account),
        })
    }

    /// Whether the node may run the Flows of a namespace.
    pub fn runs_flows_of(&self, namespace: &str) -> bool {
        self.flows.iter().any(|of| of == "*" || of == namespace)
    }

    /// Whether the node may have the identity of some service account of that namespace.
    pub fn permits_some_of(&self, namespace: &str) -> bool {
        self.identities.iter().any(|pattern| match pattern.split_once('/') {
            None => pattern == "*",
            Some((of, _)) => of == namespace,
        })
    }

    /// With what certificates of the node are signed.
    pub fn stamp(&self, node: &str) -> Stamp {
        match self.joinings.first() {
            Some(present) => Stamp(present.stamp),
            // The same at each call, and another than that of other nodes.
            None => {
                let hash = digest(&SHA256, format!("{node} {}", self.joined).as_bytes());
                Stamp(hash.as_ref().first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes)))
            }
        }
    }

    /// With what certificates of the node may have been signed that are still good.
    fn stamps(&self, node: &str) -> Vec<Stamp> {
        let former = self.joinings.iter().skip(1).map(|joining| Stamp(joining.stamp));
        std::iter::once(self.stamp(node)).chain(former).collect()
    }

    /// What to remember of it when the name is joined anew.
    fn former(&self, node: &str, now: u64) -> Vec<Joining> {
        let present = Joining { stamp: self.stamp(node).0, since: now };
        let good = |joining: &Joining| now < joining.since.saturating_add(NODE_LIFETIME.as_secs());
        let former = self.joinings.iter().skip(1).copied().filter(good);
        std::iter::once(present).chain(former).take(JOININGS).collect()
    }

    /// For messages: what may be asked for.
    pub fn describe(&self) -> String {
        if self.identities.iter().any(|i| i == "*") {
            return "any identity".to_owned();
        }
        let shown: Vec<_> = self.identities.iter().take(10).map(String::as_str).collect();
        match self.identities.len() - shown.len() {
            0 if shown.is_empty() => "none of a workload".to_owned(),
            0 => shown.join(", "),
            more => format!("{} and {more} more", shown.join(", ")),
        }
    }
}

/// A token that was checked but not used up yet.
#[derive(Debug)]
pub struct Admission {
    key: String,
    revision: u64,
    node: String,
    /// Who bore the node's name when the token was checked.
    bearer: Precondition,
    /// What the certificates of those who bore it are known by.
    former: Vec<Joining>,
    identities: Vec<String>,
    flows: Vec<String>,
    /// With what the certificates of this joining are signed.
    pub stamp: Stamp,
}

/// What is known of a token that was not used yet. Its secret is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownToken {
    /// The second part of the token.
    pub id: String,
    /// `namespace/service-account`, `namespace/*`, or `*` for all.
    pub identities: Vec<String>,
    /// The namespaces whose Flows the node runs, or `*` for all.
    pub flows: Vec<String>,
    /// The only node that may redeem it.
    pub node: Option<String>,
    /// Seconds since the epoch, as `expires`.
    pub made: u64,
    pub expires: u64,
}

/// Keeps tokens and grants.
#[derive(Clone)]
pub struct Enrolment {
    store: Store,
    fingerprint: String,
    revocations: Revocations,
}

impl Enrolment {
    /// `fingerprint` is that of the mesh's root.
    pub fn new(store: Store, fingerprint: String) -> Self {
        Self { revocations: Revocations::new(store.clone()), store, fingerprint }
    }

    /// Whose certificates count no longer.
    pub fn revocations(&self) -> &Revocations {
        &self.revocations
    }

    /// Makes a token.
    pub async fn create_token(
        &self,
        request: TokenRequest,
        now: SystemTime,
    ) -> Result<JoinToken, EnrolmentError> {
        let invalid = |problem: String| Err(EnrolmentError::Invalid(problem));
        if request.identities.is_empty() || request.identities.len() > IDENTITIES_LIMIT {
            return invalid(format!("identities: 1 to {IDENTITIES_LIMIT} are expected"));
        }
        for identity in &request.identities {
            if let Some(problem) = pattern_problem(identity) {
                return invalid(format!("identities: `{identity}` {problem}"));
            }
        }
        if request.flows.len() > IDENTITIES_LIMIT {
            return invalid(format!("flows: {IDENTITIES_LIMIT} namespaces are expected at most"));
        }
        for namespace in request.flows.iter().filter(|namespace| *namespace != "*") {
            if let Some(problem) = dns_label_problem(namespace) {
                return invalid(format!("flows: `{namespace}` is no namespace: it {problem}"));
            }
        }
        if let Some(node) = &request.node
            && let Some(problem) = node_name_problem(node)
        {
            return invalid(format!("node: `{node}` {problem}"));
        }
        if request.ttl.is_zero() || request.ttl > TTL_LIMIT {
            return invalid(format!("ttlSeconds: 1 to {} are expected", TTL_LIMIT.as_secs()));
        }
        if self.sweep(now).await? >= TOKENS_LIMIT {
            return invalid(format!(
                "there are {TOKENS_LIMIT} unused tokens already; wait until some expire"
            ));
        }
        let id = hex(&rand::random::<[u8; 8]>());
        let secret = token_secret::new();
        let expires = now + request.ttl;
        let kept = KeptToken {
            secret_sha256: token_secret::hash(&secret),
            identities: request.identities,
            flows: request.flows,
            node: request.node,
            replace: request.replace,
            made: seconds(now),
            expires: seconds(expires),
        };
        self.store.put(&format!("{TOKENS}{id}"), encode(&kept)?, Precondition::Absent).await?;
        Ok(JoinToken { text: format!("{}.{id}.{}", self.fingerprint, hex(&secret)), expires })
    }

    /// Checks that `token` lets `node` in. Nothing is used up before [`Enrolment::admit`].
    pub async fn check(&self, token: &str, node: &str, now: SystemTime) -> Result<Admission, EnrolmentError> {
        let refused = |problem: String| EnrolmentError::Refused(problem);
        if let Some(problem) = node_name_problem(node) {
            let node = legible_start(node, 253);
            return Err(EnrolmentError::Invalid(format!("the node's name `{node}` {problem}")));
        }
        let mut parts = token.trim().split('.');
        let (Some(fingerprint), Some(id), Some(secret), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(refused("the join token is not complete: three parts are expected".to_owned()));
        };
        if fingerprint != self.fingerprint {
            return Err(refused("the join token is for another mesh".to_owned()));
        }
        let unknown = || {
            refused(
                "the join token is not known: it was used already, has expired, or this server never made it; \
                 make a new one with `tulle token create`"
                    .to_owned(),
            )
        };
        let (Some(id), Some(secret)) = (unhex(id).filter(|id| id.len() == 8), unhex(secret)) else {
            return Err(unknown());
        };
        let key = format!("{TOKENS}{}", hex(&id));
        let stored = self.store.get(&key).await?.ok_or_else(unknown)?;
        let kept: KeptToken = decode(&stored.value)?;
        if !token_secret::is_it(&secret, &kept.secret_sha256) {
            return Err(unknown());
        }
        if let Some(problem) = kept.problem(seconds(now)) {
            return Err(refused(problem.to_owned()));
        }
        let bearer = self.store.get(&format!("{NODES}{node}")).await?;
        let grant: Option<Grant> = bearer.as_ref().map(|kept| decode(&kept.value)).transpose()?;
        match &kept.node {
            Some(bound) if bound != node => {
                return Err(refused(format!("the join token is for the node `{bound}`, not for `{node}`")));
            }
            Some(_) => {}
            None => {
                let alive = grant.as_ref().is_some_and(|grant| grant.certificate_expires > seconds(now));
                if alive && !kept.replace {
                    return Err(refused(format!(
                        "a node `{node}` has joined already; choose another name, or make a token that \
                         names it to replace it"
                    )));
                }
            }
        }
        Ok(Admission {
            key,
            revision: stored.revision,
            node: node.to_owned(),
            bearer: bearer.map_or(Precondition::Absent, |kept| Precondition::Revision(kept.revision)),
            former: grant.map(|grant| grant.former(node, seconds(now))).unwrap_or_default(),
            identities: kept.identities,
            flows: kept.flows,
            stamp: Stamp(rand::random()),
        })
    }

    /// Uses the token up and keeps the node's grant. Of several who try at once with one token, or for
    /// one name, one succeeds.
    pub async fn admit(
        &self,
        admission: Admission,
        certificate_expires: u64,
        now: SystemTime,
    ) -> Result<Grant, EnrolmentError> {
        let present = Joining { stamp: admission.stamp.0, since: seconds(now) };
        let grant = Grant {
            identities: admission.identities,
            flows: admission.flows,
            joined: seconds(now),
            certificate_expires,
            boot_id: String::new(),
            joinings: std::iter::once(present).chain(admission.former).collect(),
        };
        let key = format!("{NODES}{}", admission.node);
        // Where the grant cannot be kept, the token stays good.
        let token = (admission.key.as_str(), admission.revision);
        match self.store.put_consuming(&key, encode(&grant)?, admission.bearer, token).await {
            Ok(_) => Ok(grant),
            Err(StoreError::RequirementChanged(_)) => {
                Err(EnrolmentError::Refused("the join token was used already".to_owned()))
            }
            Err(StoreError::Conflict { .. } | StoreError::AlreadyExists(_) | StoreError::NotFound(_)) => {
                Err(EnrolmentError::Refused(match self.store.get(&admission.key).await? {
                    None => "the join token was used already".to_owned(),
                    Some(_) => {
                        format!(
                            "a node `{}` has joined at the same time; choose another name",
                            admission.node
                        )
                    }
                }))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// What a node may ask for; `None` if it never joined.
    pub async fn grant(&self, node: &str) -> Result<Option<Grant>, EnrolmentError> {
        let stored = self.store.get(&format!("{NODES}{node}")).await?;
        stored.map(|stored| decode(&stored.value)).transpose()
    }

    /// What a node that joined may ask for. A store that cannot be read lets nobody in who may have been revoked: streams that
    /// stand go on, and who is refused goes on as it is configured, and tries again.
    ///
    /// `stamp`: that of the certificate with which it comes. Of a node that was revoked it does not count, though another one has
    /// joined under the name since.
    ///
    /// # Errors
    /// Where it has no grant, was revoked, or the store cannot be read.
    pub(crate) async fn require_grant(
        &self,
        node: &str,
        stamp: Option<Stamp>,
    ) -> Result<Grant, EnrolmentError> {
        let grant = self.grant(node).await?;
        grant
            .filter(|_| !self.revocations.list().includes(stamp))
            .ok_or_else(|| EnrolmentError::not_known(node))
    }

    /// Remembers until when the node's own certificate is good: no longer than one that is made now, though
    /// one was made while the clock was ahead. It would keep the node's name taken.
    pub async fn certified(
        &self,
        node: &str,
        certificate_expires: u64,
        now: SystemTime,
    ) -> Result<(), EnrolmentError> {
        let latest = seconds(now + NODE_LIFETIME);
        self.note(node, |grant| {
            grant.certificate_expires = certificate_expires.max(grant.certificate_expires).min(latest);
        })
        .await
    }

    /// Remembers from which boot of its host a node was last heard.
    pub async fn booted(&self, node: &str, boot_id: &str) -> Result<(), EnrolmentError> {
        self.note(node, |grant| boot_id.clone_into(&mut grant.boot_id)).await
    }

    /// Notes something of a node that has joined, and was not revoked meanwhile.
    async fn note(&self, node: &str, change: impl Fn(&mut Grant)) -> Result<(), EnrolmentError> {
        let key = format!("{NODES}{node}");
        // Several notes at once of one node are rare; the last one counts.
        for _ in 0..5 {
            let Some(stored) = self.store.get(&key).await? else {
                return Err(EnrolmentError::not_known(node));
            };
            let mut grant: Grant = decode(&stored.value)?;
            let before = grant.clone();
            change(&mut grant);
            if grant == before {
                break;
            }
            match self.store.put(&key, encode(&grant)?, Precondition::Revision(stored.revision)).await {
                Err(StoreError::Conflict { .. } | StoreError::NotFound(_)) => {}
                // A node must not lose its certificate over a full disk. All that this costs is that its
                // name can be taken by a new token once the certificate before has expired, and by a clone
                // right after a start of the server.
                Err(
                    error @ (StoreError::Full(_)
                    | StoreError::ReadOnly(_)
                    | StoreError::Reopening
                    | StoreError::Io(_)),
                ) => {
                    tracing::debug!(node, %error, "what is new of a node is not kept");
                    break;
                }
                Err(error) => return Err(error.into()),
                Ok(_) => break,
            }
        }
        Ok(())
    }

    /// The tokens with which a node may still join, the oldest first.
    pub async fn tokens(&self, now: SystemTime) -> Result<Vec<KnownToken>, EnrolmentError> {
        let known = self.kept_tokens().await?.into_iter().filter_map(|(key, stored)| {
            let kept: KeptToken = decode(&stored.value).ok()?;
            let id = key.strip_prefix(TOKENS)?.to_owned();
            let KeptToken { identities, flows, node, made, expires, .. } = kept;
            (seconds(now) < expires).then_some(KnownToken { id, identities, flows, node, made, expires })
        });
        let mut known: Vec<_> = known.collect();
        known.sort_by(|a, b| (a.made, &a.id).cmp(&(b.made, &b.id)));
        Ok(known)
    }

    async fn kept_tokens(&self) -> Result<Vec<(String, Stored)>, StoreError> {
        Ok(self.store.list(TOKENS, None, usize::MAX).await?.items)
    }

    /// Takes a token back: nobody joins with it from now on. Whether there was one.
    pub async fn revoke_token(&self, id: &str) -> Result<bool, EnrolmentError> {
        match unhex(id).filter(|id| id.len() == 8) {
            Some(id) => self.delete(&format!("{TOKENS}{}", hex(&id))).await,
            None => Ok(false),
        }
    }

    /// Takes back what a node may, and the tokens that name it; whether there was anything.
    pub async fn revoke(&self, node: &str, now: SystemTime) -> Result<bool, EnrolmentError> {
        let names_it =
            |value: &[u8]| decode::<KeptToken>(value).is_ok_and(|t| t.node.as_deref() == Some(node));
        for (key, _) in self.kept_tokens().await?.into_iter().filter(|(_, stored)| names_it(&stored.value)) {
            self.delete(&key).await?;
        }
        let key = format!("{NODES}{node}");
        // Who joins or is certified meanwhile is revoked, too.
        for _ in 0..5 {
            let Some(stored) = self.store.get(&key).await? else { return Ok(false) };
            // Before the grant goes: it alone says which they are.
            let grant: Grant = decode(&stored.value)?;
            self.revocations.add(&grant.stamps(node), now).await;
            match self.store.delete(&key, Precondition::Revision(stored.revision)).await {
                Err(StoreError::Conflict { .. }) => {}
                Err(StoreError::NotFound(_)) => return Ok(true),
                Err(error) => return Err(error.into()),
                Ok(_) => return Ok(true),
            }
        }
        self.delete(&key).await
    }

    /// Deletes a key; whether it was there.
    async fn delete(&self, key: &str) -> Result<bool, EnrolmentError> {
        match self.store.delete(key, Precondition::Any).await {
            Ok(_) => Ok(true),
            Err(StoreError::NotFound(_)) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Deletes the tokens that have expired; returns how many are left.
    pub async fn sweep(&self, now: SystemTime) -> Result<usize, EnrolmentError> {
        let mut left = 0;
        for (key, stored) in self.kept_tokens().await? {
            let expired = decode::<KeptToken>(&stored.value).map_or(true, |t| seconds(now) >= t.expires);
            if expired {
                // Someone else may have deleted it.
                let _ = self.store.delete(&key, Precondition::Revision(stored.revision)).await;
            } else {
                left += 1;
            }
        }
        Ok(left)
    }
}

fn pattern_problem(pattern: &str) -> Option<&'static str> {
    if pattern == "*" {
        return None;
    }
    let Some((namespace, account)) = pattern.split_once('/') else {
        return Some("is not of the form namespace/service-account, namespace/* or *");
    };
    dns_label_problem(namespace)
        .or_else(|| if account == "*" { None } else { dns_subdomain_problem(account) })
}

fn node_name_problem(name: &str) -> Option<&'static str> {
    if name.is_empty() { Some("must not be empty") } else { dns_subdomain_problem(name) }
}

fn encode(value: &impl Serialize) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(value).map_err(|e| StoreError::Database(e.to_string()))
}

fn decode<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, EnrolmentError> {
    serde_json::from_slice(bytes).map_err(|e| StoreError::Database(e.to_string()).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(identities: &[&str]) -> TokenRequest {
        TokenRequest {
            identities: identities.iter().map(|&i| i.to_owned()).collect(),
            flows: Vec::new(),
            ttl: Duration::from_secs(60),
            node: None,
            replace: false,
        }
    }

    #[tokio::test]
    async fn a_token_works_once_in_time_for_its_mesh_and_node() {
        let now = SystemTime::now();
        let enrolment = Enrolment::new(Store::in_memory(), "f00d".to_owned());
        let token = enrolment.create_token(request(&["shop/cart"]), now).await.unwrap().text;
        let late =
            enrolment.check(&token, "n1", now + Duration::from_secs(60)).await.unwrap_err().to_string();
        assert!(late.contains("expired"), "{late}");
        let day = Duration::from_secs(24 * 3600);
        let early = enrolment.check(&token, "n1", now - day).await.unwrap_err().to_string();
        assert!(early.contains("set back"), "{early}");
        assert!(enrolment.check(&token, "n1", now - Duration::from_secs(CLOCK_GRACE)).await.is_ok());
        let wrong = format!("{}0", &token[..token.len() - 1]);
        let wrong = if wrong == token { format!("{}1", &token[..token.len() - 1]) } else { wrong };
        assert!(enrolment.check(&wrong, "n1", now).await.is_err());
        assert!(enrolment.check(&token.replace("f00d", "beef"), "n1", now).await.is_err());
        assert!(enrolment.check(&token, "N 1", now).await.is_err());

        let (first, second) = (
            enrolment.check(&token, "n1", now).await.unwrap(),
            enrolment.check(&token, "n2", now).await.unwrap(),
        );
        let grant = enrolment.admit(first, seconds(now) + 100, now).await.unwrap();
        assert!(grant.permits("shop", "cart") && !grant.permits("shop", "till"));
        let twice = enrolment.admit(second, 0, now).await.unwrap_err().to_string();
        assert!(twice.contains("used already"), "{twice}");
        assert_eq!(enrolment.grant("n1").await.unwrap(), Some(grant));
        assert_eq!(enrolment.grant("n2").await.unwrap(), None);

        // Two tokens, one name, at once.
        let (one, two) = (
            enrolment.create_token(request(&["*"]), now).await.unwrap().text,
            enrolment.create_token(request(&["shop/cart"]), now).await.unwrap().text,
        );
        let (one, two) = (
            enrolment.check(&one, "n3", now).await.unwrap(),
            enrolment.check(&two, "n3", now).await.unwrap(),
        );
        enrolment.admit(one, seconds(now) + 100, now).await.unwrap();
        let late = enrolment.admit(two, 0, now).await.unwrap_err().to_string();
        assert!(late.contains("at the same time"), "{late}");
        assert!(enrolment.grant("n3").await.unwrap().unwrap().permits("any", "body"));
        let forged = enrolment.check(&token, "n1\nINFO all is well", now).await.unwrap_err().to_string();
        assert!(!forged.contains('\n'), "{forged}");

        // The name of a live node is taken, unless the token names it.
        let other = enrolment.create_token(request(&["*"]), now).await.unwrap().text;
        assert!(enrolment.check(&other, "n1", now).await.is_err());
        assert!(enrolment.check(&other, "n1", now + Duration::from_secs(59)).await.is_err());
        let named = TokenRequest { node: Some("n1".to_owned()), ..request(&["*"]) };
        let named = enrolment.create_token(named, now).await.unwrap().text;
        assert!(enrolment.check(&named, "n1", now).await.is_ok());
        assert!(enrolment.check(&named, "n2", now).await.is_err());
    }

    #[tokio::test]
    async fn a_clock_that_was_years_ahead_keeps_no_name_taken() {
        let now = SystemTime::now();
        let enrolment = Enrolment::new(Store::in_memory(), "f00d".to_owned());
        let ahead = now + Duration::from_secs(3 * 365 * 24 * 3600);
        let token = enrolment.create_token(request(&["*"]), ahead).await.unwrap().text;
        let admission = enrolment.check(&token, "n1", ahead).await.unwrap();
        enrolment.admit(admission, seconds(ahead + NODE_LIFETIME), ahead).await.unwrap();
        // The clock is right again, and the node renews its certificate.
        enrolment.certified("n1", seconds(now + NODE_LIFETIME), now).await.unwrap();
        let other = enrolment.create_token(request(&["*"]), now + NODE_LIFETIME).await.unwrap().text;
        assert!(enrolment.check(&other, "n1", now + NODE_LIFETIME - Duration::from_secs(9)).await.is_err());
        assert!(enrolment.check(&other, "n1", now + NODE_LIFETIME).await.is_ok());
    }

    #[tokio::test]
    async fn tokens_are_listed_until_they_are_used_revoked_or_expired() {
        let now = SystemTime::now();
        let enrolment = Enrolment::new(Store::in_memory(), "f00d".to_owned());
        let used = enrolment.create_token(request(&["*"]), now).await.unwrap().text;
        let second = now + Duration::from_secs(1);
        let named = TokenRequest { node: Some("n1".to_owned()), ..request(&["shop/cart"]) };
        let revoked = enrolment.create_token(named, second).await.unwrap().text;
        let known = enrolment.tokens(second).await.unwrap();
        let ids: Vec<_> = known.iter().map(|token| token.id.as_str()).collect();
        assert_eq!(ids, [used.split('.').nth(1).unwrap(), revoked.split('.').nth(1).unwrap()]);
        assert_eq!(
            (known[1].identities.as_slice(), known[1].node.as_deref()),
            (&["shop/cart".to_owned()][..], Some("n1"))
        );

        let admission = enrolment.check(&used, "n2", now).await.unwrap();
        enrolment.admit(admission, seconds(now) + 100, now).await.unwrap();
        // One that was checked before it was revoked does not get in either.
        let admission = enrolment.check(&revoked, "n1", now).await.unwrap();
        for wrong in ["", "zz", "../nodes/n2", &revoked] {
            assert!(!enrolment.revoke_token(wrong).await.unwrap(), "{wrong}");
        }
        assert!(enrolment.revoke_token(&known[1].id).await.unwrap());
        assert!(!enrolment.revoke_token(&known[1].id).await.unwrap());
        assert!(enrolment.admit(admission, 0, now).await.is_err());
        assert!(enrolment.check(&revoked, "n1", now).await.is_err());
        assert_eq!(enrolment.tokens(second).await.unwrap(), []);
        enrolment.create_token(request(&["*"]), now).await.unwrap();
        assert_eq!(enrolment.tokens(now + Duration::from_secs(60)).await.unwrap(), []);
    }

    #[tokio::test]
    async fn expired_tokens_are_swept_and_bad_requests_refused() {
        let now = SystemTime::now();
        let enrolment = Enrolment::new(Store::in_memory(), "f00d".to_owned());
        enrolment.create_token(request(&["*"]), now).await.unwrap();
        assert_eq!(enrolment.sweep(now).await.unwrap(), 1);
        assert_eq!(enrolment.sweep(now + Duration::from_secs(61)).await.unwrap(), 0);
        for bad in [&[][..], &["cart"], &["Shop/cart"], &["shop/"], &["shop/a/b"]] {
            assert!(enrolment.create_token(request(bad), now).await.is_err(), "{bad:?}");
        }
    }

    #[tokio::test]
    async fn what_a_token_may_ask_for_is_bounded() {
        let now = SystemTime::now();
        let enrolment = Enrolment::new(Store::in_memory(), "f00d".to_owned());
        let day = Duration::from_secs(24 * 3600);
        let identities = |count| vec!["shop/cart".to_owned(); count];
        for (count, ttl, good) in [
            (1000, Duration::from_secs(1), true),
            (1001, Duration::from_secs(1), false),
            (0, Duration::from_secs(1), false),
            (1, Duration::ZERO, false),
            (1, day, true),
            (1, day + Duration::from_secs(1), false),
        ] {
            let request = TokenRequest { identities: identities(count), ttl, ..request(&[]) };
            let made = enrolment.create_token(request, now).await;
            assert_eq!(made.is_ok(), good, "{count} {ttl:?}");
        }
    }

    #[tokio::test]
    async fn a_node_that_is_revoked_takes_the_tokens_that_name_it_along() {
        let now = SystemTime::now();
        let enrolment = Enrolment::new(Store::in_memory(), "f00d".to_owned());
        let make = async |node: Option<&str>| {
            let request = TokenRequest { node: node.map(str::to_owned), ..request(&["*"]) };
            enrolment.create_token(request, now).await.unwrap().text
        };
        let (first, again, other, any) =
            (make(Some("n1")).await, make(Some("n1")).await, make(Some("n2")).await, make(None).await);
        let admission = enrolment.check(&first, "n1", now).await.unwrap();
        enrolment.admit(admission, seconds(now) + 100, now).await.unwrap();
        assert!(enrolment.revoke("n1", now).await.unwrap());
        assert_eq!(enrolment.grant("n1").await.unwrap(), None);
        assert!(enrolment.check(&again, "n1", now).await.is_err());
        assert!(
            enrolment.check(&other, "n2", now).await.is_ok()
                && enrolment.check(&any, "n3", now).await.is_ok()
        );
        assert!(!enrolment.revoke("n1", now).await.unwrap(), "once");
    }

    #[tokio::test]
    async fn who_joins_after_a_revocation_is_told_from_who_was_revoked() {
        let now = SystemTime::now();
        let enrolment = Enrolment::new(Store::in_memory(), "f00d".to_owned());
        let join = async |now: SystemTime| {
            let request = TokenRequest { node: Some("n1".to_owned()), ..request(&["*"]) };
            let token = enrolment.create_token(request, now).await.unwrap().text;
            let admission = enrolment.check(&token, "n1", now).await.unwrap();
            let stamp = admission.stamp;
            let grant = enrolment.admit(admission, seconds(now) + 100, now).await.unwrap();
            assert_eq!(grant.stamp("n1"), stamp);
            stamp
        };
        let is_known = async |stamp| enrolment.require_grant("n1", Some(stamp)).await.is_ok();
        let (first, second) = (join(now).await, join(now).await);
        assert!(is_known(first).await && is_known(second).await, "joining anew takes nothing back");
        assert!(enrolment.revoke("n1", now).await.unwrap());
        let third = join(now).await;
        for (stamp, known) in [(first, false), (second, false), (third, true)] {
            assert_eq!(is_known(stamp).await, known, "{stamp}");
            assert_eq!(enrolment.revocations().list().includes(Some(stamp)), !known, "{stamp}");
        }
        // What has expired is not named again.
        let late = now + NODE_LIFETIME + Duration::from_secs(1);
        let last = join(late).await;
        assert_eq!(enrolment.grant("n1").await.unwrap().unwrap().stamps("n1"), [last, third]);
        let later = late + NODE_LIFETIME + Duration::from_secs(1);
        let newest = join(later).await;
        assert_eq!(enrolment.grant("n1").await.unwrap().unwrap().stamps("n1"), [newest, last]);
    }

    /// One of before there were stamps has certificates all the same.
    #[test]
    fn an_old_grant_has_a_stamp_of_its_own() {
        let kept = br#"{"identities":["*"],"joined":7,"certificate_expires":9}"#;
        let grant: Grant = decode(kept).unwrap();
        assert_eq!(grant.stamp("n1"), grant.stamp("n1"));
        assert_ne!(grant.stamp("n1"), grant.stamp("n2"));
        assert_ne!(grant.stamp("n1"), Grant { joined: 8, ..grant.clone() }.stamp("n1"));
    }

    /// Runs in a thread of its own, while this one waits.
    fn meanwhile<T: Send>(work: impl Future<Output = T> + Send) -> T {
        let run = || tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(work);
        std::thread::scope(|scope| scope.spawn(run).join().unwrap())
    }

    #[tokio::test]
    async fn a_note_is_kept_beside_another_and_not_of_a_node_that_was_revoked_meanwhile() {
        let now = SystemTime::now();
        let enrolment = Enrolment::new(Store::in_memory(), "f00d".to_owned());
        assert!(enrolment.certified("n1", 1, now).await.is_err(), "it never joined");
        let token = enrolment.create_token(request(&["*"]), now).await.unwrap().text;
        let admission = enrolment.check(&token, "n1", now).await.unwrap();
        enrolment.admit(admission, 1, now).await.unwrap();
        let first = std::cell::Cell::new(true);
        let noted = enrolment.note("n1", |grant| {
            if first.take() {
                meanwhile(enrolment.booted("n1", "b1")).unwrap();
            }
            grant.certificate_expires = 2;
        });
        noted.await.unwrap();
        let grant = enrolment.grant("n1").await.unwrap().unwrap();
        assert_eq!((grant.boot_id.as_str(), grant.certificate_expires), ("b1", 2));
        let revoked = enrolment.note("n1", |grant| {
            assert!(meanwhile(enrolment.revoke("n1", now)).unwrap());
            grant.certificate_expires = 3;
        });
        let error = revoked.await.unwrap_err();
        assert!(matches!(&error, EnrolmentError::Refused(why) if why.contains("join again")), "{error}");
        assert_eq!(enrolment.grant("n1").await.unwrap(), None);
    }

    fn grant_of(identities: Vec<String>) -> Grant {
        Grant {
            identities,
            flows: Vec::new(),
            joined: 0,
            certificate_expires: 0,
            boot_id: String::new(),
            joinings: Vec::new(),
        }
    }

    #[test]
    fn what_a_node_may_ask_for_is_said_in_words() {
        let describe = |identities: &[&str]| {
            let identities = identities.iter().map(|&identity| identity.to_owned()).collect();
            grant_of(identities).describe()
        };
        let many: Vec<_> = (0..12).map(|n| format!("a/{n}")).collect();
        let many: Vec<_> = many.iter().map(String::as_str).collect();
        for (identities, expected) in [
            (&[][..], "none of a workload"),
            (&["*"], "any identity"),
            (&["a/b", "*"], "any identity"),
            (&["a/b"], "a/b"),
            (&many[..10], "a/0, a/1, a/2, a/3, a/4, a/5, a/6, a/7, a/8, a/9"),
            (&many, "a/0, a/1, a/2, a/3, a/4, a/5, a/6, a/7, a/8, a/9 and 2 more"),
        ] {
            assert_eq!(describe(identities), expected);
        }
    }

    #[test]
    fn grants_match_by_namespace_and_account() {
        let grant = |identities: &[&str]| grant_of(identities.iter().map(|&i| i.to_owned()).collect());
        assert!(grant(&["*"]).permits("a", "b"));
        assert!(grant(&["a/*"]).permits("a", "b"));
        assert!(!grant(&["a/*"]).permits("aa", "b"));
        assert!(!grant(&["a/b", "c/d"]).permits("a", "d"));
    }
}
