//! Names that the node asks for itself, where all of its network namespace is captured: what the C library would ask is
//! captured, too, and comes back to the node.
//!
//! As nsswitch.conf(5) has it by default, `files dns`: hosts(5), then the name servers of resolv.conf(5), for the name as it is
//! where it has a dot, and in the domains that are searched.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, Query};
use hickory_proto::rr::{Name, RData, RecordType};
use tokio::time::timeout;

use super::Dialer;
use crate::resolv_conf::{RESOLV_CONF, name_servers, search};

/// hosts(5).
const HOSTS: &str = "/etc/hosts";
/// How long one name server may take.
const DEADLINE: Duration = Duration::from_secs(2);
/// How many addresses a name has, at most.
const MOST_ADDRESSES: usize = 16;

/// The addresses of `host:port`.
pub(super) async fn addresses(server: &str, dialer: Dialer) -> io::Result<Vec<SocketAddr>> {
    if let Ok(address) = server.parse() {
        return Ok(vec![address]);
    }
    let invalid = || io::Error::new(io::ErrorKind::InvalidInput, format!("`{server}` is no HOST:PORT"));
    let (host, port) = server.rsplit_once(':').ok_or_else(invalid)?;
    let port: u16 = port.parse().map_err(|_| invalid())?;
    let with_port =
        |addresses: Vec<IpAddr>| addresses.into_iter().map(|ip| SocketAddr::new(ip, port)).collect();
    let in_file = in_hosts(&std::fs::read_to_string(HOSTS).unwrap_or_default(), host);
    if !in_file.is_empty() {
        return Ok(with_port(in_file));
    }
    let text = std::fs::read_to_string(RESOLV_CONF).unwrap_or_default();
    let mut last = io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address"));
    for name in candidates(host, &search(&text)) {
        for server in name_servers(&text) {
            match timeout(DEADLINE, both(&name, server, dialer)).await {
                Ok(Ok(found)) if found.is_empty() => break,
                Ok(Ok(found)) => return Ok(with_port(found)),
                Ok(Err(e)) => last = io::Error::new(e.kind(), format!("the name server {server}: {e}")),
                Err(_) => {
                    last = io::Error::new(
                        io::ErrorKind::TimedOut,
                        format!("the name server {server} does not answer"),
                    );
                }
            }
        }
    }
    Err(last)
}

/// What hosts(5) says of a name.
fn in_hosts(text: &str, host: &str) -> Vec<IpAddr> {
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().split_whitespace());
    let of_name = lines.filter_map(|mut words| {
        let address = words.next()?.parse().ok()?;
        words.any(|name| name.eq_ignore_ascii_case(host)).then_some(address)
    });
    of_name.take(MOST_ADDRESSES).collect()
}

/// The names that are asked for, in their order.
fn candidates(host: &str, domains: &[&str]) -> Vec<Name> {
    let mut names: Vec<_> = domains.iter().map(|domain| format!("{host}.{domain}")).collect();
    if host.ends_with('.') {
        names.clear();
    }
    let place = if host.contains('.') { 0 } else { names.len() };
    names.insert(place, host.to_owned());
    let absolute = |name: &String| {
        let mut name = Name::from_ascii(name).ok()?;
        name.set_fqdn(true);
        Some(name)
    };
    names.iter().filter_map(absolute).collect()
}

async fn both(name: &Name, server: SocketAddr, dialer: Dialer) -> io::Result<Vec<IpAddr>> {
    let (v4, v6) =
        tokio::join!(ask(name, RecordType::A, server, dialer), ask(name, RecordType::AAAA, server, dialer));
    // Name servers that do not know one of the two are not rare.
    match (v4, v6) {
        (Ok(v4), v6) => Ok(v4.into_iter().chain(v6.unwrap_or_default()).take(MOST_ADDRESSES).collect()),
        (Err(_), Ok(v6)) if !v6.is_empty() => Ok(v6),
        (Err(e), _) => Err(e),
    }
}

/// From a port of its own, which a forger has to guess beside the id (RFC 5452, section 9.2).
async fn ask(name: &Name, kind: RecordType, server: SocketAddr, dialer: Dialer) -> io::Result<Vec<IpAddr>> {
    let mut question = Message::query();
    question.metadata.id = rand::random();
    question.metadata.recursion_desired = true;
    question.add_query(Query::query(name.clone(), kind));
    let socket = dialer.udp(server).await?;
    socket.send(&question.to_vec().map_err(io::Error::other)?).await?;
    let mut buffer = vec![0; 4096];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if let Some(found) = answered(&question, &buffer[..length]) {
            return Ok(found);
        }
    }
}

/// What an answer says; `None` where it is one to another question.
fn answered(question: &Message, answer: &[u8]) -> Option<Vec<IpAddr>> {
    let answer = Message::from_vec(answer).ok().filter(|answer| {
        answer.metadata.id == question.metadata.id
            && answer.metadata.message_type == MessageType::Response
            && answer.queries == question.queries
    })?;
    let address = |data: &RData| match data {
        RData::A(address) => Some(IpAddr::V4(address.0)),
        RData::AAAA(address) => Some(IpAddr::V6(address.0)),
        _ => None,
    };
    // The server proves who it is: by whatever names it comes here.
    Some(answer.answers.iter().filter_map(|record| address(&record.data)).take(MOST_ADDRESSES).collect())
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::Record;
    use hickory_proto::rr::rdata::{A, AAAA};
    use tokio::net::UdpSocket;

    use super::*;

    #[test]
    fn hosts_and_candidates() {
        let text = "127.0.0.1 localhost\n10.0.0.1 mesh.example mesh # the server\nfd00::1\tMesh\nbad mesh\n";
        let found: Vec<_> = in_hosts(text, "mesh").iter().map(ToString::to_string).collect();
        assert_eq!(found, ["10.0.0.1", "fd00::1"]);
        assert!(in_hosts(text, "server").is_empty());
        let names = |host: &str| {
            let all = candidates(host, &["a.b", "c"]);
            all.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(names("mesh"), ["mesh.a.b.", "mesh.c.", "mesh."]);
        assert_eq!(names("mesh.x"), ["mesh.x.", "mesh.x.a.b.", "mesh.x.c."]);
        assert_eq!(names("mesh.x."), ["mesh.x."]);
    }

    #[tokio::test]
    async fn both_kinds_of_addresses_are_asked_for() {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let server = socket.local_addr().unwrap();
        tokio::spawn(async move {
            let mut buffer = [0; 512];
            loop {
                let (length, client) = socket.recv_from(&mut buffer).await.unwrap();
                let question = Message::from_vec(&buffer[..length]).unwrap();
                let mut answer = question.clone();
                answer.metadata.message_type = MessageType::Response;
                let name = question.queries[0].name().clone();
                let data = match question.queries[0].query_type() {
                    RecordType::A => RData::A(A([192, 0, 2, 1].into())),
                    _ => RData::AAAA(AAAA("2001:db8::1".parse().unwrap())),
                };
                answer.add_answer(Record::from_rdata(name, 1, data));
                // Somebody else's answer is none.
                let mut forged = answer.clone();
                forged.metadata.id = forged.metadata.id.wrapping_add(1);
                for message in [forged, answer] {
                    socket.send_to(&message.to_vec().unwrap(), client).await.unwrap();
                }
            }
        });
        let name = Name::from_ascii("mesh.example.").unwrap();
        let found = both(&name, server, Dialer { marked: false }).await.unwrap();
        assert_eq!(found, ["192.0.2.1", "2001:db8::1"].map(|text| text.parse::<IpAddr>().unwrap()));
    }
}
