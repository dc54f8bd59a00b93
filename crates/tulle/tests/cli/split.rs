//! `tulle split`, with a server.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::{code, stderr, stdout, tulle};

/// A server of its own, and a folder with its home.
pub struct Mesh {
    pub folder: TempDir,
    server: Child,
}

impl Mesh {
    pub fn start() -> Self {
        let folder = TempDir::new().unwrap();
        let mut server = Command::new(env!("CARGO_BIN_EXE_tulle"))
            .args(["server", "--listen-api", "127.0.0.1:0", "--listen-nodes", "127.0.0.1:0"])
            .current_dir(folder.path())
            .env("TULLE_HOME", folder.path().join("home"))
            .env_remove("RUST_LOG")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(server.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().contains("the server runs")), "the server does not start");
        Self { folder, server }
    }

    /// What a command prints, and what it says besides; it must end with that code.
    #[track_caller]
    pub fn ends(&self, line: &str, expected: i32) -> (String, String) {
        let output = tulle(self.folder.path(), &line.split(' ').collect::<Vec<_>>());
        assert_eq!(code(&output), expected, "`{line}`: {}{}", stdout(&output), stderr(&output));
        (stdout(&output), stderr(&output))
    }

    /// What a command prints; it must succeed.
    #[track_caller]
    pub fn prints(&self, line: &str) -> String {
        self.ends(line, 0).0
    }

    /// Applies that, and gives what is said besides.
    pub fn apply(&self, text: &str) -> String {
        fs::write(self.folder.path().join("objects.yaml"), text).unwrap();
        self.ends("apply -f objects.yaml", 0).1
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

pub const WEB: &str = "{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {selector: {app: web}, \
                   ports: [{port: 80, appProtocol: http, targetPort: 8080}]}}";

/// Words of a line that contains a text.
pub fn line<'t>(text: &'t str, containing: &str) -> Vec<&'t str> {
    let line = text.lines().find(|line| line.contains(containing));
    line.unwrap_or_else(|| panic!("no `{containing}` in\n{text}")).split_whitespace().collect()
}

#[test]
fn traffic_is_shared_out_and_taken_back() {
    let mesh = Mesh::start();
    mesh.apply(WEB);
    let shown = mesh.prints("split web");
    assert!(
        shown.contains("Service default/web, port 80\nNo route: all goes to its own endpoints\n"),
        "{shown}"
    );
    assert_eq!(line(&shown, "web:80"), ["-", "all", "web:80", "1", "100%"]);
    assert!(shown.ends_with("\nweb       -      -         -     -\n"), "{shown}");

    // What is missing is printed so that it can be applied, and nothing is written.
    let (services, said) = mesh.ends("split web v1=90 v2=10", 4);
    assert!(
        said.contains("there is no Service default/web-v1, default/web-v2; nothing was changed"),
        "{said}"
    );
    assert!(said.contains("--label app=web --label version=v1"), "{said}");
    assert_eq!(mesh.prints("get httproutes -o name"), "");
    mesh.apply(&services);
    assert_eq!(mesh.prints("get services -o name"), "service/web\nservice/web-v1\nservice/web-v2\n");
    let (services, _) = mesh.ends("split web v3=1 -o json", 4);
    assert!(services.contains("\"kind\": \"List\"") && services.contains("\"web-v3\""), "{services}");

    assert_eq!(mesh.prints("get services -o name"), "service/web\nservice/web-v1\nservice/web-v2\n");
    // The Service itself as a side: it must not select the other's, of a Service that is missing or there.
    let (services, said) = mesh.ends("split web web=90 v4=10", 4);
    assert!(services.contains("selector:\n    app: web-v4\n"), "{services}");
    assert!(said.contains("`tulle run web-v4 --label app=web-v4 --port 8080 -- …`"), "{said}");
    let (_, said) = mesh.ends("split web web=90 v2=10", 2);
    let expected = "Service default/web selects all that Service default/web-v2 selects (app=web,version=v2)";
    assert!(said.contains(expected) && said.contains("v1=90 v2=10"), "{said}");

    // A dry run writes nothing; what it prints can be applied.
    let name = "httproute.gateway.networking.k8s.io/web-split";
    assert_eq!(mesh.prints("split web v1=90 v2=10 --dry-run"), format!("{name} created (dry run)\n"));
    let route = mesh.prints("split web v1=90 v2=10 --dry-run -o yaml");
    assert!(route.contains("weight: 90") && !route.contains("uid"), "{route}");
    assert_eq!(mesh.prints("get httproutes -o name"), "");
    let (printed, said) = mesh.ends("split web v1=90 v2=10", 0);
    assert_eq!(printed, format!("{name} created\n"));
    let nobody = "warning: Service default/web-v2 has no endpoint that is ready at port 80";
    assert!(said.contains(nobody) && said.contains("10% of requests"), "{said}");
    assert_eq!(mesh.prints("split svc/web service/web-v1=90 v2=10"), format!("{name} unchanged\n"));
    let written = mesh.prints("split web web-v1=2 v2=1 -o json");
    assert!(written.contains("\"uid\"") && !written.contains("managedFields"), "{written}");
    let shown = mesh.prints("split web");
    assert!(shown.contains("HTTPRoute default/web-split, made by `tulle split`, "), "{shown}");
    assert_eq!(line(&shown, "web-v1:80")[..5], ["0", "all", "web-v1:80", "2", "66.67%"]);
    assert_eq!(line(&shown, "web-v2:80")[..3], ["web-v2:80", "1", "33.33%"]);
    let shown: serde_json::Value = serde_json::from_str(&mesh.prints("split web -o json")).unwrap();
    assert_eq!(shown["ports"][0]["rules"][0]["backends"][1]["weight"], 1, "{shown}");
    assert_eq!(shown["ports"][0]["routes"][0]["bySplit"], true, "{shown}");
    assert_eq!(shown["backends"][1]["name"], "web-v2", "{shown}");

    // A port that carries bytes has another kind of route, which comes in the place of the old one.
    mesh.apply(
        &[WEB, &WEB.replace("name: web", "name: web-v1")].map(|of| of.replace("http", "tcp")).join("\n---\n"),
    );
    let said = mesh.prints("split web v1=1");
    let tcp = "tcproute.gateway.networking.k8s.io";
    assert_eq!(
        said,
        format!("{tcp}/web-split created\nhttproute.gateway.networking.k8s.io \"web-split\" deleted\n")
    );
    let deleted = format!("{tcp} \"web-split\" deleted");
    assert_eq!(mesh.prints("split web --delete --dry-run"), format!("{deleted} (dry run)\n"));
    assert_eq!(mesh.prints("split web --delete"), format!("{deleted}\n"));
    mesh.ends("split web --delete", 4);
    assert_eq!(mesh.prints("get httproutes,tcproutes -o name"), "");
}

#[test]
fn what_others_wrote_stays() {
    let mesh = Mesh::start();
    let route = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: by-hand}\nspec:\n  \
                 parentRefs: [{group: '', kind: Service, name: web, port: 80}]\n  rules:\n  \
                 - matches: [{path: {value: /a}, method: GET}]\n    \
                 backendRefs: [{name: web, port: 80, weight: 3}, {name: web-v1, port: 80}]\n";
    mesh.apply(&format!("{WEB}\n---\n{}\n---\n{route}", WEB.replace("name: web", "name: web-v1")));
    for command in ["split web v1=1", "split web v1=1 --dry-run"] {
        let (printed, said) = mesh.ends(command, 5);
        let expected = "HTTPRoute default/by-hand is there already for port 80 of Service default/web";
        assert!(printed.is_empty() && said.contains(expected), "{said}");
    }
    mesh.ends("split web --delete", 4);
    let said = mesh.apply(&route.replace("by-hand", "later"));
    let behind = "warning: HTTPRoute default/later: spec.rules[0].matches[0]: no request reaches it: spec.rules[0].matches[0] of HTTPRoute \
                  default/by-hand comes first";
    assert!(said.starts_with(behind), "{said}");
    mesh.prints("delete httproute later");
    let shown = mesh.prints("split web");
    assert!(shown.contains("HTTPRoute default/by-hand, "), "{shown}");
    let first = line(&shown, "web:80");
    assert_eq!(first[..6], ["0", "GET", "/a/*", "web:80", "3", "75%"], "{shown}");

    for (command, expected, said) in [
        ("split nowhere v1=1", 4, "there is no Service default/nowhere"),
        ("split nowhere", 4, "there is no Service default/nowhere"),
        ("split web -n nowhere", 4, "there is no namespace `nowhere`"),
        ("split web v1=0", 2, "all weights are 0"),
        ("split web v1=1 --port 81", 2, "has no port 81 (it has 80)"),
        ("split web --port 81", 2, "has no port 81 (it has 80)"),
        ("split web --dry-run", 2, "nothing is said"),
        ("split svc/nowhere v1=1", 4, "there is no Service default/nowhere"),
        (
            "split shop/web",
            2,
            "`shop/web` is no Service: `tulle split` shares their traffic out\nhelp: of another namespace, write `tulle split web -n shop`",
        ),
        ("split httproute/by-hand", 2, "HTTPRoutes are read by `tulle get httproute/by-hand`"),
        ("split web:80 v1=1", 2, "a port is said by `tulle split web --port 80`"),
        ("split web.shop v1=1", 2, "of another namespace, write `tulle split web -n shop`"),
        ("split web v1.shop=1", 2, "`v1.shop` is no Service of the namespace of the one that is shared out"),
        ("split web shop/v1=1", 2, "An HTTPRoute may name them (`backendRefs[].namespace`)"),
    ] {
        let (printed, stderr) = mesh.ends(command, expected);
        assert!(printed.is_empty() && stderr.contains(said), "`{command}`: {printed}{stderr}");
    }
}

#[test]
fn tls_goes_by_host_names() {
    let mesh = Mesh::start();
    let service = |name: &str| {
        format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, spec: {{selector: {{app: {name}}}, ports: \
             [{{port: 443, appProtocol: tls}}]}}}}\n---\n"
        )
    };
    let route = |name: &str, hostnames: &str, backends: &str| {
        format!(
            "{{apiVersion: gateway.networking.k8s.io/v1, kind: TLSRoute, metadata: {{name: {name}}}, spec: {{parentRefs: \
             [{{group: '', kind: Service, name: web, port: 443}}], hostnames: [{hostnames}], rules: [{{backendRefs: \
             [{backends}]}}]}}}}\n---\n"
        )
    };
    let tenants = route(
        "tenants",
        "b.example.com, '*.big.example.com'",
        "{name: web-v1, port: 443, weight: 3}, {name: web-v2, port: 443}",
    );
    let rest = route("rest", "'*.example.com'", "{name: web, port: 443}");
    mesh.apply(&[service("web"), service("web-v1"), service("web-v2"), tenants, rest].concat());
    let shown = mesh.prints("split web");
    assert_eq!(
        line(&shown, "web-v1:443")[..7],
        ["tenants", "0", "b.example.com,", "*.big.example.com", "web-v1:443", "3", "75%"],
        "{shown}"
    );
    assert_eq!(line(&shown, "web:443")[..4], ["rest", "0", "*.example.com", "web:443"], "{shown}");
    let shown: serde_json::Value = serde_json::from_str(&mesh.prints("split web -o json")).unwrap();
    let rules = &shown["ports"][0]["rules"];
    assert_eq!(rules[0]["route"], "TLSRoute/default/tenants", "{shown}");
    assert_eq!(rules[0]["matches"], serde_json::json!(["b.example.com", "*.big.example.com"]), "{shown}");
    assert_eq!(rules[1]["backends"][0]["name"], "web", "{shown}");
}
