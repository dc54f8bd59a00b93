//! Certificates of all sorts, held against all that check certificates: one table.

use std::sync::{Arc, Mutex};

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose as Eku, IsCa,
    Issuer, KeyPair, KeyUsagePurpose as Ku, SanType,
};
use rustls::client::danger::ServerCertVerifier;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::server::ServerSessionMemoryCache;
use rustls::server::danger::ClientCertVerifier;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::time_provider::TimeProvider;
use rustls::{
    CertificateError, CipherSuite, ClientConfig, ClientConnection, Error, HandshakeKind, NamedGroup,
    ProtocolVersion, ServerConfig, ServerConnection, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use tulle_model::identity::{SpiffeId, TrustDomain};

use super::*;
use crate::refusal::Claimed;

const BEGIN: u64 = 1_800_000_000;
const END: u64 = BEGIN + 3600;
const NOW: u64 = BEGIN + 60;
/// The name by which commands know the API.
const API: &str = "api.test";

type Change = fn(&mut Leaf);

/// A certificate to be: as it should be, until a row of the table changes it.
struct Leaf {
    uris: Vec<String>,
    other: Vec<SanType>,
    begin: u64,
    end: u64,
    is_ca: IsCa,
    usage: Vec<Ku>,
    uses: Vec<Eku>,
    extensions: Vec<CustomExtension>,
    by: By,
}

/// What signs it.
enum By {
    Ours,
    /// Of the same name, with another key.
    Forger,
    Stranger,
    Itself,
    /// An intermediate of ours, which is sent along.
    Intermediate(fn(&mut CertificateParams)),
    /// One that is not sent along.
    Missing,
    /// One that an intermediate signed which may sign leaves only.
    TooLong,
    Nobody,
}

struct Authority {
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

fn time(seconds: u64) -> UnixTime {
    UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds))
}

fn authority(name: &str, by: Option<&Authority>, change: impl FnOnce(&mut CertificateParams)) -> Authority {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![Ku::KeyCertSign];
    change(&mut params);
    let certificate = match by {
        None => params.self_signed(&key),
        Some(by) => params.signed_by(&key, &by.issuer),
    };
    let certificate = certificate.unwrap().der().clone();
    Authority { issuer: Issuer::new(params, key), certificate }
}

/// The authorities of the table, and a key for its leaves.
struct World {
    ours: Authority,
    forger: Authority,
    stranger: Authority,
    key: KeyPair,
}

impl World {
    fn new() -> Self {
        let [ours, forger, stranger] = ["root", "root", "other"].map(|name| authority(name, None, |_| {}));
        Self { ours, forger, stranger, key: KeyPair::generate().unwrap() }
    }

    /// The certificate, and what is sent along.
    fn issue(&self, leaf: Leaf) -> (CertificateDer<'static>, Vec<CertificateDer<'static>>) {
        let mut params = CertificateParams::default();
        let uris = leaf.uris.iter().map(|uri| SanType::URI(uri.as_str().try_into().unwrap()));
        params.subject_alt_names = uris.chain(leaf.other).collect();
        let at = |seconds| rcgen::date_time_ymd(1970, 1, 1) + std::time::Duration::from_secs(seconds);
        (params.not_before, params.not_after) = (at(leaf.begin), at(leaf.end));
        params.is_ca = leaf.is_ca;
        params.key_usages = leaf.usage;
        params.extended_key_usages = leaf.uses;
        params.custom_extensions = leaf.extensions;
        let by = |authority: &Authority| params.signed_by(&self.key, &authority.issuer).unwrap();
        let under = |change: fn(&mut CertificateParams)| authority("intermediate", Some(&self.ours), change);
        let (signed, sent) = match leaf.by {
            By::Ours => (by(&self.ours), vec![]),
            By::Forger => (by(&self.forger), vec![]),
            By::Stranger => (by(&self.stranger), vec![]),
            By::Itself => (params.self_signed(&self.key).unwrap(), vec![]),
            By::Intermediate(change) => {
                let intermediate = under(change);
                (by(&intermediate), vec![intermediate.certificate])
            }
            By::Missing => (by(&under(|_| {})), vec![]),
            By::TooLong => {
                let upper = under(|params| params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)));
                let lower = authority("lower", Some(&upper), |_| {});
                (by(&lower), vec![lower.certificate, upper.certificate])
            }
            By::Nobody => return (CertificateDer::from_slice(b"0"), vec![]),
        };
        (signed.der().clone(), sent)
    }
}

type Check = dyn Fn(&CertificateDer<'_>, &[CertificateDer<'_>], UnixTime) -> Result<(), Error>;

/// One of those who check.
struct Checker {
    /// Who is right here.
    right: &'static str,
    check: Box<Check>,
}

const A: &str = "spiffe://mesh.test/ns/default/sa/a";
const B: &str = "spiffe://mesh.test/ns/default/sa/b";
const NODE: &str = "spiffe://mesh.test/node/n1";
const SERVER: &str = "spiffe://mesh.test/server";

fn id(text: &str) -> SpiffeId {
    text.parse().unwrap()
}

fn domain() -> TrustDomain {
    TrustDomain::new("mesh.test").unwrap()
}

/// In the order of the table of this crate's documentation.
fn checkers(world: &World) -> [Checker; 7] {
    let roots = || Roots::new([&world.ours.certificate]).unwrap();
    let name = || ServerName::try_from(API).unwrap();
    let server = |right, verifier: Box<dyn ServerCertVerifier>, sent: Option<&Authority>| {
        let sent = sent.map(|authority| authority.certificate.clone());
        let check = move |leaf: &CertificateDer<'_>, others: &[CertificateDer<'_>], now| {
            let others: Vec<_> = others.iter().cloned().chain(sent.clone()).collect();
            verifier.verify_server_cert(leaf, &others, &name(), &[], now).map(drop)
        };
        Checker { right, check: Box::new(check) }
    };
    let client = |right, verifier: Box<dyn ClientCertVerifier>| {
        let check = move |leaf: &CertificateDer<'_>, others: &[CertificateDer<'_>], now| {
            verifier.verify_client_cert(leaf, others, now).map(drop)
        };
        Checker { right, check: Box::new(check) }
    };
    let of_mesh = |expected| Box::new(Peers::of(roots(), domain(), expected));
    let pinned = Peers::pinned(fingerprint(&world.ours.certificate));
    let named = store([&world.ours.certificate]).unwrap();
    let named = WebPkiServerVerifier::builder_with_provider(named.into(), tls::provider()).build().unwrap();
    let named = Arc::into_inner(named).unwrap();
    [
        server(A, of_mesh(Expected::Exactly(id(A))), None),
        client(A, of_mesh(Expected::Workload)),
        server(SERVER, Box::new(pinned), Some(&world.ours)),
        server(SERVER, of_mesh(Expected::Server), None),
        client(NODE, of_mesh(Expected::Anyone)),
        client(NODE, Box::new(Users::of(roots()))),
        server(SERVER, Box::new(named), None),
    ]
}

/// An answer as the table has it.
fn letter(answer: Result<(), Error>) -> char {
    let Err(error) = answer else { return '+' };
    match (Refusal::of(&error).map(Refusal::kind), &error) {
        (Some(Kind::ForeignTrustDomain), _) => 'f',
        (Some(Kind::UnknownIssuer), _) => 'u',
        (Some(Kind::InvalidCertificate), _) => 'i',
        (Some(Kind::WrongIdentity), _) => 'w',
        (
            None,
            Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }),
        ) => 'e',
        (None, Error::InvalidCertificate(_)) => '-',
        _ => '?',
    }
}

fn extension(oid: &[u64], content: &[u8]) -> CustomExtension {
    let mut extension = CustomExtension::from_oid_content(oid, content.to_vec());
    extension.set_criticality(true);
    extension
}

/// A name of a certificate as DER has it, tagged as a URI.
fn uri(text: &[u8]) -> Vec<u8> {
    [&[0x86, text.len() as u8], text].concat()
}

/// Subject alternative names, written by hand.
fn names(names: &[&[u8]]) -> CustomExtension {
    let names = names.iter().flat_map(|name| uri(name)).collect::<Vec<_>>();
    extension(&[2, 5, 29, 17], &[&[0x30, names.len() as u8], &names[..]].concat())
}

/// `+` taken, `f` foreign trust domain, `u` unknown issuer, `i` invalid certificate, `w` wrong identity, `e` expired (as
/// rustls says it, for the alert), `-` refused by rustls otherwise.
///
/// Who opens a link to `a`, who takes one, who joins, who has joined, the server's port for nodes; the API, and commands.
#[rustfmt::skip]
const TABLE: &[(&str, Change, &str)] = &[
    ("all is right",                   |_| {},                                                            "+++++ ++"),
    // Who it is.
    ("another workload",               |leaf| leaf.uris = vec![B.into()],                                 "w+ww+ ++"),
    ("a node",                         |leaf| leaf.uris = vec![NODE.into()],                              "wwww+ ++"),
    ("a server",                       |leaf| leaf.uris = vec![SERVER.into()],                            "ww+++ ++"),
    ("nobody",                         |leaf| leaf.uris.clear(),                                          "wwwww ++"),
    ("two",                            |leaf| leaf.uris.push(B.into()),                                   "wwwww ++"),
    ("itself twice",                   |leaf| leaf.uris.push(leaf.uris[0].clone()),                       "wwwww ++"),
    ("itself, after somebody else",    |leaf| leaf.uris.insert(0, B.into()),                              "wwwww ++"),
    ("itself, and a URI elsewhere",    |leaf| leaf.uris.push("https://mesh.test/".into()),                "wwwww ++"),
    ("itself, and a URI of no text",   |leaf| leaf.raw(b"\xff"),                                          "wwwww +-"),
    ("a URI of no text",               |leaf| { leaf.uris.clear(); leaf.raw(b"\xff") },                   "wwwww +-"),
    ("no more than a web address",     |leaf| leaf.uris = vec!["https://mesh.test/server".into()],        "wwwww ++"),
    ("the trust domain alone",         |leaf| leaf.uris = vec!["spiffe://mesh.test".into()],              "wwwww ++"),
    ("an ID of another form",          |leaf| leaf.uris = vec!["spiffe://mesh.test/other".into()],        "wwwww ++"),
    ("an ID with a way up",            |leaf| leaf.uris = vec!["spiffe://mesh.test/ns/../sa/a".into()],   "wwwww ++"),
    ("an ID with an escape",           |leaf| leaf.uris = vec!["spiffe://mesh.test/ns/%61/sa/a".into()],  "wwwww ++"),
    ("an ID with a port",              |leaf| leaf.uris = vec!["spiffe://mesh.test:1/server".into()],     "wwwww ++"),
    ("of another trust domain",        |leaf| leaf.elsewhere(),                                           "ff+ff ++"),
    ("the same by its authority",      |leaf| { leaf.elsewhere(); leaf.by = By::Stranger },               "ffuff --"),
    // When.
    ("it begins later",                |leaf| leaf.begin = NOW + 1,                                       "+++++ --"),
    ("it begins now",                  |leaf| leaf.begin = NOW,                                           "+++++ ++"),
    ("it ends now",                    |leaf| leaf.end = NOW,                                             "+++++ ++"),
    ("it has ended",                   |leaf| leaf.end = NOW - 1,                                         "eeeee ee"),
    ("it ends before it begins",       |leaf| (leaf.begin, leaf.end) = (NOW + 2, NOW + 1),                "eeeee ee"),
    // Who signed it.
    ("a root of the same name",        |leaf| leaf.by = By::Forger,                                       "uuuuu --"),
    ("another root",                   |leaf| leaf.by = By::Stranger,                                     "uuuuu --"),
    ("itself",                         |leaf| leaf.by = By::Itself,                                       "uuuuu --"),
    ("an intermediate",                |leaf| leaf.by = By::Intermediate(|_| {}),                         "+++++ ++"),
    ("one that is not sent",           |leaf| leaf.by = By::Missing,                                      "uuuuu --"),
    ("one that signs none",            |leaf| leaf.by = By::Intermediate(|by| by.is_ca = IsCa::NoCa),     "iiiii --"),
    ("one whose key is for others",    |leaf| leaf.by = By::Intermediate(|by| {
                                           by.extended_key_usages = vec![Eku::CodeSigning] }),            "iiiii --"),
    ("one that has ended",             |leaf| leaf.by = By::Intermediate(|by| {
                                           by.not_after = rcgen::date_time_ymd(2026, 1, 1) }),            "eeeee ee"),
    ("one for certain URIs only",      |leaf| leaf.by = By::Intermediate(|by| {
                                           by.custom_extensions.push(constraints()) }),                   "iiiii --"),
    ("one too many",                   |leaf| leaf.by = By::TooLong,                                      "iiiii --"),
    // What it is for.
    ("an authority",                   |leaf| leaf.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)),    "iiiii --"),
    ("no authority, said",             |leaf| leaf.is_ca = IsCa::ExplicitNoCa,                            "+++++ ++"),
    ("a key for certificates",         |leaf| leaf.usage.push(Ku::KeyCertSign),                           "iiiii ++"),
    ("a key for revocations",          |leaf| leaf.usage.push(Ku::CrlSign),                               "iiiii ++"),
    ("a key that signs nothing",       |leaf| leaf.usage = vec![Ku::KeyAgreement],                        "iiiii ++"),
    ("a key for agreements, too",      |leaf| leaf.usage.push(Ku::KeyAgreement),                          "+++++ ++"),
    ("nothing is said of the key",     |leaf| leaf.usage.clear(),                                         "+++++ ++"),
    ("for servers only",               |leaf| leaf.uses = vec![Eku::ServerAuth],                          "+i++i -+"),
    ("for clients only",               |leaf| leaf.uses = vec![Eku::ClientAuth],                          "i+ii+ +-"),
    ("for something else",             |leaf| leaf.uses = vec![Eku::CodeSigning],                         "iiiii --"),
    ("for whatever it be",             |leaf| leaf.uses = vec![Eku::Any],                                 "iiiii --"),
    ("nothing is said of the use",     |leaf| leaf.uses.clear(),                                          "+++++ ++"),
    // What else there is.
    ("an extension nobody knows",      |leaf| leaf.extensions.push(extension(&[1, 2, 3, 4], &[5, 0])),    "iiiii --"),
    ("no certificate",                 |leaf| leaf.by = By::Nobody,                                       "iiiii --"),
];

impl Leaf {
    fn right(identity: &str) -> Self {
        Self {
            uris: vec![identity.to_owned()],
            other: vec![SanType::DnsName(API.try_into().unwrap())],
            begin: BEGIN,
            end: END,
            is_ca: IsCa::NoCa,
            usage: vec![Ku::DigitalSignature],
            uses: vec![Eku::ServerAuth, Eku::ClientAuth],
            extensions: vec![],
            by: By::Ours,
        }
    }

    /// Has the URIs that it has, and one of these bytes.
    fn raw(&mut self, bytes: &[u8]) {
        let uris = std::mem::take(&mut self.uris);
        self.other.clear();
        let all: Vec<&[u8]> = uris.iter().map(String::as_bytes).chain([bytes]).collect();
        self.extensions.push(names(&all));
    }

    fn elsewhere(&mut self) {
        self.uris[0] = self.uris[0].replace("mesh.test", "other.test");
    }
}

/// Only URIs of this host (RFC 5280, section 4.2.1.10).
fn constraints() -> CustomExtension {
    let host = uri(b"mesh.test");
    let within = |tag: u8, content: &[u8]| [&[tag, content.len() as u8], content].concat();
    extension(&[2, 5, 29, 30], &within(0x30, &within(0xa0, &within(0x30, &host))))
}

#[test]
fn every_certificate_gets_the_same_answer_from_all_who_ask_the_same() {
    let world = World::new();
    let checkers = checkers(&world);
    let mut wrong = Vec::new();
    for (what, change, expected) in TABLE {
        let found = checkers.iter().map(|checker| {
            let mut leaf = Leaf::right(checker.right);
            change(&mut leaf);
            let (leaf, sent) = world.issue(leaf);
            letter((checker.check)(&leaf, &sent, time(NOW)))
        });
        let found: String = found.collect();
        if found != expected.replace(' ', "") {
            wrong.push(format!("{what}: {found} instead of {expected}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn svid(world: &World, identity: &str) -> Svid {
    let (leaf, _) = world.issue(Leaf::right(identity));
    Svid::new(vec![leaf], key(&world.key), std::slice::from_ref(&world.ours.certificate)).unwrap()
}

fn key(key: &KeyPair) -> PrivateKeyDer<'static> {
    PrivatePkcs8KeyDer::from(key.serialize_der()).into()
}

#[test]
fn a_refusal_says_whose_the_certificate_is_and_who_was_expected() {
    let world = World::new();
    let said = |expected: Expected, change: Change| {
        let mut leaf = Leaf::right(A);
        change(&mut leaf);
        let (leaf, sent) = world.issue(leaf);
        let error = svid(&world, B).peers(expected).check(Use::Client, &leaf, &sent, time(NOW)).unwrap_err();
        Refusal::of(&error).expect("one of ours").to_string()
    };
    for (expected, change, text) in [
        (
            Expected::Exactly(id(B)),
            (|_| {}) as Change,
            "wrong identity: expected spiffe://mesh.test/ns/default/sa/b, got spiffe://mesh.test/ns/default/sa/a",
        ),
        (
            Expected::Server,
            |_| {},
            "wrong identity: expected a server, got spiffe://mesh.test/ns/default/sa/a",
        ),
        (
            Expected::Workload,
            |leaf| leaf.uris = vec![NODE.into()],
            "wrong identity: expected a workload, got spiffe://mesh.test/node/n1",
        ),
        (
            Expected::Anyone,
            Leaf::elsewhere,
            "foreign trust domain: the peer is spiffe://other.test/ns/default/sa/a, this mesh is mesh.test",
        ),
        (
            Expected::Anyone,
            |leaf| leaf.by = By::Forger,
            "unknown issuer: the certificate says spiffe://mesh.test/ns/default/sa/a, and no root that is trusted here \
             signed it",
        ),
        (
            Expected::Anyone,
            |leaf| {
                leaf.uris.clear();
                leaf.by = By::Stranger;
            },
            "unknown issuer: the certificate says nobody, and",
        ),
        (
            Expected::Anyone,
            |leaf| leaf.uses = vec![Eku::ServerAuth],
            "invalid certificate of spiffe://mesh.test/ns/default/sa/a: ",
        ),
        (
            Expected::Anyone,
            |leaf| leaf.usage.push(Ku::KeyCertSign),
            "invalid certificate of spiffe://mesh.test/ns/default/sa/a: its key usage says that it may sign certificates",
        ),
        (
            Expected::Anyone,
            |leaf| leaf.usage = vec![Ku::KeyAgreement],
            "its key usage says that it may not sign handshakes",
        ),
        (Expected::Anyone, |leaf| leaf.uris.clear(), "wrong identity: the certificate has no SPIFFE ID"),
        (Expected::Anyone, |leaf| leaf.uris.push(B.into()), "the certificate has more than one URI name"),
        (Expected::Anyone, |leaf| leaf.uris[0].push('/'), "is not a SPIFFE ID of a mesh"),
        (Expected::Anyone, |leaf| leaf.by = By::Nobody, "invalid certificate: it cannot be read"),
    ] {
        let found = said(expected, change);
        assert!(found.contains(text), "{found}\nhas not\n{text}");
    }
    assert_eq!(Expected::Anyone.to_string(), "anyone");
}

#[test]
fn who_joins_takes_the_root_that_was_sent_and_named_only() {
    let world = World::new();
    let (leaf, _) = world.issue(Leaf::right(SERVER));
    let [ours, others] = [&world.ours, &world.forger].map(|authority| authority.certificate.clone());
    let joins = |root: &CertificateDer<'_>, sent: &[&CertificateDer<'static>]| {
        let sent: Vec<_> = sent.iter().map(|&sent| sent.clone()).collect();
        let error = Peers::pinned(fingerprint(root)).check(Use::Server, &leaf, &sent, time(NOW));
        error.map_err(|error| Refusal::of(&error).cloned())
    };
    assert_eq!(joins(&ours, &[&others, &ours]), Ok(()));
    let not_pinned = Err(Some(Refusal::NotPinned));
    assert_eq!(joins(&ours, &[]), not_pinned);
    assert_eq!(joins(&ours, &[&others]), not_pinned);
    // It is not enough that the right one is in the leaf's place, or is sent.
    assert_eq!(joins(&leaf, &[&ours]), not_pinned);
    let unknown = Err(Some(Refusal::UnknownIssuer(Claimed(Some(id(SERVER))))));
    assert_eq!(joins(&others, &[&ours, &others]), unknown);
    let nonsense = CertificateDer::from_slice(b"0");
    let refused = joins(&nonsense, &[&nonsense]).unwrap_err().unwrap();
    assert_eq!(refused.kind(), Kind::InvalidCertificate);
    assert_eq!(Refusal::NotPinned.kind(), Kind::UnknownIssuer);
}

static EXPIRED: Mutex<Vec<String>> = Mutex::new(Vec::new());

#[test]
fn who_claims_an_expired_certificate_is_told() {
    let world = World::new();
    let told = |claimed: &Claimed| EXPIRED.lock().unwrap().push(claimed.to_string());
    let peers = svid(&world, B).peers(Expected::Anyone).telling_of_expired(told);
    for (change, now) in [
        ((|_| {}) as Change, END + 1),
        (|leaf| leaf.uris.clear(), END + 1),
        // These are not.
        (|_| {}, NOW),
        (|leaf| leaf.by = By::Forger, NOW),
        (|leaf| leaf.usage.push(Ku::KeyCertSign), NOW),
    ] {
        let mut leaf = Leaf::right(A);
        change(&mut leaf);
        let (leaf, sent) = world.issue(leaf);
        let _ = peers.check(Use::Client, &leaf, &sent, time(now));
    }
    assert_eq!(*EXPIRED.lock().unwrap(), [A, "nobody"]);
}

#[test]
fn a_certificate_is_read_as_it_is() {
    let world = World::new();
    let read = Certificate::read(&world.issue(Leaf::right(A)).0).unwrap();
    assert_eq!((read.identity, read.not_before, read.not_after), (Ok(id(A)), BEGIN as i64, END as i64));
    let digits = fingerprint(&CertificateDer::from_slice(b"abc")).map(|byte| format!("{byte:02x}")).concat();
    assert_eq!(digits, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

#[test]
fn what_does_not_belong_together_is_no_svid() {
    let world = World::new();
    let ours = [world.ours.certificate.clone()];
    let chain = |change: Change| {
        let mut leaf = Leaf::right(A);
        change(&mut leaf);
        vec![world.issue(leaf).0]
    };
    let shown = chain(|_| {});
    let good = Svid::new(shown.clone(), key(&world.key), &ours).unwrap();
    assert_eq!((good.identity(), good.not_after(), &good.key().cert), (&id(A), END as i64, &shown));
    let shown = format!("{good:?}");
    assert!(shown.contains(A) && !shown.contains("CertifiedKey"), "{shown}");
    let other = KeyPair::generate().unwrap();
    let nonsense = CertificateDer::from_slice(b"0");
    for (found, why) in [
        (Svid::new(vec![], key(&world.key), &ours), "there is no certificate"),
        (Svid::new(vec![nonsense.clone()], key(&world.key), &ours), "cannot be read"),
        (Svid::new(chain(|leaf| leaf.uris.clear()), key(&world.key), &ours), "has no SPIFFE ID"),
        (Svid::new(chain(|_| {}), key(&other), &ours), "of no use together"),
        (Svid::new(chain(|_| {}), key(&world.key), &[]), "root certificates are of no use"),
        (Svid::new(chain(|_| {}), key(&world.key), &[nonsense]), "a root certificate makes no sense"),
    ] {
        let found = found.map(drop).map_err(|error| error.to_string());
        assert!(found.as_ref().is_err_and(|found| found.contains(why)), "{why}: {found:?}");
    }
}

#[test]
fn roots_include_others_where_none_is_missing() {
    let world = World::new();
    let [a, b] = [&world.ours, &world.stranger].map(|authority| &authority.certificate);
    let roots = |certificates: &[&CertificateDer<'static>]| Roots::new(certificates.iter().copied()).unwrap();
    for (these, others, expected) in [
        (roots(&[a]), roots(&[a]), true),
        (roots(&[a, b]), roots(&[b]), true),
        (roots(&[b, a]), roots(&[a, b]), true),
        (roots(&[a]), roots(&[b]), false),
        (roots(&[a]), roots(&[a, b]), false),
        // The name says nothing.
        (roots(&[a]), roots(&[&world.forger.certificate]), false),
    ] {
        assert_eq!(these.include(&others), expected);
    }
}

#[test]
fn users_are_checked_by_the_roots_of_the_moment() {
    let world = World::new();
    let [old, new] = [&world.ours, &world.forger].map(|by| Roots::new([&by.certificate]).unwrap());
    let users = Users::of(old);
    let taken = |by| {
        let mut leaf = Leaf::right(A);
        leaf.by = by;
        users.verify_client_cert(&world.issue(leaf).0, &[], time(NOW)).is_ok()
    };
    assert_eq!((taken(By::Ours), taken(By::Forger)), (true, false));
    users.replace(new);
    assert_eq!((taken(By::Ours), taken(By::Forger)), (false, true));
}

#[test]
fn clients_are_told_whose_certificates_are_taken_and_whether_they_need_one() {
    let world = World::new();
    let roots = || Roots::new([&world.ours.certificate]).unwrap();
    let peers = || Peers::of(roots(), domain(), Expected::Anyone);
    let pinned = Peers::pinned([0; 32]);
    let (_, root) = x509_parser::parse_x509_certificate(&world.ours.certificate).unwrap();
    let ours = vec![root.subject().as_raw().to_vec()];
    let (none, users) = (vec![], Users::of(roots()));
    for (verifier, names, mandatory) in [
        (&peers() as &dyn ClientCertVerifier, &ours, true),
        (&peers().or_nobody(), &ours, false),
        (&users, &ours, false),
        (&pinned, &none, true),
    ] {
        let hints: Vec<_> = verifier.root_hint_subjects().iter().map(|name| name.as_ref().to_vec()).collect();
        assert_eq!((&hints, verifier.client_auth_mandatory()), (names, mandatory));
        assert!(verifier.supported_verify_schemes().contains(&SignatureScheme::ED25519));
    }
    assert!(ServerCertVerifier::supported_verify_schemes(&peers()).contains(&SignatureScheme::ED25519));
    assert_eq!(tls::provider().cipher_suites[0].suite(), CipherSuite::TLS13_AES_128_GCM_SHA256);
}

/// It is always the same moment.
#[derive(Debug)]
struct Moment;

impl TimeProvider for Moment {
    fn current_time(&self) -> Option<UnixTime> {
        Some(time(NOW))
    }
}

/// Both sides once they have shaken hands, or why they do not.
fn handshake(
    client: &Arc<ClientConfig>,
    server: &Arc<ServerConfig>,
) -> Result<(ClientConnection, ServerConnection), Error> {
    let mut client = ClientConnection::new(client.clone(), ServerName::try_from("some.name").unwrap())?;
    let mut server = ServerConnection::new(server.clone())?;
    for _ in 0..10 {
        let (mut there, mut back) = (Vec::new(), Vec::new());
        while client.wants_write() {
            client.write_tls(&mut there).unwrap();
        }
        let mut there = there.as_slice();
        while !there.is_empty() {
            server.read_tls(&mut there).unwrap();
            server.process_new_packets()?;
        }
        while server.wants_write() {
            server.write_tls(&mut back).unwrap();
        }
        let mut back = back.as_slice();
        while !back.is_empty() {
            client.read_tls(&mut back).unwrap();
            client.process_new_packets()?;
        }
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    Ok((client, server))
}

fn configs(client: &Svid, server: &Svid) -> (ClientConfig, ServerConfig) {
    let shown = Arc::new(SingleCertAndKey::from(server.key().clone()));
    let connects = tls::client(client.peers(Expected::Exactly(id(B))), Some(client), Arc::new(Moment));
    (connects, tls::server(server.peers(Expected::Workload), shown, Arc::new(Moment)))
}

#[test]
fn every_handshake_is_a_whole_one_of_tls_13_and_http_2() {
    let world = World::new();
    let (client, server) = configs(&svid(&world, A), &svid(&world, B));
    let (client, server) = (Arc::new(client), Arc::new(server));
    for _ in 0..2 {
        let (near, far) = handshake(&client, &server).unwrap();
        assert_eq!(near.protocol_version(), Some(ProtocolVersion::TLSv1_3));
        assert_eq!((near.alpn_protocol(), far.alpn_protocol()), (Some(tls::ALPN), Some(tls::ALPN)));
        assert_eq!(near.negotiated_key_exchange_group().unwrap().name(), NamedGroup::X25519MLKEM768);
        let suite = near.negotiated_cipher_suite().unwrap().suite();
        assert_eq!(suite, CipherSuite::TLS13_AES_128_GCM_SHA256);
        assert_ne!(near.handshake_kind(), Some(HandshakeKind::Resumed));
        assert_eq!(far.peer_certificates().unwrap().len(), 1);
    }
}

#[test]
fn neither_side_resumes_with_one_that_would() {
    let world = World::new();
    let (client, server) = configs(&svid(&world, A), &svid(&world, B));
    let (mut lax_client, mut lax_server) = (client.clone(), server.clone());
    lax_client.resumption = Resumption::default();
    lax_server.session_storage = ServerSessionMemoryCache::new(32);
    lax_server.send_tls13_tickets = 2;
    let [client, lax_client] = [client, lax_client].map(Arc::new);
    let [server, lax_server] = [server, lax_server].map(Arc::new);
    for (client, server, resumed) in
        [(&client, &lax_server, false), (&lax_client, &server, false), (&lax_client, &lax_server, true)]
    {
        handshake(client, server).unwrap();
        let (again, _) = handshake(client, server).unwrap();
        assert_eq!(again.handshake_kind() == Some(HandshakeKind::Resumed), resumed);
    }
}

#[test]
fn neither_side_speaks_tls_12() {
    let world = World::new();
    let (client, server) = configs(&svid(&world, A), &svid(&world, B));
    let versions = &[&rustls::version::TLS12];
    let old = || rustls::crypto::aws_lc_rs::default_provider().into();
    let old_client = ClientConfig::builder_with_provider(old()).with_protocol_versions(versions).unwrap();
    let old_client = old_client.with_root_certificates(store([&world.ours.certificate]).unwrap());
    let own = svid(&world, B);
    let old_server = ServerConfig::builder_with_provider(old()).with_protocol_versions(versions).unwrap();
    let old_server = old_server
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(own.key().clone())));
    assert!(handshake(&old_client.with_no_client_auth().into(), &server.into()).is_err());
    assert!(handshake(&client.into(), &old_server.into()).is_err());
}

#[test]
fn a_certificate_without_its_key_is_of_no_use() {
    let world = World::new();
    let (a, b) = (svid(&world, A), svid(&world, B));
    let stolen = |svid: &Svid| {
        let key = tls::provider().key_provider.load_private_key(key(&KeyPair::generate().unwrap())).unwrap();
        Arc::new(SingleCertAndKey::from(CertifiedKey::new(svid.key().cert.clone(), key)))
    };
    let (mut client, server) = configs(&a, &b);
    client.client_auth_cert_resolver = stolen(&a);
    let bad_signature = |found: Result<_, Error>| {
        assert_eq!(found.map(drop), Err(Error::InvalidCertificate(CertificateError::BadSignature)));
    };
    bad_signature(handshake(&client.into(), &server.into()));
    let (client, mut server) = configs(&a, &b);
    server.cert_resolver = stolen(&b);
    bad_signature(handshake(&client.into(), &server.into()));
}

#[test]
fn who_shows_nothing_is_let_in_where_that_is_said() {
    let world = World::new();
    let (a, b) = (svid(&world, A), svid(&world, B));
    let nobody = Arc::new(tls::client(a.peers(Expected::Anyone), None, Arc::new(Moment)));
    for (peers, expected) in [
        (b.peers(Expected::Anyone), Err(Error::NoCertificatesPresented)),
        (b.peers(Expected::Anyone).or_nobody(), Ok(())),
    ] {
        let shown = Arc::new(SingleCertAndKey::from(b.key().clone()));
        let server = Arc::new(tls::server(peers, shown, Arc::new(Moment)));
        assert_eq!(handshake(&nobody, &server).map(drop), expected);
    }
}
