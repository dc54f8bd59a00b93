//! `tulle init`: what it makes of compose files and Procfiles is good, or it names what is not.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::{code, stderr, stdout, tulle};

/// The folders with such files.
fn fixtures(kind: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/init").join(kind);
    let mut folders: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    folders
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &target),
            false => _ = fs::copy(entry.path(), target).unwrap(),
        }
    }
}

/// `services.a.command` of the errors that a report has.
fn wrong_fields(report: &str) -> Vec<String> {
    let errors = report.lines().filter_map(|line| line.strip_prefix("error: "));
    errors.map(|error| error.split(": ").next().unwrap().to_owned()).collect()
}

fn made(kind: &str, least: usize) {
    let fixtures = fixtures(kind);
    assert!(fixtures.len() >= least);
    for fixture in fixtures {
        let name = fixture.file_name().unwrap().to_str().unwrap();
        let folder = TempDir::new().unwrap();
        copy(&fixture, folder.path());
        let output = tulle(folder.path(), &["init"]);
        let said = stderr(&output);
        assert_eq!(code(&output), 0, "{name}: {said}");
        assert!(stdout(&output).starts_with("wrote ./tulle.yaml with "), "{name}: {}", stdout(&output));
        let yaml = fs::read_to_string(folder.path().join("tulle.yaml")).unwrap();
        let shown = said.replace(folder.path().to_str().unwrap(), "[folder]");
        insta::assert_snapshot!(format!("init_{kind}_{name}"), format!("{yaml}\n{shown}"));
        let validated = tulle(folder.path(), &["validate"]);
        let wrong = stderr(&validated);
        if code(&validated) != 0 {
            let named: Vec<_> = wrong_fields(&wrong);
            assert!(!named.is_empty() && named.iter().all(|field| said.contains(field)), "{name}: {wrong}");
        }
        // All of it is there: each service, or there would be no command.
        let all = tulle(folder.path(), &["validate", "--profile", "*"]);
        assert_eq!(code(&all), code(&validated), "{name}: {}", stderr(&all));
    }
}

#[test]
fn compose_files_become_files_of_ours() {
    made("compose", 10);
}

#[test]
fn procfiles_become_files_of_ours() {
    made("procfile", 5);
}

/// What the documentation shows is what comes of it.
#[test]
fn the_documented_compose_file_becomes_what_is_shown() {
    let page = include_str!("../../../../docs/from-compose.md");
    let block = |fence: &str, index: usize| {
        let rest = page.split(&format!("```{fence}\n")).nth(index + 1).unwrap();
        rest.split("```").next().unwrap().to_owned()
    };
    let folder = TempDir::new().unwrap();
    for (name, text) in
        [("compose.yaml", block("yml", 0).as_str()), ("api.env", "LEVEL=info\n"), (".env", "TOKEN=a\n")]
    {
        fs::write(folder.path().join(name), text).unwrap();
    }
    fs::create_dir(folder.path().join("api")).unwrap();
    let output = tulle(folder.path(), &["init"]);
    assert_eq!((code(&output), stderr(&output)), (0, block("text", 0)));
    assert_eq!(fs::read_to_string(folder.path().join("tulle.yaml")).unwrap(), block("yml", 1));
    assert_eq!(code(&tulle(folder.path(), &["validate"])), 0);
}

#[test]
fn a_first_file_is_good() {
    let folder = TempDir::new().unwrap();
    let output = tulle(folder.path(), &["init"]);
    assert_eq!((code(&output), stdout(&output).as_str()), (0, "wrote ./tulle.yaml, a first one to change\n"));
    assert_eq!(stderr(&output), "");
    let output = tulle(folder.path(), &["validate"]);
    assert_eq!((code(&output), stdout(&output).as_str()), (0, "1 object valid\n"));
    // What is there stays.
    fs::write(folder.path().join("tulle.yaml"), "services: {}\n").unwrap();
    let output = tulle(folder.path(), &["init"]);
    assert_eq!(code(&output), 5);
    assert!(stderr(&output).contains("./tulle.yaml is there already") && stderr(&output).contains("--force"));
    assert_eq!(fs::read_to_string(folder.path().join("tulle.yaml")).unwrap(), "services: {}\n");
    assert_eq!(code(&tulle(folder.path(), &["init", "--force"])), 0);
    assert_eq!(code(&tulle(folder.path(), &["validate"])), 0);
}

#[test]
fn the_file_that_it_is_made_of_can_be_elsewhere() {
    let folder = TempDir::new().unwrap();
    let write = |name: &str, text: &str| {
        fs::create_dir_all(folder.path().join(name).parent().unwrap()).unwrap();
        fs::write(folder.path().join(name), text).unwrap();
    };
    write(
        "deploy/compose.yaml",
        "services: {a: {build: ../a, command: ./a, env_file: a.env}, b: {build: b, command: ./b}}",
    );
    write("deploy/a.env", "A=1");
    write("deploy/b/x", "");
    write("a/x", "");
    write("Procfile", "web: ./web");
    write("compose.yaml", "services: {c: {image: c, command: ./c}}");
    let output = tulle(folder.path(), &["init", "--from", "deploy/compose.yaml"]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let yaml = fs::read_to_string(folder.path().join("tulle.yaml")).unwrap();
    assert!(yaml.contains("envFile: [deploy/a.env]") && yaml.contains("directory: deploy/../a"), "{yaml}");
    assert!(yaml.contains("directory: deploy/b"), "{yaml}");
    assert_eq!(code(&tulle(folder.path(), &["validate"])), 0);
    let output = tulle(folder.path(), &["init", "--force"]);
    assert!(stdout(&output).contains("of ./compose.yaml"), "{}", stdout(&output));
    assert!(
        stderr(&output).contains("./Procfile is not read: --from ./Procfile takes it"),
        "{}",
        stderr(&output)
    );
    // Into another folder.
    let output = tulle(folder.path(), &["init", "a", "--from", "Procfile"]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert!(folder.path().join("a/tulle.yaml").is_file());
}

#[test]
fn what_nothing_can_be_made_of_is_said() {
    let folder = TempDir::new().unwrap();
    for (name, text, expected) in [
        ("compose.yaml", "a: [", "compose.yaml:1"),
        ("compose.yaml", "", "compose.yaml is empty"),
        ("compose.yaml", "services: {}", "says nothing of what is to run"),
        ("compose.yaml", "- a", "says nothing of what is to run"),
        ("compose.yaml", "services: {a: !reset null}", "`!reset` is not supported"),
        ("Procfile", "# nothing\n", "says nothing of what is to run"),
    ] {
        fs::write(folder.path().join(name), text).unwrap();
        let output = tulle(folder.path(), &["init", "--from", name]);
        assert_eq!(code(&output), 2, "{text}: {}", stderr(&output));
        assert!(stderr(&output).contains(expected), "{text}: {}", stderr(&output));
        assert!(!folder.path().join("tulle.yaml").exists(), "{text}");
    }
    for line in ["init nowhere", "init --from nowhere.yaml", "init --from .", "init a b"] {
        let output = tulle(folder.path(), &line.split(' ').collect::<Vec<_>>());
        assert_eq!(code(&output), 2, "{line}: {}", stderr(&output));
    }
}

#[test]
fn the_schema_is_printed() {
    let folder = TempDir::new().unwrap();
    let output = tulle(folder.path(), &["schema", "up"]);
    assert_eq!(code(&output), 0);
    let schema: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    assert_eq!(code(&tulle(folder.path(), &["schema"])), 2);
    assert_eq!(code(&tulle(folder.path(), &["schema", "down"])), 2);
}
