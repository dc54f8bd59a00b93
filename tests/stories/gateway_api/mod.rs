//! What Gateway API's mesh conformance tests and its examples are about, told in requests of our own; `cargo xtask conformance`
//! runs the originals. Each works, or is refused for a reason that docs/traffic.md names.

mod examples;
mod mesh;
mod refused;

use std::time::Duration;

use serde_json::Value;
use tulle_tests::asks::{Ask, Askers};
use tulle_tests::harness::{Home, Process, alone, client, eventually, project, python, require_root, tulle};

/// Routes, and what they make of requests. A route is its kind, its name (`NAMESPACE/NAME`), its parent (`NAMESPACE/NAME:PORT`), host names
/// if it has any, and on the following lines its rules.
struct Table {
    /// The originals: short names of conformance tests, or files of examples.
    of: &'static str,
    routes: &'static [&'static str],
    asks: &'static [&'static str],
}

/// What is not accepted as it is.
struct Refusal {
    of: &'static str,
    /// A route as in [`Table`], or whole documents.
    text: &'static str,
    /// A reason of one of the route's conditions, or what the server says.
    says: &'static str,
}

/// A workload: its namespace, its name, labels, and what `echo.py` is to be at which of its ports.
const WORKLOADS: &[(&str, &str, &str, &str)] = &[
    ("market", "one", "app=fruit version=one", "8080=http:one:9521 7070=grpc:one:9522 9090=tcp:one:9523"),
    ("market", "two", "app=fruit version=two", "8080=http:two:9524 7070=grpc:two:9525 9090=tcp:two:9526"),
    ("market", "secret", "app=secret version=one", "8443=tls:secret-one:9527 8444=tls:secret-two:9528"),
    ("visitors", "elsewhere", "app=elsewhere", "8080=http:elsewhere:9529"),
];

/// `NAMESPACE/NAME`, what it selects, and its ports.
const SERVICES: &[(&str, &str, &str)] = &[
    ("market/fruit", "{app: fruit}", PORTS),
    ("market/one", "{app: fruit, version: one}", PORTS),
    ("market/two", "{app: fruit, version: two}", PORTS),
    (
        "market/secret",
        "{app: secret}",
        "[{name: a, port: 443, targetPort: 8443}, {name: b, port: 444, targetPort: 8444}]",
    ),
    ("visitors/elsewhere", "{app: elsewhere}", "[{port: 80, targetPort: 8080}]"),
];

/// What is to be seen of a route without parents.
pub const ATTACHED_TO_NOTHING: &str = "`status.parents` is empty";

const PORTS: &str = "[{name: http, port: 80, targetPort: 8080, appProtocol: http}, {name: other, port: 8080, appProtocol: http}, \
    {name: grpc, port: 7070, appProtocol: grpc}, {name: tcp, port: 9090}]";

#[test]
fn gateway_api_for_a_mesh_works() {
    require_root!();
    let _alone = alone();
    let home = Home::new();
    let namespaces = ["market", "visitors"]
        .map(|name| format!("---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}}}\n"));
    let services = SERVICES.iter().map(|(name, selector, ports)| {
        let (namespace, name) = name.split_once('/').unwrap();
        format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
             spec:\n  selector: {selector}\n  ports: {ports}\n"
        )
    });
    let up = home.up(&format!("services: {{}}\n{}{}", namespaces.concat(), services.collect::<String>()));
    let certificate = rcgen::generate_simple_self_signed(vec!["secret.test".to_owned()]).unwrap();
    home.write("echo.pem", &(certificate.cert.pem() + &certificate.signing_key.serialize_pem()));
    let workloads: Vec<_> = WORKLOADS.iter().map(|workload| run(&home, workload)).collect();
    let mut askers = Askers::start(&home, &["market", "visitors"]);
    for workload in &workloads {
        workload.wait_for_line("workloads", Duration::from_secs(20), |line| line == "up");
    }

    let mut wrong = Vec::new();
    for table in mesh::TABLES.iter().chain(examples::TABLES) {
        let text: String = table.routes.iter().map(|route| document(route)).collect();
        let file = home.write("routes.yaml", &text).display().to_string();
        if !text.is_empty() {
            // kubectl takes backends that are not there.
            if !home.tulle(&["apply", "-f", &file]).status.success() {
                home.kubectl(&["apply", "-f", &file]).ok();
            }
        }
        let asks: Vec<_> =
            table.asks.iter().map(|line| Ask::parse(&format!("{}{line}", from(line)))).collect();
        if let Err(why) = askers.hold(&asks) {
            wrong.push(format!("{}: {why}", table.of));
        }
        if !text.is_empty() {
            home.tulle(&["delete", "-f", &file]).ok();
        }
    }
    let documented = std::fs::read_to_string(project().join("docs/traffic.md")).unwrap();
    for refusal in refused::REFUSALS {
        if let Err(why) = is_refused(&home, refusal) {
            wrong.push(format!("{}: {why}", refusal.of));
        }
        assert!(documented.contains(refusal.says), "docs/traffic.md does not name {:?}", refusal.says);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    drop(askers);
    drop(workloads);
    assert!(up.interrupt().success());
}

/// Clients are in `market` where nothing else is said.
fn from(line: &str) -> &'static str {
    if line.split(' ').next().is_some_and(|word| word.ends_with('>')) { "" } else { "market> " }
}

fn run(home: &Home, (namespace, name, labels, ports): &(&str, &str, &str, &str)) -> Process {
    let mut command = home.command(tulle());
    command
        .args(["run", name, "-n", namespace])
        .args(labels.split(' ').map(|label| format!("--label={label}")));
    let ports: Vec<_> = ports.split(' ').map(|port| port.split_once('=').unwrap()).collect();
    for (port, what) in &ports {
        command.arg(format!("--port=p{port}:{port}={}", what.rsplit(':').next().unwrap()));
    }
    command.env("ECHO_PEM", home.path().join("echo.pem"));
    command.arg("--").arg(python()).arg(client("echo.py")).args(ports.iter().map(|(_, what)| what));
    Process::spawn(&mut command)
}

/// A route as [`Table`] has it, as a document.
fn document(route: &str) -> String {
    let (head, rules) = route.split_once('\n').unwrap_or((route, ""));
    let mut words = head.split(' ');
    let (kind, name, parent) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap());
    let version = words.clone().find_map(|word| word.strip_prefix("version=")).unwrap_or("v1");
    let hostnames: String = words
        .find_map(|word| word.strip_prefix("hostnames="))
        .map_or(String::new(), |names| format!("  hostnames: [{names}]\n"));
    let (namespace, name) = name.split_once('/').unwrap();
    let (parent_namespace, parent) = parent.split_once('/').unwrap();
    let (parent, port) =
        parent.split_once(':').map_or((parent, String::new()), |(p, port)| (p, format!(", port: {port}")));
    let rules: String = rules.lines().map(|line| format!("  {line}\n")).collect();
    format!(
        "apiVersion: gateway.networking.k8s.io/{version}\nkind: {kind}\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec:\n  \
         parentRefs: [{{group: '', kind: Service, name: {parent}, namespace: {parent_namespace}{port}}}]\n{hostnames}  rules:\n{rules}---\n"
    )
}

fn is_refused(home: &Home, refusal: &Refusal) -> Result<(), String> {
    let text =
        if refusal.text.starts_with("apiVersion") { refusal.text.to_owned() } else { document(refusal.text) };
    let file = home.write("refused.yaml", &text).display().to_string();
    // `tulle apply` refuses some of it sooner.
    let applied = home.kubectl(&["apply", "-f", &file]);
    if !applied.status.success() {
        let unwrapped = applied.stderr.split_whitespace().collect::<Vec<_>>().join(" ");
        return if unwrapped.contains(refusal.says) { Ok(()) } else { Err(applied.stderr) };
    }
    let mut found = Value::Null;
    let value = tulle_model::document::parse(&text).unwrap().remove(0).value;
    let field =
        |pointer: &str| value.pointer(pointer).and_then(Value::as_str).unwrap_or("default").to_owned();
    let (kind, name, namespace) =
        (field("/kind").to_lowercase(), field("/metadata/name"), field("/metadata/namespace"));
    let says = eventually("a status", Duration::from_secs(10), || {
        let object = home.tulle(&["get", &kind, &name, "-n", &namespace, "-o", "json"]).ok();
        let object: Value = serde_json::from_str(&object).unwrap();
        if refusal.says == ATTACHED_TO_NOTHING && object["spec"].get("parentRefs").is_none() {
            return Some(object.pointer("/status/parents/0").is_none());
        }
        let told = ["/status/parents/0/conditions", "/status/ancestors/0/conditions"];
        found = told.iter().find_map(|told| object.pointer(told))?.clone();
        let conditions = found.as_array()?;
        Some(conditions.iter().any(|condition| condition["reason"] == refusal.says))
    });
    home.tulle(&["delete", "-f", &file]).ok();
    if says { Ok(()) } else { Err(format!("accepted: {found}")) }
}
