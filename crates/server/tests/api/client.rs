//! A server of its own for a test, and a client of its API.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::RootCertStore;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tulle_server::{Server, ServerConfig};

/// How long anything may take here.
const PATIENCE: Duration = Duration::from_secs(10);

/// Paths of the kinds.
pub const SERVICES: &str = "/api/v1/namespaces/default/services";
pub const ROUTES: &str = "/apis/gateway.networking.k8s.io/v1/namespaces/default/httproutes";

pub struct TestApi {
    pub server: Server,
    requests: SendRequest<Full<Bytes>>,
    _home: tempfile::TempDir,
}

/// An answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Value,
}

impl Answer {
    /// The object, if the answer has this status.
    #[track_caller]
    pub fn expect(self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.body);
        self.body
    }

    /// The failure, if the answer is one of that status and reason.
    #[track_caller]
    pub fn fails(self, status: u16, reason: &str) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.body);
        assert_eq!(self.body["kind"], "Status", "{}", self.body);
        assert_eq!(self.body["status"], "Failure", "{}", self.body);
        assert_eq!(self.body["reason"], reason, "{}", self.body);
        assert_eq!(self.body["code"], status, "{}", self.body);
        self.body
    }
}

impl TestApi {
    pub async fn start() -> Self {
        let home = tempfile::tempdir().unwrap();
        let server = Server::start(ServerConfig::local(home.path())).await.unwrap();
        let kubeconfig = std::fs::read_to_string(&server.kubeconfig).unwrap();
        let requests = connect(server.api_address, &kubeconfig, true).await.unwrap();
        Self { server, requests, _home: home }
    }

    /// Another connection, whose requests may have bodies of any sort.
    pub async fn connect<B>(&self) -> SendRequest<B>
    where
        B: http_body::Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>
            + Send
            + Unpin
            + 'static,
    {
        let kubeconfig = std::fs::read_to_string(&self.server.kubeconfig).unwrap();
        connect(self.server.api_address, &kubeconfig, true).await.unwrap()
    }

    /// A connection without a client certificate.
    pub async fn anonymous(&self) -> SendRequest<Full<Bytes>> {
        let kubeconfig = std::fs::read_to_string(&self.server.kubeconfig).unwrap();
        connect(self.server.api_address, &kubeconfig, false).await.unwrap()
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.get_as(path, "application/json").await
    }

    pub async fn get_as(&self, path: &str, accept: &str) -> Answer {
        self.send(Method::GET, path, &[("accept", accept)], String::new()).await
    }

    pub async fn post(&self, path: &str, object: &Value) -> Answer {
        self.send(Method::POST, path, &[("content-type", "application/json")], object.to_string()).await
    }

    pub async fn put(&self, path: &str, object: &Value) -> Answer {
        self.send(Method::PUT, path, &[("content-type", "application/json")], object.to_string()).await
    }

    pub async fn patch(&self, path: &str, form: &str, patch: &Value) -> Answer {
        let content_type = match form {
            "apply" => "application/apply-patch+yaml".to_owned(),
            form => format!("application/{form}+json"),
        };
        self.send(Method::PATCH, path, &[("content-type", &content_type)], patch.to_string()).await
    }

    pub async fn delete(&self, path: &str, options: &Value) -> Answer {
        let body = if options.is_null() { String::new() } else { options.to_string() };
        self.send(Method::DELETE, path, &[("content-type", "application/json")], body).await
    }

    pub async fn send(&self, method: Method, path: &str, headers: &[(&str, &str)], body: String) -> Answer {
        send(self.requests.clone(), method, path, headers, body).await
    }

    /// Starts a watch.
    pub async fn watch(&self, path: &str) -> Events {
        self.watch_as(path, "application/json").await
    }

    /// Starts a watch on another connection.
    pub async fn watch_with(
        &self,
        requests: &SendRequest<Full<Bytes>>,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Events {
        let response =
            requests.clone().send_request(request(Method::GET, path, headers, String::new())).await.unwrap();
        assert_eq!(response.status(), 200);
        Events { body: response.into_body(), buffer: Vec::new() }
    }

    pub async fn watch_as(&self, path: &str, accept: &str) -> Events {
        let request = request(Method::GET, path, &[("accept", accept)], String::new());
        let response = self.requests.clone().send_request(request).await.unwrap();
        assert_eq!(response.status(), 200);
        Events { body: response.into_body(), buffer: Vec::new() }
    }
}

pub async fn send(
    mut requests: SendRequest<Full<Bytes>>,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: String,
) -> Answer {
    let answer = async {
        let response = requests.send_request(request(method, path, headers, body)).await.unwrap();
        let (head, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let text = || Value::String(String::from_utf8_lossy(&body).into_owned());
        let body = serde_json::from_slice(&body).unwrap_or_else(|_| text());
        Answer { status: head.status, headers: head.headers, body }
    };
    tokio::time::timeout(PATIENCE, answer).await.unwrap()
}

fn request(method: Method, path: &str, headers: &[(&str, &str)], body: String) -> Request<Full<Bytes>> {
    let mut request = Request::builder().method(method).uri(format!("https://localhost{path}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.header("user-agent", "test/1").body(Full::from(body)).unwrap()
}

async fn connect<B>(
    address: SocketAddr,
    kubeconfig: &str,
    certificate: bool,
) -> Result<SendRequest<B>, Box<dyn std::error::Error>>
where
    B: http_body::Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>
        + Send
        + Unpin
        + 'static,
{
    use base64::Engine as _;
    let pem = |field: &str| {
        let line = kubeconfig.lines().find_map(|line| line.trim().strip_prefix(field)).unwrap();
        let encoded = line.trim_start_matches(':').trim().trim_matches('"');
        base64::engine::general_purpose::STANDARD.decode(encoded).unwrap()
    };
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&pem("certificate-authority-data"))?)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let mut config = if certificate {
        let chain =
            CertificateDer::pem_slice_iter(&pem("client-certificate-data")).collect::<Result<_, _>>()?;
        builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(&pem("client-key-data"))?)?
    } else {
        builder.with_no_client_auth()
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from("localhost")?;
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    let (requests, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(requests)
}

/// The events of a watch.
pub struct Events {
    body: Incoming,
    buffer: Vec<u8>,
}

impl Events {
    /// The next event; none at the end of the watch.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let frame = tokio::time::timeout(PATIENCE, self.body.frame()).await.expect("an event in time");
            self.buffer.extend_from_slice(frame?.unwrap().data_ref()?);
        }
    }

    /// The type of the next event, and the name of its object.
    pub async fn next_name(&mut self) -> (String, String) {
        let event = self.next().await.expect("another event");
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        (text(&event["type"]), text(&event["object"]["metadata"]["name"]))
    }
}

pub fn service(name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "name": name, "labels": { "app": name } },
        "spec": { "selector": { "app": name }, "ports": [{ "name": "http", "port": 80 }] },
    })
}

pub fn version(object: &Value) -> &str {
    object["metadata"]["resourceVersion"].as_str().unwrap()
}

pub fn names(list: &Value) -> Vec<&str> {
    let items = list["items"].as_array().unwrap();
    items.iter().map(|item| item["metadata"]["name"].as_str().unwrap()).collect()
}
