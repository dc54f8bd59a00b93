//! What becomes of routes whose parents are Gateways.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tulle_model::document::parse;
use tulle_tests::harness::eventually;

use crate::mesh::Mesh;
use crate::{Documented, Fate, Report};

/// The Service that is the parent in place of a Gateway.
const STAND_IN: &str = "stand-in";

/// Applies each route of a file, as it is and with a Service as its parent.
pub fn run(mesh: &Mesh, folder: &Path, file: &Path, documented: &Documented, report: &mut Report) {
    let name = file.strip_prefix(folder).unwrap_or(file).display().to_string();
    let text = std::fs::read_to_string(file).unwrap();
    let documents = match parse(&text) {
        Ok(documents) => documents,
        Err(why) => return report.add(&name, Fate::NotRead(why.to_string())),
    };
    for document in documents {
        let value = document.value;
        let field = |pointer: &str| value.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        if field("/kind").ends_with("Route") {
            let name = format!("{name} {}/{}", field("/kind"), field("/metadata/name"));
            report.add(&name, outcome(mesh, value.clone(), documented));
        }
    }
}

fn outcome(mesh: &Mesh, mut route: Value, documented: &Documented) -> Fate {
    let namespace =
        route.pointer("/metadata/namespace").and_then(Value::as_str).unwrap_or("default").to_owned();
    let around = format!(
        "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {namespace}}}\n---\napiVersion: v1\nkind: Service\n\
         metadata: {{name: {STAND_IN}, namespace: {namespace}}}\nspec: {{selector: {{app: {STAND_IN}}}, ports: [{{port: 80}}]}}\n"
    );
    if let Some(why) = mesh.kubectl("apply", &around) {
        return Fate::Differs(why);
    }
    let as_it_is = become_of(mesh, &route, &namespace);
    route["spec"]["parentRefs"] = json!([{ "group": "", "kind": "Service", "name": STAND_IN, "port": 80 }]);
    let (as_it_is, with_service) = (as_it_is, become_of(mesh, &route, &namespace));
    let text = |of: &Result<String, Refused>| match of {
        Ok(text) => text.clone(),
        Err(refused) => refused.text.clone(),
    };
    match (&as_it_is, &with_service) {
        (Ok(_), Ok(text)) => Fate::Works(text.clone()),
        // Both reasons are named, where there are two.
        (Err(first), Err(second)) => match documented.refused(&first.reasons(), first.text.clone()) {
            Fate::Refused(_) => documented.refused(
                &second.reasons(),
                format!("{}; with a Service as its parent: {}", first.text, second.text),
            ),
            differs => differs,
        },
        (Err(refused), Ok(_)) | (Ok(_), Err(refused)) => {
            let said = format!("{}; with a Service as its parent: {}", text(&as_it_is), text(&with_service));
            documented.refused(&refused.reasons(), said)
        }
    }
}

/// Why a route does not act.
struct Refused {
    reasons: Vec<String>,
    text: String,
}

impl Refused {
    fn reasons(&self) -> Vec<&str> {
        self.reasons.iter().map(String::as_str).collect()
    }
}

/// What its status says, or the server.
fn become_of(mesh: &Mesh, route: &Value, namespace: &str) -> Result<String, Refused> {
    let field = |pointer: &str| route.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let (kind, name) = (field("/kind"), field("/metadata/name"));
    // YAML is what JSON is, too.
    let text = route.to_string();
    if let Some(why) = mesh.kubectl("apply", &text) {
        let why = why.split_whitespace().collect::<Vec<_>>().join(" ");
        let words = why
            .split([' ', '`', ',', ';', ':', '"'])
            .filter(|word| word.starts_with("spec.") || *word == kind);
        let without_index = |word: &str| word.split('[').next().unwrap_or_default().to_owned();
        let reasons = words.flat_map(|word| [word.to_owned(), without_index(word)]).collect();
        return Err(Refused { reasons, text: why });
    }
    if route.pointer("/spec/parentRefs").is_none() {
        mesh.kubectl("delete", &text);
        let text = "it has no parents".to_owned();
        return Err(Refused { reasons: vec!["`status.parents` is empty".to_owned()], text });
    }
    let conditions = eventually("a status", Duration::from_secs(10), || {
        let outcome = mesh.home.tulle(&["get", &kind.to_lowercase(), name, "-n", namespace, "-o", "json"]);
        let object: Value = serde_json::from_str(&outcome.stdout).ok()?;
        let parents = object["status"]["parents"].as_array()?;
        let all: Vec<Value> =
            parents.iter().filter_map(|p| p["conditions"].as_array()).flatten().cloned().collect();
        (!all.is_empty()).then_some(all)
    });
    mesh.kubectl("delete", &text);
    // The backends of these routes are not there: that alone refuses none.
    let bad = |condition: &&Value| condition["status"] == "False" && condition["reason"] != "BackendNotFound";
    let bad: Vec<_> = conditions.iter().filter(bad).filter(|c| c["type"] != "Programmed").collect();
    if bad.is_empty() {
        return Ok("accepted".to_owned());
    }
    let reason = |condition: &&Value| condition["reason"].as_str().unwrap_or_default().to_owned();
    let said = bad.iter().map(|c| {
        format!(
            "{} ({})",
            c["reason"].as_str().unwrap_or_default(),
            c["message"].as_str().unwrap_or_default()
        )
    });
    Err(Refused { reasons: bad.iter().map(reason).collect(), text: said.collect::<Vec<_>>().join(", ") })
}
