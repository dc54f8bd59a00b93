use tokio::net::{TcpListener, TcpStream};
use tulle_model::stamp::Stamp;
use tulle_server::ca::mesh::MeshAuthority;
use tulle_server::ca::seal::MasterKey;
use tulle_server::{Server, ServerConfig};
use tulle_wire::node::Certificate;

use super::*;
use crate::keeper::Keeper;

fn at(server: &str) -> (&str, Dialer) {
    (server, Dialer { marked: false })
}

#[test]
fn tokens_are_checked_before_they_are_used() {
    let root = "0f".repeat(32);
    let good = format!(" {root}.id.secret\n");
    let token = Token::parse(&good).unwrap();
    assert_eq!((token.text, token.id, token.root), (good.trim(), "id", [15; 32]));
    assert_eq!(Token::parse(&format!("{}.i.s", "A9".repeat(32))).unwrap().root, [0xa9; 32]);
    for bad in [
        String::new(),
        "a.b.c".to_owned(),
        root.clone(),
        format!("{root}.id"),
        format!("{root}.id."),
        format!("{root}..secret"),
        format!("{}.id.secret", &root[1..]),
        format!("{root}0f.id.secret"),
        format!("{}+f.id.secret", &root[2..]),
        format!("{}é.id.secret", &root[2..]),
    ] {
        assert!(Token::parse(&bad).is_err(), "{bad}");
    }
}

#[tokio::test]
async fn without_a_token_it_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let file = Keeper::start().file(folder.path().join("node.json"));
    let error = join(at("127.0.0.1:1"), "n1", None, &file).await.err().unwrap().to_string();
    assert!(error.contains("--token"), "{error}");
    assert!(join(at("127.0.0.1:1"), "N 1", None, &file).await.is_err());
}

#[test]
fn asking_again_helps_where_the_server_only_cannot_now() {
    for (code, expected) in [
        (Code::InvalidArgument, true),
        (Code::Unauthenticated, true),
        (Code::PermissionDenied, true),
        (Code::NotFound, true),
        (Code::AlreadyExists, true),
        (Code::FailedPrecondition, true),
        (Code::Unimplemented, true),
        (Code::Unavailable, false),
        (Code::DeadlineExceeded, false),
        (Code::ResourceExhausted, false),
        (Code::Internal, false),
        (Code::Unknown, false),
        (Code::Cancelled, false),
        (Code::Aborted, false),
    ] {
        assert_eq!(is_final(&tonic::Status::new(code, "")), expected, "{code:?}");
    }
}

/// What a node `n1` got of an authority, which ends at `not_after` (seconds since the epoch).
fn credential(authority: &MeshAuthority, not_after: impl FnOnce(i64) -> i64) -> Credential {
    let key = KeyRequest::generate().unwrap();
    let identity = SpiffeId::node(authority.trust_domain(), "n1").unwrap();
    let issued = authority.sign(&identity, Stamp(1), &key.csr, SystemTime::now()).unwrap();
    let bytes =
        |all: Vec<rustls_pki_types::CertificateDer<'_>>| all.iter().map(|c| c.to_vec().into()).collect();
    let certificate = Certificate {
        chain: bytes(issued.chain),
        roots: bytes(issued.roots),
        not_before: issued.not_before,
        not_after: not_after(issued.not_after),
        jwt_keys: bytes::Bytes::new(),
    };
    key.certified(identity, Some(certificate)).unwrap()
}

fn authority(folder: &Path) -> MeshAuthority {
    let master = MasterKey::open_or_make(&folder.join("master.key")).unwrap();
    let domain = TrustDomain::new("mesh.local").unwrap();
    MeshAuthority::open(&folder.join("ca"), master, &domain, None, true, SystemTime::now()).unwrap()
}

#[tokio::test]
async fn a_certificate_is_used_again_while_it_is_good_and_the_nodes_own() {
    let folder = tempfile::tempdir().unwrap();
    let authority = authority(folder.path());
    let (good, expired) = (credential(&authority, |end| end), credential(&authority, |_| 1));
    let mut damaged = serde_json::to_value(&good).unwrap();
    damaged["chain"] = serde_json::json!(["!"]);
    let damaged = serde_json::from_value(damaged).unwrap();
    let token = format!("{}.id.secret", authority.root_fingerprint());
    let foreign = format!("{}.id.secret", "0f".repeat(32));
    let keeper = Keeper::start();
    // What is on disk, the node's name, its token; why it is of no use.
    for (kept, name, token, problem) in [
        (None, "n1", None, Some("there is no certificate")),
        (Some(&damaged), "n1", None, Some("is damaged")),
        (Some(&expired), "n1", None, Some("has expired")),
        (Some(&good), "n2", None, Some("not for `n2`")),
        (Some(&good), "n1", Some(&foreign), Some("of another mesh")),
        (Some(&good), "n1", Some(&token), None),
        (Some(&good), "n1", None, None),
    ] {
        let file = keeper.file(folder.path().join("node.json"));
        if let Some(kept) = kept {
            Credential::keep(kept, &file);
        }
        let token = token.map(|token| Token::parse(token).unwrap());
        let found = reusable(name, token.as_ref(), &file.path).unwrap().map(|found| found.identity);
        match problem {
            None => assert_eq!(found, Ok(good.identity.clone())),
            Some(problem) => {
                assert!(found.as_ref().is_err_and(|why| why.contains(problem)), "{problem}: {found:?}")
            }
        }
    }
}

#[tokio::test]
async fn a_token_is_traded_once_and_another_one_at_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(ServerConfig::local(folder.path().join("server"))).await.unwrap();
    let address = server.node_address.to_string();
    let keeper = Keeper::start();
    let file = keeper.file(folder.path().join("node.json"));
    let used = || std::fs::read_to_string(folder.path().join(JOINED_WITH)).unwrap();
    let id = |token: &str| token.split('.').nth(1).unwrap().to_owned();
    let kept = || Credential::load(&file.path).unwrap().unwrap().decode().unwrap().key().cert.clone();

    let first = server.local_join_token(vec!["*".to_owned()]).await.unwrap().text;
    let joined = join(at(&address), "n1", Some(&first), &file).await.unwrap();
    assert!(joined.new_mesh);
    let chain = joined.credential.decode().unwrap().key().cert.clone();
    assert_eq!((kept(), used()), (chain.clone(), id(&first)));
    // The same again, and none.
    for token in [Some(first.as_str()), None] {
        let again = join(at(&address), "n1", token, &file).await.unwrap();
        assert!(!again.new_mesh);
        assert_eq!(again.credential.decode().unwrap().key().cert.clone(), chain);
    }
    // Another one, which may allow more.
    let second = server.local_join_token(vec!["*".to_owned()]).await.unwrap().text;
    let more = join(at(&address), "n1", Some(&second), &file).await.unwrap();
    assert!(!more.new_mesh);
    let chain = more.credential.decode().unwrap().key().cert.clone();
    assert_ne!(chain, joined.credential.decode().unwrap().key().cert.clone());
    assert_eq!((kept(), used()), (chain.clone(), id(&second)));
    // One that the server does not take: the node goes on, and asks with it once.
    let root = first.split('.').next().unwrap();
    let wrong = format!("{root}.0011223344556677.00");
    let on = join(at(&address), "n1", Some(&wrong), &file).await.unwrap();
    assert_eq!(on.credential.decode().unwrap().key().cert.clone(), chain);
    assert_eq!((kept(), used()), (chain, id(&wrong)));

    // Without a certificate it is refused at once, and so is a server of another mesh.
    let other = keeper.file(folder.path().join("other.json"));
    let deadline = Duration::from_secs(20);
    for (token, expected) in
        [(wrong, "not known"), (format!("{}.0011223344556677.00", "0f".repeat(32)), "join token names")]
    {
        let refused =
            timeout(deadline, join(at(&address), "n2", Some(&token), &other)).await.expect("it is final");
        let message = format!("{:#}", refused.err().unwrap());
        assert!(message.contains(expected), "{message}");
    }
    server.shutdown().await;
}

#[tokio::test]
async fn a_server_that_cannot_be_reached_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(ServerConfig::local(folder.path().join("server"))).await.unwrap();
    let token = server.local_join_token(vec!["*".to_owned()]).await.unwrap().text;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let way = async {
        for attempt in 0.. {
            let (mut stream, _) = listener.accept().await.unwrap();
            // The first ones meet nobody.
            if attempt >= 2 {
                let mut there = TcpStream::connect(server.node_address).await.unwrap();
                tokio::spawn(async move { tokio::io::copy_bidirectional(&mut stream, &mut there).await });
            }
        }
    };
    let file = Keeper::start().file(folder.path().join("node.json"));
    let joined = tokio::select! {
        joined = join(at(&address), "n1", Some(&token), &file) => joined.unwrap(),
        () = way => unreachable!("it takes connections for ever"),
    };
    assert!(joined.new_mesh);
    server.shutdown().await;
}
