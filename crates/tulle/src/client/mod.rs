//! A client of the API: Kubernetes-style REST over TLS, found and authenticated by a kubeconfig.

mod kubeconfig;
mod path;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use clap::Args;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue, USER_AGENT, WARNING};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::Value;
use tokio::net::TcpStream;
use tulle_model::legible::legible;
use tulle_model::registry::KindId;
use tulle_model::validate::suggest::did_you_mean;

pub use self::path::{Query, resource};
use crate::exit::{Exit, Failure, Result};
use crate::home::HomeArgs;
use crate::output::note_wrapped;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
const ANSWER_LIMIT: usize = 256 << 20;
/// One event of a watch.
const EVENT_LIMIT: usize = 16 << 20;

pub const JSON: &str = "application/json";
/// Tables made by the server, for kinds of all sorts.
pub const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

/// Options of every command that speaks to the API.
#[derive(Debug, Clone, Args)]
pub struct ClientArgs {
    #[command(flatten)]
    pub home: HomeArgs,
    /// The kubeconfig to use [default: the one in Tulle's home]
    #[arg(long, value_name = "FILE", global = true)]
    kubeconfig: Option<PathBuf>,
}

impl ClientArgs {
    /// Whether they name another mesh's API than that of the home.
    pub fn names_another(&self) -> bool {
        self.kubeconfig.is_some()
    }

    /// The API that the options name. Nothing is connected yet.
    pub fn client(&self) -> Result<Client> {
        let path = match &self.kubeconfig {
            Some(path) => path.clone(),
            None => self.home.path()?.join("kubeconfig"),
        };
        Client::from_kubeconfig(&path, self.kubeconfig.is_none())
    }
}

type Sender = http1::SendRequest<Full<Bytes>>;

pub struct Client {
    /// For messages: `https://host:port`.
    server: String,
    authority: String,
    server_name: ServerName<'static>,
    tls: tokio_rustls::TlsConnector,
    token: Option<HeaderValue>,
    /// As the kubeconfig has them: the authority's certificate (PEM), and the server's other name.
    authority_pem: Vec<u8>,
    tls_server_name: Option<String>,
    namespace: String,
    idle: tokio::sync::Mutex<Option<Sender>>,
}

/// What a list says of where it goes on; it says so no more.
fn rest_of(list: &mut Value) -> Option<String> {
    match list.get_mut("metadata")?.as_object_mut()?.remove("continue")? {
        Value::String(token) => Some(token).filter(|token| !token.is_empty()),
        _ => None,
    }
}

impl Client {
    /// The API that a kubeconfig names, which is the home's or was named. Nothing is connected yet.
    pub fn from_kubeconfig(path: &Path, is_of_home: bool) -> Result<Self> {
        Self::new(kubeconfig::read(path, is_of_home)?)
    }

    fn new(access: kubeconfig::Access) -> Result<Self> {
        let wrong = |what: &str| Failure::input(format!("the kubeconfig is not usable: {what}"));
        let uri: http::Uri =
            access.server.parse().map_err(|e| wrong(&format!("server `{}`: {e}", access.server)))?;
        let host = uri.host().ok_or_else(|| wrong("its server has no host"))?;
        if uri.scheme_str() != Some("https") {
            return Err(wrong("its server is no https:// URL"));
        }
        let name = access.tls_server_name.as_deref().unwrap_or(host).trim_matches(['[', ']']).to_owned();
        let server_name =
            ServerName::try_from(name).map_err(|e| wrong(&format!("its server's name: {e}")))?;
        let roots: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&access.authority).collect();
        let roots = roots.map_err(|e| wrong(&format!("certificate authority: {e}")))?;
        let roots =
            tulle_identity::store(&roots).map_err(|e| wrong(&format!("certificate authority: {e}")))?;
        let builder = rustls::ClientConfig::builder().with_root_certificates(roots);
        let tls = match &access.identity {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => {
                let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(chain).collect();
                let chain = chain.map_err(|e| wrong(&format!("client certificate: {e}")))?;
                let key =
                    PrivateKeyDer::from_pem_slice(key).map_err(|e| wrong(&format!("client key: {e}")))?;
                builder
                    .with_client_auth_cert(chain, key)
                    .map_err(|e| wrong(&format!("client certificate: {e}")))?
            }
        };
        let token = access.token.map(|t| HeaderValue::from_str(&format!("Bearer {t}"))).transpose();
        Ok(Self {
            authority: format!("{host}:{}", uri.port_u16().unwrap_or(443)),
            server_name,
            tls: tokio_rustls::TlsConnector::from(Arc::new(tls)),
            token: token.map_err(|_| wrong("its token has characters that no header may have"))?,
            namespace: access.namespace.unwrap_or_else(|| "default".to_owned()),
            authority_pem: access.authority,
            tls_server_name: access.tls_server_name,
            server: access.server,
            idle: Default::default(),
        })
    }

    /// `https://host:port`
    pub fn server(&self) -> &str {
        &self.server
    }

    /// The certificate of the server's authority, in PEM.
    pub fn authority_pem(&self) -> &[u8] {
        &self.authority_pem
    }

    /// The name in the server's certificate, where it is not that of its address.
    pub fn tls_server_name(&self) -> Option<&str> {
        self.tls_server_name.as_deref()
    }

    /// The namespace where nothing else is said.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// What is there; of a list all of it, however many answers that takes.
    pub async fn get(&self, path: &str, accept: &str) -> Result<Value> {
        let mut whole = self.call(Method::GET, path, accept, None).await?;
        let mut rest = rest_of(&mut whole);
        while let Some(token) = rest {
            let path = Query::new(path.to_owned()).set("continue", &token).finish();
            let mut more = self.call(Method::GET, &path, accept, None).await?;
            rest = rest_of(&mut more);
            for field in ["/items", "/rows"] {
                if let (Some(Value::Array(all)), Some(Value::Array(more))) =
                    (whole.pointer_mut(field), more.pointer_mut(field))
                {
                    all.append(more);
                }
            }
        }
        Ok(whole)
    }

    pub async fn delete(&self, path: &str) -> Result<Value> {
        self.call(Method::DELETE, path, JSON, None).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Result<Value> {
        self.call(Method::POST, path, JSON, Some((JSON, body))).await
    }

    /// Server-side apply (JSON is YAML, too).
    pub async fn apply(&self, path: &str, body: &Value) -> Result<Value> {
        self.call(Method::PATCH, path, JSON, Some(("application/apply-patch+yaml", body))).await
    }

    /// Changes the fields that `body` has (RFC 7386).
    pub async fn merge(&self, path: &str, body: &Value) -> Result<Value> {
        self.call(Method::PATCH, path, JSON, Some(("application/merge-patch+json", body))).await
    }

    /// What is there, or `None`.
    pub async fn find(&self, path: &str) -> Result<Option<Value>> {
        match self.get(path, JSON).await {
            Ok(value) => Ok(Some(value)),
            Err(failure) if failure.exit == Exit::NotFound => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// Whether there is a namespace, for who has found nothing in it.
    ///
    /// # Errors
    /// Where there is none, with those that there are.
    pub async fn require_namespace(&self, name: &str) -> Result<()> {
        let kind = KindId::Namespace.kind();
        if self.find(&resource(kind, None, Some(name))).await?.is_some() {
            return Ok(());
        }
        let list = self.get(&resource(kind, None, None), JSON).await?;
        let names = list["items"].as_array().into_iter().flatten();
        let names: Vec<_> = names.filter_map(|n| n["metadata"]["name"].as_str()).collect();
        let hint = did_you_mean(name, names.iter().copied());
        let failure = Failure::new(format!("there is no namespace `{name}`{hint}")).exit(Exit::NotFound);
        Err(match names.len() {
            1..=20 => failure.help(format!("namespaces: {}", names.join(", "))),
            _ => failure.help("`tulle get namespaces` lists them"),
        })
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        accept: &str,
        body: Option<(&str, &Value)>,
    ) -> Result<Value> {
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, async {
            let (response, sender) = self.send(&method, path, accept, body).await?;
            let status = response.status();
            response.headers().get_all(WARNING).iter().filter_map(warning).for_each(|text| {
                let about = body.and_then(|(_, object)| about(object)).unwrap_or_default();
                note_wrapped(&format!("warning: {}", legible(&format!("{about}{text}"))), 2);
            });
            let body = Limited::new(response.into_body(), ANSWER_LIMIT).collect().await;
            let body = body.map_err(|e| self.unreachable(&format!("the answer broke off: {e}")))?.to_bytes();
            *self.idle.lock().await = Some(sender);
            Ok::<_, Failure>((status, body))
        });
        let (status, body) = answer
            .await
            .map_err(|_| self.unreachable(&format!("no answer within {} s", ANSWER_TIMEOUT.as_secs())))??;
        let value = serde_json::from_slice(&body).unwrap_or(Value::Null);
        if status.is_success() { Ok(value) } else { Err(self.refused(status, &value)) }
    }

    /// A watch: its events, one JSON value each, until the server ends it.
    pub async fn watch(&self, path: &str, accept: &str) -> Result<Events> {
        let (response, sender) = self.send(&Method::GET, path, accept, None).await?;
        let status = response.status();
        if !status.is_success() {
            let body = Limited::new(response.into_body(), ANSWER_LIMIT).collect().await;
            let body = body.map(|b| b.to_bytes()).unwrap_or_default();
            return Err(self.refused(status, &serde_json::from_slice(&body).unwrap_or(Value::Null)));
        }
        Ok(Events { body: response.into_body(), buffer: BytesMut::new(), _sender: sender })
    }

    async fn send(
        &self,
        method: &Method,
        path: &str,
        accept: &str,
        body: Option<(&str, &Value)>,
    ) -> Result<(Response<Incoming>, Sender)> {
        let mut idle = self.idle.lock().await.take();
        if let Some(sender) = &mut idle
            && sender.ready().await.is_err()
        {
            idle = None;
        }
        let mut sender = match idle {
            Some(sender) => sender,
            None => self.connect().await?,
        };
        let mut request = Request::new(Full::new(match body {
            None => Bytes::new(),
            Some((_, value)) => Bytes::from(value.to_string()),
        }));
        *request.method_mut() = method.clone();
        *request.uri_mut() = path.parse().map_err(|e| Failure::input(format!("`{path}` is no path: {e}")))?;
        let headers = request.headers_mut();
        let value = |text: &str| HeaderValue::from_str(text).map_err(|e| Failure::input(e.to_string()));
        headers.insert(HOST, value(&self.authority)?);
        headers.insert(ACCEPT, value(accept)?);
        headers.insert(USER_AGENT, HeaderValue::from_static(concat!("tulle/", env!("CARGO_PKG_VERSION"))));
        if let Some((kind, _)) = body {
            headers.insert(CONTENT_TYPE, value(kind)?);
        }
        if let Some(token) = &self.token {
            headers.insert(AUTHORIZATION, token.clone());
        }
        let response = tokio::time::timeout(ANSWER_TIMEOUT, sender.send_request(request))
            .await
            .map_err(|_| self.unreachable(&format!("no answer within {} s", ANSWER_TIMEOUT.as_secs())))?
            .map_err(|e| self.unreachable(&chain(&e)))?;
        Ok((response, sender))
    }

    async fn connect(&self) -> Result<Sender> {
        let connected = tokio::time::timeout(CONNECT_TIMEOUT, async {
            let stream = TcpStream::connect(&self.authority).await.map_err(|e| chain(&e))?;
            let _ = stream.set_nodelay(true);
            let stream = self.tls.connect(self.server_name.clone(), stream).await.map_err(|e| chain(&e))?;
            let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| chain(&e))?;
            tokio::spawn(connection);
            Ok::<_, String>(sender)
        });
        match connected.await {
            Ok(result) => result.map_err(|why| self.unreachable(&why)),
            Err(_) => Err(self.unreachable(&format!("no connection within {} s", CONNECT_TIMEOUT.as_secs()))),
        }
    }

    fn unreachable(&self, why: &str) -> Failure {
        let failure = Failure::new(format!("cannot reach the server at {}: {why}", self.server));
        let failure = match Trouble::of(why) {
            Trouble::OtherName => failure.help(format!(
                "the server's certificate has not the name by which the kubeconfig calls it: start the server with \
                 `--api-name {}`, or use a name that it has",
                self.server_name.to_str()
            )),
            Trouble::Clock => {
                failure.help("are the clocks of both hosts right? A server that runs renews its certificate")
            }
            Trouble::OtherMesh => failure.help(
                "the server of another mesh answers there, or one that was set up anew: take its kubeconfig \
                 (`$TULLE_HOME/kubeconfig` on its host)",
            ),
            Trouble::Credentials => failure.help(
                "the server does not take the kubeconfig's certificate: it is of another mesh, has expired, or is an \
                 old copy. Take the one that the server has written (`$TULLE_HOME/kubeconfig` on its host)",
            ),
            Trouble::Away => failure
                .help("does it run? `tulle up DIR` or `tulle server` starts it")
                .help("is it elsewhere? Say where: --home DIR, or --kubeconfig FILE"),
        };
        failure.exit(Exit::Unreachable)
    }

    /// The failure for a `Status` (Kubernetes API conventions, Response Status Kind).
    fn refused(&self, status: StatusCode, value: &Value) -> Failure {
        let message = match value["message"].as_str() {
            Some(message) if !message.is_empty() => message.to_owned(),
            _ => format!("the server at {} answered {status}", self.server),
        };
        let is_denied = status == StatusCode::FORBIDDEN;
        let mut failure = Failure::new(message);
        failure.is_denied = is_denied;
        match status {
            StatusCode::BAD_REQUEST
            | StatusCode::UNPROCESSABLE_ENTITY
            | StatusCode::UNSUPPORTED_MEDIA_TYPE => failure.exit(Exit::Input),
            StatusCode::NOT_FOUND => failure.exit(Exit::NotFound),
            StatusCode::CONFLICT => failure.exit(Exit::Conflict),
            StatusCode::UNAUTHORIZED => failure.help(
                "the kubeconfig has no certificate or token that this server takes: use the one that the server has written \
                 (`$TULLE_HOME/kubeconfig`), or a fresh copy of it",
            ),
            _ => failure,
        }
    }
}

/// What is the matter with a connection to a server.
#[derive(Debug, PartialEq, Eq)]
enum Trouble {
    /// Nobody answers.
    Away,
    /// Its certificate is for other names.
    OtherName,
    /// Its certificate is not good at this time.
    Clock,
    /// Its certificate is of another authority.
    OtherMesh,
    /// It does not take ours.
    Credentials,
}

impl Trouble {
    /// Told by what rustls says.
    fn of(why: &str) -> Self {
        let has = |words: &[&str]| words.iter().any(|word| why.contains(word));
        if has(&["received fatal alert"]) {
            return if has(&["ertificate", "UnknownCA", "DecryptError", "AccessDenied"]) {
                Self::Credentials
            } else {
                Self::Away
            };
        }
        match () {
            () if !has(&["ertificate"]) => Self::Away,
            () if has(&["not valid for name", "NotValidForName"]) => Self::OtherName,
            () if has(&["xpired", "not valid yet", "NotValidYet"]) => Self::Clock,
            () => Self::OtherMesh,
        }
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let next = error.to_string();
        // Many errors print their source themselves.
        if !text.contains(&next) {
            text.push_str(&format!(": {next}"));
        }
        source = error.source();
    }
    text
}

/// Which of several objects a warning is about: `HTTPRoute shop/web: `; nothing of a patch that does not say.
fn about(object: &Value) -> Option<String> {
    let metadata = &object["metadata"];
    let (kind, name) = (object["kind"].as_str()?, metadata["name"].as_str()?);
    let namespace = metadata["namespace"].as_str().map(|namespace| format!("{namespace}/"));
    Some(format!("{kind} {}{name}: ", namespace.unwrap_or_default()))
}

/// The text of a `Warning` header (RFC 7234, section 5.5): `299 - "text"`.
fn warning(value: &HeaderValue) -> Option<String> {
    let text = String::from_utf8_lossy(value.as_bytes());
    let quoted = text.strip_prefix("299 ")?.split_once(" \"")?.1.strip_suffix('"')?;
    let mut text = String::with_capacity(quoted.len());
    let mut letters = quoted.chars();
    while let Some(letter) = letters.next() {
        text.extend(if letter == '\\' { letters.next() } else { Some(letter) });
    }
    Some(text)
}

/// The events of a watch: `{"type": …, "object": …}`, one a line.
pub struct Events {
    body: Incoming,
    buffer: BytesMut,
    _sender: Sender,
}

impl Events {
    /// The next event; `None` at the watch's end, which comes after some minutes by itself.
    pub async fn next(&mut self) -> Result<Option<Value>> {
        loop {
            if let Some(end) = self.buffer.iter().position(|&b| b == b'\n') {
                let line = self.buffer.split_to(end + 1);
                if line.iter().all(u8::is_ascii_whitespace) {
                    continue;
                }
                let event = serde_json::from_slice(&line);
                return event.map(Some).map_err(|e| Failure::new(format!("an event is no JSON: {e}")));
            }
            if self.buffer.len() > EVENT_LIMIT {
                return Err(Failure::new(format!("an event is larger than {} MiB", EVENT_LIMIT >> 20)));
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
                Some(Err(error)) => {
                    return Err(Failure::new(format!("the watch broke off: {}", chain(&error)))
                        .exit(Exit::Unreachable));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_read() {
        let read = |text: &'static str| warning(&HeaderValue::from_static(text));
        assert_eq!(read(r#"299 - "unknown field \"a\\b\"""#).as_deref(), Some(r#"unknown field "a\b""#));
        assert_eq!(read("299 - x"), None);
        assert_eq!(read(r#"110 - "stale""#), None);
    }

    /// As rustls says it.
    #[test]
    fn what_is_wrong_with_a_connection_is_told_apart() {
        for (why, trouble) in [
            ("Connection refused (os error 111)", Trouble::Away),
            ("no connection within 5 s", Trouble::Away),
            (
                "invalid peer certificate: certificate not valid for name \"x\"; certificate is only valid for DnsName(\"y\")",
                Trouble::OtherName,
            ),
            (
                "invalid peer certificate: certificate expired: verification time 2, but certificate is not valid after 1",
                Trouble::Clock,
            ),
            ("invalid peer certificate: certificate not valid yet: verification time 1", Trouble::Clock),
            ("invalid peer certificate: BadSignature", Trouble::OtherMesh),
            ("invalid peer certificate: UnknownIssuer", Trouble::OtherMesh),
            ("connection error: received fatal alert: DecryptError", Trouble::Credentials),
            ("received fatal alert: UnknownCA", Trouble::Credentials),
            ("received fatal alert: CertificateExpired", Trouble::Credentials),
            ("received fatal alert: InternalError", Trouble::Away),
        ] {
            assert_eq!(Trouble::of(why), trouble, "{why}");
        }
    }
}
