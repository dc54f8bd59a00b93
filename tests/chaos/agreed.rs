//! What two nodes do with requests under drawn policies, beside what `tulle auth check` says of them.

use std::fmt::Write;
use std::time::Duration;

use tulle_tests::chaos::{figure, full};
use tulle_tests::harness::{Home, alone, eventually, tulle};

const PATIENCE: Duration = Duration::from_secs(30);
const SERVER: [&str; 2] = ["127.0.0.1:19481", "127.0.0.1:19482"];
const ACCOUNTS: [&str; 3] = ["ada", "bob", "cyd"];
const METHODS: [&str; 4] = ["GET", "POST", "DELETE", "PURGE"];
const PATHS: [&str; 12] =
    ["/", "/a", "/a/", "/a/b", "/a/b/c", "/ab", "/%61", "/a%2fb", "/a//b", "/a;b", "/a/%2e", "/x?y=/a"];
const ROLES: [&str; 3] = ["", "user", "admin"];

/// One service, at two nodes.
const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: shop, namespace: default}
spec: {selector: {app: shop}, ports: [{port: 80, targetPort: 9581, appProtocol: http}]}
";

struct Dice(u64);

impl Dice {
    fn pick<'a, T: ?Sized>(&mut self, from: &[&'a T]) -> &'a T {
        from[self.below(from.len())]
    }

    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }

    fn rule(&mut self) -> String {
        let mut says = Vec::new();
        if self.below(3) > 0 {
            let sources = [
                "{type: ServiceAccount, serviceAccount: {name: ada}}",
                "{type: ServiceAccount, serviceAccount: {name: bob}}",
                "{type: SPIFFE, spiffe: 'spiffe://*/ns/*/sa/cyd'}",
                "{type: Namespace, namespace: default}",
                "{type: Namespace, namespace: other}",
            ];
            says.push(format!("sources: [{}]", self.pick(&sources)));
        }
        let http = [
            "methods: [GET, POST]",
            "methods: [DELETE]",
            "paths: [{value: /a}]",
            "paths: [{type: Exact, value: /a}]",
            "paths: [{type: Template, value: '/a/{b}'}]",
            "hosts: [shop]",
            "hosts: ['*.default']",
            "headers: [{name: x-role, value: admin}]",
        ];
        if self.below(3) > 0 {
            says.push(format!("http: {{{}}}", self.pick(&http)));
        }
        let conditions = [
            "request.headers['x-role'] == 'admin'",
            "'x-role' in request.headers",
            "request.path.startsWith('/a/') || request.method == 'PURGE'",
            "source.serviceAccount in ['ada', 'bob']",
            "destination.port == 9581 && source.namespace == 'default'",
        ];
        if self.below(4) == 0 {
            says.push(format!("when: \"{}\"", self.pick(&conditions)));
        }
        format!("  - {{{}}}\n", says.join(", "))
    }

    /// Policies, of which the last tells by one path that they are in force.
    fn policies(&mut self, round: usize) -> String {
        let mut all = String::new();
        for policy in 0..4 {
            let action = if policy == 3 { "Deny" } else { self.pick(&["Allow", "Allow", "Deny", "Audit"]) };
            let rules: String = match policy {
                3 => format!("  - {{http: {{paths: [{{value: /round-{round}}}]}}}}\n"),
                _ => (0..=self.below(3)).map(|_| self.rule()).collect(),
            };
            write!(
                all,
                "apiVersion: tulle.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {{name: p{policy}, namespace: default}}\n\
                 spec:\n  targetRefs: [{{group: '', kind: Service, name: shop}}]\n  action: {action}\n  rules:\n{rules}---\n"
            )
            .unwrap();
        }
        all
    }
}

/// A request: its method, path and role.
type Asked = (&'static str, &'static str, &'static str);

#[test]
fn nodes_do_what_auth_check_says() {
    let _alone = alone();
    let home = Home::new();
    let server = home.start(&["server", "--listen-api", SERVER[0], "--listen-nodes", SERVER[1]]);
    server.wait_for_line("server", PATIENCE, |line| line.contains("the server runs"));
    home.tulle(&["apply", "-f", &home.write("service.yaml", SERVICE).display().to_string()]).ok();
    let binary = tulle().display().to_string();
    let nodes = ["near", "far"].map(|name| {
        let node_home = Home::new();
        let token = home.tulle(&["token", "create"]).ok().trim().to_owned();
        let listen = ["--listen-links", "127.0.0.1:0", "--listen-admin", "127.0.0.1:0"];
        let joins = ["node", "--name", name, "--server", SERVER[1], "--token", &token];
        let node = node_home.start(&[&joins[..], &listen, &["--capture", "explicit"]].concat());
        node.wait_for_line("node", PATIENCE, |line| line.contains(" runs, links at "));
        (node, node_home)
    });
    let serving = nodes.each_ref().map(|(_, node_home)| {
        // Each listens at a port of its own: both are on this host.
        let port = tulle_tests::ports::free_port();
        let name = format!("shop-{port}");
        let ports = format!("9581={port}");
        let run = ["run", &name, "--label", "app=shop", "--port", &ports, "--", &binary, "fake-service"];
        node_home.start(&run)
    });
    let ask = |account: &str, asked: &[Asked]| -> Vec<String> {
        let one = |(method, path, role): &Asked| {
            let role = if role.is_empty() { String::new() } else { format!("-H 'x-role: {role}'") };
            format!(
                "curl -s -m 10 --path-as-is -o /dev/null -w '%{{http_code}} %header{{tulle-reason}}\\n' -X {method} {role} -H 'Host: shop' \
                 \"http://$SHOP_SERVICE_HOST:$SHOP_SERVICE_PORT{path}\"; "
            )
        };
        let script: String = asked.iter().map(one).collect();
        let name = format!("asks-{account}");
        let run =
            ["run", &name, "--service-account", account, "--upstream", "shop", "--", "sh", "-c", &script];
        nodes[0].1.tulle(&run).stdout.lines().map(|line| line.trim_end().to_owned()).collect()
    };
    eventually("the service", PATIENCE, || (ask("ada", &[("GET", "/", "")]) == ["200"]).then_some(()));

    let (rounds, requests) = if full() { (20, 34) } else { (2, 5) };
    let (mut dice, mut all, mut let_in) = (Dice(11), 0, 0);
    for round in 0..rounds {
        let policies = dice.policies(round);
        let file = home.write("policies.yaml", &policies).display().to_string();
        home.tulle(&["apply", "-f", &file]).ok();
        let marker: &'static str = format!("/round-{round}").leak();
        let closed = format!("403 {}", "denied-by=default/p3");
        // On both nodes.
        eventually("the policies", PATIENCE, || {
            let said = ask("ada", &[("POST", marker, ""); 12]);
            said.iter().all(|said| said.starts_with("403 denied-by=") || *said == closed).then_some(())
        });
        for account in ACCOUNTS {
            let asked: Vec<Asked> =
                (0..requests).map(|_| (dice.pick(&METHODS), dice.pick(&PATHS), dice.pick(&ROLES))).collect();
            let said = ask(account, &asked);
            assert_eq!(said.len(), asked.len(), "{said:?}");
            for ((method, path, role), said) in asked.iter().zip(&said) {
                let header = format!("x-role: {role}");
                let from = format!("default/{account}");
                let url = format!("http://shop{path}");
                let mut check = vec!["auth", "check", "--from", &from, "--to", "shop", method, &url];
                if !role.is_empty() {
                    check.extend(["-H", &header]);
                }
                let output = home.tulle(&check);
                let (code, text) = (output.code(), &output.stdout);
                assert!(code <= 1, "{text}");
                assert_eq!(
                    said == "200",
                    code == 0,
                    "{account} {method} {path} {role}: {said}, but\n{text}\nunder\n{policies}"
                );
                let reason = said.split_once("denied-by=default/").map(|(_, policy)| policy);
                assert!(reason.is_none_or(|policy| text.contains(policy)), "{said}: {text}");
                all += 1;
                let_in += usize::from(code == 0);
            }
        }
    }
    figure("agreed", "requests, and how many of them were let in", format!("{all}, {let_in}"));
    assert!(let_in > all / 20 && let_in < all - all / 20, "{let_in} of {all} are no sample");
    drop(serving);
}
