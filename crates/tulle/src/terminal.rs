//! What fits on a terminal: its width, and texts that are broken between words, not wherever the line ends.

use std::os::fd::AsFd;

/// Narrower than this, nothing is made to fit.
const NARROWEST: usize = 40;

/// The columns of the terminal that a stream goes to; `None` where it goes somewhere else, and nothing is broken.
pub fn width(stream: impl AsFd) -> Option<usize> {
    let (terminal_size::Width(columns), _) = terminal_size::terminal_size_of(stream)?;
    Some(usize::from(columns)).filter(|columns| *columns > 0).map(|columns| columns.max(NARROWEST))
}

/// The columns and rows of the terminal that a stream goes to.
pub fn size(stream: impl AsFd) -> Option<(usize, usize)> {
    let (terminal_size::Width(columns), terminal_size::Height(rows)) =
        terminal_size::terminal_size_of(stream)?;
    (columns > 0 && rows > 0).then(|| (usize::from(columns), usize::from(rows)))
}

/// How many columns a text takes.
pub fn columns(text: &str) -> usize {
    unicode_width::UnicodeWidthStr::width(anstream::adapter::strip_str(text).to_string().as_str())
}

/// A text in lines of at most `width` columns, those after the first `indent` columns further right. Words that
/// are longer stay whole, and so does what stands in backticks, as it may be pasted. `None`: as it is.
pub fn wrap(text: &str, width: Option<usize>, indent: usize) -> String {
    let Some(width) = width else { return text.to_owned() };
    let mut lines = Vec::new();
    for whole in text.split('\n') {
        let mut line = String::new();
        for word in words(whole) {
            if !line.trim().is_empty() && columns(&line) + columns(word.trim_end()) > width {
                lines.push(line.trim_end().to_owned());
                line = " ".repeat(indent);
            }
            line.push_str(word);
        }
        lines.push(line.trim_end().to_owned());
    }
    lines.join("\n")
}

/// The words of a line, each with the blank behind it.
fn words(line: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let mut start = 0;
    let mut quoted = false;
    for (at, character) in line.char_indices() {
        match character {
            '`' => quoted = !quoted,
            ' ' if !quoted => {
                words.push(&line[start..=at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    if quoted {
        return line.split_inclusive(' ').collect();
    }
    words.push(&line[start..]);
    words
}

/// A word as a shell takes it, so that a command can be pasted.
pub fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_broken_between_words() {
        let text = "error: one two three-is-long and\nmore";
        assert_eq!(wrap(text, None, 2), text);
        assert_eq!(wrap(text, Some(14), 2), "error: one two\n  three-is-long\n  and\nmore");
        assert_eq!(wrap("a-word-that-is-longer x", Some(4), 0), "a-word-that-is-longer\nx");
        assert_eq!(wrap("\x1b[1mab\x1b[0m cd", Some(5), 0), "\x1b[1mab\x1b[0m cd", "colours take no room");
        assert_eq!(wrap("  a  b", Some(80), 0), "  a  b");
        assert_eq!(wrap("see `a b c` d", Some(8), 0), "see\n`a b c`\nd", "what may be pasted stays whole");
        assert_eq!(wrap("it`s one", Some(6), 0), "it`s\none");
    }

    #[test]
    fn words_are_quoted_where_a_shell_would_read_them_otherwise() {
        assert_eq!(quote("/a/b-c.yaml"), "/a/b-c.yaml");
        assert_eq!(quote("/my mesh"), "'/my mesh'");
        assert_eq!(quote("it's $HOME"), r"'it'\''s $HOME'");
        assert_eq!(quote(""), "''");
        assert_eq!(quote("~"), "'~'");
    }
}
