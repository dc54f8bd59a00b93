//! What becomes of a request of a table. First who answers, and with what: `v1` (the application of that service, with 200),
//! `503 v1`, `404 no-route` (the mesh itself, for that reason), `302 http://d.org/` (it redirects), `204` (it answers a preflight),
//! `grpc 12 no-route` (of a call), `reset` or `refused` (the connection). Then, in any order and separated by ` | `:
//!
//! - `got /path`, `got host d.org`, `got x-a: 1, 2`, `got no x-a`, `got trailer x: 1`, `got HTTP/1.1`: how the request
//!   came to the application, and to those that have copies;
//! - `answer x-a: 1, 2`, `answer no x-a`: how the answer came to the client;
//! - `tries 3`: how often the request came to the application, where it is not once;
//! - `at v1`: where it came to, of an answer by the mesh;
//! - `copy v2`: a copy came there. No others did.

#[derive(Debug, Default)]
pub struct Expected {
    pub status: u16,
    /// Of a call.
    pub grpc_status: Option<&'static str>,
    pub is_reset: bool,
    pub is_refused: bool,
    pub reason: Option<&'static str>,
    pub location: Option<&'static str>,
    /// Which application it comes to.
    pub at: Option<&'static str>,
    /// That application answers it.
    pub is_answered: bool,
    pub tries: usize,
    pub copies: Vec<&'static str>,
    pub got: Vec<&'static str>,
    pub answer: Vec<&'static str>,
}

impl Expected {
    pub fn parse(text: &'static str) -> Self {
        let mut parts = text.split(" | ").map(str::trim);
        let mut expected = Self { status: 200, tries: 1, ..Self::default() };
        let mut words = parts.next().unwrap().split(' ').peekable();
        if words.peek() == Some(&"grpc") {
            words.next();
            expected.grpc_status = words.next();
        } else if let Some(status) = words.peek().and_then(|word| word.parse().ok()) {
            expected.status = status;
            words.next();
        }
        match words.next() {
            None => {}
            Some(word) if word.contains("://") => expected.location = Some(word),
            Some(word) if word.contains('-') => expected.reason = Some(word),
            Some("reset") => expected.is_reset = true,
            Some("refused") => expected.is_refused = true,
            Some("timeout") => expected.reason = Some("timeout"),
            Some(word) => (expected.at, expected.is_answered) = (Some(word), true),
        }
        for part in parts {
            if let Some(rest) = part.strip_prefix("got ") {
                expected.got.push(rest);
            } else if let Some(rest) = part.strip_prefix("answer ") {
                expected.answer.push(rest);
            } else if let Some(name) = part.strip_prefix("copy ") {
                expected.copies.push(name);
            } else if let Some(count) = part.strip_prefix("tries ") {
                expected.tries = count.parse().unwrap();
            } else if let Some(name) = part.strip_prefix("at ") {
                expected.at = Some(name);
            } else {
                panic!("what is `{part}`: {text}");
            }
        }
        expected
    }

    /// All to which it comes, in order, once for each time.
    pub fn arrivals(&self) -> Vec<&'static str> {
        let at = self.at.into_iter().flat_map(|name| std::iter::repeat_n(name, self.tries));
        let mut arrivals: Vec<_> = at.chain(self.copies.iter().copied()).collect();
        arrivals.sort();
        arrivals
    }
}
