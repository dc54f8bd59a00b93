//! The conformance kit of the Serverless Workflow DSL, and scenarios of our own in its form (`tests/kit`): workflows run with the product's
//! core and evaluation, in a time of their own.

mod driver;
mod gherkin;
mod services;
mod steps;

use std::collections::HashSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use tulle_flow::evaluator::Evaluator;

use self::gherkin::Feature;
use self::steps::{Fate, carry_out};

fn features(folder: &Path) -> Vec<(PathBuf, Feature)> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|why| panic!("{}: {why}", folder.display()));
    let mut files: Vec<_> = entries.map(|entry| entry.expect("the folder can be read").path()).collect();
    files.retain(|file| file.extension() == Some(OsStr::new("feature")));
    files.sort();
    let read = |file: PathBuf| {
        let text = std::fs::read_to_string(&file).unwrap_or_else(|why| panic!("{}: {why}", file.display()));
        let feature = gherkin::read(&text).unwrap_or_else(|why| panic!("{}: {why}", file.display()));
        (file, feature)
    };
    files.into_iter().map(read).collect()
}

/// Those of our own. With `TULLE_SCENARIO` those alone whose name has that in it.
#[tokio::test]
async fn every_scenario_is_as_it_says() {
    let evaluator = Evaluator::new(super::evaluators());
    let filter = std::env::var("TULLE_SCENARIO").unwrap_or_default();
    let (mut failures, mut names) = (Vec::new(), HashSet::new());
    for (file, feature) in features(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kit")) {
        let file = file.file_name().unwrap().to_string_lossy().into_owned();
        for scenario in feature.scenarios.iter().filter(|scenario| scenario.name.contains(&filter)) {
            assert!(names.insert(scenario.name.clone()), "{file}: two are called {}", scenario.name);
            match carry_out(scenario, services::nobody, &evaluator).await {
                Fate::Passes => {}
                fate => failures.push(format!("{file}: {}: {fate:?}", scenario.name)),
            }
        }
    }
    assert!(failures.is_empty(), "{} of {}:\n{}", failures.len(), names.len(), failures.join("\n"));
    assert!(names.len() >= 80 || !filter.is_empty(), "{}", names.len());
}

/// `cargo xtask conformance DIR`: the kit itself, which is not part of the project.
#[tokio::test]
#[ignore = "needs the conformance kit: cargo xtask conformance DIR"]
async fn originals() {
    let folder =
        std::env::var_os("TULLE_CONFORMANCE").expect("TULLE_CONFORMANCE is the folder of the features");
    let evaluator = Evaluator::new(super::evaluators());
    let mut counts = [0; 3];
    for (_, feature) in features(Path::new(&folder)) {
        for scenario in &feature.scenarios {
            let (which, word, why) = match carry_out(scenario, services::of_the_kit, &evaluator).await {
                Fate::Passes => (0, "passes", String::new()),
                Fate::NotForUs(why) => (1, "not for us", format!(": {why}")),
                Fate::Fails(why) => (2, "fails", format!(": {why}")),
            };
            counts[which] += 1;
            println!("{word:<10}  {}: {}{why}", feature.name, scenario.name);
        }
    }
    let [passing, others, failing] = counts;
    println!("{passing} pass, {others} are not for us, {failing} fail");
    assert!(failing == 0 && passing > 0);
}
