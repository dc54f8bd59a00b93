//! A reader of as much of Go as conformance tests say their expectations in: literals of structs, maps and lists, and what they are called. What it
//! does not know it keeps as text, for whoever needs it to say that it was not read.

/// A value in the source.
#[derive(Debug, Clone, PartialEq)]
pub enum Go {
    Text(String),
    Number(f64),
    Truth(bool),
    List(Vec<Go>),
    /// A struct or a map, its keys as they are written.
    Fields(Vec<(String, Go)>),
    /// A variable, a constant.
    Name(String),
    /// A function's body: the tokens from the first to the one after the last.
    Function(usize, usize),
    /// Any other expression.
    Other(String),
}

impl Go {
    pub fn field(&self, name: &str) -> Option<&Go> {
        match self {
            Self::Fields(fields) => fields.iter().find(|(key, _)| key == name).map(|(_, value)| value),
            _ => None,
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub enum Token {
    /// With what it is selected from: `suite.MeshNamespace`.
    Name(String),
    Text(String),
    Number(f64),
    Sign(char),
}

/// The tokens of a source, without its comments. The error says what is none.
pub fn tokens(source: &str) -> Result<Vec<Token>, String> {
    let mut found = Vec::new();
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        let length = match first {
            _ if first.is_whitespace() => first.len_utf8(),
            _ if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            _ if rest.starts_with("/*") => rest.find("*/").map_or(rest.len(), |at| at + 2),
            '"' => {
                let end = end_of_text(rest).ok_or("a text without an end")?;
                let text =
                    serde_json::from_str(&rest[..end]).map_err(|e| format!("{e}: {}", &rest[..end]))?;
                found.push(Token::Text(text));
                end
            }
            '`' => {
                let end = rest[1..].find('`').ok_or("a text without an end")? + 2;
                found.push(Token::Text(rest[1..end - 1].to_owned()));
                end
            }
            '0'..='9' => {
                let end =
                    rest.find(|c: char| !c.is_alphanumeric() && c != '.' && c != '_').unwrap_or(rest.len());
                found.push(Token::Number(rest[..end].replace('_', "").parse().unwrap_or(f64::NAN)));
                end
            }
            '_' | '.' | 'a'..='z' | 'A'..='Z' => {
                let end =
                    rest.find(|c: char| !c.is_alphanumeric() && c != '.' && c != '_').unwrap_or(rest.len());
                found.push(Token::Name(rest[..end].to_owned()));
                end
            }
            sign => {
                found.push(Token::Sign(sign));
                sign.len_utf8()
            }
        };
        rest = &rest[length..];
    }
    Ok(found)
}

fn end_of_text(rest: &str) -> Option<usize> {
    let mut escaped = false;
    let closing = rest.char_indices().skip(1).find(|(_, c)| {
        let closes = *c == '"' && !escaped;
        escaped = *c == '\\' && !escaped;
        closes
    });
    closing.map(|(at, _)| at + 1)
}

/// The value that begins at that token, and the token after it.
pub fn value(tokens: &[Token], at: usize) -> (Go, usize) {
    let begun = match tokens.get(at) {
        Some(Token::Sign('&')) => return value(tokens, at + 1),
        Some(Token::Sign('{')) => return literal(tokens, at),
        Some(Token::Sign('[')) => after_type(tokens, at).map(|open| literal(tokens, open)),
        Some(Token::Name(name)) if name == "func" => return function(tokens, at),
        Some(Token::Name(name)) if name == "map" => after_type(tokens, at).map(|open| literal(tokens, open)),
        Some(Token::Name(name)) => match tokens.get(at + 1) {
            Some(Token::Sign('{')) => Some(literal(tokens, at + 1)),
            _ if name == "true" || name == "false" => Some((Go::Truth(name == "true"), at + 1)),
            _ => Some((Go::Name(name.clone()), at + 1)),
        },
        Some(Token::Text(text)) => Some((Go::Text(text.clone()), at + 1)),
        Some(Token::Number(number)) => Some((Go::Number(*number), at + 1)),
        _ => None,
    };
    match begun {
        Some((value, next)) if ends(tokens, next) => (value, next),
        _ => other(tokens, at),
    }
}

/// Where nothing more belongs to an expression within a literal or an argument. (A literal in a statement of its own, too.)
fn ends(tokens: &[Token], at: usize) -> bool {
    !matches!(tokens.get(at), Some(Token::Sign('+' | '(' | '[' | '-' | '*' | '/')))
}

/// The brace after a type that begins with a bracket: `[]T{`, `map[K]V{`.
fn after_type(tokens: &[Token], at: usize) -> Option<usize> {
    let open = tokens[at..].iter().position(|token| *token == Token::Sign('{'))? + at;
    let is_type = |token: &Token| matches!(token, Token::Name(_) | Token::Sign('[' | ']' | '*'));
    tokens[at..open].iter().all(is_type).then_some(open)
}

/// From an opening brace.
fn literal(tokens: &[Token], open: usize) -> (Go, usize) {
    let (mut fields, mut items, mut at) = (Vec::new(), Vec::new(), open + 1);
    loop {
        match tokens.get(at) {
            None => return (Go::Other("a literal without an end".to_owned()), at),
            Some(Token::Sign('}')) => break,
            Some(Token::Sign(',')) => at += 1,
            Some(_) => {
                let (item, next) = value(tokens, at);
                // An expression that stops where none may: what follows it is not for this reader.
                let next = next.max(at + 1);
                if tokens.get(next) == Some(&Token::Sign(':')) {
                    let (of, after) = value(tokens, next + 1);
                    let key = match item {
                        Go::Text(key) | Go::Name(key) | Go::Other(key) => key,
                        key => format!("{key:?}"),
                    };
                    fields.push((key, of));
                    at = after;
                } else {
                    items.push(item);
                    at = next;
                }
            }
        }
    }
    let found = if items.is_empty() { Go::Fields(fields) } else { Go::List(items) };
    (found, at + 1)
}

fn function(tokens: &[Token], at: usize) -> (Go, usize) {
    let Some(open) = tokens[at..].iter().position(|token| *token == Token::Sign('{')).map(|open| open + at)
    else {
        return other(tokens, at);
    };
    let end = closing(tokens, open);
    (Go::Function(open + 1, (end - 1).max(open + 1)), end)
}

/// The token after the brace or bracket that closes this one.
fn closing(tokens: &[Token], open: usize) -> usize {
    let mut depth = 0_usize;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match token {
            Token::Sign('{' | '(' | '[') => depth += 1,
            Token::Sign('}' | ')' | ']') => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at + 1;
        }
    }
    tokens.len()
}

/// Anything else, up to where the value around it goes on.
fn other(tokens: &[Token], begin: usize) -> (Go, usize) {
    let mut at = begin;
    while let Some(token) = tokens.get(at) {
        match token {
            Token::Sign('{' | '(' | '[') => at = closing(tokens, at),
            Token::Sign('}' | ')' | ']' | ',' | ':') => break,
            _ => at += 1,
        }
    }
    let words = tokens[begin..at].iter().map(|token| match token {
        Token::Name(text) => text.clone(),
        Token::Text(text) => format!("{text:?}"),
        Token::Number(number) => number.to_string(),
        Token::Sign(sign) => sign.to_string(),
    });
    (Go::Other(words.collect()), at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_are_read_and_what_is_none_is_kept() {
        let source = r#"
            // A list of cases.
            cases := []http.Expected{{
                Name: "a \"b\"", /* none */ Codes: []int{200, 404}, Follow: true,
                Request: &http.Request{Host: safe(v2.Address) + ":80", Headers: map[string]string{"X-A": "1"}},
                Namespace: ns,
                Run: func(t *testing.T) { f(t, map[string]int{}) },
            }, {}}"#;
        let tokens = tokens(source).unwrap();
        let (list, next) = value(&tokens, 3);
        assert_eq!(next, tokens.len());
        let Go::List(cases) = list else { panic!("{list:?}") };
        assert_eq!((cases.len(), &cases[1]), (2, &Go::Fields(Vec::new())));
        let field = |name: &str| cases[0].field(name).unwrap();
        assert_eq!(field("Name"), &Go::Text("a \"b\"".to_owned()));
        assert_eq!(field("Codes"), &Go::List(vec![Go::Number(200.0), Go::Number(404.0)]));
        assert_eq!(field("Follow"), &Go::Truth(true));
        assert_eq!(field("Namespace"), &Go::Name("ns".to_owned()));
        let request = field("Request");
        assert_eq!(request.field("Host"), Some(&Go::Other("safe(v2.Address)+\":80\"".to_owned())));
        assert_eq!(
            request.field("Headers"),
            Some(&Go::Fields(vec![("X-A".to_owned(), Go::Text("1".to_owned()))]))
        );
        assert!(matches!(field("Run"), Go::Function(from, to) if to - from == 12), "{:?}", field("Run"));
    }

    #[test]
    fn a_source_that_is_cut_is_read_to_its_end() {
        let source = "x := []T{{A: \"b\", C: f(map[string]string{\"d\": `e`})}, {F: 1.5}}";
        for end in (0..source.len()).filter(|end| source.is_char_boundary(*end)) {
            if let Ok(tokens) = tokens(&source[..end]) {
                for at in 0..tokens.len() {
                    assert!(value(&tokens, at).1 <= tokens.len());
                }
            }
        }
    }
}
