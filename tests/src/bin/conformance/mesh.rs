//! The mesh that the originals run in: their namespaces, Services and workloads, as `conformance/mesh` describes them.

use std::collections::HashMap;
use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use tulle_model::document::parse;
use tulle_tests::asks::{Askers, fields};
use tulle_tests::harness::{Home, Process, client, python, tulle};

use crate::original::{Case, Original, Whereabouts};
use crate::{Documented, Fate};

const PATIENCE: Duration = Duration::from_secs(20);
/// What the sources call the namespaces, and the Deployments.
const NAMES: &[(&str, &str)] = &[
    ("suite.MeshNamespace", "gateway-conformance-mesh"),
    ("suite.MeshConsumerNamespace", "gateway-conformance-mesh-consumer"),
    ("echo.MeshAppEchoV1", "echo-v1"),
    ("echo.MeshAppEchoV2", "echo-v2"),
];

pub struct Mesh {
    pub home: Home,
    pub places: Places,
    askers: Askers,
    workloads: Vec<Process>,
    up: Process,
}

/// Where the workloads of the first namespace listen, by their name and the port that they are said to have.
#[derive(Default)]
pub struct Places(HashMap<(String, String), u16>);

impl Whereabouts for Places {
    fn namespace(&self, constant: &str) -> Option<String> {
        NAMES.iter().find(|(name, _)| *name == constant).map(|(_, is)| is.to_string())
    }

    fn address(&self, app: &str, port: &str) -> Option<String> {
        let port = self.0.get(&(self.namespace(app)?, port.to_owned()))?;
        Some(format!("127.0.0.1:{port}"))
    }
}

impl Mesh {
    pub fn start(folder: &Path) -> Self {
        let home = Home::new();
        let up =
            home.up("services: {}\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: conformance}\n");
        let text = std::fs::read_to_string(folder.join("conformance/mesh/manifests.yaml")).unwrap();
        let certificate = rcgen::generate_simple_self_signed(vec!["echo.test".to_owned()]).unwrap();
        home.write("echo.pem", &(certificate.cert.pem() + &certificate.signing_key.serialize_pem()));
        // Deployments are skipped.
        let file = home.write("mesh.yaml", &text).display().to_string();
        home.tulle(&["apply", "-f", &file]).ok();
        let (mut places, mut workloads) = (Places::default(), Vec::new());
        for document in parse(&text).unwrap() {
            if document.value["kind"] == "Deployment" {
                workloads.push(workload(&home, &document.value, &mut places));
            }
        }
        let askers = Askers::start(&home, &["gateway-conformance-mesh", "gateway-conformance-mesh-consumer"]);
        for workload in &workloads {
            workload.wait_for_line("echo services", PATIENCE, |line| line == "up");
        }
        Self { home, places, askers, workloads, up }
    }

    pub fn end(self) {
        drop(self.askers);
        drop(self.workloads);
        assert!(self.up.interrupt().success());
    }

    /// Writes a text into a file and has kubectl do that with it, as the originals are applied; `None` if that went well, else what it
    /// says. (`tulle apply` takes no route whose backends are not there.)
    pub fn kubectl(&self, what: &str, text: &str) -> Option<String> {
        let file = self.home.write("manifest.yaml", text).display().to_string();
        let outcome = self.home.kubectl(&[what, "-f", &file]);
        (!outcome.status.success()).then_some(outcome.stderr)
    }

    pub fn run(&mut self, folder: &Path, original: &Original, documented: &Documented) -> Fate {
        let read = |name: &String| std::fs::read_to_string(folder.join("conformance").join(name)).unwrap();
        let manifests: Vec<String> = original.manifests.iter().map(read).collect();
        let text = manifests.join("\n---\n");
        if !manifests.is_empty()
            && let Some(why) = self.kubectl("apply", &text)
        {
            return documented.refused(&why.split_whitespace().collect::<Vec<_>>(), why.clone());
        }
        let (mut differs, mut besides) = (Vec::new(), Vec::new());
        for case in &original.cases {
            match self.askers.hold(std::slice::from_ref(&case.ask)) {
                Err(why) => differs.push(why),
                Ok(()) => besides.extend(self.besides(case)),
            }
        }
        if !manifests.is_empty() {
            self.kubectl("delete", &text);
        }
        if !differs.is_empty() {
            return Fate::Differs(differs.join("; "));
        }
        let count = original.cases.len();
        if !original.unread.is_empty() {
            return Fate::NotRead(format!(
                "{}; {count} requests are as expected",
                original.unread.join(", ")
            ));
        }
        let besides: String = besides
            .iter()
            .map(|why| format!("; what the original says and does not look at is not so: {why}"))
            .collect();
        Fate::Works(format!("{count} requests{besides}"))
    }

    /// What of what the original says besides is not so.
    fn besides(&mut self, case: &Case) -> Option<String> {
        let answers = self.askers.answers(&case.ask);
        let differs = case.besides.iter().find_map(|expected| expected.differs(&answers));
        let location = || fields(&answers[0], "location").unwrap_or_default();
        let led = case.redirect.iter().any(Option::is_some).then(|| parts(&location()));
        let leads = led.is_none_or(|led| {
            case.redirect
                .iter()
                .zip(&led)
                .all(|(expected, is)| expected.as_ref().is_none_or(|expected| expected == is))
        });
        let elsewhere =
            (!leads).then(|| format!("a redirect to {:?}, and not {:?}", case.redirect, location()));
        differs.or(elsewhere).map(|why| format!("{}: {why}", case.ask.line))
    }
}

/// Scheme, host, port and path of a URL.
fn parts(url: &str) -> [String; 4] {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let (host, port) = authority.split_once(':').unwrap_or((authority, ""));
    [scheme, host, port, path].map(str::to_owned)
}

/// An echo service in the place of that Deployment, which serves what the arguments of its container say.
fn workload(home: &Home, deployment: &Value, places: &mut Places) -> Process {
    let text =
        |pointer: &str| deployment.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (name, namespace) = (text("/metadata/name"), text("/metadata/namespace"));
    let labels = deployment.pointer("/spec/template/metadata/labels").and_then(Value::as_object).unwrap();
    let arguments = deployment.pointer("/spec/template/spec/containers/0/args").and_then(Value::as_array);
    let mut served: Vec<(&str, &str)> = Vec::new();
    for argument in arguments.into_iter().flatten().filter_map(Value::as_str) {
        match argument.split_once('=') {
            Some(("--port", port)) => served.push(("http", port)),
            Some(("--grpc", port)) => served.push(("grpc", port)),
            Some(("--tcp", port)) => served.push(("tcp", port)),
            // One of those that are said to be for HTTP.
            Some(("--tls", port)) => {
                served.retain(|(_, is)| *is != port);
                served.push(("tls", port));
            }
            _ => {}
        }
    }
    let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let served: Vec<_> = served.into_iter().map(|(kind, port)| (kind, port, free())).collect();
    let mut command = home.command(tulle());
    command.args(["run", &name, "-n", &namespace]);
    command.args(labels.iter().map(|(key, of)| format!("--label={key}={}", of.as_str().unwrap_or_default())));
    command.args(served.iter().map(|(_, port, listen)| format!("--port=p{port}:{port}={listen}")));
    command.env("ECHO_PEM", home.path().join("echo.pem"));
    command.arg("--").arg(python()).arg(client("echo.py"));
    command.args(served.iter().map(|(kind, _, listen)| format!("{kind}:{name}:{listen}")));
    if namespace == "gateway-conformance-mesh" {
        places.0.extend(served.iter().map(|(_, port, listen)| ((name.clone(), port.to_string()), *listen)));
    }
    Process::spawn(&mut command)
}
