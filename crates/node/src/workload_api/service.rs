//! The calls of the Workload API (SPIFFE_Workload_API.md, sections 5 to 7).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use tulle_identity::jwt_svid::JwtKeys;
use tulle_model::audience::audience_problem;
use tulle_model::identity::SpiffeId;
use tulle_wire::spiffe::spiffe_workload_api_server::SpiffeWorkloadApi;
use tulle_wire::spiffe::{
    JwtBundlesRequest, JwtBundlesResponse, Jwtsvid, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest,
    ValidateJwtsvidResponse, WitBundlesRequest, WitBundlesResponse, WitsvidRequest, WitsvidResponse,
    X509BundlesRequest, X509BundlesResponse, X509svid, X509svidRequest, X509svidResponse,
};

use super::updates::{Reader, Updates, stream};
use super::{Claimant, Facts, domain_id};
use crate::control::Server;
use crate::control::credential::Credential;
use crate::control::jwt::JwtBundle;
use crate::workloads::{Entitled, Workloads};

/// How long a workload that has just come may wait for its first certificate.
const FIRST_DEADLINE: Duration = Duration::from_secs(10);

/// The API. Requests have passed the check of their header.
pub(super) struct WorkloadApi {
    workloads: Arc<Workloads>,
    bundle: Arc<JwtBundle>,
    server: Server,
    stop: CancellationToken,
}

impl WorkloadApi {
    pub fn new(facts: &Facts, stop: CancellationToken) -> Self {
        let Facts { workloads, bundle, server } = facts;
        Self { workloads: workloads.clone(), bundle: bundle.clone(), server: server.clone(), stop }
    }

    /// What the caller may have. Looking costs some files of `/proc`, which do not wait.
    fn entitled<T>(&self, request: &Request<T>) -> Result<(Claimant, Entitled), Status> {
        let caller = request.extensions().get::<Claimant>().cloned();
        let caller = caller.ok_or_else(|| Status::internal("the connection says nothing of its peer"))?;
        let entitled = caller.entitled(&self.workloads)?;
        Ok((caller, entitled))
    }

    fn reader(&self, caller: Claimant, entitled: Entitled) -> Reader {
        let Entitled { id, present, .. } = entitled;
        Reader { caller, id, present, workloads: self.workloads.clone(), stop: self.stop.clone() }
    }

    /// A stream of what is made of the workload's certificates. `message` is asked for a moment, as their lives end.
    async fn of_credentials<T: Clone + PartialEq + Send + 'static>(
        &self,
        (caller, entitled): (Claimant, Entitled),
        message: fn(&SpiffeId, &Credential) -> Option<T>,
    ) -> Result<Response<Updates<T>>, Status> {
        let (id, server) = (entitled.id.clone(), self.server.clone());
        let mut credentials = entitled.identity.credential();
        let is_good =
            |c: &Option<Arc<Credential>>| c.as_ref().is_some_and(|c| c.is_valid(self.server.clock().now()));
        let waiting = timeout(FIRST_DEADLINE, credentials.wait_for(is_good));
        if !matches!(waiting.await, Ok(Ok(_))) {
            return Err(Status::unavailable(format!("{id} has no certificate that is valid now")));
        }
        // What it wakes up for is looked at anew.
        credentials.mark_changed();
        let made = move |credential: &Credential| {
            credential.is_valid(server.clock().now()).then(|| message(&id, credential)).flatten()
        };
        Ok(Response::new(stream(self.reader(caller, entitled), credentials, made)))
    }

    async fn jwt_keys(&self) -> Result<watch::Receiver<Option<Arc<JwtKeys>>>, Status> {
        let mut keys = self.bundle.keys();
        let known = matches!(timeout(FIRST_DEADLINE, keys.wait_for(Option::is_some)).await, Ok(Ok(_)));
        if known {
            return Ok(keys);
        }
        Err(Status::unavailable("the mesh's server has named no keys of JWT-SVIDs"))
    }
}

#[tonic::async_trait]
impl SpiffeWorkloadApi for WorkloadApi {
    type FetchX509SVIDStream = Updates<X509svidResponse>;
    type FetchX509BundlesStream = Updates<X509BundlesResponse>;
    type FetchJWTBundlesStream = Updates<JwtBundlesResponse>;
    type FetchWITSVIDStream = Updates<WitsvidResponse>;
    type FetchWITBundlesStream = Updates<WitBundlesResponse>;

    async fn fetch_x509svid(
        &self,
        request: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        self.of_credentials(self.entitled(&request)?, x509_svid).await
    }

    async fn fetch_x509_bundles(
        &self,
        request: Request<X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        self.of_credentials(self.entitled(&request)?, x509_bundles).await
    }

    async fn fetch_jwtsvid(
        &self,
        request: Request<JwtsvidRequest>,
    ) -> Result<Response<JwtsvidResponse>, Status> {
        let (_, entitled) = self.entitled(&request)?;
        let JwtsvidRequest { mut audience, spiffe_id } = request.into_inner();
        if let Some(problem) = audience_problem(&audience) {
            return Err(Status::invalid_argument(problem));
        }
        if !spiffe_id.is_empty() {
            let asked: SpiffeId =
                spiffe_id.parse().map_err(|e| Status::invalid_argument(format!("spiffe_id: {e}")))?;
            if asked != entitled.id {
                return Err(Status::permission_denied(format!("this process is `{}`", entitled.id)));
            }
        }
        audience.sort();
        audience.dedup();
        let svid = entitled.identity.tokens().get(&audience).await?;
        let svid = Jwtsvid { spiffe_id: entitled.id.to_string(), svid, hint: String::new() };
        Ok(Response::new(JwtsvidResponse { svids: vec![svid] }))
    }

    async fn fetch_jwt_bundles(
        &self,
        request: Request<JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        let (caller, entitled) = self.entitled(&request)?;
        let domain = domain_id(self.server.trust_domain());
        let message = move |keys: &JwtKeys| {
            let bundles = BTreeMap::from([(domain.clone(), Bytes::copy_from_slice(keys.text()))]);
            Some(JwtBundlesResponse { bundles })
        };
        Ok(Response::new(stream(self.reader(caller, entitled), self.jwt_keys().await?, message)))
    }

    async fn validate_jwtsvid(
        &self,
        request: Request<ValidateJwtsvidRequest>,
    ) -> Result<Response<ValidateJwtsvidResponse>, Status> {
        self.entitled(&request)?;
        let ValidateJwtsvidRequest { audience, svid } = request.into_inner();
        for (name, value) in [("audience", &audience), ("svid", &svid)] {
            if value.is_empty() {
                return Err(Status::invalid_argument(format!("{name} is empty")));
            }
        }
        let keys = self.jwt_keys().await?.borrow().clone();
        let keys = keys.ok_or_else(|| Status::internal("keys that were there are gone"))?;
        let now: SystemTime = self.server.clock().now();
        let checked = keys.check(&svid, &audience, self.server.trust_domain(), now);
        let checked = checked.map_err(|e| Status::invalid_argument(format!("the token is refused: {e}")))?;
        let claims = Some(structure(checked.claims));
        Ok(Response::new(ValidateJwtsvidResponse { spiffe_id: checked.identity.to_string(), claims }))
    }

    async fn fetch_witsvid(
        &self,
        _: Request<WitsvidRequest>,
    ) -> Result<Response<Self::FetchWITSVIDStream>, Status> {
        Err(no_wit())
    }

    async fn fetch_wit_bundles(
        &self,
        _: Request<WitBundlesRequest>,
    ) -> Result<Response<Self::FetchWITBundlesStream>, Status> {
        Err(no_wit())
    }
}

fn no_wit() -> Status {
    Status::unimplemented("WIT-SVIDs are not issued here")
}

fn x509_svid(id: &SpiffeId, credential: &Credential) -> Option<X509svidResponse> {
    let [chain, key, roots] = credential.to_der().ok()?;
    let svid = X509svid {
        spiffe_id: id.to_string(),
        x509_svid: chain.into(),
        x509_svid_key: key.into(),
        bundle: roots.into(),
        hint: String::new(),
    };
    Some(X509svidResponse { svids: vec![svid], ..X509svidResponse::default() })
}

fn x509_bundles(id: &SpiffeId, credential: &Credential) -> Option<X509BundlesResponse> {
    let [_, _, roots] = credential.to_der().ok()?;
    let bundles = BTreeMap::from([(domain_id(&id.trust_domain()), roots.into())]);
    Some(X509BundlesResponse { crl: Vec::new(), bundles })
}

/// Claims in the form of protobuf (google/protobuf/struct.proto).
fn structure(claims: serde_json::Map<String, serde_json::Value>) -> Struct {
    Struct { fields: claims.into_iter().map(|(name, value)| (name, protobuf(value))).collect() }
}

fn protobuf(value: serde_json::Value) -> Value {
    use serde_json::Value as Json;
    let kind = match value {
        Json::Null => Kind::NullValue(0),
        Json::Bool(value) => Kind::BoolValue(value),
        Json::Number(value) => Kind::NumberValue(value.as_f64().unwrap_or_default()),
        Json::String(value) => Kind::StringValue(value),
        Json::Array(values) => {
            Kind::ListValue(ListValue { values: values.into_iter().map(protobuf).collect() })
        }
        Json::Object(fields) => Kind::StructValue(structure(fields)),
    };
    Value { kind: Some(kind) }
}
