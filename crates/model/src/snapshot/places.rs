//! Rules that may be about a caller, so kept that of many those about other paths are not looked at.

use regex_syntax::is_meta_character;

use super::{AccessPolicy, FastMap, PathMatch};

/// A rule, by the place of its policy among all, and its own place there.
pub(crate) type Place = (usize, usize);

/// The first of two, where there are any.
#[inline]
pub(crate) fn earlier(one: Option<Place>, other: Option<Place>) -> Option<Place> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

/// How many are looked at one by one.
const FEW: usize = 8;

/// Rules, in their order.
#[derive(Debug, Clone, Default)]
pub(crate) struct Places {
    all: Vec<Place>,
    /// Where there are many.
    by_path: Option<Box<PlacesByPath>>,
}

#[derive(Debug, Clone, Default)]
struct PlacesByPath {
    /// Of rules about paths, by what these are or are below; without a slash at its end.
    below: FastMap<String, Vec<Place>>,
    others: Vec<Place>,
}

impl Places {
    /// One that stands there last is not added once more.
    pub fn add(&mut self, place: Place) {
        if self.all.last() != Some(&place) {
            self.all.push(place);
        }
    }

    /// To be called when all are there.
    pub fn index(&mut self, policies: &[AccessPolicy]) {
        if self.all.len() <= FEW {
            return;
        }
        let mut index = PlacesByPath::default();
        for &(policy, rule) in &self.all {
            let request = policies[policy].rules[rule].request.as_deref();
            // Calls of gRPC are paths, too; either list must hold.
            let paths = request.map(|asked| if asked.paths.is_empty() { &asked.calls } else { &asked.paths });
            let above: Option<Vec<String>> =
                paths.filter(|paths| !paths.is_empty()).and_then(|paths| paths.iter().map(above).collect());
            match above {
                Some(paths) => paths.into_iter().for_each(|path| {
                    index.below.entry(path).or_default().push((policy, rule));
                }),
                None => index.others.push((policy, rule)),
            }
        }
        self.by_path = Some(Box::new(index));
    }

    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// The first that is so of those that may be about a path in its normal form; of all of them where none is given.
    #[inline]
    pub fn first(&self, path: Option<&str>, is_so: impl Fn(Place) -> bool) -> Option<Place> {
        let first_of = |places: &[Place]| places.iter().copied().find(|place| is_so(*place));
        let (Some(index), Some(path)) = (&self.by_path, path) else { return first_of(&self.all) };
        let mut first = first_of(&index.others);
        for above in self_and_above(path) {
            if let Some(places) = index.below.get(above) {
                first = earlier(first, first_of(places));
            }
        }
        first
    }

    /// Those that may be about a path in its normal form, in no order, maybe several times; all of them where none is given.
    pub fn about<'p>(&'p self, path: Option<&'p str>) -> impl Iterator<Item = Place> + 'p {
        let (listed, by_path) = match (&self.by_path, path) {
            (Some(index), Some(path)) => (&index.others, Some((&index.below, path))),
            _ => (&self.all, None),
        };
        let of_path = by_path
            .into_iter()
            .flat_map(|(below, path)| self_and_above(path).filter_map(|above| below.get(above)).flatten());
        listed.iter().chain(of_path).copied()
    }
}

/// What the paths are, or are below, that it stands for; `None` where that could be anything.
fn above(path: &PathMatch) -> Option<String> {
    let text = match path {
        PathMatch::Exact(path) | PathMatch::Prefix(path) => path.strip_suffix('/').unwrap_or(path).to_owned(),
        PathMatch::Regex(pattern) => literal_above(pattern.source())?,
    };
    (!text.is_empty()).then_some(text)
}

/// The segments that a template begins with. `pattern`: as the check of policies writes it.
fn literal_above(pattern: &str) -> Option<String> {
    let variables = ["/[^/]+", "(?:/.*)?"].into_iter().filter_map(|variable| pattern.find(variable));
    let (begin, rest) = pattern.split_at(variables.min().unwrap_or(pattern.len()));
    let mut literal = String::with_capacity(begin.len());
    let mut characters = begin.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => literal.push(characters.next().filter(|escaped| is_meta_character(*escaped))?),
            other if is_meta_character(other) => return None,
            other => literal.push(other),
        }
    }
    // What is behind it could stand for all in its place.
    (!rest.contains('|')).then_some(literal)
}

/// A path without a slash at its end, and those above it, but for the empty one.
fn self_and_above(path: &str) -> impl Iterator<Item = &str> {
    let path = path.strip_suffix('/').unwrap_or(path);
    // What is searched is short.
    let above = |path: &&'_ str| path.bytes().rposition(|byte| byte == b'/');
    let some = |path: &str| !path.is_empty();
    std::iter::successors(Some(path).filter(|path| some(path)), move |path| {
        above(path).map(|slash| &path[..slash]).filter(|path| some(path))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_found_by_what_they_begin_with() {
        for (pattern, expected) in [
            ("/users/[^/]+/wishes", Some("/users")),
            ("/[^/]+", Some("")),
            ("/a\\.b\\-c(?:/.*)?", Some("/a.b-c")),
            ("(?:/.*)?", Some("")),
            ("/plain", Some("/plain")),
            ("/a.b/[^/]+", None),
            ("/a|/b", None),
            ("/a/[^/]+|/b", None),
            ("/a\\d", None),
        ] {
            assert_eq!(literal_above(pattern).as_deref(), expected, "{pattern}");
        }
        let above: Vec<_> = self_and_above("/a/b/").collect();
        assert_eq!(above, ["/a/b", "/a"]);
        assert_eq!(self_and_above("/").count(), 0);
        assert_eq!(self_and_above("*").collect::<Vec<_>>(), ["*"]);
    }
}
