//! A workflow as a tree of lines.

use super::blueprint::{Case, Step};

/// Two spaces between the names and what they do.
const GAP: usize = 2;

/// The lines of tasks, each with a line break at its end.
pub fn render(steps: &[Step]) -> String {
    let mut lines = Vec::new();
    add(steps.iter().map(Entry::Step).collect(), "", &mut lines);
    let width = lines.iter().map(|(left, _)| left.chars().count()).max().unwrap_or_default() + GAP;
    let line =
        |(left, right): &(String, String)| format!("{left:width$}{right}").trim_end().to_owned() + "\n";
    lines.iter().map(line).collect()
}

/// What a line is for.
enum Entry<'s> {
    Step(&'s Step),
    Case(&'s Case),
    Catch(&'s super::blueprint::Caught),
}

fn add(nodes: Vec<Entry<'_>>, indent: &str, lines: &mut Vec<(String, String)>) {
    let last = nodes.len().saturating_sub(1);
    for (index, node) in nodes.into_iter().enumerate() {
        let (branch, below) = if index == last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
        let (name, does, inner) = match node {
            Entry::Step(step) => (step.name.clone(), described(step), inner(step)),
            Entry::Case(case) => {
                let when =
                    case.when.as_ref().map_or_else(|| "else".to_owned(), |when| format!("when {when}"));
                (case.name.clone(), format!("{when} then {}", case.then), Vec::new())
            }
            Entry::Catch(catch) => {
                ("catch".to_owned(), catch.does.clone(), catch.steps.iter().map(Entry::Step).collect())
            }
        };
        lines.push((format!("{indent}{branch}{name}"), does));
        add(inner, &format!("{indent}{below}"), lines);
    }
}

fn inner(step: &Step) -> Vec<Entry<'_>> {
    let cases = step.cases.iter().map(Entry::Case);
    let steps = step.steps.iter().map(Entry::Step);
    cases.chain(steps).chain(step.catch.iter().map(Entry::Catch)).collect()
}

fn described(step: &Step) -> String {
    let mut words = format!("{} {}", step.task, step.does).trim_end().to_owned();
    words.extend(step.condition.as_ref().map(|condition| format!(", if {condition}")));
    words.extend(step.timeout.as_ref().map(|timeout| format!(", within {timeout}")));
    words.extend(step.then.as_ref().map(|then| format!(", then {then}")));
    words
}

#[cfg(test)]
mod tests {
    use super::super::blueprint;
    use super::*;

    #[test]
    fn a_workflow_is_a_tree() {
        insta::assert_snapshot!(render(&blueprint::steps(&blueprint::tests::all())));
    }
}
