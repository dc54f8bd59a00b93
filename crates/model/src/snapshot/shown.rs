//! Conditions of rules, as people read them.

use std::fmt;

use super::{HttpMatch, PathMatch, TextMatch};

/// `GET /api/* x-canary=1 ?debug~1|2`: the method, the path, headers and query parameters, as far as they are asked for.
impl fmt::Display for HttpMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts: Vec<String> = self.method.iter().cloned().collect();
        parts.extend(match &self.path {
            PathMatch::Exact(path) => Some(path.clone()),
            PathMatch::Prefix(prefix) if prefix.is_empty() => None,
            PathMatch::Prefix(prefix) => Some(format!("{prefix}/*")),
            PathMatch::Regex(pattern) => Some(format!("~{}", pattern.source())),
        });
        let value = |value: &TextMatch| match value {
            TextMatch::Exact(text) => format!("={text}"),
            TextMatch::Regex(pattern) => format!("~{}", pattern.source()),
        };
        parts.extend(self.headers.iter().map(|header| format!("{}{}", header.name, value(&header.value))));
        parts.extend(self.query.iter().map(|of| format!("?{}{}", of.name, value(&of.value))));
        if parts.is_empty() { f.write_str("all") } else { f.write_str(&parts.join(" ")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::{Pattern, ValueMatch};

    #[test]
    fn what_is_not_asked_for_is_not_said() {
        let all = HttpMatch {
            path: PathMatch::Prefix(String::new()),
            method: None,
            headers: Vec::new(),
            query: Vec::new(),
        };
        assert_eq!(all.to_string(), "all");
        let pattern = || Pattern::new("a|b").unwrap();
        let some = HttpMatch {
            path: PathMatch::Prefix("/api".to_owned()),
            method: Some("GET".to_owned()),
            headers: vec![ValueMatch { name: "x".to_owned(), value: TextMatch::Exact("1".to_owned()) }],
            query: vec![ValueMatch { name: "q".to_owned(), value: TextMatch::Regex(pattern()) }],
        };
        assert_eq!(some.to_string(), "GET /api/* x=1 ?q~a|b");
        assert_eq!(HttpMatch { path: PathMatch::Regex(pattern()), ..all.clone() }.to_string(), "~a|b");
        assert_eq!(HttpMatch { path: PathMatch::Exact("/a".to_owned()), ..all }.to_string(), "/a");
    }
}
