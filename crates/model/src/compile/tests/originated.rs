//! In which TLS something goes to the outside: which BackendTLSPolicy says so, by whose certificates, and what is said of it.

use super::*;
use crate::snapshot::{CertificateName, ExternalPort, OriginatedRoots, OriginatedTls, TlsAsker};

const AUTHORITY: &str = "-----BEGIN CERTIFICATE-----
MIIBiTCCAS+gAwIBAgIULL/W7QHRCwNIM1AsGRpWDwHjFkkwCgYIKoZIzj0EAwIw
GTEXMBUGA1UEAwwOdGVzdCBhdXRob3JpdHkwIBcNMjYxMTI4MTUyOTU5WhgPMjEy
NjExMDQxNTI5NTlaMBkxFzAVBgNVBAMMDnRlc3QgYXV0aG9yaXR5MFkwEwYHKoZI
zj0CAQYIKoZIzj0DAQcDQgAE6rrf54dOjmEyl+ZVQ6v+vXRT9xdOsYgc7GRvIWck
BTL/GUi1qnAly5Adik/DEIl0Y1/grpYWjheJfB+A6XktR6NTMFEwHQYDVR0OBBYE
FJb2T+t0xpbKjxbPikfYP3AvGjiiMB8GA1UdIwQYMBaAFJb2T+t0xpbKjxbPikfY
P3AvGjiiMA8GA1UdEwEB/wQFMAMBAf8wCgYIKoZIzj0EAwIDSAAwRQIgQD4KH/CC
WyIfnNTqidDj5uVr8y5ID7iDtBiuYLEKoDQCIQDpquw6vbAVitKZnY0PG8xlq4vZ
0jJwWnHpPcOf7uWf8w==
-----END CERTIFICATE-----
";

fn external(name: &str) -> Change {
    let ports = json!([
        { "name": "web", "port": 80, "targetPort": 443, "appProtocol": "http" },
        { "name": "db", "port": 5432, "appProtocol": "tcp" },
        { "name": "own", "port": 443, "appProtocol": "https" },
    ]);
    put(
        KindId::ExternalService,
        json!({
            "metadata": { "namespace": "shop", "name": name },
            "spec": { "hosts": ["api.example.com"], "ports": ports },
        }),
    )
}

fn target(name: &str, section: &str) -> Value {
    let mut target = json!({ "group": "tulle.dev", "kind": "ExternalService", "name": name });
    if !section.is_empty() {
        target["sectionName"] = json!(section);
    }
    target
}

fn policy(name: &str, created: &str, target: &Value, validation: Value) -> Change {
    let metadata =
        json!({ "namespace": "shop", "name": name, "creationTimestamp": created, "generation": 3 });
    put(
        KindId::BackendTlsPolicy,
        json!({ "metadata": metadata, "spec": { "targetRefs": [target], "validation": validation } }),
    )
}

fn system(hostname: &str) -> Value {
    json!({ "hostname": hostname, "wellKnownCACertificates": "System" })
}

fn of_map(name: &str) -> Value {
    json!({ "hostname": "api.example.com", "caCertificateRefs": [{ "group": "", "kind": "ConfigMap", "name": name }] })
}

fn config_map(name: &str, data: Value) -> Change {
    put(KindId::ConfigMap, json!({ "metadata": { "namespace": "shop", "name": name }, "data": data }))
}

fn port(compiler: &Compiler, number: u16) -> ExternalPort {
    compiler.external(&name("shop/api")).unwrap().port(number).unwrap().clone()
}

fn tls(compiler: &Compiler, number: u16) -> Option<Arc<OriginatedTls>> {
    port(compiler, number).tls
}

/// The policies at the ports 80, 5432 and 443.
fn acting(compiler: &Compiler) -> [Option<String>; 3] {
    [80, 5432, 443].map(|number| {
        tls(compiler, number).map(|tls| match &tls.by {
            TlsAsker::Policy(policy) | TlsAsker::Url(policy) => policy.name.to_string(),
        })
    })
}

fn told(compiler: &Compiler, policy: &str) -> Vec<(&'static str, bool, &'static str)> {
    let status = compiler.tls_status(&name(policy)).unwrap();
    let conditions = status.iter().flat_map(|target| &target.conditions);
    conditions.map(|of| (of.kind, of.status, of.reason)).collect()
}

const GOOD: [(&str, bool, &str); 2] =
    [("Accepted", true, "Accepted"), ("ResolvedRefs", true, "ResolvedRefs")];

#[test]
fn the_more_specific_counts_then_the_older_and_the_others_are_told() {
    let mut compiler = compiler();
    compiler.apply(workload("c-1", "c", true));
    compiler.apply(external("api"));
    assert_eq!(acting(&compiler), [None, None, None]);
    assert!(!compiler.mesh().originates_tls);
    let early = "2026-01-01T00:00:00Z";
    let late = "2026-02-01T00:00:00Z";
    let effects = compiler.apply(policy("whole", late, &target("api", ""), system("api.example.com")));
    assert!(effects.mesh && effects.workloads == [name("shop/c-1")], "{effects:?}");
    let some = |name: &str| Some(name.to_owned());
    // Where clients speak TLS themselves, none is put around it.
    assert_eq!(acting(&compiler), [some("whole"), some("whole"), None]);
    assert_eq!((port(&compiler, 80).target_port, port(&compiler, 5432).target_port), (Some(443), None));
    assert_eq!(told(&compiler, "shop/whole"), GOOD);
    compiler.apply(policy("port", late, &target("api", "db"), system("db.example.com")));
    assert_eq!(acting(&compiler), [some("whole"), some("port"), None]);
    assert_eq!(&*tls(&compiler, 5432).unwrap().hostname, "db.example.com");
    // Both count, each where it is the one that does.
    assert_eq!(told(&compiler, "shop/whole"), GOOD);
    compiler.apply(policy("older", early, &target("api", ""), system("api.example.com")));
    assert_eq!(acting(&compiler), [some("older"), some("port"), None]);
    assert_eq!(told(&compiler, "shop/whole")[0], ("Accepted", false, "Conflicted"));
    assert_eq!(told(&compiler, "shop/older"), GOOD);
    compiler.apply(delete(KindId::BackendTlsPolicy, "shop/older"));
    assert_eq!(acting(&compiler), [some("whole"), some("port"), None]);
    assert_eq!(told(&compiler, "shop/whole"), GOOD);
    assert!(compiler.tls_status(&name("shop/older")).is_none());
    compiler.apply_all([
        delete(KindId::BackendTlsPolicy, "shop/whole"),
        delete(KindId::BackendTlsPolicy, "shop/port"),
    ]);
    assert_eq!(acting(&compiler), [None, None, None]);
    assert!(!compiler.mesh().originates_tls);
}

#[test]
fn certificates_are_those_that_are_named_and_without_them_nothing_goes() {
    let mut compiler = compiler();
    compiler.apply(workload("c-1", "c", true));
    compiler.apply_all([external("api"), policy("p", "", &target("api", "web"), of_map("ca"))]);
    let roots = |compiler: &Compiler| tls(compiler, 80).unwrap().roots.clone();
    let nobody = |compiler: &Compiler| match roots(compiler) {
        OriginatedRoots::Nobody { field, why } => format!("{field}: {why}"),
        other => panic!("{other:?}"),
    };
    let place = "spec.validation.caCertificateRefs[0]";
    assert_eq!(nobody(&compiler), format!("{place}: there is no ConfigMap shop/ca"));
    let invalid =
        [("Accepted", false, "NoValidCACertificate"), ("ResolvedRefs", false, "InvalidCACertificateRef")];
    assert_eq!(told(&compiler, "shop/p"), invalid);
    for (data, why) in [
        (json!({ "other": AUTHORITY }), "has no value by the name `ca.crt`"),
        (json!({ "ca.crt": "nothing" }), "has no certificate in PEM by the name `ca.crt`"),
        (
            json!({ "ca.crt": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n" }),
            "has something by the name `ca.crt` that is no certificate (block 1)",
        ),
        (
            json!({ "ca.crt": AUTHORITY.repeat(101) }),
            "has more than 100 certificates by the name `ca.crt`, or more than 131072 bytes of them",
        ),
    ] {
        compiler.apply(config_map("ca", data));
        assert_eq!(nobody(&compiler), format!("{place}: ConfigMap shop/ca {why}"));
        assert_eq!(told(&compiler, "shop/p"), invalid, "{why}");
    }
    let effects = compiler.apply(config_map("ca", json!({ "ca.crt": AUTHORITY })));
    assert_eq!(effects.workloads, [name("shop/c-1")]);
    assert_eq!(told(&compiler, "shop/p"), GOOD);
    let OriginatedRoots::Given(given) = roots(&compiler) else { panic!("{:?}", roots(&compiler)) };
    assert_eq!((given.len(), given[0][0]), (1, 0x30));
    // What else it has changes nothing.
    let other = json!({ "ca.crt": AUTHORITY, "other": "x" });
    assert!(compiler.apply(config_map("ca", other)).workloads.is_empty());
    // Nobody else's: that of another namespace is another.
    let elsewhere = json!({ "metadata": { "namespace": "other", "name": "ca" }, "data": {} });
    assert!(compiler.apply(put(KindId::ConfigMap, elsewhere)).workloads.is_empty());
    compiler.apply(delete(KindId::ConfigMap, "shop/ca"));
    assert_eq!(told(&compiler, "shop/p"), invalid);
    // A list without it is the same.
    compiler.apply(config_map("ca", json!({ "ca.crt": AUTHORITY })));
    compiler.replace_all([]);
    assert!(compiler.tls_status(&name("shop/p")).is_none() && compiler.external(&name("shop/api")).is_none());
}

#[test]
fn secrets_have_certificates_too_and_nothing_else_of_them_leaves() {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    let mut compiler = compiler();
    let key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    let data =
        json!({ "ca.crt": STANDARD.encode(format!("{key}{AUTHORITY}")), "tls.key": STANDARD.encode(key) });
    let reference = |kind: &str, group: &str| json!({ "group": group, "kind": kind, "name": "ca" });
    let validation =
        |references: Value| json!({ "hostname": "api.example.com", "caCertificateRefs": references });
    compiler.apply_all([
        external("api"),
        put(KindId::Secret, json!({ "metadata": { "namespace": "shop", "name": "ca" }, "data": data })),
        policy("p", "", &target("api", ""), validation(json!([reference("Secret", "")]))),
    ]);
    let OriginatedRoots::Given(given) = tls(&compiler, 80).unwrap().roots.clone() else {
        panic!("it is known")
    };
    assert_eq!(given.len(), 1, "the certificate, and no key");
    assert_eq!(told(&compiler, "shop/p"), GOOD);
    // One that is of no use is enough for nothing to go; where all are, the policy is not accepted.
    let both = json!([reference("Secret", ""), reference("Vault", "example.com")]);
    compiler.apply(policy("p", "", &target("api", ""), validation(both)));
    assert!(tls(&compiler, 80).unwrap().refusal().unwrap().contains("Vault.example.com is not supported"));
    assert_eq!(told(&compiler, "shop/p"), [GOOD[0], ("ResolvedRefs", false, "InvalidKind")]);
    let own = json!({ "hostname": "api.example.com", "wellKnownCACertificates": "example.com/own" });
    compiler.apply(policy("p", "", &target("api", ""), own));
    assert_eq!(told(&compiler, "shop/p")[0], ("Accepted", false, "Invalid"));
}

#[test]
fn what_it_says_nothing_of_is_said() {
    let mut compiler = compiler();
    compiler.apply(external("api"));
    for (target, expected) in [
        (target("none", ""), "TargetNotFound"),
        (target("api", "none"), "TargetNotFound"),
        (target("api", "own"), "Invalid"),
        (json!({ "group": "", "kind": "Service", "name": "c" }), "NotApplicable"),
    ] {
        compiler.apply(policy("p", "", &target, system("api.example.com")));
        assert_eq!(told(&compiler, "shop/p")[0], ("Accepted", false, expected), "{target}");
    }
    // That of another namespace is none of its targets.
    let elsewhere = json!({
        "metadata": { "namespace": "other", "name": "p" },
        "spec": { "targetRefs": [target("api", "")], "validation": system("api.example.com") },
    });
    compiler.apply(put(KindId::BackendTlsPolicy, elsewhere));
    assert_eq!(acting(&compiler), [None, None, None]);
    assert_eq!(told(&compiler, "other/p")[0].2, "TargetNotFound");
    // The target may come later.
    compiler.apply(policy("p", "", &target("late", ""), system("api.example.com")));
    compiler.apply(external("late"));
    assert_eq!(told(&compiler, "shop/p"), GOOD);
    let names = json!({
        "hostname": "api.example.com", "wellKnownCACertificates": "System",
        "subjectAltNames": [{ "type": "Hostname", "hostname": "*.example.com" }, { "type": "URI", "uri": "spiffe://m/a" }],
    });
    compiler.apply(policy("p", "", &target("api", ""), names));
    let expected =
        [CertificateName::Host("*.example.com".into()), CertificateName::Uri("spiffe://m/a".into())];
    assert_eq!(tls(&compiler, 80).unwrap().names, expected);
    // One that does not read keeps its last good form, and says so.
    compiler.apply(policy("p", "", &target("api", ""), json!({ "hostname": "x" })));
    assert_eq!(told(&compiler, "shop/p"), [("Accepted", false, "Invalid")]);
    assert_eq!(tls(&compiler, 80).unwrap().names, expected);
}
