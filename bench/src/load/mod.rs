//! The client before the proxies: one scenario, measured for a while, told as one JSON object.

mod bulk;
mod drive;
mod exchange;
mod histogram;
mod http2;
mod idle;
mod outcome;
mod pace;

use std::net::SocketAddr;
use std::time::Duration;

use bulk::Direction;
use drive::Drive;
use exchange::{Exchange, Exchanges};
pub use outcome::Latency;
use outcome::{Outcome, Record};
use pace::Pace;

use crate::event::{self, FILLER, Poller, SECOND};

/// The longest that anything is measured, in seconds.
const LONGEST: f64 = 3600.0;

/// The longest message of gRPC, which fits into every window that a peer may start with.
const MESSAGE: u64 = 32 << 10;

/// What the client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum TrafficPattern {
    /// HTTP/1.1 on connections that stay
    Http1,
    /// HTTP/1.1, a new connection for each request
    Http1Connect,
    /// HTTP/2, several streams on each connection
    Http2,
    /// gRPC, one message there and one back
    GrpcUnary,
    /// gRPC, messages there and back on streams that stay
    GrpcStream,
    /// HTTP/1.1 with large bodies to the service
    Upload,
    /// HTTP/1.1 with large bodies from the service
    Download,
    /// Raw TCP, as many bytes as go through
    TcpBulk,
    /// Raw TCP, a small message there and back
    TcpPingpong,
    /// Raw TCP, a new connection for each small message
    TcpConnect,
    /// HTTP/1.1 connections that do nothing between two requests
    Idle,
}

/// The client before the proxies.
#[derive(clap::Args)]
pub struct LoadOptions {
    /// What to do
    scenario: TrafficPattern,
    /// Where to connect to
    #[arg(long, value_name = "ADDRESS")]
    target: SocketAddr,
    /// Which host to ask for [default: the target]
    #[arg(long, value_name = "HOST:PORT")]
    authority: Option<String>,
    /// Which path to ask for [default: /bytes/N with --bytes]
    #[arg(long)]
    path: Option<String>,
    /// What requests of HTTP/1.1 carry, which makes them POSTs
    #[arg(long, value_name = "TEXT")]
    body: Option<String>,
    /// A field that requests of HTTP/1.1 have, too (repeatable)
    #[arg(long, value_name = "NAME: VALUE", value_parser = parse_field)]
    header: Vec<String>,
    /// How many connections [default: 64; 1 for bulk; 1000 idle ones]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    connections: Option<u32>,
    /// How many streams on each connection, where there are any
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    streams: u32,
    /// How many requests a second, on a fixed schedule [default: as many as it takes]
    #[arg(long)]
    rate: Option<f64>,
    /// How long to measure; of idle connections, how long to hold them
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Stop after so many requests
    #[arg(long, value_name = "N")]
    requests: Option<u64>,
    /// Seconds before what is measured
    #[arg(long, default_value_t = 1.0)]
    warmup: f64,
    /// Bytes of a body or message [default: 1024; 10 MiB for uploads and downloads; 64 for TCP]
    #[arg(long, value_name = "N")]
    bytes: Option<u64>,
    /// Which way bytes go in bulk
    #[arg(long, value_enum, default_value_t = Direction::Down)]
    direction: Direction,
    /// Seconds after which a request has failed
    #[arg(long, default_value_t = 10.0)]
    timeout: f64,
    /// Processes whose CPU time within the window is told, too
    #[arg(long, value_name = "PIDS", value_delimiter = ',')]
    watch: Vec<i32>,
}

fn parse_field(text: &str) -> Result<String, String> {
    let good = text.split_once(':').is_some_and(|(name, _)| !name.is_empty()) && !text.contains(['\r', '\n']);
    good.then(|| text.to_owned()).ok_or_else(|| "expected NAME: VALUE, in one line".to_owned())
}

/// Runs the scenario and prints what was measured; an error if nothing at all succeeded.
pub fn run(options: &LoadOptions) -> anyhow::Result<()> {
    for seconds in [options.seconds, options.warmup, options.timeout] {
        anyhow::ensure!(
            (0.0..=LONGEST).contains(&seconds),
            "{seconds} is no number of seconds up to {LONGEST}"
        );
    }
    anyhow::ensure!(options.rate.is_none_or(|rate| (0.01..=10e6).contains(&rate)), "no such rate");
    event::allow_many_files();
    let outcome = options.measure()?;
    println!("{}", serde_json::to_string(&outcome)?);
    anyhow::ensure!(outcome.requests > outcome.non_2xx, "nothing succeeded");
    Ok(())
}

impl LoadOptions {
    fn measure(&self) -> anyhow::Result<Outcome> {
        let nanoseconds = |seconds: f64| (seconds * SECOND as f64) as u64;
        let start = event::now();
        let from = start + nanoseconds(self.warmup);
        let until = from + nanoseconds(self.seconds);
        let mut drive = Drive {
            poller: Poller::new()?,
            pace: Pace::new(start, self.rate),
            record: Record::new(from, until, self.requests.unwrap_or(u64::MAX).max(1)),
            timeout: nanoseconds(self.timeout),
        };
        drive.record.watch(&self.watch);
        let timeout = Duration::from_secs_f64(self.timeout.max(0.001));
        let connections = self.connections();
        let record = &mut drive.record;
        match self.scenario {
            TrafficPattern::Http2 | TrafficPattern::GrpcUnary | TrafficPattern::GrpcStream => {
                let mut engine = http2::Connections::new(self.target, self.call(), connections);
                drive::run(&mut engine, &mut drive)?;
            }
            TrafficPattern::TcpBulk => bulk::run(self.target, self.direction, connections, timeout, record)?,
            TrafficPattern::Idle => {
                let request = self.http1_request();
                idle::run(self.target, &request, connections, self.seconds, timeout, record)?;
            }
            _ => {
                let mut engine = Exchanges::new(self.target, self.exchange(), connections);
                drive::run(&mut engine, &mut drive)?;
            }
        }
        let name = clap::ValueEnum::to_possible_value(&self.scenario);
        let name = name.as_ref().map_or("", |name| name.get_name());
        Ok(drive.record.outcome(name, connections))
    }

    fn connections(&self) -> usize {
        let default = match self.scenario {
            TrafficPattern::TcpBulk | TrafficPattern::Upload | TrafficPattern::Download => 1,
            TrafficPattern::Idle => 1000,
            _ => 64,
        };
        self.connections.unwrap_or(default) as usize
    }

    fn bytes(&self) -> u64 {
        let default = match self.scenario {
            TrafficPattern::Upload | TrafficPattern::Download => 10 << 20,
            TrafficPattern::TcpPingpong | TrafficPattern::TcpConnect => 64,
            _ => 1024,
        };
        self.bytes.unwrap_or(default)
    }

    fn path(&self) -> String {
        self.path.clone().unwrap_or_else(|| match self.scenario {
            TrafficPattern::GrpcUnary => "/tulle.bench.Echo/Unary".to_owned(),
            TrafficPattern::GrpcStream => "/tulle.bench.Echo/Stream".to_owned(),
            TrafficPattern::Upload => "/upload".to_owned(),
            _ => format!("/bytes/{}", self.bytes()),
        })
    }

    fn authority(&self) -> String {
        self.authority.clone().unwrap_or_else(|| self.target.to_string())
    }

    fn http1_request(&self) -> Vec<u8> {
        let (path, authority) = (self.path(), self.authority());
        let body = self.body.as_deref().filter(|_| self.scenario != TrafficPattern::Upload);
        let length = match body {
            Some(body) => Some(body.len() as u64),
            None => (self.scenario == TrafficPattern::Upload).then(|| self.bytes()),
        };
        let method = if length.is_some() { "POST" } else { "GET" };
        let length = length.map_or_else(String::new, |length| format!("content-length: {length}\r\n"));
        let fields: String = self.header.iter().map(|field| format!("{field}\r\n")).collect();
        let close = if self.scenario == TrafficPattern::Http1Connect { "connection: close\r\n" } else { "" };
        format!(
            "{method} {path} HTTP/1.1\r\nhost: {authority}\r\nuser-agent: tulle-bench\r\naccept: */*\r\n{length}{fields}{close}\r\n{}",
            body.unwrap_or_default()
        )
        .into_bytes()
    }

    fn exchange(&self) -> Exchange {
        let bytes = self.bytes();
        let once = matches!(self.scenario, TrafficPattern::Http1Connect | TrafficPattern::TcpConnect);
        if matches!(self.scenario, TrafficPattern::TcpPingpong | TrafficPattern::TcpConnect) {
            let message = vec![b'x'; bytes.clamp(1, 64 << 10) as usize];
            let purpose = if once { b'O' } else { b'E' };
            let first = [&[purpose], &message[..]].concat();
            return Exchange { first, echo: Some(message.len() as u64), request: message, upload: 0, once };
        }
        let request = self.http1_request();
        let upload = if self.scenario == TrafficPattern::Upload { bytes } else { 0 };
        Exchange { first: request.clone(), request, upload, echo: None, once }
    }

    fn call(&self) -> http2::Call {
        let grpc = self.scenario != TrafficPattern::Http2;
        let mut fields = vec![
            (":method", if grpc { "POST" } else { "GET" }.to_owned()),
            (":scheme", "http".to_owned()),
            (":authority", self.authority()),
            (":path", self.path()),
            ("user-agent", "tulle-bench".to_owned()),
        ];
        let message = grpc.then(|| {
            fields.push(("content-type", "application/grpc".to_owned()));
            fields.push(("te", "trailers".to_owned()));
            // Not compressed, then its length.
            let length = self.bytes().min(MESSAGE) as u32;
            [&[0], &length.to_be_bytes()[..], &FILLER[..length as usize]].concat()
        });
        let stays = self.scenario == TrafficPattern::GrpcStream;
        http2::Call { fields, message, stays, streams: self.streams as usize }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::LoadOptions;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        options: LoadOptions,
    }

    fn request(more: &[&str]) -> Result<String, clap::Error> {
        let line = [&["load", "http1", "--target", "127.0.0.1:1"], more].concat();
        Ok(String::from_utf8(Line::try_parse_from(line)?.options.http1_request()).unwrap())
    }

    #[test]
    fn a_body_makes_a_post() {
        assert_eq!(
            request(&["--path", "http://c/", "--authority", "c", "--body", "{}", "--header", "a: b"])
                .unwrap(),
            "POST http://c/ HTTP/1.1\r\nhost: c\r\nuser-agent: tulle-bench\r\naccept: */*\r\n\
             content-length: 2\r\na: b\r\n\r\n{}"
        );
        assert!(request(&[]).unwrap().starts_with("GET /bytes/1024 HTTP/1.1\r\n"));
    }

    #[test]
    fn what_is_no_field_is_refused() {
        for field in ["x", ": y", "a: b\r\nc: d"] {
            assert!(request(&["--header", field]).is_err(), "{field}");
        }
    }
}
