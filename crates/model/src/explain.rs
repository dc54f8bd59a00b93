//! What becomes of a described request, phase by phase, and which field of which object decides, with host capture. Routes, filters, egress and
//! staleness are decided by the functions that proxies run ([`crate::routing::decide`] and the rest), over what they are told; the form of
//! a head is judged by the same rules ([`normal`]), which proxies have in their parsers. What they learn by themselves (who is in
//! trouble, what is in flight, what their budgets have left) is not known here.

mod answer;
mod connection;
mod deliver;
mod find;
mod normal;
mod outside;
mod rule;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use http::HeaderMap;
use serde::Serialize;

use self::find::{Found, find};
use self::outside::outside;
pub use self::rule::percent;
use crate::apart;
use crate::authorization::Traffic;
use crate::compile::Compiler;
use crate::decision::{Decider, Decision, Effect};
use crate::egress::leave;
use crate::grpc;
use crate::identity::SpiffeId;
use crate::name::{ServiceName, WorkloadName};
use crate::routing::decide;
use crate::snapshot::{AppProtocol, Carried, Known, PortConfig, ServiceConfig, Shape, Snapshot};

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub struct Caller<'a> {
    pub workload: &'a WorkloadName,
    /// The node that it is on, where that is known.
    pub node: Option<&'a str>,
    /// As whom it calls, where that is known: else nothing is said of who may enter.
    pub identity: Option<&'a SpiffeId>,
}

/// What it asks for.
#[derive(Debug, Clone, Copy)]
pub struct Described<'a> {
    /// The host that it connects to, of IPv6 without brackets.
    pub host: &'a str,
    pub port: u16,
    pub sends: Sends<'a>,
}

/// What a client sends on its connection.
#[derive(Debug, Clone, Copy)]
pub enum Sends<'a> {
    Request(DescribedRequest<'a>),
    /// Bytes that are no HTTP; of TLS, with the server that its hello names (SNI).
    Bytes {
        is_tls: bool,
        server: Option<&'a str>,
    },
}

/// A request, as its client sends it.
#[derive(Debug, Clone, Copy)]
pub struct DescribedRequest<'a> {
    pub method: &'a str,
    pub path: &'a str,
    pub query: Option<&'a str>,
    /// With `Host`, where that is not host and port of the connection.
    pub headers: &'a HeaderMap,
}

/// The phases of a request, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    Normalize,
    Route,
    Admit,
    RequestFilters,
    Attempt,
    /// At the destination, by its own node.
    Authorize,
    ResponseFilters,
}

/// All of them.
pub const PHASES: [Phase; 7] = [
    Phase::Normalize,
    Phase::Route,
    Phase::Admit,
    Phase::RequestFilters,
    Phase::Attempt,
    Phase::Authorize,
    Phase::ResponseFilters,
];

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Normalize => "normalize",
            Self::Route => "route",
            Self::Admit => "admit",
            Self::RequestFilters => "request filters",
            Self::Attempt => "attempt",
            Self::Authorize => "authorize",
            Self::ResponseFilters => "response filters",
        })
    }
}

/// Something that is decided.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PhaseStep {
    pub phase: Phase,
    pub what: String,
    /// The object that decides, `HTTPRoute/shop/web`; nothing where none does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// The field of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<Cow<'static, str>>,
}

/// What becomes of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Explanation {
    pub steps: Vec<PhaseStep>,
    pub outcomes: Vec<Ending>,
}

/// One of the things that may become of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Ending {
    /// How much of all requests like it, 0 to 1.
    pub share: f64,
    #[serde(flatten)]
    pub end: End,
}

/// See [`Ending`].
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum End {
    /// It goes to one of these endpoints of a service.
    Forwarded {
        service: ServiceName,
        port: u16,
        /// Those that may be picked, best first; none where that is not known.
        endpoints: Vec<String>,
        /// What the application is asked; nothing of what carries bytes.
        #[serde(skip_serializing_if = "Option::is_none")]
        request: Option<Box<Delivered>>,
    },
    Redirected {
        status: u16,
        location: String,
    },
    /// It is answered: it asks what pages of another origin may do.
    Preflight {
        status: u16,
        headers: Vec<(String, String)>,
    },
    Refused {
        /// Of the answer; nothing of what is reset.
        #[serde(skip_serializing_if = "Option::is_none")]
        status: Option<u16>,
        /// The `grpc-status`, of a call.
        #[serde(skip_serializing_if = "Option::is_none")]
        grpc_status: Option<&'static str>,
        reason: Cow<'static, str>,
        message: String,
    },
    /// It leaves the mesh.
    Outside {
        host: String,
        port: u16,
    },
}

/// A request as an application gets it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Delivered {
    pub method: String,
    pub host: String,
    /// With its query.
    pub path: String,
    pub headers: Vec<(String, String)>,
}

/// What a proxy that had asked for everything would know of what was compiled.
pub fn snapshot(compiler: &Compiler) -> Snapshot {
    let mut snapshot = Snapshot { mesh: compiler.mesh(), ..Snapshot::default() };
    let told = compiler.workloads().map(|(name, local)| (name.clone(), local.config.clone()));
    snapshot.workloads.extend(told);
    for config in compiler.services() {
        snapshot.services.insert(config.name.clone(), Known::Present(config.clone()));
        let Some(set) = compiler.endpoints(&config.name) else { continue };
        if config.shape == Shape::Headless {
            for (config, set) in apart::services(config, &set) {
                snapshot.endpoints.insert(config.name.clone(), Arc::new(set));
                snapshot.services.insert(config.name.clone(), Known::Present(Arc::new(config)));
            }
        }
        snapshot.endpoints.insert(config.name.clone(), set);
    }
    snapshot
}

/// What becomes of it.
pub fn explain(snapshot: &Snapshot, caller: Caller<'_>, asked: Described<'_>) -> Explanation {
    let mut said = Said { form: form_of(&asked), steps: Vec::new() };
    let outcomes = all(snapshot, caller, asked, &mut said).unwrap_or_else(|outcome| vec![outcome]);
    said.steps.sort_by_key(|step| step.phase);
    Explanation { steps: said.steps, outcomes }
}

/// How a client is told that nothing comes of what it sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Http,
    Grpc,
    /// Its connection is reset.
    Reset,
}

fn form_of(asked: &Described<'_>) -> Form {
    match &asked.sends {
        Sends::Request(request) if grpc::is_grpc(request.headers) => Form::Grpc,
        Sends::Request(_) => Form::Http,
        Sends::Bytes { .. } => Form::Reset,
    }
}

/// What was decided so far.
#[derive(Debug)]
struct Said {
    form: Form,
    steps: Vec<PhaseStep>,
}

impl Said {
    fn say(&mut self, phase: Phase, what: impl Into<String>) {
        self.once(PhaseStep { phase, what: what.into(), by: None, field: None });
    }

    fn decided(&mut self, phase: Phase, what: impl Into<String>, decision: &Decision) {
        let Decision { by, field, .. } = decision;
        self.once(PhaseStep {
            phase,
            what: what.into(),
            by: Some(by.to_string()),
            field: Some(field.clone()),
        });
    }

    fn once(&mut self, step: PhaseStep) {
        if !self.steps.contains(&step) {
            self.steps.push(step);
        }
    }

    /// `status`: that of HTTP. `decision`: nothing where no object has a say.
    fn refused(
        &mut self,
        phase: Phase,
        decision: Option<&Decision>,
        (status, reason): (u16, impl Into<Cow<'static, str>>),
        message: String,
    ) -> Ending {
        let reason = reason.into();
        let (code, name) = grpc::code_of(status);
        let (how, status, grpc_status) = match self.form {
            Form::Http => (format!("answered with {status} {reason}"), Some(status), None),
            Form::Grpc => {
                (format!("answered with grpc-status {code} ({name}) {reason}"), Some(200), Some(code))
            }
            Form::Reset => (format!("reset, {reason}"), None, None),
        };
        let what = format!("{how}: {message}");
        match decision {
            Some(decision) => self.decided(phase, what, decision),
            None => self.say(phase, what),
        }
        Ending { share: 1.0, end: End::Refused { status, grpc_status, reason, message } }
    }
}

fn all(
    snapshot: &Snapshot,
    caller: Caller<'_>,
    asked: Described<'_>,
    said: &mut Said,
) -> Result<Vec<Ending>, Ending> {
    let namespace = &*caller.workload.namespace;
    let request = match asked.sends {
        Sends::Request(request) => Some(normal::normalize(request, asked.host, asked.port, said)?),
        Sends::Bytes { .. } => None,
    };
    let alias = |name: &ServiceName, other: &str| {
        let by = Decision::new(Decider::Service(name.clone()), "spec.externalName", Effect::Routed);
        said.decided(Phase::Route, format!("Service {name} stands for {other}"), &by);
    };
    let service = match find(snapshot, asked.host, namespace, alias) {
        Found::Service(service) => service,
        // What may not leave is not looked up.
        Found::Unresolved(_) if leave(snapshot, caller.workload, &asked.host).is_err() => {
            return outside(snapshot, caller, asked, request.as_ref(), asked.host, said);
        }
        Found::Unknown(service) | Found::Unresolved(service) => {
            let message = format!("there is no service {service}");
            let decision = Decision::unknown_service(service);
            let refused = said.refused(Phase::Route, Some(&decision), (502, "unknown-service"), message);
            said.say(Phase::Route, "with host capture, the name does not resolve");
            return Err(refused);
        }
        Found::Outside(host) => return outside(snapshot, caller, asked, request.as_ref(), &host, said),
    };
    let port = decide::port_of(service, asked.port, namespace).map_err(|unrouted| {
        let refused = rule::refusal(said, &unrouted);
        said.say(Phase::Route, "with host capture, the connection is refused");
        refused
    })?;
    say_port(service, port, namespace, said);
    match (request, asked.sends, port.declared()) {
        (Some(_), _, Some(Carried::Bytes)) => {
            said.form = Form::Reset;
            said.say(Phase::Route, "requests are not looked at there");
            let sent = (false, None, Traffic::Requests);
            connection::connection(snapshot, caller, service, port, sent, said)
        }
        (Some(request), ..) => rule::request(snapshot, caller, service, &request, said),
        (None, Sends::Bytes { is_tls, .. }, Some(Carried::Http)) => {
            let message = format!("the port is for HTTP{}", if is_tls { " without TLS" } else { "" });
            Err(said.refused(Phase::Route, None, (400, "bad-request"), message))
        }
        (None, Sends::Bytes { is_tls, server }, _) => {
            let sent = (is_tls, server, Traffic::Bytes);
            connection::connection(snapshot, caller, service, port, sent, said)
        }
        (None, Sends::Request(_), _) => Ok(Vec::new()),
    }
}

/// What is known of the port.
fn say_port(service: &ServiceConfig, port: &PortConfig, namespace: &str, said: &mut Said) {
    let what = match port.protocol {
        AppProtocol::Http1 => "speaks HTTP/1",
        AppProtocol::Http2 => "speaks HTTP/2",
        AppProtocol::Tcp => "carries bytes",
        AppProtocol::Detect if port.http_only => "is for HTTP, as a route names it",
        AppProtocol::Detect if port.declared().is_some() => "carries bytes, as it has routes for that",
        AppProtocol::Detect => "does not say what it speaks: the first bytes show it",
    };
    let what = format!("Service {}, whose port {} {what}", service.name, port.number);
    let of_service = || {
        let field = format!("spec.ports[{}].appProtocol", port.number);
        Decision::new(Decider::Service(service.name.clone()), field, Effect::Routed)
    };
    let decision = match rule::first_route(port) {
        Some(route) if port.protocol == AppProtocol::Detect && port.declared().is_some() => {
            Decision::new(route, "spec.parentRefs", Effect::Routed)
        }
        _ => of_service(),
    };
    said.decided(Phase::Route, what, &decision);
    if service.port(port.number).is_some_and(|own| !std::ptr::eq(own, port)) {
        let what = format!("the routes of namespace {namespace} take the place of the Service's own");
        match rule::first_route(port) {
            Some(route) => {
                let decision = Decision::new(route, "metadata.namespace", Effect::Routed);
                said.decided(Phase::Route, what, &decision);
            }
            None => said.say(Phase::Route, what),
        }
    }
}
