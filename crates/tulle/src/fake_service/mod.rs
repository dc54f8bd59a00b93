//! `tulle fake-service`: a service to try a mesh with. It answers HTTP and gRPC on one port, calls
//! others by their mesh names, and can be slow, wrong and large on demand.

mod answer;
mod grpc;
mod server;
mod trace;
mod upstream;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use futures_util::future::join_all;
use http::HeaderMap;
use tulle_model::legible::legible;

use self::answer::Answer;
use self::server::Server;
use self::upstream::{Upstream, UpstreamUrl};
use crate::exit::{Failure, Result};
use crate::units::{parse_duration, parse_rate, parse_size};

#[derive(Debug, Args)]
pub struct FakeServiceArgs {
    /// The name that it answers with
    #[arg(long, env = "FAKE_NAME", default_value = "fake-service")]
    name: String,
    /// The address to listen at; `127.0.0.1` and $PORT where nothing is said
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    // Not by `env`: what `tulle up` gives every process would be in conflict with --listen.
    /// The port to listen at, on 127.0.0.1 [env: PORT] [default: 8080]
    #[arg(long, conflicts_with = "listen")]
    port: Option<u16>,
    /// A service to call for every request: http://NAME:PORT[/PATH] or grpc://NAME:PORT (repeatable)
    #[arg(long, value_name = "URL", env = "FAKE_UPSTREAMS", value_delimiter = ',')]
    upstream: Vec<UpstreamUrl>,
    /// Call the upstreams at the same time instead of one after another
    #[arg(long)]
    parallel: bool,
    /// How long to wait before answering
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "0ms")]
    latency: Duration,
    /// Up to so much more, at random
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "0ms")]
    jitter: Duration,
    /// The share of requests to answer with an error: 0 to 1, or as 5%
    #[arg(long, value_name = "SHARE", value_parser = parse_rate, default_value = "0")]
    error_rate: f64,
    /// The status of those errors
    #[arg(long, value_name = "STATUS", default_value_t = 500, value_parser = clap::value_parser!(u16).range(400..600))]
    error_code: u16,
    /// The size of the answer's body: 100, 10k, 1M
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    body_size: Option<usize>,
    /// Make a request by itself every so often, and print the path that it took
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    every: Option<Duration>,
    /// How long to wait for an upstream
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "10s")]
    timeout: Duration,
}

/// Where to listen when nobody says it.
const PORT: u16 = 8080;

impl FakeServiceArgs {
    /// Where to listen, with that `$PORT`.
    fn address(&self, variable: Option<&str>) -> Result<SocketAddr> {
        if let Some(address) = self.listen {
            return Ok(address);
        }
        let port = match (self.port, variable.filter(|text| !text.is_empty())) {
            (Some(port), _) => port,
            (None, None) => PORT,
            (None, Some(text)) => text.parse().map_err(|_| {
                Failure::input(format!("the variable PORT is no port: {}", legible(text)))
                    .help("a number from 0 to 65535, or --port PORT, or --listen ADDRESS:PORT")
            })?,
        };
        Ok(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port))
    }
}

/// What it was told to be.
pub struct FakeService {
    name: String,
    upstreams: Vec<Arc<Upstream>>,
    parallel: bool,
    latency: Duration,
    jitter: Duration,
    error_rate: f64,
    error_code: u16,
    body: String,
}

impl FakeService {
    fn new(args: &FakeServiceArgs) -> Arc<Self> {
        let upstreams = args.upstream.iter().map(|url| Upstream::new(url.clone(), args.timeout)).collect();
        let body = match args.body_size {
            None => format!("hello from {}", args.name),
            Some(size) => "x".repeat(size),
        };
        Arc::new(Self {
            name: args.name.clone(),
            upstreams,
            parallel: args.parallel,
            latency: args.latency,
            jitter: args.jitter,
            error_rate: args.error_rate,
            error_code: args.error_code,
            body,
        })
    }

    /// Calls the upstreams on behalf of a request with those headers, and says what became of it.
    async fn call(&self, incoming: &HeaderMap) -> Answer {
        let start = Instant::now();
        let trace = trace::outgoing(incoming);
        let wait = self.latency + self.jitter.mul_f64(rand::random::<f64>());
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        let mut answer = Answer { name: self.name.clone(), status: 200, ..Answer::default() };
        if self.error_rate > 0.0 && rand::random::<f64>() < self.error_rate {
            answer.status = self.error_code.into();
            answer.error = "told to fail (--error-rate)".into();
        } else {
            answer.upstreams = if self.parallel {
                join_all(self.upstreams.iter().map(|u| u.call(&trace))).await
            } else {
                let mut answers = Vec::with_capacity(self.upstreams.len());
                for upstream in &self.upstreams {
                    answers.push(upstream.call(&trace).await);
                }
                answers
            };
            match answer.upstreams.iter().find(|u| !u.is_success()) {
                Some(failed) => {
                    answer.status = 502;
                    answer.error = format!("{} failed: {}", failed.name, failed.error);
                }
                None => answer.body = self.body.clone(),
            }
        }
        answer.duration_ms = start.elapsed().as_secs_f64() * 1000.0;
        answer
    }

    /// Makes a request every `every`, one after another, until `stop` changes.
    async fn make_requests(self: Arc<Self>, every: Duration, mut stop: tokio::sync::watch::Receiver<bool>) {
        let mut ticks = tokio::time::interval(every.max(Duration::from_millis(1)));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                _ = ticks.tick() => {
                    let answer = self.call(&HeaderMap::new()).await;
                    crate::output::say(&answer.line());
                }
                _ = stop.changed() => return,
            }
        }
    }
}

/// Serves until SIGTERM or SIGINT, then lets everybody finish.
pub async fn run(args: FakeServiceArgs) -> Result<()> {
    let service = FakeService::new(&args);
    let variable = std::env::var_os("PORT").map(|value| value.to_string_lossy().into_owned());
    let address = args.address(variable.as_deref())?;
    let listener = server::listen(address).await.map_err(|error| {
        Failure::new(format!("cannot listen at {address}: {error}"))
            .help("another port: --listen 127.0.0.1:PORT, or the variable PORT")
    })?;
    let address = listener.local_addr().map_err(|e| Failure::new(e.to_string()))?;
    crate::output::say(&format!("{} listens at {address}", args.name));

    let (stopping, stopped) = tokio::sync::watch::channel(false);
    let maker = args.every.map(|every| tokio::spawn(service.clone().make_requests(every, stopped)));
    let stop = async move {
        crate::signals::terminate().await;
        stopping.send_replace(true);
    };
    Server::new(service).serve(listener, stop).await;
    if let Some(maker) = maker {
        let _ = tokio::time::timeout(args.timeout, maker).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command_line;

    #[test]
    fn what_the_command_line_says_wins_over_the_variable() {
        let address = |line: &[&str], variable: Option<&str>| {
            let args: FakeServiceArgs = command_line::read(line).map_err(|e| e.to_string())?;
            args.address(variable).map(|a| a.to_string()).map_err(|e| e.to_string())
        };
        let listen = &["--listen", "127.0.0.2:9000"][..];
        for (line, variable, expected) in [
            (&[][..], None, "127.0.0.1:8080"),
            (&[], Some(""), "127.0.0.1:8080"),
            (&[], Some("9001"), "127.0.0.1:9001"),
            (&["--port", "9002"], Some("9001"), "127.0.0.1:9002"),
            (&["--port", "9002"], Some("x"), "127.0.0.1:9002"),
            (listen, None, "127.0.0.2:9000"),
            (listen, Some("9001"), "127.0.0.2:9000"),
            (listen, Some("x"), "127.0.0.2:9000"),
        ] {
            assert_eq!(address(line, variable).as_deref(), Ok(expected), "{line:?} {variable:?}");
        }
        assert!(address(&[], Some("x")).unwrap_err().contains("PORT"));
        let both = address(&[listen, &["--port", "9002"]].concat(), None).unwrap_err();
        assert!(both.contains("cannot be used with"), "{both}");
    }
}
