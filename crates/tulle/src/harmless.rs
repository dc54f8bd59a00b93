//! Lines of services, fit for a terminal: coloured where they are, and nothing else is done to it.

use std::borrow::Cow;
use std::iter::Peekable;
use std::str::Chars;

use tulle_model::legible::controls;

const ESCAPE: char = '\x1b';
const BELL: char = '\x07';

/// A text without all that would do something to a terminal (ECMA-48): sequences that move the cursor, clear the screen,
/// retitle or ask something, and control characters, a tab apart. With `colors`, those sequences stay that set how the
/// text after them looks (SGR).
pub fn harmless(text: &str, colors: bool) -> Cow<'_, str> {
    let Some(first) = text.find(|c| c != '\t' && controls(c)) else { return text.into() };
    let mut shown = String::with_capacity(text.len());
    shown.push_str(&text[..first]);
    let mut rest = text[first..].chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            ESCAPE => match rest.peek() {
                Some('[') => {
                    rest.next();
                    shown.extend(control_sequence(&mut rest).filter(|_| colors));
                }
                Some(']' | 'P' | 'X' | '^' | '_') => {
                    rest.next();
                    skip_string(&mut rest);
                }
                _ => skip_escape(&mut rest),
            },
            // Some terminals heed these in UTF-8, too.
            '\u{9b}' => drop(control_sequence(&mut rest)),
            '\u{90}' | '\u{98}' | '\u{9d}'..='\u{9f}' => skip_string(&mut rest),
            '\t' => shown.push('\t'),
            c if controls(c) => {}
            c => shown.push(c),
        }
    }
    shown.into()
}

/// Reads what comes after CSI, and returns the sequence where it is one of colours (SGR).
fn control_sequence(rest: &mut Peekable<Chars<'_>>) -> Option<String> {
    let mut sequence = String::from("\x1b[");
    let mut is_plain = true;
    while let Some(c) = rest.next_if(|c| matches!(c, ' '..='?')) {
        // A private one that ends in `m`, too, is something else: xterm's keyboard.
        is_plain &= matches!(c, '0'..=';');
        sequence.push(c);
    }
    // What cannot be its end is no part of it.
    let last = rest.next_if(|c| matches!(c, '@'..='~'))?;
    sequence.push(last);
    (is_plain && last == 'm').then_some(sequence)
}

/// Skips a text for the terminal itself: to its end, or that of the line.
fn skip_string(rest: &mut Peekable<Chars<'_>>) {
    while let Some(c) = rest.next() {
        match c {
            BELL | '\u{9c}' | '\x18' | '\x1a' => return,
            ESCAPE if rest.next_if_eq(&'\\').is_some() => return,
            _ => {}
        }
    }
}

fn skip_escape(rest: &mut Peekable<Chars<'_>>) {
    while rest.next_if(|c| matches!(c, ' '..='/')).is_some() {}
    rest.next_if(|c| matches!(c, '0'..='~'));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colors_stay_and_nothing_else_does() {
        assert!(matches!(harmless("plain, härter, 漢字\tx", true), Cow::Borrowed(_)));
        for (text, colored, plain) in [
            ("\x1b[31mred\x1b[0m", "\x1b[31mred\x1b[0m", "red"),
            ("\x1b[38:2:1:2:3ma\x1b[m", "\x1b[38:2:1:2:3ma\x1b[m", "a"),
            ("\x1b[2J\x1b[H\x1bcclear", "clear", "clear"),
            ("\x1b[3Aup\x1b[1;1Hhome\x1b[?1049halt\x1b7\x1b8", "uphomealt", "uphomealt"),
            ("\x1b]0;title\x07a\x1b]8;;http://x\x1b\\b", "ab", "ab"),
            ("\x1bP1$r\x1b\\a\x1b_x\x1b\\b\x1b^x\u{9c}c\x1bXx\x1b\\d", "abcd", "abcd"),
            ("\u{9b}2Ja\u{9b}31mb\u{9d}0;x\u{9c}c\u{85}", "abc", "abc"),
            ("\x1b[>4;1ma\x1b[?1mb\x1b[1 mc", "abc", "abc"),
            ("10 %\r20 %\x08\x07\0\x7f", "10 %20 %", "10 %20 %"),
            ("\x1b(0a\x1b#8b\x1b=c", "abc", "abc"),
            ("\x1b[3\x1b[31mred", "\x1b[31mred", "red"),
            ("\x1b[3é", "é", "é"),
            ("a\x1b", "a", "a"),
            ("a\x1b[3", "a", "a"),
            ("a\x1b]0;title", "a", "a"),
        ] {
            assert_eq!(harmless(text, true), colored, "{text:?}");
            assert_eq!(harmless(text, false), plain, "{text:?}");
        }
    }

    /// Every text of up to seven of what sequences are made of.
    #[test]
    fn no_mixture_gets_through() {
        let pieces = ["\x1b", "[", "]", "3", "m", "?", "\u{9b}", "\x07", "\\", "J", "P", "\r", "é"];
        let mut number = 0usize;
        while number < pieces.len().pow(5) {
            let mut text = String::new();
            let mut left = number;
            while left > 0 {
                text.push_str(pieces[left % pieces.len()]);
                left /= pieces.len();
            }
            number += 1;
            let plain = harmless(&text, false);
            assert!(!plain.contains(controls), "{text:?}: {plain:?}");
            let colored = harmless(&text, true);
            let mut rest = &*colored;
            while let Some(at) = rest.find(controls) {
                let sequence =
                    rest[at..].strip_prefix("\x1b[").unwrap_or_else(|| panic!("{text:?}: {rest:?}"));
                let end = sequence.find(|c: char| !c.is_ascii_digit()).unwrap_or(sequence.len());
                assert!(sequence[end..].starts_with('m'), "{text:?}: {colored:?}");
                rest = &sequence[end..];
            }
            assert_eq!(harmless(&colored, true), colored, "twice");
        }
    }
}
