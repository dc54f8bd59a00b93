//! Queries, and answers of the host's name servers to them.

use std::net::Ipv4Addr;

use bytes::Bytes;
use hickory_proto::op::{Message, MessageType, ResponseCode};
use tulle_model::host::{endpoint_host, is_mesh_only, mesh_host, port_host};
use tulle_model::name::ServiceName;

use super::answer::{Alias, Parsed, Place, Query};
use super::listen::fit;

/// The length of a message's header, and where its question begins.
const HEADER: usize = 12;

/// Two messages, the first of which is as long as its first byte says: a workload's query, and what a name server says.
///
/// # Panics
/// Where an answer is not one to its query, or one is believed that is not.
pub fn dns(input: &[u8]) {
    let Some((length, rest)) = input.split_first() else { return };
    let (query, answer) = rest.split_at(rest.len().min(usize::from(*length)));
    asked(query);
    let Parsed::Query(parsed) = Query::parse(query) else { return };
    for id in [0, parsed.id()] {
        if parsed.is_answered_by(answer, id) {
            let message = Message::from_vec(answer).expect("what is passed on is a message");
            assert_eq!((message.metadata.id, message.metadata.message_type), (id, MessageType::Response));
            assert_eq!(question(answer).map(lower), question(query).map(lower), "of another name");
            answers(query, &fit(query, Bytes::copy_from_slice(answer)));
        }
    }
    let alias = Alias { target: "example.com".to_owned() };
    if let Some(other) = parsed.about(&alias.target) {
        assert!(matches!(Query::parse(&other), Parsed::Query(other) if other.id() == parsed.id()));
        if let Some(relayed) = parsed.relayed(&[alias], answer) {
            answers(query, &fit(query, relayed));
        }
    }
}

fn asked(bytes: &[u8]) {
    let query = match Query::parse(bytes) {
        Parsed::Query(query) => query,
        Parsed::Refuse(answer) => {
            let answer = Message::from_vec(&answer).expect("an answer is a message");
            assert_eq!(answer.metadata.id, u16::from_be_bytes([bytes[0], bytes[1]]));
            assert_eq!(answer.metadata.message_type, MessageType::Response);
            assert_ne!(answer.metadata.response_code, ResponseCode::NoError);
            return;
        }
        Parsed::Ignore => return,
    };
    let name = query.name();
    let name = name.trim_end_matches('.');
    let host = port_host(name).map_or(name, |(_, host)| host);
    for namespace in ["default", "shop"] {
        let named = mesh_host(host, namespace);
        assert!(
            named.is_none_or(|named| !named.certain || is_mesh_only(host)),
            "{name} would leave the host"
        );
        let endpoint = endpoint_host(host, namespace);
        assert!(endpoint.is_none_or(|endpoint| endpoint.name.contains('.')), "{name} is no endpoint");
    }
    assert!(!query.is_localhost() || query.wants_address());
    assert!((512..=4096).contains(&query.udp_limit()));
    if let Some(address) = query.reverse_of() {
        let [a, b, c, d] = address.octets();
        let reverse = format!("{d}.{c}.{b}.{a}.in-addr.arpa");
        assert_eq!(without_zeros(name), reverse);
    }
    let service = ServiceName::new("shop", "c");
    let alias = [Alias { target: "d.shop.mesh".to_owned() }];
    let place = Place { name: "a.c.shop.mesh".to_owned(), port: 80, address: Ipv4Addr::LOCALHOST };
    for answer in [
        query.addresses(&[], &[Ipv4Addr::LOCALHOST]),
        query.addresses(&alias, &[Ipv4Addr::LOCALHOST; 300]),
        query.places(&alias, &[place]),
        query.pointer(Some(service)),
        query.pointer(None),
        query.no_such_name(&[]),
        query.no_data(&alias),
        query.error(ResponseCode::ServFail),
        query.truncated(),
    ] {
        answers(bytes, &answer);
        let fitting = fit(bytes, answer);
        assert!(fitting.len() <= query.udp_limit(), "{} bytes", fitting.len());
        answers(bytes, &fitting);
    }
    answers(bytes, &fit(bytes, vec![0; 5000].into()));
}

/// Whether the message is one that its client takes for the answer to its query.
fn answers(query: &[u8], answer: &[u8]) {
    let message = Message::from_vec(answer).unwrap_or_else(|e| panic!("{e}: {answer:02x?}"));
    assert_eq!(message.metadata.message_type, MessageType::Response);
    // Upper and lower case come back as they were: resolvers check it.
    if let (Some(asked), Some(said)) = (question(query), question(answer)) {
        assert_eq!(lower(asked), lower(said));
    }
}

/// The first question of a message, where its name is not compressed.
fn question(message: &[u8]) -> Option<&[u8]> {
    let mut end = HEADER;
    loop {
        match *message.get(end)? {
            0 => return message.get(HEADER..end + 5),
            length @ 1..64 => end += 1 + usize::from(length),
            _ => return None,
        }
    }
}

fn lower(question: &[u8]) -> Vec<u8> {
    question.to_ascii_lowercase()
}

/// Numbers as they are written: `parse` takes leading zeros.
fn without_zeros(name: &str) -> String {
    let plain =
        |label: &str| label.parse::<u8>().map_or(label.to_ascii_lowercase(), |number| number.to_string());
    name.split('.').map(plain).collect::<Vec<_>>().join(".")
}
