//! Names of types: within a crate each means one thing, whoever reads it and wherever. Modules for tests count as well,
//! as who looks for a name finds those, too.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::code::code;
use crate::{dependencies, files};

/// What makes a type of a name.
const KEYWORDS: &[&str] = &["struct", "enum", "union", "trait", "type"];

/// Names each type of a crate that has the name of another one.
pub fn check(root: &Path, problems: &mut Vec<String>) -> Result<()> {
    let workspace = dependencies::manifest(&root.join("Cargo.toml"))?;
    for folder in dependencies::members(root, &workspace)? {
        let mut types = Types::default();
        // The names in generated code are those of the .proto files, where a package tells them apart: as it does in the
        // code, where each is a module.
        let files = files::below(vec![folder.join("src")], |folder| !folder.ends_with("generated"))?;
        for file in files.iter().filter(|file| file.extension().is_some_and(|e| e == "rs")) {
            let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
            let shown = file.strip_prefix(root).unwrap_or(file).display().to_string();
            types.add(&shown, &code(&text));
        }
        types.tell(problems);
    }
    Ok(())
}

/// The types of a crate: by their names, and then by their modules, where each is (a file and a line). In one module the
/// compiler allows a name again for another platform only, which is the same type.
#[derive(Default)]
struct Types(BTreeMap<String, BTreeMap<String, String>>);

impl Types {
    /// Adds the types of a file, from its code. What is in functions is only seen there, and what is in an `impl` or a trait
    /// is called by the name of that.
    fn add(&mut self, file: &str, code: &str) {
        // The brackets that are open, each with the name of the module that it opens, if it does.
        let mut open: Vec<Option<&str>> = Vec::new();
        let mut before = ["", ""];
        for (number, line) in code.lines().enumerate() {
            for word in words(line) {
                match word {
                    "{" => open.push((before[0] == "mod").then_some(before[1])),
                    "(" | "[" => open.push(None),
                    ")" | "]" | "}" => drop(open.pop()),
                    _ if KEYWORDS.contains(&before[1]) && is_name(word) => {
                        if let Some(modules) = open.iter().copied().collect::<Option<Vec<_>>>() {
                            let module = [&[file], &modules[..]].concat().join("::");
                            let place = format!("{file}:{}", number + 1);
                            self.0.entry(word.to_owned()).or_default().entry(module).or_insert(place);
                        }
                    }
                    _ => {}
                }
                before = [before[1], word];
            }
        }
    }

    fn tell(&self, problems: &mut Vec<String>) {
        for (name, places) in self.0.iter().filter(|(_, places)| places.len() > 1) {
            let places: Vec<&str> = places.values().map(String::as_str).collect();
            problems.push(format!(
                "{}: {} types of one crate are called {name}: leave the name to one, and name the others by what they are",
                places.join(", "),
                places.len()
            ));
        }
    }
}

/// Names, and single signs.
fn words(line: &str) -> impl Iterator<Item = &str> {
    let mut rest = line;
    std::iter::from_fn(move || {
        rest = rest.trim_start();
        let sign = rest.chars().next()?.len_utf8();
        let length = rest.find(|c: char| !is_of_name(c)).unwrap_or(rest.len());
        let (word, after) = rest.split_at(length.max(sign));
        rest = after;
        Some(word)
    })
}

fn is_name(word: &str) -> bool {
    word.starts_with(is_of_name)
}

fn is_of_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(files: &[(&str, &str)]) -> Vec<String> {
        let mut types = Types::default();
        for (file, text) in files {
            types.add(file, &code(text));
        }
        let mut problems = Vec::new();
        types.tell(&mut problems);
        problems
    }

    #[test]
    fn two_types_of_one_name_are_told_with_their_places() {
        let told = told(&[("a.rs", "\npub(crate) struct Held;"), ("b/c.rs", "use x;\n\nenum Held { A }")]);
        assert_eq!(told.len(), 1);
        assert!(told[0].starts_with("a.rs:2, b/c.rs:3: 2 types of one crate are called Held:"), "{told:?}");
    }

    #[test]
    fn every_kind_of_type_counts_wherever_a_module_has_it() {
        for text in [
            "struct X(u8);",
            "pub struct X<'a, T: Y>(&'a T);",
            "#[derive(Debug)] #[serde(tag = \"}\")]\npub(in crate::a) enum X {}",
            "union X { a: u8 }",
            "unsafe trait X: Y {}",
            "pub type X = Vec<u8>;",
            "fn f() { if a { b(\"}\") } }\nstruct X;",
            "impl Y { fn f() {} } macro_rules! m { () => { } } struct X {}",
            "#[cfg(test)]\nmod tests {\n    use super::*;\n    mod inner { struct X; }\n}",
        ] {
            assert_eq!(told(&[("a.rs", text), ("b.rs", "struct X;")]).len(), 1, "{text}");
        }
        assert_eq!(told(&[("a.rs", "struct X; mod tests { struct X; }")]).len(), 1);
    }

    #[test]
    fn what_is_no_type_of_a_module_does_not_count() {
        for text in [
            "struct Y;",
            "impl Iterator for Y { type X = u8; }",
            "trait Y { type X; }",
            "fn f() { struct X; }",
            "const Y: () = { struct X; };",
            "macro_rules! y { () => { struct X; } }",
            "// struct X;\nconst Y: &str = \"struct X;\";",
            "use b::X; fn f(x: X) -> X { X }",
            "mod X {}",
        ] {
            assert_eq!(told(&[("a.rs", text), ("b.rs", "struct X;")]), [""; 0], "{text}");
        }
    }

    #[test]
    fn one_type_for_each_platform_is_one_type() {
        let twice = "#[cfg(unix)]\nstruct X;\n#[cfg(not(unix))]\nstruct X;";
        assert_eq!(told(&[("a.rs", twice)]), [""; 0]);
        assert_eq!(told(&[("a.rs", &format!("mod y {{ {twice} }}"))]), [""; 0]);
    }
}
