//! What a workload of this node sends out of the mesh where egress is `Listed`: whether an ExternalService lists it, and whether
//! policies let the workload use that ([`tulle_model::egress`] decides). What the client says of whom it means is read
//! first, where the port is one of TLS or HTTP.
//!
//! What is under way ends when a newer configuration would not let it begin ([`Withdrawal`]).

mod withdrawal;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use http::uri::Authority;
use tokio::time::timeout;
use tulle_model::authorization::{self, Denial, RequestSeen, Traffic, Visitor};
use tulle_model::decision::{Decision, Effect};
use tulle_model::egress::originated::{self, Onward};
use tulle_model::egress::{self, HeldBack, HeldFor, Leave, ListedBy};
use tulle_model::name::NamespacedName;
use tulle_model::snapshot::{OutsideProtocol, Snapshot};

use self::withdrawal::KeptRequest;
pub(crate) use self::withdrawal::{WasShown, Withdrawable, Withdrawal};
use crate::exchange::{Exchange, Refused};
use crate::local::Local;
use crate::metrics::WorkerRegistry;
use crate::reason::Reason;
use crate::state::LocalWorkload;

/// Where something is to go, outside of the mesh.
#[derive(Debug)]
pub struct OutsidePlace {
    /// The names that its address was resolved for, in lower case.
    pub names: Vec<Arc<str>>,
    /// Tried in their order; none where the name is not resolved yet.
    pub addresses: Vec<SocketAddr>,
    pub port: u16,
}

/// The host of an authority, of IPv6 without brackets.
pub(crate) fn host_of(authority: &Authority) -> &str {
    let host = authority.host();
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

/// What is known of whom a client means.
#[derive(Clone, Copy)]
pub(crate) enum Shown<'a> {
    /// Nothing, and nothing will be.
    Bytes,
    /// The server that its first message of TLS names.
    Server(Option<&'a str>),
    Request(&'a Parts),
    /// One that is under way.
    Kept(&'a KeptRequest),
}

/// Why it may not leave.
pub(crate) struct Unlisted {
    reason: Reason,
    /// What the answer says in the place of the reason's own word.
    word: Option<String>,
    decision: Decision,
    message: String,
}

impl OutsidePlace {
    /// A place at that address, which the workload's DNS may have resolved a name to.
    pub fn at(local: &Local, source: &LocalWorkload, address: SocketAddr) -> Self {
        let names = local.view().resolved.names(&source.name, address.ip());
        Self { names, addresses: vec![address], port: address.port() }
    }

    fn seen(&self) -> egress::PlaceSeen<'_> {
        let address = self.addresses.first().map(SocketAddr::ip);
        egress::PlaceSeen { names: &self.names, address, port: self.port }
    }

    /// As requests name it that name none themselves.
    pub fn authority(&self) -> String {
        match (self.names.first(), self.addresses.first()) {
            (Some(name), _) => format!("{name}:{}", self.port),
            (None, Some(address)) => address.to_string(),
            (None, None) => String::new(),
        }
    }
}

impl fmt::Display for OutsidePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.authority())
    }
}

impl From<HeldBack> for Box<Unlisted> {
    fn from(held: HeldBack) -> Self {
        let HeldBack { why, decision, message } = held;
        let reason = match why {
            HeldFor::Policy => Reason::EgressDenied,
            HeldFor::OtherName => Reason::Misdirected,
        };
        Self::new(Unlisted { reason, word: None, decision, message })
    }
}

impl Unlisted {
    fn denied(denial: Denial<'_>, by: &ListedBy<'_>) -> Box<Self> {
        let reason = match denial {
            Denial::AmbiguousPath(..) => Reason::BadRequest,
            _ => Reason::Denied,
        };
        let message = denial.message(&by.service.name);
        Box::new(Self { reason, word: Some(denial.reason()), decision: denial.decision(), message })
    }

    /// Refuses it so.
    pub fn refuse(self, exchange: &mut Exchange) -> Refused {
        let Self { reason, word, decision, message } = self;
        exchange.decided(|| decision);
        exchange.refuse_as(reason, word, message)
    }
}

/// How long what leaves waits for the server to say what may.
const TOLD_DEADLINE: Duration = Duration::from_secs(1);

/// Waits until the server has said what may leave of a workload: a node that has just begun, and a workload that has just come, hear of it
/// within moments. Nothing is let out without it.
pub(crate) async fn told(local: &Local, source: &LocalWorkload) {
    let is_told = || egress::is_told(&local.view().snapshot, &source.name, source.in_process.is_some());
    if is_told() {
        return;
    }
    let mut changes = local.state.subscribe();
    let told = async {
        loop {
            changes.mark_unchanged();
            if is_told() || changes.changed().await.is_err() {
                return;
            }
        }
    };
    // What is decided then says what is missing.
    let _ = timeout(TOLD_DEADLINE, told).await;
}

/// That it may go, and how.
#[derive(Default)]
pub(crate) struct MayLeave {
    pub onward: Onward,
    /// What lists it: the first of those that do.
    pub by: Option<NamespacedName>,
    /// Boxed: few are noted.
    decisions: Vec<Decision>,
}

impl MayLeave {
    /// Notes in the exchange what decided so.
    pub fn noted(self, exchange: &mut Exchange) -> Onward {
        for decision in self.decisions {
            exchange.decided(|| decision);
        }
        self.onward
    }

    /// As all of these say; not at all, where there is no TLS for it.
    fn by(all: &[ListedBy<'_>]) -> Result<Self, Box<Unlisted>> {
        let onward = originated::onward(all);
        let mut decisions: Vec<_> = all.first().map(ListedBy::decision).into_iter().collect();
        if let Some(tls) = &onward.tls {
            if let Some(message) = tls.refusal() {
                let (reason, decision) = (Reason::TlsFailed, tls.decision());
                return Err(Box::new(Unlisted { reason, word: None, decision, message }));
            }
            decisions.push(tls.decision());
        }
        let by = all.first().map(|listed| listed.service.name.clone());
        Ok(Self { onward, by, decisions })
    }
}

/// How what is of a workload may leave.
fn leave<'a>(
    snapshot: &'a Snapshot,
    source: &'a LocalWorkload,
    to: &OutsidePlace,
) -> Result<Leave<'a>, HeldBack> {
    if source.outside.is_some() {
        return Err(egress::held_from_outside(to));
    }
    match source.in_process {
        None => egress::leave(snapshot, &source.name, to),
        Some(_) => egress::leave_of_flow(snapshot, &source.name, &source.service, to),
    }
}

/// What is to be looked at of what goes there before it may; `None`: nothing, it may go wherever it likes.
pub(crate) fn looked_at(
    snapshot: &Snapshot,
    source: &LocalWorkload,
    place: &OutsidePlace,
) -> Result<Option<OutsideProtocol>, Box<Unlisted>> {
    match leave(snapshot, source, place)? {
        Leave::Freely(_) => {
            let originated = originated::originated(snapshot, &source.name);
            Ok(originated.and_then(|listed| Some(listed.connection(place.seen()).ok()?.protocol)))
        }
        Leave::Listed(listed) => Ok(Some(listed.connection(place.seen())?.protocol)),
    }
}

/// Whether it may go there.
pub(crate) fn admit(
    snapshot: &Snapshot,
    source: &LocalWorkload,
    place: &OutsidePlace,
    shown: Shown<'_>,
    registry: Option<&WorkerRegistry>,
) -> Result<MayLeave, Box<Unlisted>> {
    let listed = match leave(snapshot, source, place)? {
        Leave::Freely(_) => match originated::originated(snapshot, &source.name) {
            Some(listed) => listed,
            None => return Ok(MayLeave::default()),
        },
        Leave::Listed(listed) => listed,
    };
    let use_it = |by: &ListedBy<'_>, seen| may_use(source, place.port, by, seen, registry);
    match shown {
        Shown::Bytes => {
            let first = match listed.connection(place.seen()) {
                Err(_) if listed.lets_pass(None) => return Ok(MayLeave::default()),
                first => first?,
            };
            if first.protocol != OutsideProtocol::Bytes {
                // It was none when nothing was looked at.
                listed.named(place.seen(), None)?;
            }
            let all = listed.all(place.seen());
            all.iter().try_for_each(|by| use_it(by, Traffic::Bytes))?;
            MayLeave::by(&all)
        }
        Shown::Server(server) => {
            let all = match listed.named(place.seen(), server.map(|server| (server, None))) {
                // Who speaks TLS himself has no other put around it.
                Err(_) if listed.lets_pass(None) => return Ok(MayLeave::default()),
                all => all?,
            };
            all.iter().try_for_each(|by| use_it(by, Traffic::Bytes))?;
            MayLeave::by(&all)
        }
        Shown::Request(head) => {
            let authority = head.uri.authority();
            let named = authority.map(|named| (host_of(named), named.port_u16()));
            let all = match listed.named(place.seen(), named) {
                Err(_) if listed.lets_pass(named.map(|(host, _)| host)) => return Ok(MayLeave::default()),
                all => all?,
            };
            let request = RequestSeen {
                method: head.method.as_str(),
                path: head.uri.path(),
                authority: authority.map_or("", |authority| authority.as_str()),
                headers: &head.headers,
                tokens: &[],
            };
            all.iter().try_for_each(|by| use_it(by, Traffic::Request(request)))?;
            MayLeave::by(&all)
        }
        Shown::Kept(KeptRequest { host, head }) => {
            let named = host.as_ref().map(|(host, port)| (&**host, *port));
            let all = match listed.named(place.seen(), named) {
                Err(_) if listed.lets_pass(named.map(|(host, _)| host)) => return Ok(MayLeave::default()),
                all => all?,
            };
            for by in &all {
                let mut tokens = Vec::new();
                let policies = &by.service.policies;
                let seen = head.as_ref().map_or(Traffic::Forgotten, |head| head.seen(policies, &mut tokens));
                may_use(source, place.port, by, seen, registry)?;
            }
            MayLeave::by(&all)
        }
    }
}

/// Whether policies let the workload use it; they are counted where a registry is given.
fn may_use(
    source: &LocalWorkload,
    port: u16,
    by: &ListedBy<'_>,
    seen: Traffic<'_>,
    registry: Option<&WorkerRegistry>,
) -> Result<(), Box<Unlisted>> {
    let policies = &by.service.policies;
    if policies.is_empty() {
        return Ok(());
    }
    if let Some(registry) = registry {
        for audited in authorization::audits(policies, Visitor::Mesh(&source.identity), port, seen) {
            registry.audited(&source.name, &audited);
            let decision = audited.decision(Effect::Audited);
            tracing::debug!(workload = %source.name, external = %by.service.name, port, "audit: {decision}");
        }
    }
    match authorization::decide_leaving(by.service, &source.identity, port, seen) {
        Ok(_) => Ok(()),
        Err(denial) => {
            if let Some(registry) = registry {
                registry.denied(&source.name, &denial);
            }
            Err(Unlisted::denied(denial, by))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use http::Request;
    use tulle_model::identity::{SpiffeId, TrustDomain};
    use tulle_model::name::WorkloadName;
    use tulle_model::snapshot::{
        EgressPolicy, ExternalConfig, ExternalPort, MeshSettings, ServerName, WorkloadConfig,
    };

    use super::*;

    /// What a request, and a first message of TLS, say of whom they mean, to an address that was resolved for `api.example.com`.
    #[test]
    fn what_is_named_is_what_was_resolved() {
        let name = WorkloadName::new("shop", "web");
        let port = ExternalPort::new;
        let external = ExternalConfig {
            name: "shop/api".parse().unwrap(),
            hosts: vec![ServerName::new("*.example.com")],
            ranges: Vec::new(),
            ports: vec![port(80, OutsideProtocol::Http), port(443, OutsideProtocol::Tls)],
            policies: Vec::new().into(),
        };
        let config =
            WorkloadConfig { external: vec![Arc::new(external)].into(), ..WorkloadConfig::new(name.clone()) };
        let mesh = MeshSettings { egress: EgressPolicy::Listed, ..MeshSettings::default() };
        let mut snapshot = Snapshot { mesh: Arc::new(mesh), ..Snapshot::default() };
        snapshot.workloads.insert(name.clone(), Arc::new(config));
        let domain = TrustDomain::new("mesh.test").unwrap();
        let source = LocalWorkload {
            identity: SpiffeId::workload(&domain, "shop", "web").unwrap(),
            name,
            service: "web".into(),
            app_address: Ipv4Addr::LOCALHOST.into(),
            ports: Vec::new(),
            certificate: None,
            draining: false,
            in_process: None,
            outside: None,
        };
        let place = |names: &[&str], port| OutsidePlace {
            names: names.iter().map(|name| Arc::from(*name)).collect(),
            addresses: vec![([192, 0, 2, 1], port).into()],
            port,
        };
        let found =
            |place: &OutsidePlace, shown: Shown<'_>| match admit(&snapshot, &source, place, shown, None) {
                Ok(_) => "passes",
                Err(refused) => refused.reason.as_str(),
            };
        let api = &["api.example.com"][..];
        for (names, uri, expected) in [
            (api, "http://api.example.com/", "passes"),
            (api, "http://API.example.com:80/", "passes"),
            (api, "http://api.example.com:443/", "misdirected"),
            (api, "http://other.example.com/", "misdirected"),
            (api, "http://192.0.2.1/", "misdirected"),
            (api, "http://[::1]/", "misdirected"),
            (&[], "http://api.example.com/", "egress-denied"),
            (&["evil.test"], "http://api.example.com/", "egress-denied"),
        ] {
            let (head, ()) = Request::get(uri).body(()).unwrap().into_parts();
            let place = place(names, 80);
            assert_eq!(found(&place, Shown::Request(&head)), expected, "{names:?} {uri}");
        }
        for (names, server, expected) in [
            (api, Some("api.example.com"), "passes"),
            (api, Some("other.example.com"), "misdirected"),
            (api, None, "misdirected"),
            (&[], Some("api.example.com"), "egress-denied"),
        ] {
            assert_eq!(found(&place(names, 443), Shown::Server(server)), expected, "{names:?} {server:?}");
        }
        assert_eq!(found(&place(api, 81), Shown::Bytes), "egress-denied", "no such port");
        // Who came by a published port is not let out again, also where all may leave.
        let freely = Snapshot::default();
        let anywhere = place(&[], 80);
        assert!(admit(&freely, &source, &anywhere, Shown::Bytes, None).is_ok());
        let stranger = LocalWorkload { outside: Some(([192, 0, 2, 9], 5).into()), ..source };
        for snapshot in [&freely, &snapshot] {
            let refused = admit(snapshot, &stranger, &anywhere, Shown::Bytes, None).err().unwrap();
            assert!(refused.message.contains("published ports lead nowhere else"), "{}", refused.message);
        }
    }
}
