//! Calls to other services, by their mesh names: over connections that are kept alive, straight or
//! through the HTTP proxy that the environment names.

use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, HOST, HeaderMap, HeaderValue, TE};
use http::{Method, Request, Response, Uri};
use http_body_util::{BodyExt, Empty, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::net::TcpStream;

use super::answer::Answer;
use super::grpc;

/// An answer larger than this is not read: it is none of a fake service.
const ANSWER_LIMIT: usize = 64 << 20;
/// More connections than this are not kept for later.
const IDLE_LIMIT: usize = 256;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scheme {
    Http,
    Grpc,
}

/// What a fake service calls, as given on the command line: `http://c:9091/path` or `grpc://d:9092`.
#[derive(Debug, Clone)]
pub struct UpstreamUrl {
    scheme: Scheme,
    host: String,
    port: u16,
    path: String,
}

impl FromStr for UpstreamUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let uri: Uri = text.parse().map_err(|e| format!("it is no URL: {e}"))?;
        let scheme = match uri.scheme_str() {
            Some("http") => Scheme::Http,
            Some("grpc") => Scheme::Grpc,
            _ => return Err("it must start with http:// or grpc://".into()),
        };
        let host = uri.host().ok_or("it names no host")?.to_owned();
        let port = uri.port_u16().unwrap_or(80);
        let path = uri.path_and_query().map_or("/", |p| p.as_str()).to_owned();
        Ok(Self { scheme, host, port, path })
    }
}

impl UpstreamUrl {
    fn authority(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
enum CallError {
    #[error("cannot connect to {to}: {source}")]
    Connect { to: String, source: std::io::Error },
    #[error("the proxy refused CONNECT {to}: {status}{reason}")]
    Refused { to: String, status: http::StatusCode, reason: String },
    #[error("{}", Chain(.0))]
    Hyper(#[from] hyper::Error),
    #[error("{0}")]
    Body(String),
}

/// An error with what caused it.
struct Chain<'a>(&'a dyn std::error::Error);

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}

/// An upstream and the open connections to it.
pub struct Upstream {
    url: UpstreamUrl,
    /// `host:port` of the proxy, where there is one.
    proxy: Option<String>,
    timeout: Duration,
    idle: std::sync::Mutex<Vec<http1::SendRequest<Empty<Bytes>>>>,
    shared: tokio::sync::Mutex<Option<http2::SendRequest<Full<Bytes>>>>,
}

impl Upstream {
    pub fn new(url: UpstreamUrl, timeout: Duration) -> Arc<Self> {
        let proxy = proxy_for(&url.host, |name| std::env::var(name).ok());
        Arc::new(Self { url, proxy, timeout, idle: Default::default(), shared: Default::default() })
    }

    /// Calls the upstream; a failure is an answer too.
    pub async fn call(&self, trace: &HeaderMap) -> Answer {
        let start = Instant::now();
        let result = tokio::time::timeout(self.timeout, async {
            match self.url.scheme {
                Scheme::Http => self.call_http(trace).await,
                Scheme::Grpc => self.call_grpc(trace).await,
            }
        })
        .await;
        let failed = |error: String| Answer { name: self.url.host.clone(), error, ..Answer::default() };
        let mut answer = match result {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => failed(error.to_string()),
            Err(_) => failed(format!("no answer within {:?}", self.timeout)),
        };
        // The caller's view: with the time on the way.
        answer.duration_ms = start.elapsed().as_secs_f64() * 1000.0;
        answer
    }

    async fn call_http(&self, trace: &HeaderMap) -> Result<Answer, CallError> {
        loop {
            let idle = self.idle.lock().unwrap_or_else(|e| e.into_inner()).pop();
            let reused = idle.is_some();
            let mut sender = match idle {
                Some(sender) => sender,
                None => {
                    let stream = self.connect().await?;
                    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
                    tokio::spawn(connection);
                    sender
                }
            };
            if sender.ready().await.is_err() {
                continue;
            }
            let sent = sender.send_request(self.http_request(trace)).await;
            let response = match sent {
                // The other side closed the idle connection before it saw the request (RFC 9112,
                // section 9.3.1): GET may be sent again.
                Err(error) if reused && (error.is_canceled() || error.is_incomplete_message()) => continue,
                other => other?,
            };
            let keep = !says_close(response.headers());
            let (parts, body) = response.into_parts();
            let body = collect(body).await?;
            if keep && sender.ready().await.is_ok() {
                let mut idle = self.idle.lock().unwrap_or_else(|e| e.into_inner());
                if idle.len() < IDLE_LIMIT {
                    idle.push(sender);
                }
            }
            return Ok(self.read(parts.status, &parts.headers, &body));
        }
    }

    fn http_request(&self, trace: &HeaderMap) -> Request<Empty<Bytes>> {
        let uri = match self.proxy {
            // RFC 9112, section 3.2.2: absolute-form to a proxy.
            Some(_) => format!("http://{}{}", self.url.authority(), self.url.path),
            None => self.url.path.clone(),
        };
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = uri.parse().unwrap_or_default();
        *request.headers_mut() = trace.clone();
        if let Ok(host) = HeaderValue::from_str(&self.url.authority()) {
            request.headers_mut().insert(HOST, host);
        }
        request
    }

    /// A fake service answers with its tree; anybody else with whatever it is.
    fn read(&self, status: http::StatusCode, headers: &HeaderMap, body: &[u8]) -> Answer {
        let mut answer = serde_json::from_slice::<Answer>(body)
            .unwrap_or_else(|_| Answer { name: self.url.host.clone(), ..Answer::default() });
        answer.status = status.as_u16().into();
        if !answer.is_success() && answer.error.is_empty() {
            answer.error = match headers.get("tulle-reason").and_then(|v| v.to_str().ok()) {
                Some(reason) => format!("{status} by the mesh: {reason}"),
                None => status.to_string(),
            };
        }
        // Bodies are ballast for the network, no news for the caller's caller.
        answer.body.clear();
        answer
    }

    async fn call_grpc(&self, trace: &HeaderMap) -> Result<Answer, CallError> {
        loop {
            let (mut sender, reused) = self.shared_sender().await?;
            let mut request =
                Request::new(Full::new(grpc::frame(&grpc::CallRequest { payload: Vec::new() })));
            *request.method_mut() = Method::POST;
            *request.uri_mut() =
                format!("http://{}{}", self.url.authority(), grpc::CALL).parse().unwrap_or_default();
            *request.headers_mut() = trace.clone();
            request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(grpc::CONTENT));
            request.headers_mut().insert(TE, HeaderValue::from_static("trailers"));
            let response = match sender.send_request(request).await {
                // Never sent: the connection had gone, or was going (GOAWAY).
                Err(error) if reused && error.is_canceled() => continue,
                other => other?,
            };
            return self.read_grpc(response).await;
        }
    }

    async fn read_grpc(&self, response: Response<Incoming>) -> Result<Answer, CallError> {
        let (parts, body) = response.into_parts();
        let collected = Limited::new(body, ANSWER_LIMIT)
            .collect()
            .await
            .map_err(|e| CallError::Body(format!("the answer broke off: {e}")))?;
        let trailers = collected.trailers().cloned().unwrap_or_default();
        let find = |name: &str| {
            let value = trailers.get(name).or_else(|| parts.headers.get(name));
            value.and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned()
        };
        if !parts.status.is_success() {
            return Ok(self.read(parts.status, &parts.headers, &[]));
        }
        let code = find("grpc-status");
        if code != "0" {
            let told = [&trailers, &parts.headers].into_iter().find_map(grpc::failed_answer);
            if let Some(answer) = told.filter(|answer| !answer.is_success()) {
                return Ok(answer);
            }
            let answer = Answer {
                name: self.url.host.clone(),
                status: grpc::http_status(&code),
                error: format!("grpc-status {code}: {}", grpc::decode_message(&find("grpc-message"))),
                ..Answer::default()
            };
            return Ok(answer);
        }
        let body = collected.to_bytes();
        let message = body.get(grpc::PREFIX..).unwrap_or_default();
        let mut answer = Answer::decode(message).map_err(|e| CallError::Body(e.to_string()))?;
        answer.body.clear();
        Ok(answer)
    }

    /// The one HTTP/2 connection that all calls share, and whether it was there before.
    async fn shared_sender(&self) -> Result<(http2::SendRequest<Full<Bytes>>, bool), CallError> {
        let mut shared = self.shared.lock().await;
        if let Some(sender) = &mut *shared
            && !sender.is_closed()
            && sender.ready().await.is_ok()
        {
            return Ok((sender.clone(), true));
        }
        let stream = self.connect().await?;
        let sender = match &self.proxy {
            None => self.start_http2(TokioIo::new(stream)).await?,
            Some(_) => self.start_http2(self.tunnel(stream).await?).await?,
        };
        *shared = Some(sender.clone());
        Ok((sender, false))
    }

    async fn start_http2<T>(&self, io: T) -> Result<http2::SendRequest<Full<Bytes>>, CallError>
    where
        T: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    {
        let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
        tokio::spawn(connection);
        Ok(sender)
    }

    /// RFC 9110, section 9.3.6.
    async fn tunnel(&self, stream: TcpStream) -> Result<hyper::upgrade::Upgraded, CallError> {
        let to = self.url.authority();
        let (mut sender, connection) = http1::handshake::<_, Empty<Bytes>>(TokioIo::new(stream)).await?;
        tokio::spawn(connection.with_upgrades());
        let mut request = Request::new(Empty::new());
        *request.method_mut() = Method::CONNECT;
        *request.uri_mut() = to.parse().unwrap_or_default();
        if let Ok(host) = HeaderValue::from_str(&to) {
            request.headers_mut().insert(HOST, host);
        }
        let response = sender.send_request(request).await?;
        if !response.status().is_success() {
            let reason = response.headers().get("tulle-reason").and_then(|v| v.to_str().ok());
            let reason = reason.map(|r| format!(" ({r})")).unwrap_or_default();
            return Err(CallError::Refused { to, status: response.status(), reason });
        }
        Ok(hyper::upgrade::on(response).await?)
    }

    async fn connect(&self) -> Result<TcpStream, CallError> {
        let to = self.proxy.clone().unwrap_or_else(|| self.url.authority());
        let stream = TcpStream::connect(&to).await.map_err(|source| CallError::Connect { to, source })?;
        // Only an optimisation: without it answers are late, not wrong.
        let _ = stream.set_nodelay(true);
        Ok(stream)
    }
}

fn says_close(headers: &HeaderMap) -> bool {
    let values = headers.get_all(CONNECTION).iter().filter_map(|v| v.to_str().ok());
    values.flat_map(|v| v.split(',')).any(|token| token.trim().eq_ignore_ascii_case("close"))
}

async fn collect(body: Incoming) -> Result<Bytes, CallError> {
    let collected = Limited::new(body, ANSWER_LIMIT).collect().await;
    collected.map(|c| c.to_bytes()).map_err(|e| CallError::Body(format!("the answer broke off: {e}")))
}

/// `host:port` of the proxy that HTTP_PROXY and NO_PROXY (either case, as curl reads them) give for
/// calls to `host`.
fn proxy_for(host: &str, variable: impl Fn(&str) -> Option<String>) -> Option<String> {
    let read = |name: &str| {
        variable(&name.to_ascii_lowercase()).or_else(|| variable(name)).filter(|value| !value.is_empty())
    };
    let proxy = read("HTTP_PROXY")?;
    let exempt = read("NO_PROXY").unwrap_or_default();
    let exempt = exempt.split(',').map(|entry| entry.trim().trim_start_matches('.')).any(|entry| {
        entry == "*"
            || (!entry.is_empty()
                && (host == entry || host.strip_suffix(entry).is_some_and(|rest| rest.ends_with('.'))))
    });
    if exempt {
        return None;
    }
    let proxy = if proxy.contains("://") { proxy } else { format!("http://{proxy}") };
    let uri: Uri = proxy.parse().ok()?;
    Some(format!("{}:{}", uri.host()?, uri.port_u16().unwrap_or(80)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upstreams_are_urls() {
        let url: UpstreamUrl = "grpc://d.shop:9092".parse().unwrap();
        assert_eq!((url.scheme, url.authority().as_str()), (Scheme::Grpc, "d.shop:9092"));
        let url: UpstreamUrl = "http://c:9091/x?y".parse().unwrap();
        assert_eq!(url.path, "/x?y");
        for bad in ["c:9091", "https://c", "http://", ""] {
            assert!(bad.parse::<UpstreamUrl>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_environment_names_the_proxy() {
        let with = |pairs: &'static [(&str, &str)]| {
            move |name: &str| pairs.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned())
        };
        let proxy = || Some("127.0.0.1:15001".to_owned());
        assert_eq!(proxy_for("c", with(&[])), None);
        assert_eq!(proxy_for("c", with(&[("HTTP_PROXY", "http://127.0.0.1:15001")])), proxy());
        assert_eq!(proxy_for("c", with(&[("http_proxy", "127.0.0.1:15001"), ("NO_PROXY", "")])), proxy());
        assert_eq!(proxy_for("c.x", with(&[("http_proxy", "p:1"), ("no_proxy", "y, .x")])), None);
        assert_eq!(proxy_for("cx", with(&[("http_proxy", "p:1"), ("no_proxy", "x")])), Some("p:1".into()));
    }
}
