//! A conformance test as its source says it: its manifests, who asks what, and what is expected.

use std::collections::HashMap;

use serde_json::json;
use tulle_tests::asks::{Ask, Expected};

use crate::go::{Go, Token, tokens, value};

pub struct Original {
    pub name: String,
    pub manifests: Vec<String>,
    pub cases: Vec<Case>,
    /// What of it is not read, and why.
    pub unread: Vec<String>,
}

/// A request and what is expected of it.
pub struct Case {
    pub ask: Ask,
    /// What the source says besides, which the original does not look at for a mesh.
    pub besides: Vec<Expected>,
    /// Where a redirect leads, as far as that is said: scheme, host, port, path.
    pub redirect: [Option<String>; 4],
}

/// Where the clients and the workloads that the tests name are.
pub trait Whereabouts {
    /// The namespace that a constant names.
    fn namespace(&self, constant: &str) -> Option<String>;
    /// The address at which the workload of that constant serves that port.
    fn address(&self, app: &str, port: &str) -> Option<String>;
}

/// All conformance tests of a file.
pub fn read(source: &str, places: &impl Whereabouts) -> Result<Vec<Original>, String> {
    let tokens = tokens(source)?;
    let is = |at: usize, name: &str| matches!(tokens.get(at), Some(Token::Name(is)) if is == name);
    let mut found: Vec<(String, Go)> = Vec::new();
    for at in 0..tokens.len() {
        if is(at, "var") && is(at + 3, "suite.ConformanceTest") {
            let Some(Token::Name(variable)) = tokens.get(at + 1) else { continue };
            found.push((variable.clone(), value(&tokens, at + 3).0));
        }
    }
    let function = |test: &Go| match test.field("Test") {
        Some(Go::Function(from, to)) => Some((*from, *to)),
        // The same as that of another one.
        Some(Go::Name(name)) => found.iter().find_map(|(variable, test)| match test.field("Test") {
            Some(Go::Function(from, to)) if format!("{variable}.Test") == *name => Some((*from, *to)),
            _ => None,
        }),
        _ => None,
    };
    let original = |(variable, test): &(String, Go)| {
        let name = match test.field("ShortName") {
            Some(Go::Text(name)) => name.clone(),
            _ => variable.clone(),
        };
        let manifests = match test.field("Manifests") {
            Some(Go::List(list)) => list.iter().filter_map(text).collect(),
            _ => Vec::new(),
        };
        let mut original = Original { name, manifests, cases: Vec::new(), unread: Vec::new() };
        match function(test) {
            Some((from, to)) => Body { tokens: &tokens[from..to], places }.read(&mut original),
            None => original.unread.push("it has no function".to_owned()),
        }
        original
    };
    Ok(found.iter().map(original).collect())
}

/// The function of a test.
struct Body<'a, P> {
    tokens: &'a [Token],
    places: &'a P,
}

const RESPONSE: &str = "http.ExpectedResponse";
const CHECKED: &str = ".MakeRequestAndExpectEventuallyConsistentResponse";

impl<P: Whereabouts> Body<'_, P> {
    fn read(&self, original: &mut Original) {
        let shares = self.shares();
        for at in self.all(RESPONSE) {
            // Its name as a type of a parameter, or of a list that is made elsewhere.
            if self.tokens.get(at + 1) != Some(&Token::Sign('{')) {
                continue;
            }
            let is_list = at >= 2 && self.tokens[at - 1] == Token::Sign(']');
            let begin = if is_list { at - 2 } else { at };
            let cases = match value(self.tokens, begin).0 {
                Go::List(cases) => cases,
                one @ Go::Fields(_) => vec![one],
                other => vec![other],
            };
            let Some(client) = self.client(begin) else {
                original.unread.push(format!("who makes {} requests", cases.len()));
                continue;
            };
            for case in cases {
                match self.case(&case, &client, &shares) {
                    Ok(case) => original.cases.push(case),
                    Err(why) => original.unread.push(why),
                }
            }
        }
        if original.cases.is_empty() && original.unread.is_empty() {
            original.unread.push("it has no request that this reader knows".to_owned());
        }
    }

    /// Where that name stands.
    fn all(&self, name: &str) -> Vec<usize> {
        let stands =
            |(at, token): (usize, &Token)| matches!(token, Token::Name(is) if is == name).then_some(at);
        self.tokens.iter().enumerate().filter_map(stands).collect()
    }

    fn name(&self, at: usize) -> Option<&str> {
        match self.tokens.get(at)? {
            Token::Name(name) => Some(name),
            _ => None,
        }
    }

    /// The value of a variable, as it is first set: `name := value`.
    fn variable(&self, name: &str) -> Option<Go> {
        let set = |at: &usize| self.tokens.get(at + 1..at + 3) == Some(&[Token::Sign(':'), Token::Sign('=')]);
        self.all(name).into_iter().find(set).map(|at| value(self.tokens, at + 3).0)
    }

    /// The namespace of the client that sends what stands there: the requests of the variable that it is put into, or appended to, or
    /// the request that it is an argument with.
    fn client(&self, at: usize) -> Option<String> {
        let before = |steps: usize| at.checked_sub(steps).and_then(|at| self.name(at));
        let sender = |from: usize| {
            let checks = |at: usize| self.name(at).and_then(|name| name.strip_suffix(CHECKED));
            (from..self.tokens.len()).find_map(checks)
        };
        // `client.Make…(t, http.ExpectedResponse{`
        let argument = before(4).and_then(|name| name.strip_suffix(CHECKED));
        let client = match argument {
            Some(client) => client,
            None => {
                // `cases := []…{`, `append(cases, []…{`
                let variable =
                    before(3).filter(|_| self.tokens[at - 1] == Token::Sign('=')).or_else(|| before(2))?;
                let uses = self.all(variable);
                let ranged = uses
                    .iter()
                    .copied()
                    .find(|at| at.checked_sub(1).and_then(|at| self.name(at)) == Some("range"));
                let passed = uses.iter().copied().find(|at| {
                    at.checked_sub(4).and_then(|at| self.name(at)).is_some_and(|name| name.ends_with(CHECKED))
                });
                match (ranged, passed) {
                    (Some(at), _) => sender(at)?,
                    (None, Some(at)) => self.name(at - 4)?.strip_suffix(CHECKED)?,
                    (None, None) => return None,
                }
            }
        };
        let Go::Other(made) = self.variable(client)? else { return None };
        // What follows the call is of the next statement.
        match made.strip_prefix("echo.ConnectToAppInNamespace(").and_then(|rest| rest.split(')').next()) {
            Some(arguments) => self.places.namespace(arguments.rsplit(',').next()?),
            None => made
                .starts_with("echo.ConnectToApp(")
                .then(|| self.places.namespace("suite.MeshNamespace"))?,
        }
    }

    /// The shares of backends, where they are looked at.
    fn shares(&self) -> HashMap<String, f64> {
        let Some(Go::Fields(weights)) = self.variable("expectedWeights") else { return HashMap::new() };
        let share = |(name, weight): (String, Go)| match weight {
            Go::Number(weight) => Some((name, weight)),
            _ => None,
        };
        weights.into_iter().filter_map(share).collect()
    }

    fn case(&self, case: &Go, client: &str, shares: &HashMap<String, f64>) -> Result<Case, String> {
        let Go::Fields(fields) = case else { return Err(format!("{case:?}")) };
        let mut question = json!({ "method": "GET", "headers": [] });
        let (mut host, mut path, mut scheme) = ("echo".to_owned(), String::new(), "http".to_owned());
        let (mut expected, mut besides, mut redirect) = (Vec::new(), Vec::new(), [const { None }; 4]);
        let mut statuses = Vec::new();
        for (name, of) in fields {
            match name.as_str() {
                "TestCaseName" | "Namespace" => {}
                "Backend" => expected.push(Expected::By(vec![self.text(of)?])),
                "Request" => {
                    for (name, of) in entries(of)? {
                        match name.as_str() {
                            "Host" => host = self.host(of)?,
                            "Path" => path = self.text(of)?,
                            "Method" => question["method"] = self.text(of)?.into(),
                            "Protocol" => scheme = self.text(of)?,
                            "Body" => question["body"] = self.text(of)?.into(),
                            "Headers" => question["headers"] = json!(self.pairs(of)?),
                            // Nobody follows here.
                            "UnfollowRedirect" => {}
                            name => return Err(format!("Request.{name}")),
                        }
                    }
                }
                "Response" => {
                    for (name, of) in entries(of)? {
                        match (name.as_str(), of) {
                            ("StatusCode", Go::Number(status)) => statuses.push(*status as u16),
                            ("StatusCodes", Go::List(list)) => {
                                let status = |of: &Go| match of {
                                    Go::Number(status) => Ok(*status as u16),
                                    other => Err(format!("Response.StatusCodes: {other:?}")),
                                };
                                statuses.extend(list.iter().map(status).collect::<Result<Vec<_>, _>>()?);
                            }
                            ("Headers", of) => {
                                expected.extend(
                                    self.pairs(of)?
                                        .into_iter()
                                        .map(|(name, value)| Expected::Has(name, value)),
                                );
                            }
                            ("AbsentHeaders", of) => {
                                expected.extend(self.list(of)?.into_iter().map(Expected::Lacks))
                            }
                            (name, _) => return Err(format!("Response.{name}")),
                        }
                    }
                }
                "ExpectedRequest" => {
                    for (name, of) in entries(of)? {
                        match name.as_str() {
                            "AbsentHeaders" => {
                                expected.extend(self.list(of)?.into_iter().map(Expected::Unseen))
                            }
                            "Request" => {
                                for (name, of) in entries(of)? {
                                    match name.as_str() {
                                        "Headers" => expected.extend(
                                            self.pairs(of)?
                                                .into_iter()
                                                .map(|(name, value)| Expected::Saw(name, value)),
                                        ),
                                        "Path" => besides.push(Expected::Path(self.text(of)?)),
                                        "Host" => besides.push(Expected::Host(self.text(of)?)),
                                        name => return Err(format!("ExpectedRequest.Request.{name}")),
                                    }
                                }
                            }
                            name => return Err(format!("ExpectedRequest.{name}")),
                        }
                    }
                }
                "RedirectRequest" => {
                    for (name, of) in entries(of)? {
                        let at = ["Scheme", "Host", "Port", "Path"].iter().position(|part| part == name);
                        redirect[at.ok_or_else(|| format!("RedirectRequest.{name}"))?] = Some(self.text(of)?);
                    }
                }
                name => return Err(name.to_owned()),
            }
        }
        if statuses.is_empty() {
            statuses.push(200);
        }
        if scheme == "grpc" {
            // What the original's client tells of calls that succeed.
            statuses.iter_mut().filter(|status| **status == 200).for_each(|status| *status = 0);
            path = "/proto.EchoTestService/Echo".to_owned();
        }
        expected.insert(0, Expected::Status(statuses));
        if !shares.is_empty() && !expected.iter().any(|is| matches!(is, Expected::By(_))) {
            const TIMES: usize = 500;
            question["times"] = TIMES.into();
            for (name, share) in shares {
                // By what the original tolerates.
                let around = |by: f64| ((share + by) * TIMES as f64).round().max(0.0) as usize;
                expected.push(Expected::Share(name.clone(), around(-0.05)..=around(0.05)));
            }
        }
        question["to"] = format!("{scheme}://{host}{path}").into();
        let line = format!(
            "{} {}",
            question["method"].as_str().unwrap_or_default(),
            question["to"].as_str().unwrap_or_default()
        );
        Ok(Case { ask: Ask { line, from: client.to_owned(), question, expected }, besides, redirect })
    }

    fn text(&self, of: &Go) -> Result<String, String> {
        match of {
            Go::Text(text) => Ok(text.clone()),
            Go::Name(name) => match self.variable(name) {
                Some(Go::Text(text)) => Ok(text),
                _ => self.places.namespace(name).ok_or_else(|| format!("the value of {name}")),
            },
            other => Err(format!("{other:?}")),
        }
    }

    /// A name, or the address of a workload: `http.Ipv6SafeHost(v2.Address) + ":8080"`.
    fn host(&self, of: &Go) -> Result<String, String> {
        let Go::Other(expression) = of else { return self.text(of) };
        let address = || {
            let rest = expression.strip_prefix("http.Ipv6SafeHost(")?;
            let (variable, port) = rest.split_once(".Address)+\":")?;
            let Go::Other(made) = self.variable(variable)? else { return None };
            let app = made.split(')').next()?.rsplit(',').next()?;
            self.places.address(app, port.strip_suffix('"')?)
        };
        address().ok_or_else(|| format!("Request.Host: {expression}"))
    }

    fn pairs(&self, of: &Go) -> Result<Vec<(String, String)>, String> {
        entries(of)?.iter().map(|(name, of)| Ok((name.clone(), self.text(of)?))).collect()
    }

    fn list(&self, of: &Go) -> Result<Vec<String>, String> {
        match of {
            Go::List(list) => list.iter().map(|of| self.text(of)).collect(),
            Go::Fields(none) if none.is_empty() => Ok(Vec::new()),
            other => Err(format!("{other:?}")),
        }
    }
}

fn entries(of: &Go) -> Result<&[(String, Go)], String> {
    match of {
        Go::Fields(fields) => Ok(fields),
        other => Err(format!("{other:?}")),
    }
}

fn text(of: &Go) -> Option<String> {
    match of {
        Go::Text(text) => Some(text.clone()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nowhere;

    impl Whereabouts for Nowhere {
        fn namespace(&self, constant: &str) -> Option<String> {
            (constant == "suite.MeshNamespace").then(|| "mesh".to_owned())
        }

        fn address(&self, app: &str, port: &str) -> Option<String> {
            (app == "echo.Two").then(|| format!("127.0.0.1:1{port}"))
        }
    }

    #[test]
    fn a_test_is_read_as_it_is_and_what_is_not_is_said() {
        let source = r#"
            var A = suite.ConformanceTest{
                ShortName: "First", Manifests: []string{"tests/first.yaml"},
                Test: func(t *testing.T, s *suite.Suite) {
                    ns := suite.MeshNamespace
                    client := echo.ConnectToApp(t, s, echo.One)
                    v2 := echo.ConnectToApp(t, s, echo.Two)
                    cases := []http.ExpectedResponse{{
                        Request: http.Request{Path: "/a", Host: http.Ipv6SafeHost(v2.Address) + ":80", Headers: map[string]string{"X": "1"}},
                        Response: http.Response{StatusCode: 301, AbsentHeaders: []string{"Y"}},
                        RedirectRequest: &roundtripper.RedirectRequest{Port: "8080"}, Namespace: ns,
                    }, {Request: http.Request{SNI: "x"}}}
                    cases = append(cases, []http.ExpectedResponse{{Backend: "b", ExpectedRequest: &http.ExpectedRequest{
                        Request: http.Request{Path: "/b"}}}}...)
                    for i := range cases {
                        tc := cases[i]
                        client.MakeRequestAndExpectEventuallyConsistentResponse(t, tc, s.TimeoutConfig)
                    }
                },
            }
            var B = suite.ConformanceTest{ShortName: "Second", Test: A.Test}
            var C = suite.ConformanceTest{ShortName: "Third", Test: func(t *testing.T, s *suite.Suite) { other(t) }}"#;
        let originals = read(source, &Nowhere).unwrap();
        let names: Vec<_> = originals.iter().map(|original| original.name.as_str()).collect();
        assert_eq!(names, ["First", "Second", "Third"]);
        assert_eq!(originals[0].manifests, ["tests/first.yaml"]);
        for original in &originals[..2] {
            assert_eq!(original.unread, ["Request.SNI"]);
            let [first, second] = &original.cases[..] else { panic!("{}", original.cases.len()) };
            assert_eq!(
                (first.ask.line.as_str(), first.ask.from.as_str()),
                ("GET http://127.0.0.1:180/a", "mesh")
            );
            assert_eq!(first.ask.question["headers"], json!([["X", "1"]]));
            assert_eq!(first.ask.expected, [Expected::Status(vec![301]), Expected::Lacks("Y".to_owned())]);
            assert_eq!(first.redirect[2].as_deref(), Some("8080"));
            let by = Expected::By(vec!["b".to_owned()]);
            assert_eq!(second.ask.expected, [Expected::Status(vec![200]), by]);
            assert_eq!(second.besides, [Expected::Path("/b".to_owned())]);
        }
        assert_eq!(originals[2].unread.len(), 1);
    }
}
