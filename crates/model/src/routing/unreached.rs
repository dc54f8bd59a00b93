//! Matches of a table that decide over no request: what they ask for never comes, or another one comes before them and
//! takes all that they would.
//!
//! In Gateway API's order the more special comes first, so that there are three ways to come too late: to ask for
//! the same as another match, for no less than one that asks by regular expression, or for a path by a
//! regular expression, which stands below all prefixes.
//!
//! What is said here is certain. What is not said may be so all the same: of several matches that take everything
//! together, say, or of what only a regular expression's whole meaning would tell.

use std::collections::HashMap;

use regex_syntax::hir::literal::{Extractor, Literal};

use super::{path_matches, text_matches};
use crate::path::may_begin_normal;
use crate::snapshot::{HttpMatch, PathMatch, Pattern, TextMatch, ValueMatch};

/// Why no request is left for a match.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unreached {
    /// None has what it asks for. The text says what does not come, as a sentence.
    Impossible(&'static str),
    /// The match at that place takes all that it would.
    Behind(usize),
}

/// How many pairs of matches are compared in a table: it bounds what a table of whatever form costs.
const COMPARED: usize = 200_000;

/// The matches that no request reaches, by their places in the table, and why. `table`: in order.
#[expect(clippy::mutable_key_type, reason = "a pattern is its text, which never changes")]
pub fn unreached(table: &[&HttpMatch]) -> Vec<(usize, Unreached)> {
    let mut found = Vec::new();
    let mut left = COMPARED;
    // Of those that are reached: places of the whole match, of the path, and of all, each in order.
    let mut same: HashMap<&HttpMatch, usize> = HashMap::new();
    let mut by_path: HashMap<&PathMatch, Vec<usize>> = HashMap::new();
    let (mut all, mut patterns) = (Vec::new(), Vec::new());
    for (place, matcher) in table.iter().copied().enumerate() {
        let beginnings = match &matcher.path {
            PathMatch::Regex(pattern) => beginnings(pattern),
            _ => None,
        };
        if let Some(why) = impossible(matcher, beginnings.as_deref()) {
            found.push((place, Unreached::Impossible(why)));
            continue;
        }
        let of_path = by_path.get(&matcher.path).map_or(&[][..], Vec::as_slice);
        // What else there could be that comes first and is not more special.
        let elsewhere: &[usize] = match &matcher.path {
            PathMatch::Regex(_) => &all,
            PathMatch::Prefix(prefix) if prefix.is_empty() => &patterns,
            _ => &[],
        };
        let first = same.get(matcher).copied().or_else(|| {
            let mut earlier = of_path.iter().chain(elsewhere).copied().take(left);
            earlier.find(|&earlier| {
                left -= 1;
                covers(table[earlier], matcher, beginnings.as_deref())
            })
        });
        if let Some(first) = first {
            found.push((place, Unreached::Behind(first)));
            continue;
        }
        same.insert(matcher, place);
        by_path.entry(&matcher.path).or_default().push(place);
        all.push(place);
        if matches!(matcher.path, PathMatch::Regex(_)) {
            patterns.push(place);
        }
    }
    found
}

/// What of that a match asks for no request has.
fn impossible(matcher: &HttpMatch, beginnings: Option<&[Literal]>) -> Option<&'static str> {
    let begins = |literal: &Literal| may_begin_normal(literal.as_bytes(), literal.is_exact());
    if beginnings.is_some_and(|all| !all.iter().any(begins)) {
        return Some(
            "no path in its normal form matches the pattern (it begins with `/`, and only what needs it is \
             percent-encoded, in capitals)",
        );
    }
    let (headers, query) = (&matcher.headers, &matcher.query);
    let empty = |condition: &ValueMatch| match &condition.value {
        TextMatch::Regex(pattern) => self::beginnings(pattern).is_some_and(|all| all.is_empty()),
        TextMatch::Exact(_) => false,
    };
    if headers.iter().chain(query).any(empty) {
        return Some("no value matches the pattern");
    }
    // HTTP takes the blanks around a value away, and has no other white space or control characters in it.
    let foreign = |condition: &ValueMatch| match &condition.value {
        TextMatch::Exact(text) => {
            text.starts_with([' ', '\t'])
                || text.ends_with([' ', '\t'])
                || text.bytes().any(|byte| (byte < b' ' && byte != b'\t') || byte == 0x7f)
        }
        TextMatch::Regex(_) => false,
    };
    let blank = "no header field has a value with blanks around it, or with control characters";
    headers.iter().any(foreign).then_some(blank)
}

/// Whether every request that matches `special` matches `general`, as far as that is certain. `beginnings`: those of
/// `special`'s path.
fn covers(general: &HttpMatch, special: &HttpMatch, beginnings: Option<&[Literal]>) -> bool {
    let each = |general: &[ValueMatch], special: &[ValueMatch], whatever: Option<&str>| {
        general.iter().all(|general| {
            let mut of_name = special.iter().filter(|special| special.name == general.name);
            of_name.any(|special| covers_text(&general.value, &special.value, whatever))
        })
    };
    (general.method.is_none() || general.method == special.method)
        && covers_path(&general.path, &special.path, beginnings)
        && each(&general.headers, &special.headers, Some(WHATEVER))
        // These may have line breaks, which `.` is not.
        && each(&general.query, &special.query, None)
}

/// Matches whatever has no line breaks.
const WHATEVER: &str = ".*";

fn covers_path(general: &PathMatch, special: &PathMatch, beginnings: Option<&[Literal]>) -> bool {
    let all = match general {
        PathMatch::Prefix(prefix) => prefix.is_empty(),
        PathMatch::Regex(pattern) => pattern.source() == WHATEVER,
        PathMatch::Exact(_) => false,
    };
    if all || general == special {
        return true;
    }
    match (general, special) {
        (_, PathMatch::Exact(path)) => path_matches(general, path),
        (PathMatch::Prefix(_), PathMatch::Prefix(prefix)) => path_matches(general, prefix),
        (_, PathMatch::Prefix(_)) => false,
        (_, PathMatch::Regex(_)) => beginnings.is_some_and(|all| {
            all.iter().all(|beginning| {
                let Ok(text) = str::from_utf8(beginning.as_bytes()) else { return false };
                // Below a prefix, whatever follows; or all of a path.
                let below = matches!(general, PathMatch::Prefix(prefix) if prefix != text);
                path_matches(general, text) && (below || beginning.is_exact())
            })
        }),
    }
}

/// `whatever`: a pattern that matches all values that there are.
fn covers_text(general: &TextMatch, special: &TextMatch, whatever: Option<&str>) -> bool {
    match (general, special) {
        (TextMatch::Regex(pattern), _) if Some(pattern.source()) == whatever => true,
        (_, TextMatch::Exact(text)) => text_matches(general, text),
        (_, TextMatch::Regex(_)) => general == special,
    }
}

/// Texts with one of which whatever matches begins, or which it is, where that is exact. `None`: with anything, or too many.
fn beginnings(pattern: &Pattern) -> Option<Vec<Literal>> {
    let parsed = regex_syntax::parse(pattern.source()).ok()?;
    Extractor::new().extract(&parsed).literals().map(<[Literal]>::to_vec)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn any() -> HttpMatch {
        HttpMatch { path: PathMatch::Prefix(String::new()), method: None, headers: vec![], query: vec![] }
    }

    fn exact(path: &str) -> HttpMatch {
        HttpMatch { path: PathMatch::Exact(path.into()), ..any() }
    }

    fn prefix(path: &str) -> HttpMatch {
        HttpMatch { path: PathMatch::Prefix(path.into()), ..any() }
    }

    fn pattern(path: &str) -> HttpMatch {
        HttpMatch { path: PathMatch::Regex(Pattern::new(path).unwrap()), ..any() }
    }

    fn get(matcher: HttpMatch) -> HttpMatch {
        HttpMatch { method: Some("GET".into()), ..matcher }
    }

    /// Texts that begin with a slash are patterns.
    fn values(of: &[(&str, &str)]) -> Vec<ValueMatch> {
        let value = |text: &str| match text.strip_prefix('/') {
            Some(pattern) => TextMatch::Regex(Pattern::new(pattern).unwrap()),
            None => TextMatch::Exact(text.into()),
        };
        of.iter().map(|(name, text)| ValueMatch { name: (*name).into(), value: value(text) }).collect()
    }

    fn headers(of: &[(&str, &str)]) -> HttpMatch {
        HttpMatch { headers: values(of), ..any() }
    }

    fn query(of: &[(&str, &str)]) -> HttpMatch {
        HttpMatch { query: values(of), ..any() }
    }

    fn found(table: &[HttpMatch]) -> Vec<(usize, Unreached)> {
        unreached(&table.iter().collect::<Vec<_>>())
    }

    #[test]
    fn what_comes_behind_a_match_that_takes_it_all() {
        for (first, second) in [
            (any(), any()),
            (get(prefix("/a")), get(prefix("/a"))),
            // A regular expression stands below all prefixes but `/`.
            (prefix("/api"), pattern("/api/v[0-9]+/.*")),
            (prefix("/api"), pattern("^/api(/v1|/v2)$")),
            (prefix("/api"), pattern("/api|/api/x")),
            (exact("/api"), pattern("/api")),
            (prefix("/api"), get(pattern("/api/(?:[a-z]+)"))),
            (pattern("/a.*"), pattern("/ab")),
            (pattern(".*"), any()),
            (pattern("/a"), get(pattern("/a"))),
            // The longer pattern comes first, with whatever conditions.
            (pattern("(?:/a.*)"), HttpMatch { headers: values(&[("x", "1")]), ..pattern("(?:/a.*)") }),
            (headers(&[("x", "/[0-9]+")]), headers(&[("x", "12")])),
            (headers(&[("x", "/.*")]), headers(&[("x", "/[a-z]+")])),
            (query(&[("q", "/[0-9]+"), ("r", "1")]), query(&[("r", "1"), ("q", "1")])),
        ] {
            assert_eq!(
                found(&[first.clone(), second.clone()]),
                [(1, Unreached::Behind(0))],
                "{first:?} {second:?}"
            );
        }
        // The first that takes it is named, and nothing that is not reached itself.
        let table = [exact("/x"), any(), any(), any()];
        assert_eq!(found(&table), [(2, Unreached::Behind(1)), (3, Unreached::Behind(1))]);
    }

    #[test]
    fn what_a_request_may_still_reach() {
        for (first, second) in [
            (exact("/a"), prefix("/a")),
            (prefix("/a"), any()),
            (prefix("/a"), prefix("/ab")),
            (get(any()), any()),
            (get(any()), HttpMatch { method: Some("PUT".into()), ..any() }),
            (prefix("/api"), pattern("/api.*")),
            (prefix("/api"), pattern("/ap(i/.*)?")),
            (prefix("/api"), pattern("(?i)/api/x")),
            (prefix("/api"), pattern(".*/api/x")),
            (exact("/api"), pattern("/api/?")),
            // `*` is a path, too.
            (pattern("/.*"), any()),
            (headers(&[("x", "1")]), headers(&[("x", "2")])),
            (headers(&[("x", "1")]), headers(&[("y", "1")])),
            (headers(&[("x", "1")]), query(&[("x", "1")])),
            (headers(&[("x", "/1|2")]), headers(&[("x", "/[0-9]+")])),
            (query(&[("q", "/.*")]), query(&[("q", "/(?s).*")])),
        ] {
            assert_eq!(found(&[first.clone(), second.clone()]), [], "{first:?} {second:?}");
        }
    }

    #[test]
    fn what_no_request_has() {
        for matcher in [
            pattern("api/.*"),
            pattern("/caf%c3%a9"),
            pattern("/%7Euser/.*"),
            pattern("/a b"),
            pattern("/a%"),
            pattern("/é"),
            pattern("[^\\s\\S]"),
            headers(&[("x", " 1")]),
            headers(&[("x", "1\t")]),
            headers(&[("x", "a\nb")]),
            headers(&[("x", "/[^\\s\\S]")]),
            query(&[("x", "/[^\\s\\S]")]),
        ] {
            assert!(
                matches!(found(std::slice::from_ref(&matcher))[..], [(0, Unreached::Impossible(_))]),
                "{matcher:?}"
            );
        }
        for matcher in [
            pattern("/caf%C3%A9"),
            pattern("/caf%C.*"),
            pattern("/a%.*"),
            pattern("[*]"),
            pattern("(api|/api)"),
            pattern(".*x"),
            headers(&[("x", "a b")]),
            headers(&[("x", "a\tb")]),
            headers(&[("x", "é")]),
            query(&[("x", " 1\n")]),
        ] {
            assert_eq!(found(std::slice::from_ref(&matcher)), [], "{matcher:?}");
        }
    }

    /// Held against all short paths.
    #[test]
    fn what_is_said_of_patterns_is_so() {
        const PIECES: [&str; 14] =
            ["", "/", "a", "b", "/a", "[ab]", "(/a)?", ".*", "(b|/a)", "a*", "(/b|$)", "^", "(?i)A", "[^a]"];
        let patterns = PIECES.iter().flat_map(|one| PIECES.map(|other| pattern(&format!("/{one}{other}"))));
        let special: Vec<HttpMatch> = patterns.collect();
        let paths = ["/a", "/b", "/a/b"].map(|path| [exact(path), prefix(path)]);
        let general: Vec<_> = paths.into_iter().flatten().chain(special.iter().step_by(7).cloned()).collect();
        let mut texts = vec!["/".to_owned()];
        for start in 0..40 {
            let longer = ["/", "a", "b"].map(|next| format!("{}{next}", texts[start]));
            texts.extend(longer);
        }
        let taken = |matcher: &HttpMatch| -> Vec<bool> {
            texts.iter().map(|text| path_matches(&matcher.path, text)).collect()
        };
        let taken_by = |all: &[HttpMatch]| all.iter().map(taken).collect::<Vec<_>>();
        let (by_general, by_special) = (taken_by(&general), taken_by(&special));
        let mut behind = 0;
        for (i, general) in general.iter().enumerate() {
            for (j, special) in special.iter().enumerate() {
                let said = unreached(&[general, special]);
                let mut both = by_general[i].iter().zip(&by_special[j]);
                match said.iter().find(|(place, _)| *place == 1) {
                    Some((_, Unreached::Behind(_))) => {
                        behind += 1;
                        assert!(
                            both.all(|(general, special)| *general || !special),
                            "{general:?} {special:?}"
                        );
                    }
                    Some((_, Unreached::Impossible(_))) => {
                        assert!(by_special[j].iter().all(|taken| !taken), "{special:?}");
                    }
                    None => {}
                }
            }
        }
        assert!(behind > 100, "{behind}");
    }

    /// However many there are, and whatever they ask for.
    #[test]
    fn a_large_table_costs_a_bounded_time() {
        let table: Vec<_> = (0..5_000).map(|i| headers(&[("tenant", &i.to_string())])).collect();
        assert_eq!(found(&table), []);
        // What is there twice is found all the same.
        let twice = [&table[..], &table[..2]].concat();
        assert_eq!(found(&twice), [(5_000, Unreached::Behind(0)), (5_001, Unreached::Behind(1))]);
    }
}
