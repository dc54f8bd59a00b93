//! Circles of modules: files that need each other, by whatever way round. They can be understood, tested and moved
//! only together, so that a circle stays within one folder: a module and what is directly in it.
//!
//! A name that a module passes on with `pub use` is needed from where it is, not from who passes it on.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::code::code;
use crate::{files, tidy};

/// A path of names; of a module, from the root of its crate.
type Names = Vec<String>;

/// Names what is in a circle over more than one folder.
pub fn check(root: &Path, crates: &[&str], problems: &mut Vec<String>) -> Result<()> {
    for name in crates {
        let modules = modules(&root.join("crates").join(name).join("src"))?;
        for circle in circles(&needs(&modules)).iter().filter(|circle| !in_one_folder(circle)) {
            let shown: Vec<String> = circle.iter().map(|module| shown(name, module)).collect();
            problems.push(format!(
                "{} need each other over more than one folder: let one of them no longer know the others",
                shown.join(", ")
            ));
        }
    }
    Ok(())
}

fn shown(name: &str, module: &Names) -> String {
    std::iter::once(name).chain(module.iter().map(String::as_str)).collect::<Vec<_>>().join("::")
}

/// Whether they are a module and what is directly in it, or some of that.
fn in_one_folder(circle: &[Names]) -> bool {
    let parent = |module: &'_ Names| module.split_last().map(|(_, folder)| folder.to_vec());
    let hold_all = |folder: &Names| {
        circle.iter().all(|module| module == folder || parent(module).as_ref() == Some(folder))
    };
    circle
        .first()
        .is_some_and(|first| hold_all(first) || parent(first).is_some_and(|folder| hold_all(&folder)))
}

/// The modules of a crate with their code; those that are there for tests and fuzzing are left out.
fn modules(src: &Path) -> Result<BTreeMap<Names, String>> {
    let mut modules = BTreeMap::new();
    let folders = files::below(vec![src.to_path_buf()], |folder| {
        !["tests", "fuzzing", "generated"].iter().any(|name| folder.ends_with(name))
    })?;
    for file in folders {
        let Some(path) =
            file.strip_prefix(src).ok().filter(|path| path.extension().is_some_and(|e| e == "rs"))
        else {
            continue;
        };
        let mut names: Names =
            path.with_extension("").iter().map(|name| name.to_string_lossy().into_owned()).collect();
        match names.last().map(String::as_str) {
            Some("tests" | "fuzzing") => continue,
            Some("mod") => drop(names.pop()),
            Some("lib" | "main") if names.len() == 1 => names.clear(),
            _ => {}
        }
        let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        modules.insert(names, code(tidy::production_part(&text)));
    }
    Ok(modules)
}

/// What each module needs of the others.
fn needs(modules: &BTreeMap<Names, String>) -> BTreeMap<Names, BTreeSet<Names>> {
    let read: BTreeMap<&Names, Imports> =
        modules.iter().map(|(module, code)| (module, Imports::of(module, code, modules))).collect();
    let needs = |module: &Names| {
        let found = read[module].needed.iter().filter_map(|path| owner(path, &read, 0));
        found.filter(|owner| owner != module).collect()
    };
    modules.keys().map(|module| (module.clone(), needs(module))).collect()
}

/// The module that has what a path leads to, also where others pass it on.
fn owner(path: &[String], modules: &BTreeMap<&Names, Imports>, steps: usize) -> Option<Names> {
    let (module, imports) =
        (0..=path.len()).rev().find_map(|length| modules.get_key_value(&path[..length].to_vec()))?;
    let passed_on = path.get(module.len()).and_then(|name| imports.passed_on.get(name));
    match passed_on {
        // There may be a circle here, too.
        Some(path) if steps < 8 => owner(path, modules, steps + 1),
        _ => Some((*module).clone()),
    }
}

/// What a module names of its crate, from the root.
#[derive(Default)]
struct Imports {
    needed: BTreeSet<Names>,
    /// By the name under which it passes it on.
    passed_on: BTreeMap<String, Names>,
}

impl Imports {
    fn of(module: &Names, code: &str, modules: &BTreeMap<Names, String>) -> Self {
        let mut imports = Self::default();
        let from_root = |path: &[String]| from_root(path, module, modules);
        let mut others = String::with_capacity(code.len());
        for statement in code.split_inclusive(';') {
            let Some((before, tree)) = use_tree(statement) else {
                others.push_str(statement);
                continue;
            };
            others.push_str(before);
            let mut paths = Vec::new();
            expand(tree, &[], &mut paths);
            let public = before.trim_end().ends_with("pub") || before.trim_end().ends_with(')');
            for (path, name) in paths {
                match from_root(&path) {
                    Some(path) if public => drop(imports.passed_on.insert(name, path)),
                    Some(path) => drop(imports.needed.insert(path)),
                    None => {}
                }
            }
        }
        for path in others.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')) {
            let names: Names = path.split("::").map(str::to_owned).collect();
            if names.len() > 1 && !names[0].is_empty() {
                imports.needed.extend(from_root(&names));
            }
        }
        imports
    }
}

/// What is before a `use` at the end of a statement, and its tree.
fn use_tree(statement: &str) -> Option<(&str, &str)> {
    let at = statement.rmatch_indices("use ").map(|(at, _)| at).find(|at| {
        let before = statement[..*at].chars().next_back();
        before.is_none_or(|c| c.is_whitespace() || c == '}' || c == '{')
    })?;
    let tree = statement[at + "use ".len()..].trim_end_matches(';');
    tree.chars()
        .all(|c| c.is_alphanumeric() || c.is_whitespace() || "_:{},*".contains(c))
        .then_some((&statement[..at], tree))
}

/// The paths of a tree of `use`, each with the name that it gets.
fn expand(tree: &str, before: &[String], paths: &mut Vec<(Names, String)>) {
    for part in at_commas(tree) {
        let (head, inner) = match part.split_once('{') {
            Some((head, inner)) => (head, inner.trim_end().strip_suffix('}')),
            None => (part, None),
        };
        let (head, renamed) = match head.split_once(" as ") {
            Some((head, name)) => (head, Some(name.trim().to_owned())),
            None => (head, None),
        };
        let names = head.split("::").map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned);
        let mut path: Names = before.iter().cloned().chain(names).collect();
        match inner {
            Some(inner) => expand(inner, &path, paths),
            None if path.is_empty() => {}
            None => {
                if path.len() > 1 && path.last().is_some_and(|last| last == "self") {
                    path.pop();
                }
                let name = renamed.unwrap_or_else(|| path[path.len() - 1].clone());
                paths.push((path, name));
            }
        }
    }
}

fn at_commas(tree: &str) -> Vec<&str> {
    let (mut depth, mut from, mut parts) = (0, 0, Vec::new());
    for (at, c) in tree.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&tree[from..at]);
                from = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&tree[from..]);
    parts
}

/// The path from the root of the crate; `None`: it leads out of the crate, or to something in the module itself.
fn from_root(path: &[String], module: &Names, modules: &BTreeMap<Names, String>) -> Option<Names> {
    let supers = path.iter().take_while(|name| *name == "super").count();
    match path[0].as_str() {
        "crate" => Some(path[1..].to_vec()),
        "self" => Some([module, &path[1..]].concat()),
        "super" => Some([module.get(..module.len().checked_sub(supers)?)?, &path[supers..]].concat()),
        name => {
            let child = [module, &[name.to_owned()][..]].concat();
            modules.contains_key(&child).then(|| [module, path].concat())
        }
    }
}

/// The modules that need each other, by whatever way round: those that reach each other.
fn circles(needs: &BTreeMap<Names, BTreeSet<Names>>) -> Vec<Vec<Names>> {
    let reached: BTreeMap<&Names, BTreeSet<&Names>> =
        needs.keys().map(|from| (from, reach(from, needs))).collect();
    let mut circles: Vec<Vec<Names>> = Vec::new();
    for (module, reaches) in &reached {
        if reaches.contains(module) && !circles.iter().any(|circle| circle.contains(module)) {
            let back = reaches.iter().filter(|other| reached[**other].contains(module));
            circles.push(back.map(|other| (*other).clone()).collect());
        }
    }
    circles
}

/// What a module needs, and what that needs, and so on.
fn reach<'a>(from: &Names, needs: &'a BTreeMap<Names, BTreeSet<Names>>) -> BTreeSet<&'a Names> {
    let mut reached = BTreeSet::new();
    let mut next: Vec<&Names> = needs[from].iter().collect();
    while let Some(module) = next.pop() {
        if reached.insert(module) {
            next.extend(&needs[module]);
        }
    }
    reached
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(path: &str) -> Names {
        path.split("::").filter(|name| *name != "crate").map(str::to_owned).collect()
    }

    fn needed(modules: &[(&str, &str)]) -> Vec<String> {
        let modules = modules.iter().map(|(path, text)| (names(path), code(text))).collect();
        needs(&modules)
            .into_iter()
            .flat_map(|(from, to)| {
                to.into_iter().map(move |to| format!("{}>{}", from.join("::"), to.join("::")))
            })
            .collect()
    }

    #[test]
    fn what_a_module_names_it_needs() {
        for (text, needs) in [
            ("use crate::b::X;", "a>b"),
            ("use crate::{b::X, std::Y};", "a>,a>b"),
            ("use crate::b::{self, c::{X, Y as Z}};", "a>b,a>b::c"),
            ("use super::b;", "a>b"),
            ("pub(super) fn x() {}\nuse crate::b::X;", "a>b"),
            ("#[derive(Debug)]\nstruct S { x: crate::b::c::X }", "a>b::c"),
            ("fn f() { use crate::b::X; g(crate::b::c::h()) }", "a>b,a>b::c"),
            ("use std::b::X; // crate::b::X", ""),
            ("const S: &str = \"crate::b::X\"; const R: &str = r#\"\"crate::b\"#;", ""),
            ("const C: char = '\"'; fn f<'a>(x: &'a crate::b::X) {}", "a>b"),
            ("#[cfg(test)]\nuse crate::b::X;", "a>b"),
        ] {
            let modules = [("crate", ""), ("a", text), ("b", ""), ("b::c", "")];
            assert_eq!(needed(&modules).join(","), needs, "{text}");
        }
    }

    #[test]
    fn a_module_names_what_is_in_it_without_more() {
        assert_eq!(needed(&[("crate", "mod a; use a::X;"), ("a", "")]), [">a"]);
        assert_eq!(
            needed(&[("a", "mod b; fn f() { b::g() }"), ("a::b", "use super::super::c::X;"), ("c", "")]),
            ["a>a::b", "a::b>c"]
        );
    }

    #[test]
    fn what_is_passed_on_is_needed_from_where_it_is() {
        let modules = [
            ("a", "use crate::b::Y;"),
            ("b", "mod c; pub use self::c::X as Y;"),
            ("b::c", "use crate::a::Z;"),
        ];
        assert_eq!(needed(&modules), ["a>b::c", "b::c>a"]);
    }

    #[test]
    fn those_that_reach_each_other_are_in_one_circle() {
        let needs = |pairs: &[(&str, &str)]| {
            let mut needs: BTreeMap<Names, BTreeSet<Names>> = BTreeMap::new();
            for (from, to) in pairs {
                needs.entry(names(to)).or_default();
                needs.entry(names(from)).or_default().insert(names(to));
            }
            needs
        };
        let found =
            circles(&needs(&[("a", "b"), ("b", "c"), ("c", "a"), ("c", "d"), ("d", "e"), ("e", "d")]));
        assert_eq!(found, [vec![names("a"), names("b"), names("c")], vec![names("d"), names("e")]]);
        assert!(circles(&needs(&[("a", "b"), ("b", "c"), ("a", "c")])).is_empty());
    }

    #[test]
    fn a_folder_is_a_module_and_what_is_directly_in_it() {
        for (circle, one) in [
            (&["a", "a::b"][..], true),
            (&["a", "a::b", "a::c"], true),
            (&["a::b", "a::c"], true),
            (&["a", "b"], true),
            (&["a::b", "c::d"], false),
            (&["a", "a::b::c"], false),
            (&["a", "b", "b::c"], false),
        ] {
            let circle: Vec<Names> = circle.iter().map(|path| names(path)).collect();
            assert_eq!(in_one_folder(&circle), one, "{circle:?}");
        }
    }
}
