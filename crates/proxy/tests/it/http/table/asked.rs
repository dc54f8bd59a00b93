//! Requests of tables: `GET /path | name: value | …`, and where they differ from what is usual, `host: d.org` (it is `c`),
//! `to v1:80` or `to c:8080` (the destination of the connection; it is port 80 of `c`), `proxied` (the client knows of the mesh,
//! and names `host` to its HTTP proxy), `body 70000` (so many bytes, in pieces, without a length), `trailer x: 1`
//! (after the body). `CALL /s.S/M` is one of gRPC,
//! `TLS d.org` a client of TLS that wants that server.
//!
//! What the application makes of a request it is told in `x-app`: `503` (the status of all its answers), `503*2` (of the first
//! two; then 200), `hang` (it does not answer).

use super::Version;

#[derive(Debug)]
pub struct Asked {
    pub method: &'static str,
    pub target: &'static str,
    pub fields: Vec<(&'static str, &'static str)>,
    pub host: &'static str,
    pub to: (&'static str, u16),
    pub proxied: bool,
    pub body: usize,
    pub trailers: Vec<(&'static str, &'static str)>,
    pub is_call: bool,
}

impl Asked {
    pub fn parse(text: &'static str) -> Self {
        let mut parts = text.split(" | ").map(str::trim);
        let line = parts.next().unwrap();
        let (method, target) = line.split_once(' ').unwrap_or_else(|| panic!("no request: {text}"));
        let is_call = method == "CALL";
        let mut asked = Self {
            method: if is_call { "POST" } else { method },
            target,
            fields: Vec::new(),
            host: "c",
            to: ("c", 80),
            proxied: false,
            body: 0,
            trailers: Vec::new(),
            is_call,
        };
        for part in parts {
            if let Some(service) = part.strip_prefix("to ") {
                let (name, port) = service.split_once(':').unwrap();
                asked.to = (name, port.parse().unwrap());
            } else if let Some(size) = part.strip_prefix("body ") {
                asked.body = size.parse().unwrap();
            } else if let Some(trailer) = part.strip_prefix("trailer ") {
                let (name, value) = trailer.split_once(": ").unwrap();
                asked.trailers.push((name, value));
            } else if part == "proxied" {
                asked.proxied = true;
            } else {
                let (name, value) = part.split_once(':').unwrap_or_else(|| panic!("what is {part}: {text}"));
                match (name, value.trim()) {
                    ("host", host) => asked.host = host,
                    field => asked.fields.push(field),
                }
            }
        }
        asked
    }

    /// Whether clients of that version can ask so.
    pub fn is_for(&self, version: Version) -> bool {
        match version {
            Version::Http1 => !self.is_call,
            // hyper's client has no `*` there.
            Version::Http2 => self.target != "*",
        }
    }
}
