//! Joining, certificates, reports. Every call but `Join` needs a node's certificate; what a node may
//! ask for is read from its grant at each call.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use prost::Message;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};
use tulle_model::identity::{SpiffeId, Subject};
use tulle_model::legible::legible_start;
use tulle_model::stamp::Stamp;
use tulle_wire::discovery;
use tulle_wire::node::node_service_server::NodeService;
use tulle_wire::node::{
    Certificate, JoinRequest, JoinResponse, ListServicesRequest, ListServicesResponse, ListedService,
    NodeInfo, NodeReport, ReadKeysRequest, ReadKeysResponse, ReportReply, SignJwtRequest, SignJwtResponse,
    SignRequest, SignResponse,
};

use super::listener::Peer;
use super::{CallingNode, caller, note_refusal};
use crate::audit::{ANONYMOUS, Audit, AuditEntry};
use crate::ca::CaError;
use crate::ca::jwt::{IssuedJwt, JwtAuthority};
use crate::ca::mesh::{Issued, MeshAuthority};
use crate::enrolment::Enrolment;
use crate::fleet::{Fleet, Session};
use crate::flows::Flows;
use crate::key_sets::KeySets;
use crate::metrics::Metrics;
use crate::publication::Publication;

/// How many signatures are made at once; more wait.
const SIGNATURES: usize = 4;
/// How many ports the Services of a list have at most, whatever is asked for.
const MOST_LISTED_PORTS: usize = 1000;
/// How long the first report of a stream may take.
const FIRST_REPORT_TIMEOUT: Duration = Duration::from_secs(10);

/// The node service.
#[derive(Clone)]
pub struct NodeApi {
    pub authority: Arc<MeshAuthority>,
    pub tokens: Arc<JwtAuthority>,
    pub enrolment: Enrolment,
    pub fleet: Arc<Fleet>,
    pub key_sets: KeySets,
    pub publication: Arc<Publication>,
    pub flows: Arc<Flows>,
    pub metrics: Arc<Metrics>,
    pub audit: Audit,
    pub stop: CancellationToken,
    signatures: Arc<Semaphore>,
}

impl NodeApi {
    pub fn new(
        (authority, tokens): (Arc<MeshAuthority>, Arc<JwtAuthority>),
        enrolment: Enrolment,
        fleet: Arc<Fleet>,
        (key_sets, publication, flows): (KeySets, Arc<Publication>, Arc<Flows>),
        metrics: Arc<Metrics>,
        audit: Audit,
        stop: CancellationToken,
    ) -> Self {
        let signatures = Arc::new(Semaphore::new(SIGNATURES));
        Self {
            authority,
            tokens,
            enrolment,
            fleet,
            key_sets,
            publication,
            flows,
            metrics,
            audit,
            stop,
            signatures,
        }
    }

    async fn sign_for(&self, identity: SpiffeId, stamp: Stamp, csr: Bytes) -> Result<Issued, Status> {
        let _turn = self.signatures.acquire().await.map_err(|e| Status::internal(e.to_string()))?;
        let authority = self.authority.clone();
        let sign = move || authority.sign(&identity, stamp, &csr, SystemTime::now());
        let signed = tokio::task::spawn_blocking(sign);
        signed.await.map_err(|e| Status::internal(e.to_string()))?.map_err(refused)
    }

    fn certificate(&self, issued: Issued) -> Certificate {
        let bytes = |ders: Vec<rustls_pki_types::CertificateDer<'static>>| {
            ders.into_iter().map(|der| Bytes::copy_from_slice(&der)).collect()
        };
        Certificate {
            chain: bytes(issued.chain),
            roots: bytes(issued.roots),
            not_before: issued.not_before,
            not_after: issued.not_after,
            jwt_keys: self.tokens.set(),
        }
    }

    /// The identity that a node asks for, where it may: one of its grant's, for the process that bears the node's name; and
    /// the stamp of what is signed for it.
    async fn permit(&self, calling: &CallingNode, asked: &Asked) -> Result<(SpiffeId, Stamp), Status> {
        let node = &*calling.name;
        let identity: SpiffeId = asked
            .identity
            .parse()
            .map_err(|e| Status::invalid_argument(format!("the identity that is asked for: {e}")))?;
        let grant = self.enrolment.require_grant(node, calling.stamp).await?;
        self.fleet
            .check_bearer(node, &asked.instance, &asked.boot_id, &grant.boot_id)
            .inspect_err(|_| self.metrics.signatures_refused.add(1))?;
        let permitted = identity.trust_domain() == *self.authority.trust_domain()
            && match identity.subject() {
                Subject::Workload { namespace, service_account } => {
                    grant.permits(namespace, service_account)
                        || asked.what == What::Certificate
                            && self.flows.may_call_as(node, &grant.flows, namespace, service_account)
                }
                Subject::Node(name) => asked.what == What::Certificate && name == node,
                Subject::Server => false,
            };
        if permitted {
            return Ok((identity, grant.stamp(node)));
        }
        self.metrics.signatures_refused.add(1);
        let own = match asked.what {
            What::Certificate => " and for its own identity",
            What::Token => "",
        };
        let message = format!(
            "the node `{node}` may not ask for `{identity}`; it may ask for {} (namespace/service-account, \
             in the trust domain `{}`){own}",
            grant.describe(),
            self.authority.trust_domain()
        );
        tracing::warn!(%node, "{message}");
        Err(Status::permission_denied(message))
    }

    async fn try_sign(
        &self,
        calling: &CallingNode,
        csr: Bytes,
        asked: &Asked,
    ) -> Result<SignResponse, Status> {
        let (identity, stamp) = self.permit(calling, asked).await?;
        let node = &*calling.name;
        let own = identity.subject() == Subject::Node(node);
        let issued = self.sign_for(identity, stamp, csr).await?;
        // It may have been revoked while it waited for its turn.
        self.enrolment.require_grant(node, Some(stamp)).await?;
        if own {
            let expires = issued.not_after.try_into().unwrap_or(0);
            self.enrolment.certified(node, expires, SystemTime::now()).await?;
        }
        Ok(SignResponse { certificate: Some(self.certificate(issued)) })
    }

    async fn try_sign_jwt(
        &self,
        calling: &CallingNode,
        audiences: &[String],
        asked: &Asked,
    ) -> Result<SignJwtResponse, Status> {
        let (identity, _) = self.permit(calling, asked).await?;
        let _turn = self.signatures.acquire().await.map_err(|e| Status::internal(e.to_string()))?;
        // It may have been revoked while it waited for its turn.
        self.enrolment.require_grant(&calling.name, calling.stamp).await?;
        let issued = self.tokens.sign(&identity, audiences, SystemTime::now()).map_err(refused)?;
        let IssuedJwt { token, issued_at, expires_at } = issued;
        Ok(SignJwtResponse { token, issued_at, expires_at, jwt_keys: self.tokens.set() })
    }

    async fn try_join(&self, request: JoinRequest) -> Result<JoinResponse, Status> {
        let now = SystemTime::now();
        let admission = self.enrolment.check(&request.token, &request.node, now).await?;
        let domain = self.authority.trust_domain();
        let identity = SpiffeId::node(domain, &request.node)
            .map_err(|e| Status::invalid_argument(format!("the node's name: {e}")))?;
        // A request that cannot be signed does not use the token up.
        let issued = self.sign_for(identity, admission.stamp, request.csr).await?;
        let expires = issued.not_after.try_into().unwrap_or(0);
        let grant = self.enrolment.admit(admission, expires, now).await?;
        self.flows.joined(&request.node);
        let flows = grant.flows.join(", ");
        tracing::info!(node = request.node, identities = grant.describe(), flows, "a node has joined");
        Ok(JoinResponse { certificate: Some(self.certificate(issued)), trust_domain: domain.to_string() })
    }
}

#[tonic::async_trait]
impl NodeService for NodeApi {
    type ReportStream = ReceiverStream<Result<ReportReply, Status>>;

    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinResponse>, Status> {
        let address = request.extensions().get::<Peer>().map(|peer| peer.address);
        let request = request.into_inner();
        let node: String = request.node.chars().take(253).collect();
        match self.try_join(request).await {
            Ok(response) => {
                self.metrics.joins.add(1);
                Ok(Response::new(response))
            }
            Err(status) => {
                self.metrics.joins_refused.add(1);
                tracing::warn!(node, peer = ?address, "a node may not join: {}", status.message());
                let (object, reason) = (format!("nodes/{node}"), status.message().to_owned());
                self.audit.note(AuditEntry::of_peer(ANONYMOUS.to_owned(), "join", object, reason));
                Err(status)
            }
        }
    }

    async fn sign(&self, request: Request<SignRequest>) -> Result<Response<SignResponse>, Status> {
        let calling = caller(&request, "sign", &self.audit)?;
        let SignRequest { identity, csr, instance, boot_id } = request.into_inner();
        let asked = Asked { what: What::Certificate, identity, instance, boot_id };
        let signed = self.try_sign(&calling, csr, &asked).await;
        let noted =
            |status: &Status| note_refusal(&self.audit, &calling.name, "sign", &asked.identity, status);
        signed.inspect_err(noted).map(Response::new)
    }

    async fn sign_jwt(&self, request: Request<SignJwtRequest>) -> Result<Response<SignJwtResponse>, Status> {
        let calling = caller(&request, "sign", &self.audit)?;
        let SignJwtRequest { identity, audiences, instance, boot_id } = request.into_inner();
        let asked = Asked { what: What::Token, identity, instance, boot_id };
        let signed = self.try_sign_jwt(&calling, &audiences, &asked).await;
        let noted =
            |status: &Status| note_refusal(&self.audit, &calling.name, "sign", &asked.identity, status);
        signed.inspect_err(noted).map(Response::new)
    }

    /// The answer is the same whatever is there: which keys policies have that are none of the node's is not its business.
    async fn read_keys(
        &self,
        request: Request<ReadKeysRequest>,
    ) -> Result<Response<ReadKeysResponse>, Status> {
        let CallingNode { name: node, stamp, .. } = caller(&request, "readkeys", &self.audit)?;
        let source = request.into_inner().source;
        let object = || format!("keysets/{}", legible_start(&source, 500));
        self.enrolment.require_grant(&node, stamp).await.map_err(Status::from).inspect_err(|status| {
            note_refusal(&self.audit, &node, "readkeys", &object(), status);
        })?;
        if self.publication.reads_keys(&node, &source) {
            self.key_sets.read_anew(&source);
        } else {
            let reason = "no policy of a workload that the node runs has keys from there".to_owned();
            self.audit.note(AuditEntry::of_node(&node, "readkeys", object(), reason));
        }
        Ok(Response::new(ReadKeysResponse {}))
    }

    async fn list_services(
        &self,
        request: Request<ListServicesRequest>,
    ) -> Result<Response<ListServicesResponse>, Status> {
        let CallingNode { name: node, stamp, .. } = caller(&request, "list", &self.audit)?;
        let ListServicesRequest { namespace, most_ports } = request.into_inner();
        let permitted = match self.enrolment.require_grant(&node, stamp).await {
            Ok(grant) if grant.permits_some_of(&namespace) => Ok(()),
            Ok(_) => Err(Status::permission_denied(format!(
                "the node may have no identity of the namespace {}",
                legible_start(&namespace, 253)
            ))),
            Err(error) => Err(error.into()),
        };
        permitted.inspect_err(|status| {
            let object = format!("services/{}", legible_start(&namespace, 253));
            note_refusal(&self.audit, &node, "list", &object, status);
        })?;
        let most = MOST_LISTED_PORTS.min(usize::try_from(most_ports).unwrap_or(usize::MAX));
        Ok(Response::new(listed(self.publication.services_of(&namespace), most)))
    }

    async fn report(
        &self,
        request: Request<Streaming<NodeReport>>,
    ) -> Result<Response<Self::ReportStream>, Status> {
        let calling = caller(&request, "report", &self.audit)?;
        let peer = request.extensions().get::<Peer>().map(|peer| peer.address.to_string());
        let peer = peer.unwrap_or_default();
        let inbound = request.into_inner();
        let (outbound, replies) = mpsc::channel(4);
        let (fleet, stop, audit) = (self.fleet.clone(), self.stop.clone(), self.audit.clone());
        let publication = self.publication.clone();
        tokio::spawn(async move {
            let reporting = publication.reporting(&calling.name);
            let end = tokio::select! {
                end = take_reports(&calling, peer, inbound, &outbound, &fleet) => end,
                () = stop.cancelled() => Err(Status::unavailable("the server stops")),
            };
            drop(reporting);
            if let Err(status) = end {
                let node = &calling.name;
                tracing::info!(%node, "report stream ended: {}", status.message());
                note_refusal(&audit, node, "report", &format!("nodes/{node}"), &status);
                let _ = tokio::time::timeout(Duration::from_secs(1), outbound.send(Err(status))).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(replies)))
    }
}

async fn take_reports(
    calling: &CallingNode,
    peer: String,
    mut inbound: Streaming<NodeReport>,
    outbound: &mpsc::Sender<Result<ReportReply, Status>>,
    fleet: &Arc<Fleet>,
) -> Result<(), Status> {
    let CallingNode { name: node, stamp, expires } = calling;
    let first = tokio::time::timeout(FIRST_REPORT_TIMEOUT, inbound.message())
        .await
        .map_err(|_| Status::deadline_exceeded("no report came"))??;
    let Some(first) = first else { return Ok(()) };
    let info = info_of(node, &first)?;
    let session = tokio::select! {
        session = fleet.open(node, *stamp, info, peer, outbound.clone()) => session?,
        () = outbound.closed() => return Ok(()),
    };
    let end = pump(first, inbound, &session, outbound, *expires).await;
    session.close().await;
    end
}

/// What a node says of itself with the first report of a stream.
fn info_of(node: &str, first: &NodeReport) -> Result<NodeInfo, Status> {
    let Some(info) = first.info.clone() else {
        return Err(Status::invalid_argument("the first report of a stream must have `info`"));
    };
    if info.name != node {
        return Err(Status::permission_denied(format!(
            "the certificate is the node `{node}`'s, and the report is of `{}`",
            legible_start(&info.name, 253)
        )));
    }
    if info.link_address.parse::<SocketAddr>().is_err() {
        return Err(Status::invalid_argument(format!(
            "the link address `{}` is not of the form address:port",
            legible_start(&info.link_address, 100)
        )));
    }
    Ok(info)
}

async fn pump(
    first: NodeReport,
    mut inbound: Streaming<NodeReport>,
    session: &Session,
    outbound: &mpsc::Sender<Result<ReportReply, Status>>,
    expires: Instant,
) -> Result<(), Status> {
    session.report(first).await?;
    let expiry = tokio::time::sleep_until(expires);
    tokio::pin!(expiry);
    loop {
        tokio::select! {
            message = inbound.message() => match message? {
                Some(report) => session.report(report).await?,
                None => return Ok(()),
            },
            // The reply stream is gone: the client cancelled, or a newer stream replaced this one.
            () = outbound.closed() => return Ok(()),
            () = &mut expiry => return Err(Status::unauthenticated(
                "the node's certificate has expired; reconnect with a new one")),
        }
    }
}

fn refused(error: CaError) -> Status {
    match error {
        CaError::Request(problem) => Status::invalid_argument(problem),
        error => Status::internal(error.to_string()),
    }
}

/// What a node wants to have signed, for whom, and which process of it says so.
struct Asked {
    what: What,
    identity: String,
    instance: String,
    boot_id: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    Certificate,
    Token,
}

/// The Services that have ports, as many as have no more of them than that.
fn listed(services: BTreeMap<String, Bytes>, most_ports: usize) -> ListServicesResponse {
    let mut list = ListServicesResponse::default();
    let mut sum = 0;
    for (name, body) in services {
        let ports = discovery::Service::decode(body).map(|service| service.ports).unwrap_or_default();
        if ports.is_empty() {
            continue;
        }
        sum += ports.len();
        if sum > most_ports {
            list.left_out += 1;
            continue;
        }
        let ports = ports.iter().map(|port| port.number).collect();
        list.services.push(ListedService { name, ports });
    }
    list
}

#[cfg(test)]
mod tests {
    use tulle_model::identity::TrustDomain;

    use super::*;
    use crate::access::Access;
    use crate::ca::seal::MasterKey;
    use crate::enrolment::TokenRequest;
    use crate::events::Events;
    use crate::fleet::Leases;
    use crate::flows::{KnownFlows, RunBook, RunBounds, Seal};
    use crate::objects::Objects;
    use crate::store::Store;

    async fn api(home: &std::path::Path) -> NodeApi {
        let master = MasterKey::open_or_make(&home.join("master.key")).unwrap();
        let domain = TrustDomain::new("mesh.local").unwrap();
        let now = SystemTime::now();
        let authority = MeshAuthority::open(&home.join("ca"), master, &domain, None, true, now).unwrap();
        let master = MasterKey::open(&home.join("master.key")).unwrap();
        let tokens = JwtAuthority::open(&home.join("ca"), master, &domain, now).unwrap();
        let store = Store::in_memory();
        let objects = Objects::open(store.clone()).await.unwrap();
        let enrolment = Enrolment::new(store.clone(), authority.root_fingerprint());
        let events = Events::new(objects.clone());
        let (leases, stop) = (Leases::default(), CancellationToken::new());
        let audit = Audit::open(&home.join("audit")).unwrap();
        let writers = (events, audit.clone());
        let access = Access::open(objects.clone(), store.clone()).await.unwrap();
        let known = KnownFlows::open(objects.clone()).await.unwrap();
        let book = RunBook::new(store.clone(), Seal::new(b"a master key"), RunBounds::default());
        let flows =
            Flows::start(book, known.clone(), objects.clone(), access, leases.flow_lease).await.unwrap();
        let fleet = Fleet::start(
            objects,
            store,
            (enrolment.clone(), known),
            writers,
            Arc::default(),
            leases,
            stop.clone(),
        )
        .await
        .unwrap();
        let (key_sets, _) = KeySets::new(home.join("key-sets.json"));
        let authorities = (authority.into(), tokens.into());
        let told = (key_sets, Publication::new(), flows);
        NodeApi::new(authorities, enrolment, fleet, told, Arc::default(), audit, stop)
    }

    async fn join(api: &NodeApi, node: &str) {
        let request = TokenRequest {
            identities: vec!["shop/*".to_owned()],
            flows: Vec::new(),
            ttl: Duration::from_secs(60),
            node: None,
            replace: false,
        };
        let token = api.enrolment.create_token(request, SystemTime::now()).await.unwrap().text;
        let request = JoinRequest { token, node: node.to_owned(), csr: csr() };
        api.join(Request::new(request)).await.unwrap();
    }

    fn csr() -> Bytes {
        let key = rcgen::KeyPair::generate().unwrap();
        rcgen::CertificateParams::default().serialize_request(&key).unwrap().der().to_vec().into()
    }

    fn by(node: &str, identity: &str) -> Request<SignRequest> {
        let request = SignRequest { identity: identity.to_owned(), csr: csr(), ..SignRequest::default() };
        let mut request = Request::new(request);
        let peer = Peer {
            address: ([127, 0, 0, 1], 1).into(),
            identity: Some(SpiffeId::node(&TrustDomain::new("mesh.local").unwrap(), node).unwrap()),
            stamp: None,
            expires: Instant::now() + Duration::from_secs(60),
        };
        request.extensions_mut().insert(peer);
        request
    }

    #[tokio::test]
    async fn a_node_is_certified_for_itself_and_what_its_token_names() {
        let home = tempfile::tempdir().unwrap();
        let api = api(home.path()).await;
        join(&api, "n1").await;
        join(&api, "n2").await;
        let domain = TrustDomain::new("mesh.local").unwrap();
        let other = TrustDomain::new("other.local").unwrap();
        for (identity, good) in [
            (SpiffeId::node(&domain, "n1").unwrap(), true),
            (SpiffeId::workload(&domain, "shop", "cart").unwrap(), true),
            (SpiffeId::workload(&domain, "bank", "cart").unwrap(), false),
            (SpiffeId::node(&domain, "n2").unwrap(), false),
            (SpiffeId::server(&domain), false),
            (SpiffeId::node(&other, "n1").unwrap(), false),
            (SpiffeId::workload(&other, "shop", "cart").unwrap(), false),
        ] {
            let signed = api.sign(by("n1", identity.as_str())).await;
            if let Ok(signed) = &signed {
                let certificate = signed.get_ref().certificate.as_ref().unwrap();
                let leaf = rustls_pki_types::CertificateDer::from(certificate.chain[0].to_vec());
                let read = tulle_identity::Certificate::read(&leaf).unwrap();
                assert_eq!(read.identity.unwrap(), identity);
                let end = (read.not_before, read.not_after);
                assert_eq!((certificate.not_before, certificate.not_after), end);
                assert_eq!(certificate.roots.len(), 1);
            }
            let code = signed.err().map(|status| status.code());
            assert_eq!(code, (!good).then_some(tonic::Code::PermissionDenied), "{identity}");
            // A node needs no token of its own.
            let good = good && matches!(identity.subject(), Subject::Workload { .. });
            let signed = api.sign_jwt(token_by("n1", &identity, &["a"])).await;
            let code = signed.err().map(|status| status.code());
            assert_eq!(code, (!good).then_some(tonic::Code::PermissionDenied), "a token of {identity}");
        }
    }

    fn token_by(node: &str, identity: &SpiffeId, audiences: &[&str]) -> Request<SignJwtRequest> {
        by(node, "").map(|_| SignJwtRequest {
            identity: identity.to_string(),
            audiences: audiences.iter().map(|&a| a.to_owned()).collect(),
            ..SignJwtRequest::default()
        })
    }

    #[tokio::test]
    async fn a_token_is_good_by_the_keys_that_come_with_certificates() {
        let home = tempfile::tempdir().unwrap();
        let api = api(home.path()).await;
        join(&api, "n1").await;
        let domain = TrustDomain::new("mesh.local").unwrap();
        let cart = SpiffeId::workload(&domain, "shop", "cart").unwrap();
        let signed = api.sign_jwt(token_by("n1", &cart, &["a"])).await.unwrap().into_inner();
        let certificate = api.sign(by("n1", cart.as_str())).await.unwrap().into_inner().certificate.unwrap();
        assert_eq!(certificate.jwt_keys, signed.jwt_keys);
        let keys = tulle_identity::jwt_svid::JwtKeys::read(&signed.jwt_keys).unwrap();
        let checked = keys.check(&signed.token, "a", &domain, SystemTime::now()).unwrap();
        assert_eq!(checked.identity, cart);
        assert_eq!(signed.expires_at - signed.issued_at, 300);
        for (node, audiences, code) in [
            ("n1", &[][..], tonic::Code::InvalidArgument),
            ("n1", &[""], tonic::Code::InvalidArgument),
            ("n2", &["a"], tonic::Code::PermissionDenied),
        ] {
            let refused = api.sign_jwt(token_by(node, &cart, audiences)).await.err().unwrap();
            assert_eq!(refused.code(), code, "{node} {audiences:?}: {}", refused.message());
        }
    }

    #[test]
    fn a_node_reports_as_itself_and_says_where_it_is_reached() {
        let report = |name: &str, link_address: &str| NodeReport {
            info: Some(NodeInfo {
                name: name.to_owned(),
                link_address: link_address.to_owned(),
                ..NodeInfo::default()
            }),
            ..NodeReport::default()
        };
        for (report, expected) in [
            (report("n1", "10.0.0.1:15008"), None),
            (report("n1", "[fd00::1]:15008"), None),
            (NodeReport::default(), Some(tonic::Code::InvalidArgument)),
            (report("n2", "10.0.0.1:15008"), Some(tonic::Code::PermissionDenied)),
            (report("", "10.0.0.1:15008"), Some(tonic::Code::PermissionDenied)),
            (report("n1", "10.0.0.1"), Some(tonic::Code::InvalidArgument)),
            (report("n1", ""), Some(tonic::Code::InvalidArgument)),
        ] {
            let code = info_of("n1", &report).err().map(|status| status.code());
            assert_eq!(code, expected, "{report:?}");
        }
        // What it says of itself forges no line of the log.
        for report in [report("n2\nINFO all is well", "10.0.0.1:1"), report("n1", "\nINFO all is well")] {
            let status = info_of("n1", &report).unwrap_err();
            assert!(!status.message().contains('\n'), "{status}");
        }
    }

    #[tokio::test]
    async fn a_node_that_is_revoked_while_it_waits_for_a_signature_gets_none() {
        let home = tempfile::tempdir().unwrap();
        let api = api(home.path()).await;
        join(&api, "n1").await;
        for identity in ["spiffe://mesh.local/ns/shop/sa/cart", "spiffe://mesh.local/node/n1"] {
            let busy = api.signatures.acquire_many(SIGNATURES as u32).await.unwrap();
            let asking = api.sign(by("n1", identity));
            tokio::pin!(asking);
            assert!(futures_util::poll!(asking.as_mut()).is_pending());
            assert!(api.enrolment.revoke("n1", SystemTime::now()).await.unwrap());
            drop(busy);
            let code = asking.await.err().map(|status| status.code());
            assert_eq!(code, Some(tonic::Code::PermissionDenied), "{identity}");
            join(&api, "n1").await;
        }
    }
}
