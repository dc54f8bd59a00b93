//! What a fake service answers: the same tree as JSON over HTTP and as protobuf over gRPC.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One service's answer, with the answers of those that it called (`Answer` in
/// `proto/tulle/fake/v1/fake.proto`).
#[derive(Clone, PartialEq, prost::Message, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    #[prost(string, tag = "1")]
    pub name: String,
    /// As in HTTP; 0 where there was no answer.
    #[prost(uint32, tag = "2")]
    pub status: u32,
    #[prost(string, tag = "3")]
    pub body: String,
    #[prost(double, tag = "4")]
    pub duration_ms: f64,
    #[prost(message, repeated, tag = "5")]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub upstreams: Vec<Answer>,
    /// Why the status is none of success.
    #[prost(string, tag = "6")]
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub error: String,
}

impl Answer {
    pub fn is_success(&self) -> bool {
        (200..400).contains(&self.status)
    }

    /// The deepest failures: those that no failure of an upstream explains.
    fn causes<'a>(&'a self, into: &mut Vec<&'a Answer>) {
        if self.is_success() {
            return;
        }
        let before = into.len();
        for upstream in &self.upstreams {
            upstream.causes(into);
        }
        if into.len() == before {
            into.push(self);
        }
    }

    /// One line that tells the request's way: `a → c → d → (e, f)   200   3.2ms`, and why it failed.
    pub fn line(&self) -> String {
        let mut line = format!("{}   {}   {:.1}ms", Path(self), self.status, self.duration_ms);
        let mut causes = Vec::new();
        self.causes(&mut causes);
        for cause in causes {
            let why = if cause.error.is_empty() { "failed" } else { &cause.error };
            line.push_str(&format!("   {}: {why}", cause.name));
        }
        line
    }
}

/// Prints the way that a request took; `✗` marks who failed.
struct Path<'a>(&'a Answer);

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let answer = self.0;
        f.write_str(&answer.name)?;
        if !answer.is_success() {
            f.write_str("✗")?;
        }
        match answer.upstreams.as_slice() {
            [] => Ok(()),
            [one] => write!(f, " → {}", Path(one)),
            many => {
                f.write_str(" → (")?;
                for (i, upstream) in many.iter().enumerate() {
                    if i > 0 {
                        f.write_str(", ")?;
                    }
                    write!(f, "{}", Path(upstream))?;
                }
                f.write_str(")")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(name: &str, status: u32, upstreams: Vec<Answer>) -> Answer {
        Answer { name: name.into(), status, duration_ms: 3.21, upstreams, ..Answer::default() }
    }

    #[test]
    fn the_line_shows_the_path() {
        let tree = |f_status, rest| {
            let leaves = vec![answer("e", 200, vec![]), answer("f", f_status, vec![])];
            let d = answer("d", rest, leaves);
            answer("a", rest, vec![answer("c", rest, vec![d])])
        };
        assert_eq!(tree(200, 200).line(), "a → c → d → (e, f)   200   3.2ms");
        let mut failed = tree(500, 502);
        failed.upstreams[0].upstreams[0].upstreams[1].error = "error by rate".into();
        assert_eq!(failed.line(), "a✗ → c✗ → d✗ → (e, f✗)   502   3.2ms   f: error by rate");
    }
}
