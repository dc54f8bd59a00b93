//! Whom a run compares: no proxy, a pair out of a description, or a mesh of Tulle.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::accounting;
use super::mesh::{self, Mesh};
use super::pair::Pair;
use super::programs::Programs;
use super::results::PeerInfo;
use super::scenarios::{Protocol, Scenario};
use super::service::{self, Service};

/// The base of all: the client speaks to the service itself.
pub const NONE: &str = "none";
const FIRST_ANSWER: Duration = Duration::from_secs(20);

pub enum Contender {
    None { http: SocketAddr, tcp: SocketAddr },
    Pair(Box<Pair>),
    Mesh(Box<Mesh>),
}

/// Processes of each part of a contender.
#[derive(Debug, Clone, Default)]
pub struct Parts {
    pub client: Vec<u32>,
    pub server: Vec<u32>,
    pub control: Vec<u32>,
}

impl Contender {
    pub fn none(service: &Service) -> Self {
        Self::None { http: service.http, tcp: service.tcp }
    }

    pub fn name(&self) -> &str {
        match self {
            Self::None { .. } => NONE,
            Self::Pair(pair) => &pair.description.name,
            Self::Mesh(mesh) => &mesh.name,
        }
    }

    /// What the report says of it; asked while it runs.
    pub fn info(&mut self, programs: &Programs) -> Result<PeerInfo> {
        let binary_bytes = self.parts().client.first().and_then(|pid| accounting::binary_size(*pid));
        Ok(match self {
            Self::None { .. } => PeerInfo {
                name: NONE.to_owned(),
                title: "no proxy".to_owned(),
                between: String::new(),
                package: String::new(),
                version: String::new(),
                settings: Vec::new(),
                binary_bytes: None,
                own: false,
            },
            Self::Pair(pair) => PeerInfo {
                name: pair.description.name.clone(),
                title: pair.description.title.clone(),
                between: pair.description.between.clone(),
                package: pair.description.package.clone(),
                version: pair.version(programs)?,
                settings: pair.description.settings.clone(),
                binary_bytes,
                own: false,
            },
            Self::Mesh(mesh) => PeerInfo {
                name: mesh.name.clone(),
                title: mesh.shape.title.to_owned(),
                between: if mesh.shape.nodes > 1 { "Tulle's link" } else { "nothing" }.to_owned(),
                package: "this folder".to_owned(),
                version: mesh.version()?,
                settings: mesh::SETTINGS.iter().map(|&line| line.to_owned()).collect(),
                binary_bytes,
                own: true,
            },
        })
    }

    /// Whether it takes part in a scenario.
    pub fn does(&self, scenario: &Scenario) -> bool {
        match self {
            Self::None { .. } => true,
            Self::Pair(pair) => pair.entry(scenario.protocol).is_some(),
            Self::Mesh(mesh) => mesh.shape.main || scenario.variants,
        }
    }

    pub fn entry(&self, protocol: Protocol) -> Option<SocketAddr> {
        match self {
            Self::None { tcp, .. } if protocol == Protocol::Tcp => Some(*tcp),
            Self::None { http, .. } => Some(*http),
            Self::Pair(pair) => pair.entry(protocol),
            Self::Mesh(mesh) => mesh.entry(protocol),
        }
    }

    /// What its proxies run.
    pub fn program(&self) -> Option<&Path> {
        match self {
            Self::None { .. } => None,
            Self::Pair(pair) => pair.program(),
            Self::Mesh(mesh) => Some(mesh.program()),
        }
    }

    /// Starts it and waits until a request goes through.
    pub fn start(&mut self) -> Result<()> {
        match self {
            Self::None { .. } => Ok(()),
            Self::Pair(pair) => pair.start(),
            Self::Mesh(mesh) => mesh.start(),
        }
    }

    /// From the start of the client side's proxy, the other side being up, to the first answer through it.
    pub fn time_start(&mut self) -> Result<Option<Duration>> {
        let begin = match self {
            Self::None { .. } => return Ok(None),
            Self::Pair(pair) => pair.restart_client_side()?,
            Self::Mesh(mesh) => mesh.restart_client_side()?,
        };
        self.first_answer(begin).map(Some)
    }

    fn first_answer(&mut self, begin: Instant) -> Result<Duration> {
        let entry = self.entry(Protocol::Http1).with_context(|| format!("{} has no entry", self.name()))?;
        service::first_answer(entry, begin, FIRST_ANSWER).map_err(|error| match self {
            Self::None { .. } => error,
            Self::Pair(pair) => pair.explain(error),
            Self::Mesh(mesh) => mesh.explain(error),
        })
    }

    pub fn parts(&self) -> Parts {
        match self {
            Self::None { .. } => Parts::default(),
            Self::Pair(pair) => pair.parts(),
            Self::Mesh(mesh) => mesh.parts(),
        }
    }

    /// Adds what its processes last said to an error that they may have caused.
    pub fn explain(&self, error: anyhow::Error) -> anyhow::Error {
        match self {
            Self::None { .. } => error,
            Self::Pair(pair) => pair.explain(error),
            Self::Mesh(mesh) => mesh.explain(error),
        }
    }

    pub fn stop(&mut self) {
        match self {
            Self::None { .. } => {}
            Self::Pair(pair) => pair.stop(),
            Self::Mesh(mesh) => mesh.stop(),
        }
    }
}
