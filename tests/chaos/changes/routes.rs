//! What the routes of service `c` become, one kind of change after another, and what a request sees of each.

/// What the clients ask for.
pub const PATH: &str = "/old/load";
pub const FIELD: (&str, &str) = ("x-kind", "load");
/// The change after which a request of `/stuck` is out of time.
pub const TIMEOUTS: &str = "timeouts";

/// One write to the server.
pub enum Write {
    Apply { kind: &'static str, name: &'static str, spec: String },
    Delete { kind: &'static str, name: &'static str },
}

impl Write {
    /// The route that is applied.
    pub fn text(&self) -> Option<String> {
        let Self::Apply { kind, name, spec } = self else { return None };
        let head =
            format!("apiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{name: {name}}}");
        Some(format!("{head}\nspec:{spec}\n"))
    }
}

pub struct Change {
    pub what: &'static str,
    pub write: Write,
    /// As [`seen`] has it.
    pub expected: String,
}

/// What is seen of an answer: its status, the change that it names, and who gave it, asked for which path, with which `x-rule`.
pub fn seen(status: u16, change: &str, told: &str) -> String {
    format!("{status} {change} {told}")
}

/// Without routes the Service itself answers.
pub fn own() -> String {
    seen(200, "-", &format!("c {PATH} -"))
}

fn by(number: usize, service: &str) -> String {
    seen(200, &number.to_string(), &format!("{service} {PATH} -"))
}

/// The change with that number. They are of ten kinds, in turn.
pub fn change(number: usize) -> Change {
    let says = format!(
        "{{type: ResponseHeaderModifier, responseHeaderModifier: {{set: [{{name: x-change, value: '{number}'}}]}}}}"
    );
    let rule = |first: &str, service: &str| {
        format!("\n  - {first}filters: [{says}]\n    backendRefs: [{{name: {service}, port: 80}}]")
    };
    let weights = |one: u8, two: u8| {
        format!(
            "\n  - filters: [{says}]\n    backendRefs: [{{name: v1, port: 80, weight: {one}}}, {{name: v2, port: 80, weight: {two}}}]"
        )
    };
    let matching = |what: &str| format!("matches: [{{{what}}}]\n    ");
    let http =
        |what, rules: String, expected| Change { what, write: apply("HTTPRoute", "r", &rules), expected };
    let timeouts = |of: usize| by(of, "v3");
    match number % 10 {
        1 => http("create", weights(1, 0), by(number, "v1")),
        2 => http("weights", weights(0, 1), by(number, "v2")),
        3 => {
            let headers = matching("headers: [{name: x-kind, value: load}]");
            http("header match", rule(&headers, "v3") + &rule("", "v1"), by(number, "v3"))
        }
        4 => {
            let paths = [matching("path: {value: /old/load/on}"), matching("path: {value: /old}")];
            http("path match", rule(&paths[0], "v2") + &rule(&paths[1], "v1"), by(number, "v1"))
        }
        5 => {
            let rules = format!(
                "
  - matches: [{{path: {{value: /old}}}}]
    filters:
    - {says}
    - {{type: URLRewrite, urlRewrite: {{hostname: d.org, path: {{type: ReplacePrefixMatch, replacePrefixMatch: /new}}}}}}
    - {{type: RequestHeaderModifier, requestHeaderModifier: {{set: [{{name: x-rule, value: '{number}'}}]}}}}
    backendRefs: [{{name: v2, port: 80}}]"
            );
            let told = format!("v2 /new/load {number}");
            http("rewrite and headers", rules, seen(200, &number.to_string(), &told))
        }
        6 => {
            let rules = format!(
                "\n  - filters: [{{type: RequestRedirect, requestRedirect: {{statusCode: 307, path: {{type: ReplaceFullPath, replaceFullPath: /moved/{number}}}}}}}]"
            );
            http("redirect", rules, seen(307, &format!("/moved/{number}"), ""))
        }
        7 => {
            let stuck = matching("path: {value: /stuck}") + "timeouts: {request: 10ms}\n    ";
            let other = "timeouts: {request: 60s, backendRequest: 30s}\n    retry: {codes: [503], backoff: 1ms}\n    ";
            http(TIMEOUTS, rule(&stuck, "v3") + &rule(other, "v3"), timeouts(number))
        }
        8 => Change {
            what: "a GRPCRoute in the place of the HTTPRoute",
            write: apply("GRPCRoute", "g", &rule("", "v1")),
            expected: by(number, "v1"),
        },
        9 => Change {
            what: "back to the HTTPRoute",
            write: Write::Delete { kind: "GRPCRoute", name: "g" },
            expected: timeouts(number - 2),
        },
        _ => {
            Change { what: "delete", write: Write::Delete { kind: "HTTPRoute", name: "r" }, expected: own() }
        }
    }
}

/// What [`not_a_route`] has, and no route may have.
pub const NOT_A_PATTERN: &str = "spec.rules[0].matches[0].path.value";

pub fn not_a_route() -> Write {
    let rules = "
  - matches: [{path: {type: RegularExpression, value: '/old/('}}]
    backendRefs: [{name: v2, port: 80}]";
    apply("HTTPRoute", "r", rules)
}

/// A change after which `/nowhere` is for a Service that is not there, and what is seen of all else.
pub fn leads_nowhere(number: usize) -> (Write, String) {
    let rules = format!(
        "
  - matches: [{{path: {{value: /nowhere}}}}]
    backendRefs: [{{name: nowhere, port: 80}}]
  - filters:
    - type: ResponseHeaderModifier
      responseHeaderModifier: {{set: [{{name: x-change, value: '{number}'}}]}}
    backendRefs: [{{name: v1, port: 80}}]"
    );
    (apply("HTTPRoute", "r", &rules), by(number, "v1"))
}

/// A route of `c` with these rules.
fn apply(kind: &'static str, name: &'static str, rules: &str) -> Write {
    let spec = format!("\n  parentRefs: [{{group: '', kind: Service, name: c}}]\n  rules:{rules}");
    Write::Apply { kind, name, spec }
}
