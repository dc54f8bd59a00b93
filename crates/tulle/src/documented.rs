//! The resources that the documentation and the examples show.

use std::path::{Path, PathBuf};

use tulle_model::document::parse;
use tulle_model::registry::by_api_version;
use tulle_model::validate::validate;

/// Files with that extension, below `folder`.
fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, extension));
        } else if path.extension().is_some_and(|is| is == extension) {
            found.push(path);
        }
    }
    found
}

/// The blocks of YAML in a text of Markdown.
fn blocks(text: &str) -> impl Iterator<Item = &str> {
    text.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next())
}

#[test]
fn what_is_shown_is_valid() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut texts = Vec::new();
    for path in files(&root.join("examples"), "yaml") {
        texts.push((path.clone(), std::fs::read_to_string(&path).unwrap()));
    }
    let documents = [files(&root.join("docs"), "md"), files(&root.join("examples"), "md")].concat();
    for path in documents {
        let text = std::fs::read_to_string(&path).unwrap();
        texts.extend(blocks(&text).map(|block| (path.clone(), block.to_owned())));
    }
    let mut routes = 0;
    for (path, text) in texts {
        for document in parse(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display())) {
            let field = |name: &str| document.value.get(name).and_then(|value| value.as_str());
            // Files of `tulle up` are checked where they are read.
            let (Some(version), Some(kind)) = (field("apiVersion"), field("kind")) else { continue };
            let kind = by_api_version(version, kind).unwrap_or_else(|| panic!("{}: {kind}", path.display()));
            assert_eq!(validate(kind, &document.value), [], "{}: {text}", path.display());
            routes += usize::from(kind.kind == "HTTPRoute");
        }
    }
    assert!(routes >= 3, "they are looked for where they are");
}
