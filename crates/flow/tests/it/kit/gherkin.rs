//! Reads features as the conformance kit of the Serverless Workflow DSL writes them (its ctk/README.md): the part of Gherkin that it uses.

/// A file.
#[derive(Debug, PartialEq)]
pub struct Feature {
    pub name: String,
    pub scenarios: Vec<Scenario>,
}

#[derive(Debug, PartialEq)]
pub struct Scenario {
    pub name: String,
    pub steps: Vec<Step>,
}

#[derive(Debug, PartialEq)]
pub struct Step {
    /// Counted from 1.
    pub line: usize,
    /// Without `Given`, `And` and the like.
    pub text: String,
    /// What stands between `"""` and `"""` below it.
    pub document: Option<String>,
}

const KEYWORDS: [&str; 6] = ["Given ", "And ", "When ", "Then ", "But ", "given "];
const FENCE: &str = "\"\"\"";

/// Reads a file. An error names the line.
pub fn read(text: &str) -> Result<Feature, String> {
    let mut feature = Feature { name: String::new(), scenarios: Vec::new() };
    let mut lines = text.lines().enumerate();
    while let Some((index, line)) = lines.next() {
        let number = index + 1;
        let content = line.trim();
        if content.is_empty() || content.starts_with('#') {
            continue;
        }
        if let Some(name) = content.strip_prefix("Feature:") {
            feature.name = name.trim().to_owned();
        } else if let Some(name) = content.strip_prefix("Scenario:") {
            feature.scenarios.push(Scenario { name: name.trim().to_owned(), steps: Vec::new() });
        } else if let Some(scenario) = feature.scenarios.last_mut() {
            if content.starts_with(FENCE) {
                let step = scenario.steps.last_mut().filter(|step| step.document.is_none());
                let step = step.ok_or(format!("line {number}: no step is before this text"))?;
                let indent = line.len() - line.trim_start().len();
                let mut document = String::new();
                loop {
                    let Some((_, line)) = lines.next() else {
                        return Err(format!("line {number}: the text has no end"));
                    };
                    if line.trim() == FENCE {
                        break;
                    }
                    document.push_str(line.get(indent..).unwrap_or(line.trim_start()));
                    document.push('\n');
                }
                step.document = Some(document);
                continue;
            }
            let mut text = content;
            while let Some(rest) = KEYWORDS.iter().find_map(|keyword| text.strip_prefix(keyword)) {
                text = rest.trim_start();
            }
            if text == content {
                return Err(format!("line {number}: {content:?} is no step"));
            }
            scenario.steps.push(Step { line: number, text: text.to_owned(), document: None });
        }
        // What else stands before the first scenario says what the feature is for.
    }
    if feature.name.is_empty() || feature.scenarios.is_empty() {
        return Err("it has no feature, or no scenario".to_owned());
    }
    Ok(feature)
}

#[test]
fn features_are_read_as_the_kit_writes_them() {
    let text = r#"
Feature: Sums
  As somebody who adds
  I want to add

  # about the first
  Scenario: Two and two
    Given a workflow with definition:
    """yaml
    do:
      - a: 1 # stays

    """
    And given the workflow input is:
      """yaml
      n: 1
      """
    When the workflow is executed

  Scenario: Nothing
    Then it should complete"#;
    let feature = read(text).unwrap();
    assert_eq!(feature.name, "Sums");
    let [first, second] = &feature.scenarios[..] else { panic!("{feature:?}") };
    assert_eq!((first.name.as_str(), second.name.as_str()), ("Two and two", "Nothing"));
    let steps: Vec<_> =
        first.steps.iter().map(|step| (step.line, step.text.as_str(), step.document.as_deref())).collect();
    assert_eq!(
        steps,
        [
            (8, "a workflow with definition:", Some("do:\n  - a: 1 # stays\n\n")),
            (14, "the workflow input is:", Some("n: 1\n")),
            (18, "the workflow is executed", None),
        ]
    );
    for (text, expected) in [
        ("Feature: a\nScenario: b\nGiven c\n\"\"\"\nd", "line 4: the text has no end"),
        ("Feature: a\nScenario: b\n\"\"\"\nd\n\"\"\"", "line 3: no step is before this text"),
        ("Feature: a\nScenario: b\nperhaps c", "line 3: \"perhaps c\" is no step"),
        ("Scenario: b\nGiven c", "it has no feature"),
    ] {
        let error = read(text).unwrap_err();
        assert!(error.starts_with(expected), "{error}");
    }
}
