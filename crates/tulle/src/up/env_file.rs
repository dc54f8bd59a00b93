//! Files of variables: `.env` beside `tulle.yaml`, and those that `envFile` of a service names. A line is `NAME=value`, after
//! `export` where somebody sources it, too. `'…'` is taken as it is; in `"…"` `\n`, `\r`, `\t`, `\"`, `\\` and `\$` are
//! what they are elsewhere, and both may go over lines. A value without quotes ends before ` #`, or with its line.

use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::interpolate::name_length;
use crate::diagnostic::Source;

/// A larger file holds no variables.
const LARGEST: u64 = 1 << 20;

/// More variables fit no process.
const MOST: usize = 10_000;

pub struct Variable {
    pub name: String,
    pub value: Given,
    /// Where the value is, in bytes.
    pub place: Range<usize>,
}

pub enum Given {
    /// As it is.
    Literal(String),
    /// With `${…}` to be put in.
    Text(String),
    /// `NAME` alone: what it is in the environment of `tulle`, if it is there.
    Inherited,
}

/// What is wrong with a file, and where.
#[derive(Debug, PartialEq)]
pub struct Wrong {
    pub message: String,
    pub place: Range<usize>,
}

/// Reads a file beside the one at `named_by`. Who owns that must be able to read it: root reads nothing out to somebody who cannot.
pub fn read(path: &Path, named_by: &Path) -> Result<Source, String> {
    let failed = |error: std::io::Error| format!("cannot read {}: {error}", path.display());
    // Opening a pipe would wait for who writes it.
    let metadata = std::fs::metadata(path).map_err(failed)?;
    if !metadata.is_file() {
        return Err(format!("cannot read {}: it is no regular file", path.display()));
    }
    let file = File::open(path).map_err(failed)?;
    if tulle_sys::is_root()
        && let (Ok(file), Ok(naming)) = (file.metadata(), std::fs::metadata(named_by))
        && naming.uid() != 0
        && file.uid() != naming.uid()
        && file.mode() & 0o004 == 0
    {
        let (path, named_by) = (path.display(), named_by.display());
        return Err(format!("{path} is not for who owns {named_by}: make it his, or readable for all"));
    }
    let mut bytes = Vec::new();
    file.take(LARGEST + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > LARGEST {
        return Err(format!("{} is larger than 1 MiB: it holds no variables", path.display()));
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Source { name: path.display().to_string(), text }),
        Err(error) => {
            let valid = error.utf8_error().valid_up_to();
            let line = 1 + error.as_bytes()[..valid].iter().filter(|&&byte| byte == b'\n').count();
            Err(format!("{}:{line}: this is no text in UTF-8", path.display()))
        }
    }
}

/// The variables of a text, and the first thing that is wrong with it.
pub fn parse(text: &str) -> (Vec<Variable>, Option<Wrong>) {
    let mut variables = Vec::new();
    let mut at = if text.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
    while at < text.len() {
        let end = line_end(text, at);
        let line = text[at..end].trim();
        if line.is_empty() || line.starts_with('#') {
            at = end + 1;
            continue;
        }
        match variable(text, at) {
            Ok(_) if variables.len() == MOST => {
                let message = format!("there are more than {MOST} variables");
                return (variables, Some(Wrong { message, place: at..end }));
            }
            Ok((variable, next)) => {
                variables.push(variable);
                at = next;
            }
            Err(wrong) => return (variables, Some(wrong)),
        }
    }
    (variables, None)
}

fn line_end(text: &str, at: usize) -> usize {
    text[at..].find('\n').map_or(text.len(), |end| at + end)
}

fn skip_space(text: &str, at: usize) -> usize {
    at + text[at..].len() - text[at..].trim_start_matches([' ', '\t']).len()
}

/// The one that begins at `at`, and where the next line does.
fn variable(text: &str, at: usize) -> Result<(Variable, usize), Wrong> {
    let mut at = skip_space(text, at);
    if let Some(rest) = text[at..].strip_prefix("export").filter(|rest| rest.starts_with([' ', '\t'])) {
        at = skip_space(text, text.len() - rest.len());
    }
    let end = line_end(text, at);
    let line = &text[at..end];
    let length = match name_length(line) {
        0 => 0,
        _ => line.find(|c: char| !is_inside_name(c)).unwrap_or(line.len()),
    };
    let name = &line[..length];
    let after = skip_space(text, at + length);
    let rest = text[after..end].trim_end();
    if name.is_empty() || !(rest.is_empty() || rest.starts_with(['=', '#'])) {
        let message = "`NAME=value` is expected: a name has letters, digits and _".to_owned();
        return Err(Wrong { message, place: at..at + line.trim_end().len() });
    }
    let name = name.to_owned();
    if !rest.starts_with('=') {
        return Ok((Variable { name, value: Given::Inherited, place: at..at + length }, end + 1));
    }
    let start = skip_space(text, after + 1);
    let (value, place, next) = match text[start..].chars().next() {
        Some(quote @ ('\'' | '"')) => {
            let (value, closed) = quoted(text, start, quote)?;
            (value, start..closed, closed)
        }
        _ => {
            let value = &text[start..end];
            // A # within a word belongs to it.
            let comment = value.match_indices('#').map(|(at, _)| at);
            let comment =
                comment.filter(|&at| value[..at].ends_with([' ', '\t']) || at == 0 && start > after + 1);
            let value = value[..comment.min().unwrap_or(value.len())].trim_end();
            let place = start..start + value.len();
            (Given::Text(value.to_owned()), place, end)
        }
    };
    let end = line_end(text, next);
    let rest = text[next..end].trim();
    if !rest.is_empty() && !rest.starts_with('#') && matches!(text.as_bytes().get(start), Some(b'\'' | b'"'))
    {
        let message = "something follows the quote that closes the value".to_owned();
        return Err(Wrong { message, place: skip_space(text, next)..end });
    }
    if let Given::Literal(value) | Given::Text(value) = &value
        && value.contains('\0')
    {
        return Err(Wrong { message: "a value cannot have a zero byte".to_owned(), place });
    }
    Ok((Variable { name, value, place }, end + 1))
}

fn is_inside_name(character: char) -> bool {
    character.is_ascii_alphanumeric() || matches!(character, '_' | '.' | '-')
}

/// What stands in quotes, and where it ends.
fn quoted(text: &str, start: usize, quote: char) -> Result<(Given, usize), Wrong> {
    let mut value = String::new();
    let mut characters = text[start + 1..].char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            _ if character == quote => {
                let value = if quote == '"' { Given::Text(value) } else { Given::Literal(value) };
                return Ok((value, start + 1 + at + 1));
            }
            '\\' if quote == '"' => match characters.next() {
                Some((_, 'n')) => value.push('\n'),
                Some((_, 'r')) => value.push('\r'),
                Some((_, 't')) => value.push('\t'),
                Some((_, '$')) => value.push_str("$$"),
                Some((_, escaped @ ('"' | '\\' | '\''))) => value.push(escaped),
                Some((_, other)) => value.extend(['\\', other]),
                None => break,
            },
            '\r' if text[start + 1 + at..].starts_with("\r\n") => {}
            other => value.push(other),
        }
    }
    let message = format!("a quote ({quote}) is not closed");
    Err(Wrong { message, place: start..line_end(text, start) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<(String, String)>, (String, String)> {
        let (variables, wrong) = parse(text);
        if let Some(wrong) = wrong {
            return Err((wrong.message, text[wrong.place].to_owned()));
        }
        let shown = variables.into_iter().map(|variable| {
            let value = match variable.value {
                Given::Literal(value) => format!("'{value}"),
                Given::Text(value) => value,
                Given::Inherited => "<inherited>".to_owned(),
            };
            assert!(text.get(variable.place).is_some());
            (variable.name, value)
        });
        Ok(shown.collect())
    }

    #[test]
    fn lines_are_read_as_other_tools_read_them() {
        let text = "\u{feff}# a comment\n\nA=1\n export B = two words # not this\r\nC='it is $X\n  over lines' # so\nD=\"a\\n\\\"b\\\" \
                    \\$X ${A} \\w\"\nE=\nF= # nothing\nG=a#b\nH=#x\nI\nJ.k-l=x=y\nexport=1\n  # the end";
        let expected = [
            ("A", "1"),
            ("B", "two words"),
            ("C", "'it is $X\n  over lines"),
            ("D", "a\n\"b\" $$X ${A} \\w"),
            ("E", ""),
            ("F", ""),
            ("G", "a#b"),
            ("H", "#x"),
            ("I", "<inherited>"),
            ("J.k-l", "x=y"),
            ("export", "1"),
        ];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(read(text).unwrap(), expected);
        assert_eq!(read(""), Ok(vec![]));
    }

    #[test]
    fn what_is_wrong_is_shown_with_its_place() {
        for (text, why, place) in [
            ("A=1\nthis is none\n", "`NAME=value` is expected", "this is none"),
            ("1A=x", "`NAME=value` is expected", "1A=x"),
            ("=x", "`NAME=value` is expected", "=x"),
            ("A=\"x\nB=1\n", "is not closed", "\"x"),
            ("A='x'y\n", "something follows", "y"),
            ("A=\"\\", "is not closed", "\"\\"),
            ("ä=1", "`NAME=value` is expected", "ä=1"),
        ] {
            let (message, shown) = read(text).unwrap_err();
            assert!(message.contains(why) && shown == place, "{text}: {message}: {shown}");
        }
        let many = "A=1\n".repeat(MOST + 1);
        assert!(read(&many).unwrap_err().0.contains("more than 10000"));
    }

    #[test]
    fn any_text_is_read() {
        tulle_fuzz::check("files", |input: &[u8]| {
            if let Ok(text) = std::str::from_utf8(input) {
                let (variables, wrong) = parse(text);
                let places = variables.into_iter().map(|v| v.place).chain(wrong.map(|w| w.place));
                places.for_each(|place| assert!(text.get(place).is_some()));
            }
        });
    }
}
