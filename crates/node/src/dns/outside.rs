//! Names of the outside, where egress is `Listed`: what an ExternalService lists resolves, and nothing else does; where it is `Deny`,
//! nothing does. What a name was
//! resolved to is known to the proxy before the workload hears of it: it holds what connects there to the name.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{Name, RData, Record};
use tokio::time::timeout;
use tulle_model::egress::originated::originated;
use tulle_model::egress::{Leave, is_told, leave};
use tulle_model::name::WorkloadName;
use tulle_model::snapshot::{FastMap, Snapshot};
use tulle_proxy::state::NodeState;

use super::answer::{Alias, Query};
use super::upstream::Transport;
use super::{Caller, Resolver};

/// How long a question waits for that.
const TOLD_DEADLINE: Duration = Duration::from_secs(1);

/// How many records of an answer are looked at: no more fit into one that names addresses.
const MOST_RECORDS: usize = 512;

impl Resolver {
    /// Asks the host's name servers for `name`, which is what was asked for, or what that stands for in the end; unless the mesh
    /// keeps its name from the caller.
    pub(super) async fn outside(
        &self,
        query: &Query<'_>,
        aliases: &[Alias],
        name: &str,
        caller: &Caller,
        transport: Transport,
    ) -> Bytes {
        let workload = caller.resolved.workload();
        let state = self.told_of(caller).await;
        // It is asked again soon, and nobody remembers that there was no such name.
        if !is_told(&state.snapshot, workload, false) {
            return query.error(ResponseCode::ServFail);
        }
        match leave(&state.snapshot, workload, &name) {
            Ok(Leave::Freely(_)) if in_tls(&state.snapshot, workload, name) => {
                self.resolve_outside(query, aliases, name, caller, transport).await
            }
            Ok(Leave::Freely(_)) => self.forward(query, aliases, caller, transport).await,
            // Where nothing may leave, no question does.
            Err(_) => query.no_such_name(aliases),
            Ok(Leave::Listed(listed)) if !listed.lists_name(name) => {
                tracing::debug!(%workload, name, "no ExternalService lists the name: it does not resolve");
                query.no_such_name(aliases)
            }
            // They have the keys by which a client hides whom it means (RFC 9460, RFC 9849).
            Ok(Leave::Listed(_)) if query.wants_service_binding() => query.no_data(aliases),
            Ok(Leave::Listed(_)) => self.resolve_outside(query, aliases, name, caller, transport).await,
        }
    }

    /// Asks for a name that the proxy holds connections to.
    async fn resolve_outside(
        &self,
        query: &Query<'_>,
        aliases: &[Alias],
        name: &str,
        caller: &Caller,
        transport: Transport,
    ) -> Bytes {
        let answer = self.forward(query, aliases, caller, transport).await;
        let addresses = addresses_of(name, &answer);
        if !addresses.is_empty() {
            caller.resolved.enter(name, &addresses);
        }
        answer
    }

    /// The state, once the server has said what may leave of the caller: a workload that has just come asks at once.
    async fn told_of(&self, caller: &Caller) -> Arc<NodeState> {
        let cell = self.addresses.state.cell();
        let now = || arc_swap::Guard::into_inner(cell.load());
        let workload = caller.resolved.workload();
        let is_told = |state: &NodeState| is_told(&state.snapshot, workload, false);
        let state = now();
        if is_told(&state) {
            return state;
        }
        let mut changes = cell.subscribe();
        let told = async {
            loop {
                changes.mark_unchanged();
                let state = now();
                if is_told(&state) || changes.changed().await.is_err() {
                    return state;
                }
            }
        };
        timeout(TOLD_DEADLINE, told).await.unwrap_or_else(|_| now())
    }
}

/// Whether something goes in TLS to that name which all else passes by.
fn in_tls(snapshot: &Snapshot, workload: &WorkloadName, name: &str) -> bool {
    originated(snapshot, workload).is_some_and(|listed| listed.lists_name(name))
}

/// The addresses that an answer has for a name, by whatever that stands for, and how long they last.
fn addresses_of(name: &str, answer: &[u8]) -> Vec<(IpAddr, Duration)> {
    let (Ok(message), Ok(mut own)) = (Message::from_vec(answer), Name::from_ascii(name)) else {
        return Vec::new();
    };
    own.set_fqdn(true);
    // In whatever order they come; each is looked at once.
    let mut records: FastMap<&Name, Vec<&Record>> = FastMap::default();
    for record in message.answers.iter().take(MOST_RECORDS) {
        records.entry(&record.name).or_default().push(record);
    }
    let (mut names, mut of_name) = (vec![&own], Vec::new());
    while let Some(name) = names.pop() {
        for record in records.remove(name).unwrap_or_default() {
            match &record.data {
                RData::CNAME(target) => names.push(&target.0),
                _ => of_name.push(record),
            }
        }
    }
    let addresses = of_name.into_iter().filter_map(|record| {
        let address = match &record.data {
            RData::A(address) => IpAddr::V4(address.0),
            RData::AAAA(address) => IpAddr::V6(address.0),
            _ => return None,
        };
        Some((address, Duration::from_secs(record.ttl.into())))
    });
    addresses.collect()
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::OpCode;
    use hickory_proto::rr::rdata::{A, AAAA, CNAME};

    use super::*;

    #[test]
    fn addresses_are_those_of_the_name_and_what_it_stands_for() {
        let name = |text: &str| Name::from_ascii(text).unwrap();
        let mut message = Message::response(1, OpCode::Query);
        let a = |text: &str| RData::A(A(text.parse().unwrap()));
        for (owner, ttl, data) in [
            ("cdn.example.net.", 30, a("192.0.2.1")),
            ("edge.example.net.", 60, RData::AAAA(AAAA("2001:db8::1".parse().unwrap()))),
            ("edge.example.net.", 10, RData::CNAME(CNAME(name("cdn.example.net.")))),
            ("API.example.com.", 10, RData::CNAME(CNAME(name("edge.example.net.")))),
            ("cdn.example.net.", 10, RData::CNAME(CNAME(name("api.example.com.")))),
            // Nobody has asked for that.
            ("evil.test.", 10, a("198.51.100.1")),
        ] {
            message.add_answer(Record::from_rdata(name(owner), ttl, data));
        }
        let found = addresses_of("api.EXAMPLE.com", &message.to_vec().unwrap());
        let mut shown: Vec<_> = found.iter().map(|(a, lasts)| format!("{a} {}", lasts.as_secs())).collect();
        shown.sort();
        assert_eq!(shown, ["192.0.2.1 30", "2001:db8::1 60"]);
        assert!(addresses_of("other.test", &message.to_vec().unwrap()).is_empty());
        assert!(addresses_of("api.example.com", b"no message").is_empty());
    }
    /// The longest chain that is looked at, its last link first, as a server would have it that wants to keep the node busy.
    #[test]
    fn a_chain_is_followed_in_whatever_order_and_each_link_once() {
        let name = |at: usize| Name::from_ascii(format!("n{at}.example.com.")).unwrap();
        let last = MOST_RECORDS - 1;
        let mut message = Message::response(1, OpCode::Query);
        message.add_answer(Record::from_rdata(name(last), 30, RData::A(A([192, 0, 2, 1].into()))));
        for at in (0..last).rev() {
            message.add_answer(Record::from_rdata(name(at), 30, RData::CNAME(CNAME(name(at + 1)))));
        }
        let answer = message.to_vec().unwrap();
        assert_eq!(addresses_of("n0.example.com", &answer).len(), 1);
        assert_eq!(addresses_of("x.example.com", &answer).len(), 0);
    }
}
