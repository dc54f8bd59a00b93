//! Reads queries and makes answers (RFC 1035, RFC 2308 for negative ones, RFC 6891 for EDNS); no I/O.

use std::net::Ipv4Addr;

use bytes::Bytes;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, CNAME, PTR, SOA, SRV};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use tulle_model::name::ServiceName;

use crate::vips::is_virtual;

/// How long an address may be cached, in seconds. It never changes, but the service may go.
const TTL: u32 = 10;

/// How long it may be cached that there is no such name: the service may come at any moment.
const NEGATIVE_TTL: u32 = 1;

/// What we take over UDP, as we tell clients (RFC 9715).
const UDP_PAYLOAD: u16 = 1232;

/// A name that stands for another one.
pub(super) struct Alias {
    pub target: String,
}

/// Where a port of a service is.
pub(super) struct Place {
    pub name: String,
    pub port: u16,
    pub address: Ipv4Addr,
}

/// What a message turned out to be.
pub(super) enum Parsed<'a> {
    Query(Query<'a>),
    /// Answered with an error.
    Refuse(Bytes),
    /// Not answered.
    Ignore,
}

/// A question of a workload.
pub(super) struct Query<'a> {
    /// As it came.
    pub bytes: &'a [u8],
    message: Message,
}

impl<'a> Query<'a> {
    pub fn parse(bytes: &'a [u8]) -> Parsed<'a> {
        // A response is never answered: two servers would talk for ever.
        if bytes.len() < 12 || bytes[2] & 0x80 != 0 {
            return Parsed::Ignore;
        }
        let Ok(message) = Message::from_vec(bytes) else {
            let id = u16::from_be_bytes([bytes[0], bytes[1]]);
            return refuse(Message::error_msg(id, OpCode::Query, ResponseCode::FormErr));
        };
        let query = Self { bytes, message };
        if query.message.metadata.op_code != OpCode::Query {
            return Parsed::Refuse(query.error(ResponseCode::NotImp));
        }
        if query.message.queries.len() != 1 {
            return Parsed::Refuse(query.error(ResponseCode::FormErr));
        }
        if query.message.edns.as_ref().is_some_and(|edns| edns.version() != 0) {
            return Parsed::Refuse(query.error(ResponseCode::BADVERS));
        }
        if query.message.queries[0].query_class() != DNSClass::IN {
            return Parsed::Refuse(query.error(ResponseCode::Refused));
        }
        Parsed::Query(query)
    }

    pub fn id(&self) -> u16 {
        self.message.metadata.id
    }

    fn question(&self) -> &hickory_proto::op::Query {
        // `parse` lets one question through, no more and no less.
        &self.message.queries[0]
    }

    /// The name that is asked for, as text.
    pub fn name(&self) -> String {
        self.question().name().to_ascii()
    }

    /// Whether it asks for IPv4 addresses. The mesh has no others.
    pub fn wants_address(&self) -> bool {
        matches!(self.question().query_type(), RecordType::A | RecordType::ANY)
    }

    /// Whether it asks where a port of a service is.
    pub fn wants_places(&self) -> bool {
        matches!(self.question().query_type(), RecordType::SRV | RecordType::ANY)
    }

    /// Whether it asks what a name stands for, and not for what that has.
    pub fn wants_alias(&self) -> bool {
        matches!(self.question().query_type(), RecordType::CNAME | RecordType::ANY)
    }

    /// Whether it asks how a service is connected to (RFC 9460).
    pub fn wants_service_binding(&self) -> bool {
        matches!(self.question().query_type(), RecordType::HTTPS | RecordType::SVCB | RecordType::ANY)
    }

    /// The same question about another name.
    pub fn about(&self, name: &str) -> Option<Vec<u8>> {
        let mut message = self.message.clone();
        let mut question = self.question().clone();
        question.set_name(absolute(name)?);
        message.queries = vec![question];
        message.to_vec().ok()
    }

    /// RFC 6761, section 6.3.
    pub fn is_localhost(&self) -> bool {
        self.wants_address() && self.question().name().is_localhost()
    }

    /// The IPv4 address whose name is asked for.
    pub fn reverse_of(&self) -> Option<Ipv4Addr> {
        let name = self.name().to_ascii_lowercase();
        let digits = name.trim_end_matches('.').strip_suffix(".in-addr.arpa")?;
        let mut octets = digits.split('.').map(|o| o.parse::<u8>().ok());
        let [d, c, b, a] = [octets.next()??, octets.next()??, octets.next()??, octets.next()??];
        octets.next().is_none().then(|| Ipv4Addr::new(a, b, c, d))
    }

    /// Whether it asks for what reverse names of virtual addresses stand below.
    pub fn is_above_virtual_addresses(&self) -> bool {
        let name = self.name().to_ascii_lowercase();
        let digits = name.trim_end_matches('.').strip_suffix(".in-addr.arpa").unwrap_or_default();
        let octets: Option<Vec<u8>> = digits.rsplit('.').map(|octet| octet.parse().ok()).collect();
        match octets.as_deref() {
            Some([127]) => true,
            Some([127, second] | [127, second, _]) => is_virtual(Ipv4Addr::new(127, *second, 0, 0)),
            _ => false,
        }
    }

    /// The largest answer that its sender takes over UDP.
    pub fn udp_limit(&self) -> usize {
        self.message.edns.as_ref().map_or(512, |edns| usize::from(edns.max_payload().clamp(512, 4096)))
    }

    /// The addresses of the name, or of that which it stands for in the end.
    pub fn addresses(&self, aliases: &[Alias], addresses: &[Ipv4Addr]) -> Bytes {
        let (mut answer, name) = self.aliased(ResponseCode::NoError, aliases);
        for address in addresses {
            answer.add_answer(Record::from_rdata(name.clone(), TTL, RData::A(A(*address))));
        }
        encode(&answer)
    }

    /// Where a port is (RFC 2782), with the addresses of that.
    pub fn places(&self, aliases: &[Alias], places: &[Place]) -> Bytes {
        let (mut answer, name) = self.aliased(ResponseCode::NoError, aliases);
        for place in places {
            let Some(target) = absolute(&place.name) else { continue };
            let address = Record::from_rdata(target.clone(), TTL, RData::A(A(place.address)));
            let data = RData::SRV(SRV::new(0, 100, place.port, target));
            answer.add_answer(Record::from_rdata(name.clone(), TTL, data));
            answer.add_additional(address);
        }
        encode(&answer)
    }

    /// What a name server says of that which the name stands for; `None` where it makes no sense.
    pub fn relayed(&self, aliases: &[Alias], said: &[u8]) -> Option<Bytes> {
        let said = Message::from_vec(said).ok().filter(|said| said.metadata.op_code == OpCode::Query)?;
        let (mut answer, _) = self.aliased(said.metadata.response_code, aliases);
        answer.metadata.truncation = said.metadata.truncation;
        for record in said.answers {
            answer.add_answer(record);
        }
        for record in said.authorities {
            answer.add_authority(record);
        }
        Some(encode(&answer))
    }

    /// The name of the service that has the address, if one has.
    pub fn pointer(&self, service: Option<ServiceName>) -> Bytes {
        let name = service.and_then(|s| Name::from_ascii(format!("{}.{}.mesh.", s.name, s.namespace)).ok());
        let Some(name) = name else { return self.no_such_name(&[]) };
        let mut answer = self.answer(ResponseCode::NoError);
        if matches!(self.question().query_type(), RecordType::PTR | RecordType::ANY) {
            let record = Record::from_rdata(self.question().name().clone(), TTL, RData::PTR(PTR(name)));
            answer.add_answer(record);
        }
        encode(&answer)
    }

    pub fn no_such_name(&self, aliases: &[Alias]) -> Bytes {
        self.negative(ResponseCode::NXDomain, aliases)
    }

    /// The name exists, but has nothing of what is asked for (RFC 2308, section 2.2).
    pub fn no_data(&self, aliases: &[Alias]) -> Bytes {
        self.negative(ResponseCode::NoError, aliases)
    }

    pub fn error(&self, code: ResponseCode) -> Bytes {
        encode(&self.answer(code))
    }

    /// Without its records, for an answer that is too long: its client asks again over TCP.
    pub fn truncated(&self) -> Bytes {
        let mut answer = self.answer(ResponseCode::NoError);
        answer.metadata.truncation = true;
        encode(&answer)
    }

    fn negative(&self, code: ResponseCode, aliases: &[Alias]) -> Bytes {
        let (mut answer, zone) = self.aliased(code, aliases);
        let name = |text| Name::from_ascii(text).unwrap_or_default();
        let times = (3600, 600, 86400);
        let soa =
            SOA::new(name("ns.mesh."), name("hostmaster.mesh."), 1, times.0, times.1, times.2, NEGATIVE_TTL);
        // The zone is the name itself, for those who check that the one encloses the other.
        answer.add_authority(Record::from_rdata(zone, NEGATIVE_TTL, RData::SOA(soa)));
        encode(&answer)
    }

    /// An answer that says what stands for what, and the name at the end of that.
    fn aliased(&self, code: ResponseCode, aliases: &[Alias]) -> (Message, Name) {
        let mut answer = self.answer(code);
        let mut last = self.question().name().clone();
        for alias in aliases {
            let Some(target) = absolute(&alias.target) else { continue };
            answer.add_answer(Record::from_rdata(last, TTL, RData::CNAME(CNAME(target.clone()))));
            last = target;
        }
        (answer, last)
    }

    fn answer(&self, code: ResponseCode) -> Message {
        let request = &self.message.metadata;
        let mut answer = Message::response(request.id, request.op_code);
        answer.metadata.recursion_desired = request.recursion_desired;
        answer.metadata.recursion_available = true;
        answer.metadata.response_code = code;
        answer.queries = self.message.queries.clone();
        // RFC 6891, section 6.1.1: who sends an OPT record gets one.
        if self.message.edns.is_some() {
            let mut edns = Edns::new();
            edns.set_max_payload(UDP_PAYLOAD);
            edns.set_rcode_high(code.high());
            answer.set_edns(edns);
        }
        answer
    }

    /// Whether a name server's message answers this question, asked under `id`.
    pub fn is_answered_by(&self, answer: &[u8], id: u16) -> bool {
        Message::from_vec(answer).is_ok_and(|answer| {
            answer.metadata.id == id
                && answer.metadata.message_type == MessageType::Response
                && answer.metadata.op_code == OpCode::Query
                && answer.queries == self.message.queries
        })
    }
}

fn absolute(name: &str) -> Option<Name> {
    let mut name = Name::from_ascii(name).ok()?;
    name.set_fqdn(true);
    Some(name)
}

fn refuse(message: Message) -> Parsed<'static> {
    Parsed::Refuse(encode(&message))
}

fn encode(message: &Message) -> Bytes {
    match message.to_vec() {
        Ok(bytes) => bytes.into(),
        Err(e) => {
            // Nothing that was parsed should fail to be written again.
            tracing::warn!("a DNS answer cannot be encoded: {e}");
            let id = message.metadata.id;
            let fallback = Message::error_msg(id, OpCode::Query, ResponseCode::ServFail);
            fallback.to_vec().unwrap_or_default().into()
        }
    }
}
