//! Texts that others wrote (annotations, messages, what a process says), fit for a terminal, a log line or a message.

use std::borrow::Cow;
use std::fmt::Write as _;

/// A text that moves, colours and retitles nothing, and stays on one line: what would control the terminal is shown in
/// place of being done, as kubectl and `cat -v` do (`^[` for escape), line breaks and tabs as `\n` and `\t`. What is
/// legible stays as it is, so that to ask twice changes nothing.
pub fn legible(text: &str) -> Cow<'_, str> {
    let Some(first) = text.find(controls) else { return text.into() };
    let mut shown = String::with_capacity(text.len() + 8);
    shown.push_str(&text[..first]);
    for c in text[first..].chars() {
        match c {
            '\n' => shown.push_str("\\n"),
            '\r' => shown.push_str("\\r"),
            '\t' => shown.push_str("\\t"),
            '\0'..='\x1f' | '\x7f' => shown.extend(['^', char::from(c as u8 ^ 0x40)]),
            // Writing to a String cannot fail.
            c if controls(c) => drop(write!(shown, "\\u{{{:x}}}", u32::from(c))),
            c => shown.push(c),
        }
    }
    shown.into()
}

/// The same of the start of a text, `longest` characters of it at most.
pub fn legible_start(text: &str, longest: usize) -> Cow<'_, str> {
    let cut = |text: &str| text.char_indices().nth(longest).map(|(end, _)| end);
    match legible(&text[..cut(text).unwrap_or(text.len())]) {
        Cow::Borrowed(text) => text.into(),
        Cow::Owned(mut shown) => {
            shown.truncate(cut(&shown).unwrap_or(shown.len()));
            shown.into()
        }
    }
}

/// Whether a character does something in place of being shown: the control characters (C0, DEL, and C1, which some
/// terminals heed in UTF-8, too), what ends lines, and what turns the order of a line around (Unicode, UAX #9).
pub fn controls(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_controls_a_terminal_is_shown() {
        assert!(matches!(legible("plain, härter, 漢字 \\n"), Cow::Borrowed(_)));
        for (text, shown) in [
            ("\x1b[31mred\x1b[0m", "^[[31mred^[[0m"),
            ("\x1b]0;title\x07", "^[]0;title^G"),
            ("one\nerror: two\r\n\tthree", "one\\nerror: two\\r\\n\\tthree"),
            ("\0\x08\x0b\x0c\x7f", "^@^H^K^L^?"),
            ("\u{9b}2J\u{85}\u{9d}0;x\u{9c}", "\\u{9b}2J\\u{85}\\u{9d}0;x\\u{9c}"),
            ("a\u{202e}b\u{2066}c\u{2028}d", "a\\u{202e}b\\u{2066}c\\u{2028}d"),
        ] {
            assert_eq!(legible(text), shown);
            assert_eq!(legible(shown), shown, "twice");
        }
    }

    #[test]
    fn starts_are_bounded() {
        assert_eq!(legible_start("äöü", 3), "äöü");
        assert_eq!(legible_start("äöü", 2), "äö");
        assert_eq!(legible_start("ä\u{9b}ü", 3), "ä\\u");
        assert_eq!(legible_start("", 0), "");
    }

    proptest::proptest! {
        #[test]
        fn nothing_is_left_that_controls(text in "\\PC*|.*", longest in 0..40usize) {
            proptest::prop_assert!(!legible(&text).contains(controls));
            let start = legible_start(&text, longest);
            proptest::prop_assert!(!start.contains(controls) && start.chars().count() <= longest);
        }
    }
}
