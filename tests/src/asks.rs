//! Requests of a client in the mesh and what has to come of them, in a line each:
//!
//! `tests> GET http://shop/v1/cart x-debug:1 => 200 by:shop path:/api/cart unseen:x-debug`
//!
//! Before the arrow: the namespace of the client (`default` where none is said), the method (`CALL` of gRPC, `OPEN` of
//! bytes), the URL, fields of the head, and of these with a meaning of their own: `times:200`, `sni:NAME`, `body:TEXT`, `bearer:TOKEN`. `{}` is
//! another number each time. After it: the status (`200|504`; of gRPC its code; of bytes 0; or `reset`), and
//!
//! | word | means |
//! |---|---|
//! | `by:a`, `by:a\|b` | which service answered |
//! | `path:/x`, `host:x` | what it was asked for |
//! | `saw:n=v`, `unseen:n` | a field that it saw, or did not see |
//! | `has:n=v`, `lacks:n` | a field of the answer |
//! | `to:URL`, `reason:R` | its `location`, its `tulle-reason` |
//! | `share:a=40..60` | how many of all answers were by that service |
//! | `count:5` | how many requests of an ID `echo.py` has had at least |

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{Home, client, python, tulle};

/// How long it may take until all of the mesh knows what was applied.
const EFFECT: Duration = Duration::from_secs(10);
/// The name of the clients.
pub const CLIENT: &str = "me";

/// One such line.
#[derive(Debug, Clone)]
pub struct Ask {
    pub line: String,
    pub from: String,
    /// As `asker.py` has it.
    pub question: Value,
    pub expected: Vec<Expected>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Expected {
    Status(Vec<u16>),
    /// No answer.
    Reset,
    By(Vec<String>),
    Path(String),
    Host(String),
    Saw(String, String),
    Unseen(String),
    Has(String, String),
    Lacks(String),
    Count(u64),
    Share(String, std::ops::RangeInclusive<usize>),
}

impl Ask {
    /// Reads a line.
    #[track_caller]
    pub fn parse(line: &str) -> Self {
        let wrong = |why: &str| -> ! { panic!("{why}: {line}") };
        let (mut words, after) = match line.split_once(" => ") {
            Some((before, after)) => (before.split_whitespace().peekable(), after.split_whitespace()),
            None => wrong("there is no arrow"),
        };
        let from =
            words.next_if(|word| word.ends_with('>')).map_or("default", |word| &word[..word.len() - 1]);
        let (Some(method), Some(to)) = (words.next(), words.next()) else { wrong("there is no URL") };
        let mut question = json!({ "method": method, "to": to, "headers": [] });
        for word in words {
            match word.split_once(':') {
                Some(("times", count)) => question["times"] = json!(count.parse::<usize>().unwrap()),
                Some(("sni", name)) => question["name"] = name.into(),
                Some(("body", text)) => question["body"] = text.into(),
                Some(("bearer", token)) => {
                    let value = format!("Bearer {token}");
                    question["headers"].as_array_mut().unwrap().push(json!(["authorization", value]));
                }
                Some((name, value)) => question["headers"].as_array_mut().unwrap().push(json!([name, value])),
                None => wrong("a field has a colon"),
            }
        }
        let expected = after.map(|word| Expected::parse(word).unwrap_or_else(|| wrong(word))).collect();
        Self { line: line.to_owned(), from: from.to_owned(), question, expected }
    }

    /// Why these answers are not what is expected.
    pub fn differs(&self, answers: &[Value]) -> Option<String> {
        self.expected.iter().find_map(|expected| expected.differs(answers))
    }
}

impl Expected {
    fn parse(word: &str) -> Option<Self> {
        let statuses: Result<Vec<u16>, _> = word.split('|').map(str::parse).collect();
        if let Ok(statuses) = statuses {
            return Some(Self::Status(statuses));
        }
        let pair = |text: &str| text.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
        Some(match word.split_once(':') {
            None if word == "reset" => Self::Reset,
            Some(("by", names)) => Self::By(names.split('|').map(str::to_owned).collect()),
            Some(("path", path)) => Self::Path(path.to_owned()),
            Some(("host", host)) => Self::Host(host.to_owned()),
            Some(("saw", field)) => pair(field).map(|(name, value)| Self::Saw(name, value))?,
            Some(("unseen", name)) => Self::Unseen(name.to_owned()),
            Some(("has", field)) => pair(field).map(|(name, value)| Self::Has(name, value))?,
            Some(("lacks", name)) => Self::Lacks(name.to_owned()),
            Some(("to", location)) => Self::Has("location".to_owned(), location.to_owned()),
            Some(("reason", reason)) => Self::Has("tulle-reason".to_owned(), reason.to_owned()),
            Some(("count", count)) => Self::Count(count.parse().ok()?),
            Some(("share", share)) => {
                let (name, range) = pair(share)?;
                let (least, most) = range.split_once("..")?;
                Self::Share(name, least.parse().ok()?..=most.parse().ok()?)
            }
            _ => return None,
        })
    }

    /// Why these answers are not so.
    pub fn differs(&self, answers: &[Value]) -> Option<String> {
        if let Self::Share(name, range) = self {
            let count = answers.iter().filter(|answer| told(answer)["name"] == name.as_str()).count();
            let found = || format!("{count} of {} answers are by {name}", answers.len());
            return (!range.contains(&count)).then(found);
        }
        answers.iter().find(|answer| !self.holds(answer)).map(|answer| format!("{self:?}, and not {answer}"))
    }

    fn holds(&self, answer: &Value) -> bool {
        let told = || told(answer);
        match self {
            Self::Share(..) => true,
            Self::Status(statuses) => {
                answer["status"].as_u64().is_some_and(|is| statuses.contains(&(is as u16)))
            }
            Self::Reset => answer.get("error").is_some(),
            Self::By(names) => told()["name"].as_str().is_some_and(|is| names.iter().any(|name| name == is)),
            Self::Path(path) => told()["path"] == path.as_str(),
            Self::Host(host) => {
                fields(&told(), "host").or(fields(&told(), ":authority")).as_deref() == Some(host)
            }
            Self::Saw(name, value) => fields(&told(), name).as_deref() == Some(value),
            Self::Unseen(name) => told()["headers"].is_array() && fields(&told(), name).is_none(),
            Self::Has(name, value) => fields(answer, name).as_deref() == Some(value),
            Self::Count(count) => told()["count"].as_u64() >= Some(*count),
            Self::Lacks(name) => answer["headers"].is_array() && fields(answer, name).is_none(),
        }
    }
}

/// What the service said of itself and of the request.
pub fn told(answer: &Value) -> Value {
    answer["body"].as_str().and_then(|body| serde_json::from_str(body).ok()).unwrap_or_default()
}

/// The values of a field, in one line.
pub fn fields(message: &Value, name: &str) -> Option<String> {
    let pairs = message["headers"].as_array()?;
    let of_name =
        pairs.iter().filter(|pair| pair[0].as_str().is_some_and(|is| is.eq_ignore_ascii_case(name)));
    let values: Vec<_> = of_name.filter_map(|pair| pair[1].as_str()).collect();
    (!values.is_empty()).then(|| values.join(","))
}

/// A client that is a workload of the mesh, and asks one thing after another.
struct Asker {
    process: Child,
    questions: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Asker {
    fn start(home: &Home, namespace: &str) -> Self {
        let mut command = home.command(tulle());
        command.args(["run", CLIENT, "-n", namespace, "--"]).arg(python()).arg(client("asker.py"));
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let answers = BufReader::new(process.stdout.take().unwrap());
        Self { questions: process.stdin.take(), answers, process }
    }

    #[track_caller]
    fn ask(&mut self, question: &Value) -> Vec<Value> {
        writeln!(self.questions.as_ref().unwrap(), "{question}").unwrap();
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line:?} for {question}"))
    }
}

impl Drop for Asker {
    fn drop(&mut self) {
        // It ends when there is nothing to ask any more.
        self.questions.take();
        let _ = self.process.wait();
    }
}

/// A client in each of some namespaces.
pub struct Askers {
    of: HashMap<String, Asker>,
    asked: usize,
}

impl Askers {
    pub fn start(home: &Home, namespaces: &[&str]) -> Self {
        let start = |namespace: &&str| (namespace.to_string(), Asker::start(home, namespace));
        Self { of: namespaces.iter().map(start).collect(), asked: 0 }
    }

    /// What is answered.
    #[track_caller]
    pub fn answers(&mut self, ask: &Ask) -> Vec<Value> {
        self.asked += 1;
        let question = ask.question.to_string().replace("{}", &self.asked.to_string());
        let asker = self.of.get_mut(&ask.from).unwrap_or_else(|| panic!("nobody asks from {}", ask.from));
        asker.ask(&serde_json::from_str(&question).unwrap())
    }

    /// Waits until each of these holds, and then sees all of them hold at once. The error says of one what it is like.
    #[track_caller]
    pub fn hold(&mut self, asks: &[Ask]) -> Result<(), String> {
        let deadline = Instant::now() + EFFECT;
        for ask in asks {
            while let Some(why) = ask.differs(&self.answers(ask)) {
                if Instant::now() > deadline {
                    return Err(format!("{}: {why}", ask.line));
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        // Shares are a matter of chance: once is enough.
        for ask in asks.iter().filter(|ask| !ask.expected.iter().any(|is| matches!(is, Expected::Share(..))))
        {
            if let Some(why) = ask.differs(&self.answers(ask)) {
                return Err(format!("{}, when all had held: {why}", ask.line));
            }
        }
        Ok(())
    }

    /// Asks once, and it has to hold.
    #[track_caller]
    pub fn check_once(&mut self, line: &str) {
        let ask = Ask::parse(line);
        let why = ask.differs(&self.answers(&ask));
        assert!(why.is_none(), "{line}: {why:?}");
    }

    /// The same of lines.
    #[track_caller]
    pub fn hold_lines(&mut self, lines: &[&str]) -> Result<(), String> {
        let asks: Vec<_> = lines.iter().map(|line| Ask::parse(line)).collect();
        self.hold(&asks)
    }

    /// Has all of these lines hold.
    #[track_caller]
    pub fn check(&mut self, lines: &[&str]) {
        self.hold_lines(lines).unwrap_or_else(|why| panic!("{why}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_is_asked_and_expected() {
        let ask =
            Ask::parse("tests> GET http://e/ x-a:1 times:2 => 200|504 by:e|f path:/x saw:x-a=1 share:e=1..2");
        assert_eq!(ask.from, "tests");
        assert_eq!(ask.question["headers"], json!([["x-a", "1"]]));
        let answer = |status: u16, name: &str, path: &str| {
            let body = json!({ "name": name, "path": path, "headers": [["X-A", "1"]] }).to_string();
            json!({ "status": status, "headers": [], "body": body })
        };
        assert_eq!(ask.differs(&[answer(200, "e", "/x"), answer(504, "f", "/x")]), None);
        for wrong in
            [answer(503, "e", "/x"), answer(200, "g", "/x"), answer(200, "e", "/"), json!({"error": ""})]
        {
            assert!(ask.differs(&[answer(200, "e", "/x"), wrong]).is_some());
        }
        assert!(ask.differs(&[answer(200, "f", "/x")]).is_some(), "none is by e");
        let reset = Ask::parse("OPEN tcp://e:1 => reset");
        assert!(
            reset.differs(&[answer(0, "e", "")]).is_some()
                && reset.differs(&[json!({"error": ""})]).is_none()
        );
    }
}
