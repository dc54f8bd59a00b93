//! What routes do, as tables that read like their documentation: the YAML of a row's routes, requests, and what becomes of
//! them. Every row is compiled as a server compiles it, and runs through real proxies, by every way between two workloads and
//! for clients of HTTP/1 and HTTP/2, unless it says why not.
//!
//! Each row has the same mesh: service `c` (ports `web`, 80, and `other`, 8080), which routes are attached to, and their
//! backends `v1` (declares nothing), `v2` (`appProtocol: http`), `v3` (h2c) and `w` in namespace `shop`; servers of TLS are `t1`,
//! `t2` and, in namespace `shop`, `t3`. The client is a workload of namespace `default`. How requests and expectations are written: [`asked`] and [`expected`].

mod asked;
mod attachment;
mod backends;
mod bytes;
mod changes;
mod expected;
mod filters;
mod grpc;
mod matches;
mod mesh;
mod precedence;
mod redirects;
mod rewrites;
mod times;

use std::sync::Arc;

use futures_util::future::join_all;
use serde_json::{Value, json};
use tulle_model::compile::{Change, Compiler};
use tulle_model::document;
use tulle_model::identity::TrustDomain;
use tulle_model::name::NamespacedName;
use tulle_model::registry;
use tulle_model::validate::validate;

use self::asked::Asked;
use self::expected::Expected;
use self::mesh::Mesh;
use super::mesh::{WAYS, Way};

/// A row of a table.
struct Row {
    /// What it shows.
    name: &'static str,
    /// Rules of an HTTPRoute `r` of `c`, or whole objects.
    routes: &'static str,
    /// Requests, and what becomes of each.
    asks: &'static [(&'static str, &'static str)],
    /// Words of the statuses of its routes, or of why one of them is refused: `r Accepted=False Conflicted`.
    says: &'static [&'static str],
    /// Only for clients of HTTP/1 or of HTTP/2, and why.
    only: Option<(Version, &'static str)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    Http1,
    Http2,
}

const fn row(name: &'static str, routes: &'static str, asks: &'static [(&'static str, &'static str)]) -> Row {
    Row { name, routes, asks, says: &[], only: None }
}

impl Row {
    /// With that in the status of its routes.
    const fn says(self, says: &'static [&'static str]) -> Self {
        Self { says, ..self }
    }

    /// Whether the client connects to that service: its node knows no others, but their endpoints.
    fn uses(&self, name: &str) -> bool {
        let asks = || self.asks.iter().map(|(asked, _)| Asked::parse(asked));
        asks().any(|asked| asked.to.0 == name || asked.proxied)
    }

    const fn only(self, version: Version, why: &'static str) -> Self {
        Self { only: Some((version, why)), ..self }
    }
}

const SERVICES: &str = "
kind: Service
metadata: {name: c}
spec: {ports: [{name: web, port: 80}, {name: other, port: 8080}]}
---
kind: Service
metadata: {name: v1}
spec: {ports: [{port: 80}]}
---
kind: Service
metadata: {name: v2}
spec: {ports: [{port: 80, appProtocol: http}]}
---
kind: Service
metadata: {name: v3}
spec: {ports: [{port: 80, appProtocol: kubernetes.io/h2c}]}
---
kind: Service
metadata: {name: t1}
spec: {ports: [{port: 80}]}
---
kind: Service
metadata: {name: t2}
spec: {ports: [{port: 80}]}
---
kind: Service
metadata: {name: t3, namespace: shop}
spec: {ports: [{port: 80}]}
---
kind: Service
metadata: {name: bytes}
spec: {ports: [{port: 80, appProtocol: tcp}]}
---
kind: Service
metadata: {name: headless}
spec: {clusterIP: None, ports: [{port: 80}]}
---
kind: Service
metadata: {name: alias}
spec: {type: ExternalName, externalName: example.org}
---
kind: Service
metadata: {name: w, namespace: shop}
spec: {ports: [{port: 80}]}
";

/// The names of these services.
const NAMES: [(&str, &str); 11] = [
    ("default", "c"),
    ("default", "v1"),
    ("default", "v2"),
    ("default", "v3"),
    ("default", "t1"),
    ("default", "t2"),
    ("shop", "t3"),
    ("default", "bytes"),
    ("default", "headless"),
    ("default", "alias"),
    ("shop", "w"),
];

/// Objects of a YAML stream, each with what goes without saying.
fn objects(text: &str) -> Vec<Value> {
    let documents = document::parse(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let complete = |mut object: Value| {
        if object.get("apiVersion").is_none() {
            let kind = object["kind"].as_str().unwrap().to_owned();
            let kind = registry::by_name(&kind).unwrap_or_else(|| panic!("{kind} is no kind"));
            object["apiVersion"] = json!(kind.api_version());
        }
        object
    };
    documents.into_iter().map(|document| complete(document.value)).collect()
}

/// The routes of a row.
fn routes(text: &str) -> Vec<Value> {
    if !text.trim_start().starts_with('-') {
        return objects(text);
    }
    objects(&format!(
        "kind: HTTPRoute\nmetadata: {{name: r}}\nspec:\n  parentRefs: [{{group: '', kind: Service, name: c}}]\n  rules:\n{text}"
    ))
}

/// The services, and those of these routes that the API would take.
fn compile(routes: &[Value]) -> Compiler {
    let mut compiler = Compiler::new(TrustDomain::new("mesh.test").unwrap());
    let is_valid = |route: &&Value| validate(registry::of_object(route).unwrap(), route).is_empty();
    let puts = objects(SERVICES).into_iter().chain(routes.iter().filter(is_valid).cloned());
    compiler.apply_all(puts.map(|object| {
        let kind = registry::of_object(&object).unwrap_or_else(|| panic!("there is no such kind: {object}"));
        Change::Put(kind, Arc::new(object))
    }));
    compiler
}

/// What the compiler says of these routes, a line each.
fn said(compiler: &Compiler, routes: &[Value]) -> Vec<String> {
    let mut lines = Vec::new();
    for object in routes {
        let kind = registry::of_object(object).unwrap();
        let metadata = &object["metadata"];
        let name = metadata["name"].as_str().unwrap();
        let name = NamespacedName::new(metadata["namespace"].as_str().unwrap_or("default"), name);
        let refused = validate(kind, object).into_iter();
        lines.extend(refused.map(|error| format!("{} refused {error}", name.name)));
        for parent in compiler.route_status(kind, &name).into_iter().flatten() {
            for condition in &parent.conditions {
                let status = if condition.status { "True" } else { "False" };
                lines.push(format!(
                    "{} {} {}={status} {}: {}",
                    name.name, parent.parent.name, condition.kind, condition.reason, condition.message
                ));
            }
        }
    }
    lines
}

/// What is wrong with the status of a row's routes.
fn check_says(row: &Row, compiler: &Compiler, routes: &[Value]) -> Vec<String> {
    let lines = said(compiler, routes);
    let is_said = |words: &str| lines.iter().any(|line| words.split(' ').all(|word| line.contains(word)));
    let mut wrong: Vec<String> = Vec::new();
    for words in row.says.iter().filter(|words| !is_said(words)) {
        wrong.push(format!("{}: {words} is not said, but {lines:#?}", row.name));
    }
    // What goes wrong has to be asked for.
    let is_bad = |line: &&String| line.contains("=False") || line.contains(" refused ");
    if row.says.is_empty()
        && let Some(line) = lines.iter().find(is_bad)
    {
        wrong.push(format!("{}: {line}", row.name));
    }
    wrong
}

/// Runs a table, by every way, and tells all that is not as it says.
async fn run(table: &[Row]) {
    let wrong = join_all(WAYS.map(|way| run_by(way, table))).await.concat();
    assert!(wrong.is_empty(), "{} of the table:\n{}", wrong.len(), wrong.join("\n"));
}

async fn run_by(way: Way, table: &[Row]) -> Vec<String> {
    let mut mesh = Mesh::new(way).await;
    let mut wrong = Vec::new();
    for row in table {
        let routes = routes(row.routes);
        let compiler = compile(&routes);
        wrong.extend(check_says(row, &compiler, &routes));
        mesh.publish(&compiler, |name| row.uses(name));
        for version in [Version::Http1, Version::Http2] {
            if row.only.is_some_and(|(only, why)| only != version && !why.is_empty()) {
                continue;
            }
            for (asked, expected) in row.asks {
                let outcome = mesh.ask(version, &Asked::parse(asked), &Expected::parse(expected)).await;
                let which = || format!("{}, {way:?} {version:?}: {asked}", row.name);
                wrong.extend(outcome.err().map(|why| format!("{}\n    {why}", which())));
            }
        }
    }
    wrong.extend(mesh.strays().into_iter().map(|stray| format!("{way:?}: {stray}")));
    wrong
}
