//! Reads the tables (`tables/README.md` says how they are written).

use std::path::Path;

/// A case: its name, and the lines below it.
#[derive(Debug, Clone)]
pub struct Case {
    /// File, section and name, for people.
    pub name: String,
    /// The first word of each line, and the rest of it.
    pub lines: Vec<(String, String)>,
}

impl Case {
    /// The lines that begin with `key`, in their order.
    pub fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.lines.iter().filter(move |line| line.0 == key).map(|line| line.1.as_str())
    }

    pub fn one(&self, key: &str) -> Option<&str> {
        let mut all = self.lines.iter().filter(|line| line.0 == key).map(|line| line.1.as_str());
        let one = all.next();
        assert!(all.next().is_none(), "{}: more than one line begins with {key}", self.name);
        one
    }

    /// The bytes of all lines that begin with `key`, one after the other.
    pub fn bytes(&self, key: &str) -> Vec<u8> {
        self.all(key).flat_map(bytes).collect()
    }

    /// What is sent and expected on a connection of HTTP/2, one after the other.
    pub fn script(&self, way: &str) -> Vec<(String, String)> {
        let own = |key: &str| format!("{key}@{way}");
        let of = |key: &str| self.lines.iter().any(|line| line.0 == own(key));
        let expected = if of("<") { own("<") } else { "<".to_owned() };
        let lines = self.lines.iter().filter(|line| line.0 == ">" || line.0 == expected);
        lines.map(|(key, line)| (key[..1].to_owned(), line.clone())).collect()
    }

    /// Whether it is for that way: all are but those that a line `only` leaves out.
    pub fn is_for(&self, way: &str) -> bool {
        self.one("only").is_none_or(|ways| ways.split(' ').any(|one| one == way))
    }

    /// What holds for one of several ways: a line `KEY@WAY`, or else `KEY`.
    pub fn on<'a>(&'a self, key: &str, way: &str) -> Option<&'a str> {
        self.one(&format!("{key}@{way}")).or_else(|| self.one(key))
    }

    /// As [`Case::on`] for all lines.
    pub fn all_on<'a>(&'a self, key: &str, way: &str) -> Vec<&'a str> {
        let own = format!("{key}@{way}");
        let key = if self.lines.iter().any(|line| line.0 == own) { own.as_str() } else { key };
        self.lines.iter().filter(|line| line.0 == key).map(|line| line.1.as_str()).collect()
    }
}

/// All cases of the tables in a folder.
pub fn cases(folder: &str) -> Vec<Case> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance/tables").join(folder);
    let mut files: Vec<_> = std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let wanted = std::env::var("TULLE_CONFORMANCE_CASE").unwrap_or_default();
    let all = files.iter().flat_map(|file| {
        let name = file.file_stem().unwrap().to_str().unwrap();
        parse(&format!("{folder}/{name}"), &std::fs::read_to_string(file).unwrap())
    });
    let cases: Vec<_> = all.filter(|case| case.name.contains(&wanted)).collect();
    assert!(!cases.is_empty() || !wanted.is_empty());
    cases
}

/// The cases of a table's text.
fn parse(file: &str, text: &str) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    let mut section = String::new();
    for (number, line) in text.lines().enumerate() {
        let (key, rest) = line.split_once(' ').unwrap_or((line, ""));
        match key {
            "" | "#" => {}
            "==" => section = rest.to_owned(),
            ":" => {
                let name = format!("{file}:{}: {section}: {rest}", number + 1);
                cases.push(Case { name, lines: Vec::new() });
            }
            _ => {
                let case = cases.last_mut().unwrap_or_else(|| panic!("{file}:{}: no case yet", number + 1));
                case.lines.push((key.to_owned(), rest.to_owned()));
            }
        }
    }
    cases.into_iter().flat_map(each).collect()
}

/// A case with a line `each` is as many as that has words: `\?` stands for the word.
fn each(case: Case) -> Vec<Case> {
    let Some(words) = case.one("each") else { return vec![case] };
    let put = |word: &str| {
        let lines = case.lines.iter().filter(|line| line.0 != "each");
        let lines =
            lines.map(|(key, rest)| (key.clone(), rest.replace("\\?", &word.replace("\\s", " ")))).collect();
        Case { name: format!("{} [{word}]", case.name), lines }
    };
    words.split(' ').map(put).collect()
}

/// The bytes that a text stands for: `\r`, `\n`, `\t`, `\0`, `\s` (a space), `\\`, `\xFF`, and `\(70000*a)` for many.
pub fn bytes(text: &str) -> Vec<u8> {
    let text = repeats(text);
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        let (&kind, after) = rest.split_first().unwrap();
        rest = after;
        match kind {
            b'r' => out.push(b'\r'),
            b'n' => out.push(b'\n'),
            b't' => out.push(b'\t'),
            b's' => out.push(b' '),
            b'0' => out.push(0),
            b'\\' => out.push(b'\\'),
            b'x' => {
                let digits = std::str::from_utf8(&rest[..2]).unwrap();
                out.push(u8::from_str_radix(digits, 16).unwrap());
                rest = &rest[2..];
            }
            other => panic!("{text}: what is \\{}", other as char),
        }
    }
    out
}

/// A text in which `\(3*ab)` was put as `ababab`.
pub fn repeats(text: &str) -> String {
    let Some((before, rest)) = text.split_once("\\(") else { return text.to_owned() };
    let (mut end, mut depth) = (0, 1);
    while depth > 0 {
        depth += usize::from(rest[end..].starts_with("\\("));
        depth -= usize::from(rest.as_bytes()[end] == b')');
        end += 1;
    }
    let (count, what) = rest[..end - 1].split_once('*').unwrap();
    format!("{before}{}{}", repeats(what).repeat(count.parse().unwrap()), repeats(&rest[end..]))
}

/// Bytes as [`bytes`] reads them, for people: long runs are cut.
pub fn text(bytes: &[u8]) -> String {
    let mut out = String::new();
    for &byte in &bytes[..bytes.len().min(2000)] {
        match byte {
            b'\r' => out.push_str("\\r"),
            b'\n' => out.push_str("\\n"),
            b'\t' => out.push_str("\\t"),
            b'\\' => out.push_str("\\\\"),
            b' '..=b'~' => out.push(byte as char),
            _ => out.push_str(&format!("\\x{byte:02x}")),
        }
    }
    if bytes.len() > 2000 {
        out.push_str(&format!("… {} bytes", bytes.len()));
    }
    out
}
