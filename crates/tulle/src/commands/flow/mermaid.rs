//! A workflow as a diagram: a flowchart of Mermaid (mermaid.js.org/syntax/flowchart), as Markdown of many tools shows it.

use std::collections::HashMap;
use std::fmt::Write as _;

use super::blueprint::Step;

/// The whole diagram.
pub fn render(steps: &[Step]) -> String {
    let text = "flowchart TD\n  start((start))\n  end_((end))\n".to_owned();
    let mut chart = Chart { text, edges: Vec::new(), nodes: 0, depth: 1 };
    let first = chart.list(steps, "end_");
    chart.edge("start", &first, "");
    for edge in std::mem::take(&mut chart.edges) {
        chart.line(&edge);
    }
    chart.text
}

struct Chart {
    text: String,
    /// They come last: a node that is named in a frame is drawn into it, also where it is only led to.
    edges: Vec<String>,
    nodes: usize,
    depth: usize,
}

impl Chart {
    fn line(&mut self, line: &str) {
        let _ = writeln!(self.text, "{:indent$}{line}", "", indent = 2 * self.depth);
    }

    fn edge(&mut self, from: &str, to: &str, label: &str) {
        self.edges.push(match label {
            "" => format!("{from} --> {to}"),
            label => format!("{from} -- \"{}\" --> {to}", text(label)),
        });
    }

    fn new_node(&mut self) -> String {
        self.nodes += 1;
        format!("n{}", self.nodes)
    }

    /// Tasks one after the other, which lead to `exit`; the node at which they begin.
    fn list(&mut self, steps: &[Step], exit: &str) -> String {
        let ids: Vec<_> = steps.iter().map(|_| self.new_node()).collect();
        let by_name: HashMap<&str, &str> =
            steps.iter().zip(&ids).map(|(step, id)| (step.name.as_str(), id.as_str())).collect();
        for (index, step) in steps.iter().enumerate() {
            let next = ids.get(index + 1).map_or(exit, String::as_str);
            let target = |then: &str| match then {
                "continue" => next.to_owned(),
                "exit" => exit.to_owned(),
                "end" => "end_".to_owned(),
                name => by_name.get(name).copied().unwrap_or(next).to_owned(),
            };
            let then = target(step.then.as_deref().unwrap_or("continue"));
            if step.condition.is_some() {
                self.edge(&ids[index], next, "else");
            }
            self.step(step, &ids[index], &then, target, next);
        }
        ids.first().map_or(exit, String::as_str).to_owned()
    }

    fn step(&mut self, step: &Step, id: &str, then: &str, target: impl Fn(&str) -> String, next: &str) {
        let label = label(step);
        match step.task {
            "switch" => {
                self.line(&format!("{id}{{\"{label}\"}}"));
                for case in &step.cases {
                    let when = case.when.as_deref().unwrap_or("else");
                    self.edge(id, &target(&case.then), when);
                }
                if step.cases.iter().all(|case| case.when.is_some()) {
                    self.edge(id, next, "else");
                }
            }
            "raise" => self.line(&format!("{id}>\"{label}\"]")),
            "for" => {
                self.line(&format!("{id}{{{{\"{label}\"}}}}"));
                self.within(step, |chart| {
                    let first = chart.list(&step.steps, id);
                    chart.edge(id, &first, "each");
                });
                self.edge(id, then, "done");
            }
            "fork" => {
                self.line(&format!("{id}[/\"{label}\"\\]"));
                let join = self.new_node();
                let word = if step.does == "at once" { "all" } else { "first" };
                self.within(step, |chart| {
                    for branch in &step.steps {
                        let first = chart.list(std::slice::from_ref(branch), &join);
                        chart.edge(id, &first, "");
                    }
                });
                self.line(&format!("{join}[\\\"{word}\"/]"));
                self.edge(&join, then, "");
            }
            "try" => {
                self.line(&format!("{id}[\"{label}\"]"));
                self.within(step, |chart| {
                    let first = chart.list(&step.steps, then);
                    chart.edge(id, &first, "");
                });
                if let Some(catch) = &step.catch {
                    let first = match catch.steps.is_empty() && catch.is_retried {
                        // At the end of its retries it lets the error through.
                        true => id.to_owned(),
                        false => self.list(&catch.steps, then),
                    };
                    self.edges.push(format!("{id} -. \"{}\" .-> {first}", text(&catch.does)));
                }
            }
            _ if !step.steps.is_empty() => {
                self.line(&format!("{id}[\"{label}\"]"));
                self.within(step, |chart| {
                    let first = chart.list(&step.steps, then);
                    chart.edge(id, &first, "");
                });
            }
            _ => {
                self.line(&format!("{id}[\"{label}\"]"));
                self.edge(id, then, "");
            }
        }
    }

    /// What is in a task stands in a frame with its name.
    fn within(&mut self, step: &Step, draw: impl FnOnce(&mut Self)) {
        let frame = self.new_node();
        self.line(&format!("subgraph {frame} [\"{}\"]", text(&step.name)));
        self.depth += 1;
        draw(self);
        self.depth -= 1;
        self.line("end");
    }
}

fn label(step: &Step) -> String {
    let mut lines = vec![text(&step.name), text(format!("{} {}", step.task, step.does).trim_end())];
    lines.extend(step.condition.as_ref().map(|condition| text(&format!("if {condition}"))));
    lines.extend(step.timeout.as_ref().map(|timeout| text(&format!("within {timeout}"))));
    lines.join("<br/>")
}

/// A text in a diagram: what means something there, by its number.
fn text(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '"' | '#' | '<' | '>' | '&' | ';' | '`' => {
                let _ = write!(out, "#{};", u32::from(c));
            }
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::blueprint;
    use super::*;

    #[test]
    fn a_workflow_is_a_diagram() {
        insta::assert_snapshot!(render(&blueprint::steps(&blueprint::tests::all())));
    }

    #[test]
    fn a_frame_has_what_is_in_it_alone() {
        let diagram = render(&blueprint::steps(&blueprint::tests::all()));
        let (frames, edges) = diagram.rsplit_once("  end\n").unwrap();
        assert!(!frames.contains("-->") && !frames.contains(".->"), "{frames}");
        assert!(!edges.contains("subgraph") && edges.contains("n10 --> n5\n"), "{edges}");
    }

    #[test]
    fn what_is_tried_again_leads_back() {
        let call =
            serde_json::json!({ "call": "http", "with": { "method": "get", "endpoint": "http://a/" } });
        let diagram = |catch: serde_json::Value| {
            let steps = serde_json::json!([{ "safe": { "try": [{ "ask": call }], "catch": catch } }, { "last": call }]);
            render(&blueprint::steps(&serde_json::json!({ "do": steps })))
        };
        let retry = serde_json::json!({ "delay": { "seconds": 1 }, "limit": { "attempt": { "count": 5 } } });
        let drawn = diagram(serde_json::json!({ "retry": retry }));
        assert!(drawn.contains("n1 -. \"any error, tried again 5 times, 1s apart\" .-> n1\n"), "{drawn}");
        // Without a retry it goes on; where there is something to do, that is done at last.
        assert!(diagram(serde_json::json!({})).contains("n1 -. \"any error\" .-> n2\n"));
        let drawn = diagram(serde_json::json!({ "retry": retry, "do": [{ "mend": call }] }));
        assert!(drawn.contains("1s apart\" .-> n5\n") && drawn.contains("n5[\"mend"), "{drawn}");
    }

    #[test]
    fn texts_end_no_label() {
        assert_eq!(text("a \"b\" < #c\n;"), "a #34;b#34; #60; #35;c #59;");
    }
}
