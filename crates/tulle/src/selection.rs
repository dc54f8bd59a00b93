//! Which objects a command is about: `svc,httproutes`, `svc c d`, `svc/c httproute/split`.

use tulle_model::name::NamespacedName;
use tulle_model::registry::{self, Kind};

use crate::exit::{Failure, Result};

/// A kind, and one name of it or all.
#[derive(Debug, Clone, PartialEq)]
pub struct Selection {
    pub kind: &'static Kind,
    pub name: Option<String>,
}

/// Reads what follows `get`, `describe` and `delete`, as kubectl reads it.
pub fn parse(words: &[String]) -> Result<Vec<Selection>> {
    let Some((first, rest)) = words.split_first() else {
        return Err(Failure::input("nothing is said about which objects")
            .help("for example: `tulle get services`, `tulle get svc,httproutes -A`, `tulle get svc/cart`"));
    };
    if words.iter().any(|w| w.contains('/')) {
        return words.iter().map(|word| one(word)).collect();
    }
    let kinds = first.split(',').map(kinds).collect::<Result<Vec<_>>>()?.concat();
    if rest.is_empty() {
        return Ok(kinds.into_iter().map(|kind| Selection { kind, name: None }).collect());
    }
    if rest.iter().any(String::is_empty) {
        return Err(Failure::input("an object's name is empty")
            .help("is it a variable that is not set? Without a name all objects of a kind are meant"));
    }
    let named = |name: &String| {
        kinds.iter().map(|kind| Selection { kind, name: Some(name.clone()) }).collect::<Vec<_>>()
    };
    Ok(rest.iter().flat_map(named).collect())
}

fn one(word: &str) -> Result<Selection> {
    match word.split_once('/') {
        Some((kind, name)) if !name.is_empty() && !name.contains('/') => {
            Ok(Selection { kind: self::kind(kind)?, name: Some(name.to_owned()) })
        }
        _ => Err(Failure::input(format!("`{word}` is not of the form KIND/NAME"))
            .help("either all words have that form, or: KIND[,KIND…] [NAME…]")),
    }
}

fn kinds(word: &str) -> Result<Vec<&'static Kind>> {
    let category: Vec<_> = registry::by_category(word).collect();
    if category.is_empty() { Ok(vec![kind(word)?]) } else { Ok(category) }
}

/// The object that `[NAMESPACE/]NAME` names.
pub fn object_name(text: &str, namespace: &str) -> NamespacedName {
    let (namespace, name) = text.split_once('/').unwrap_or((namespace, text));
    NamespacedName::new(namespace, name)
}

/// The kind of that name.
pub fn kind(word: &str) -> Result<&'static Kind> {
    registry::by_name(word).ok_or_else(|| {
        let names: Vec<_> = registry::names().collect();
        let failure = Failure::input(format!("there is no kind `{word}`"));
        failure.help(format!("kinds: {}", names.join(", ")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(words: &[&str]) -> Vec<(&'static str, Option<String>)> {
        let words: Vec<_> = words.iter().map(|w| w.to_string()).collect();
        parse(&words).unwrap().into_iter().map(|s| (s.kind.kind, s.name)).collect()
    }

    #[test]
    fn objects_are_named_as_kubectl_users_do() {
        assert_eq!(parsed(&["svc,httproutes"]), [("Service", None), ("HTTPRoute", None)]);
        let (c, d) = (Some("c".to_owned()), Some("d".to_owned()));
        assert_eq!(parsed(&["svc", "c", "d"]), [("Service", c.clone()), ("Service", d.clone())]);
        assert_eq!(parsed(&["svc/c", "wl/d"]), [("Service", c), ("Workload", d)]);
        assert_eq!(parsed(&["all"]).len(), 2);
        for bad in [&[][..], &["pods"], &["svc/c", "d"], &["svc/"], &["svc", ""], &["wl,svc", "c", ""]] {
            let words: Vec<_> = bad.iter().map(|w| w.to_string()).collect();
            assert_eq!(parse(&words).unwrap_err().exit, crate::exit::Exit::Input);
        }
    }
}
