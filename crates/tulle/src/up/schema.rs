//! `tulle schema up`: a JSON Schema of `tulle.yaml`, from which editors complete and explain fields. What it describes is what
//! [`super::config`] reads; what fields mean beyond their form, `tulle validate` checks.

use serde_json::{Map, Value, json};

/// One field: what it is called, what it is good for, and its form.
struct FieldForm {
    name: &'static str,
    about: &'static str,
    form: fn() -> Value,
}

const fn field(name: &'static str, about: &'static str, form: fn() -> Value) -> FieldForm {
    FieldForm { name, about, form }
}

const FILE: &[FieldForm] = &[
    field("name", "For people. Default: the folder's name.", text),
    field("namespace", "Of all that the file describes. Default: default.", text),
    field("services", "What runs, by name.", services),
    field("resources", "Files of resources to apply; * in the last part of a path: routes/*.yaml.", texts),
    field("include", "Files, or folders with a tulle.yaml, whose services and resources join these.", texts),
];

const SERVICE: &[FieldForm] = &[
    field(
        "command",
        "What to run: a list of words, or a line that is split as a shell splits it; no shell runs it.",
        words,
    ),
    field("port", "The Service's port, and the one the process listens at: 8080, or 8080/grpc.", port_text),
    field("ports", "In place of port: several, or one with a name.", ports),
    field(
        "publish",
        "A port of this host that leads to it, for browsers and curl: 8080, or 0.0.0.0:8080 for other hosts, too.",
        || json!({ "anyOf": [publish_form(), { "type": "array", "items": publish_form() }] }),
    ),
    field("replicas", "How many processes. Each finds its port in $PORT. Default: 1.", || whole(0, 1000)),
    field("envFile", "Files of variables, relative to this one.", one_or_more),
    field("environment", "Variables, in addition to those of up and the mesh.", map),
    field("directory", "Where the command runs, relative to the file.", text),
    field(
        "probe",
        "Whether a process can take traffic. Default: the first port accepts connections.",
        || reference("probe"),
    ),
    field(
        "liveness",
        "Whether a process is still alive: one that fails this is ended, and another one started.",
        || reference("probe"),
    ),
    field(
        "init",
        "Commands that have to end well, one after another, before its processes start.",
        || json!({ "type": "array", "items": words() }),
    ),
    field(
        "dependsOn",
        "It starts once those are ready: a list, or a map with `ready`, or `completed` for jobs.",
        dependencies,
    ),
    field(
        "restart",
        "Whether a process that ends by itself is started again. Default: always.",
        || json!({ "enum": ["always", "on-failure", "never"] }),
    ),
    field(
        "watch",
        "Files and folders, relative to the file: when one changes, the service starts anew.",
        texts,
    ),
    field("stopTimeout", "How long its processes may take to stop. Default: 10s.", text),
    field("stopSignal", "What asks its processes to stop. Default: SIGTERM.", text),
    field("limits", "What each of its processes may take, with all that it starts.", || reference("limits")),
    field("profiles", "It runs where one of these is chosen: tulle up --profile NAME.", texts),
    field("serviceAccount", "Its identity. Default: the service's name.", text),
    field("user", "Whom its processes run as, by name or number. Needs root, unless it is oneself.", scalar),
    field("group", "The group in place of those of the user.", scalar),
    field("labels", "Of its workloads. The Service finds them by app.", map),
    field("annotations", "Of the Service.", map),
];

const PORT: &[FieldForm] = &[
    field("name", "Must be there where there are several; $PORT_NAME has the process's port.", text),
    field("port", "The Service's port: 80, or 80/http.", port_text),
    field("targetPort", "Where the process listens. Default: port.", || whole(1, 65535)),
    field("appProtocol", "What it speaks: http, http2, grpc, tls, tcp. Default: found out.", text),
];

const PUBLISH: &[FieldForm] = &[
    field("port", "Of this host: 8080, or 0.0.0.0:8080.", address_form),
    field("to", "The Service's port, by name or number. Default: the first.", scalar),
];

const PROBE: &[FieldForm] = &[
    field(
        "http",
        "Good where a GET of this path is answered with 200 to 399.",
        || json!({ "type": "string", "pattern": "^(/|.*\\$)" }),
    ),
    field("tcp", "Good where the port accepts connections.", || json!({ "const": true })),
    field("exec", "Good where the command ends with 0.", words),
    field("port", "Which of the service's ports is asked, by its targetPort.", || whole(1, 65535)),
    field("interval", "From one question to the next. Default: 2s.", text),
    field("timeout", "How long an answer may take. Default: 1s.", text),
    field("failures", "How many in a row make a process not ready. Default: 3.", || whole(1, 1000)),
    field("startup", "How long a process may take before it is said to be slow. Default: 60s.", text),
];

const LIMITS: &[FieldForm] = &[
    field("memory", "In bytes, as in Kubernetes: 512Mi, 2Gi.", number_or_text),
    field("cpu", "In cores, as in Kubernetes: 500m, 0.5, 2.", number_or_text),
];

/// The schema of the file (JSON Schema, draft 2020-12).
pub fn schema() -> Value {
    let mut schema = object(FILE, &["services"]);
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema".into();
    schema["title"] = "tulle.yaml".into();
    schema["description"] = "What `tulle up` starts.".into();
    let mut probe = object(PROBE, &[]);
    probe["oneOf"] = json!([{ "required": ["http"] }, { "required": ["tcp"] }, { "required": ["exec"] }]);
    schema["$defs"] = json!({
        "service": object(SERVICE, &["command"]),
        "port": object(PORT, &["port"]),
        "publish": object(PUBLISH, &["port"]),
        "probe": probe,
        "limits": object(LIMITS, &[]),
        "variable": {
            "description": "The value of a variable.",
            "type": "string",
            "pattern": "\\$\\{",
        },
    });
    schema
}

fn object(fields: &[FieldForm], required: &[&str]) -> Value {
    let described = fields.iter().map(|field| {
        let mut form = (field.form)();
        form["description"] = field.about.into();
        (field.name.to_owned(), form)
    });
    json!({
        "type": "object",
        "properties": described.collect::<Map<_, _>>(),
        "patternProperties": { "^x-": {} },
        "required": required,
        "additionalProperties": false,
    })
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/$defs/{name}") })
}

fn text() -> Value {
    json!({ "type": "string" })
}

fn texts() -> Value {
    json!({ "type": "array", "items": { "type": "string" } })
}

fn dependencies() -> Value {
    let until = json!({ "enum": ["ready", "completed"] });
    json!({ "anyOf": [texts(), { "type": "object", "additionalProperties": until }] })
}

fn one_or_more() -> Value {
    json!({ "anyOf": [text(), texts()] })
}

/// What is passed on as it is written.
fn scalar() -> Value {
    json!({ "type": ["string", "number", "boolean"] })
}

fn number_or_text() -> Value {
    json!({ "type": ["string", "number"] })
}

fn map() -> Value {
    json!({ "type": "object", "additionalProperties": scalar() })
}

fn words() -> Value {
    json!({ "anyOf": [{ "type": "string", "minLength": 1 }, { "type": "array", "items": scalar(), "minItems": 1 }] })
}

fn whole(least: u64, most: u64) -> Value {
    let number = json!({ "type": "integer", "minimum": least, "maximum": most });
    json!({ "anyOf": [number, reference("variable")] })
}

fn port_text() -> Value {
    let with_protocol = json!({ "type": "string", "pattern": "^[0-9]+/[a-z]" });
    json!({ "anyOf": [{ "type": "integer", "minimum": 1, "maximum": 65535 }, with_protocol, reference("variable")] })
}

fn address_form() -> Value {
    let with_address = json!({ "type": "string", "pattern": ":[0-9]+$" });
    json!({ "anyOf": [{ "type": "integer", "minimum": 1, "maximum": 65535 }, with_address, reference("variable")] })
}

fn publish_form() -> Value {
    json!({ "anyOf": [address_form(), reference("publish")] })
}

fn ports() -> Value {
    json!({ "type": "array", "items": { "anyOf": [port_text(), reference("port")] } })
}

fn services() -> Value {
    json!({
        "type": "object",
        "propertyNames": { "pattern": "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$" },
        "additionalProperties": reference("service"),
    })
}

#[cfg(test)]
mod tests {
    use tulle_model::document::parse;

    use super::super::{config, limits, probe, publish, service_ports};
    use super::*;

    #[test]
    fn the_schema_has_the_fields_that_are_read() {
        for (table, fields) in [
            (FILE, config::FIELDS),
            (SERVICE, config::SERVICE_FIELDS),
            (PORT, service_ports::PORT_FIELDS),
            (PUBLISH, publish::PUBLISH_FIELDS),
            (PROBE, probe::PROBE_FIELDS),
            (LIMITS, limits::FIELDS),
        ] {
            let mut described: Vec<_> = table.iter().map(|field| field.name).collect();
            let mut fields = fields.to_vec();
            described.sort_unstable();
            fields.sort_unstable();
            assert_eq!(described, fields);
        }
    }

    #[test]
    fn the_schema_takes_what_is_read_and_refuses_what_is_not() {
        let schema = schema();
        jsonschema::meta::validate(&schema).unwrap();
        let validator = jsonschema::options().offline().build(&schema).unwrap();
        let is_valid = |text: &str| validator.is_valid(&parse(text).unwrap()[0].value);
        let documentation = [include_str!("../../../../docs/up.md"), include_str!("../../../../README.md")];
        let shown = documentation.iter().flat_map(|text| text.split("```yaml\n").skip(1));
        let shown: Vec<_> = shown.filter_map(|rest| rest.split("```").next()).collect();
        assert!(shown.len() >= 2);
        for good in shown.into_iter().chain([
            include_str!("../../../../examples/chain/tulle.yaml"),
            include_str!("../../../../examples/polyglot/tulle.yaml"),
            "services: {}",
            "x-a: 1\nservices:\n  a:\n    command: [./a, 1]\n    port: ${P:-80}\n    x-b: [c]\n    envFile: a.env\n",
            "services: {a: {command: x, port: 1, publish: 80}, b: {command: x, port: 2, publish: [0.0.0.0:81, {port: 82, to: b}]}}",
            "services: {a: {command: x, ports: [80, 81/grpc, {port: 82/http, name: b}], user: 1000}}",
            "services: {a: {command: x, limits: {memory: 512Mi, cpu: 0.5}}}",
        ]) {
            assert!(is_valid(good), "{good}");
        }
        for bad in [
            "{}",
            "services: {a: {}}",
            "services: {A: {command: x}}",
            "services: {a: {command: x, comand: x}}",
            "services: {a: {command: []}}",
            "services: {a: {command: x, port: '80'}}",
            "services: {a: {command: x, port: 70000}}",
            "services: {a: {command: x, port: 80, probe: {http: a}}}",
            "services: {a: {command: x, port: 80, probe: {http: /a, tcp: true}}}",
            "services: {a: {command: x, environment: [A=b]}}",
            "services: {a: {command: x, dependsOn: b}}",
            "services: {a: {command: x, limits: {cpus: 1}}}",
        ] {
            assert!(!is_valid(bad), "{bad}");
        }
    }
}
