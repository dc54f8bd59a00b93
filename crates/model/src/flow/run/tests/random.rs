//! Random workflows: the core and the naive interpreter go the same way through them, and so does a run that is made again of
//! any part of its history.

use std::sync::Arc;

use serde_json::json;

use super::naive::Naive;
use super::simulation::{Simulation, info, settle};
use super::*;

/// Numbers that follow from a seed (splitmix64).
#[derive(Clone)]
struct SplitMix(u64);

impl SplitMix {
    fn throw(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }

    fn one<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.throw(of.len() as u64) as usize].clone()
    }

    /// Long enough that no two of a run are the same.
    fn long(&mut self) -> u64 {
        1 + self.throw(1_000_000_007)
    }
}

/// What may stand at a place.
#[derive(Clone, Copy)]
struct Where {
    depth: u32,
    /// Two branches that export would depend on who is first.
    in_fork: bool,
}

struct Generator {
    dice: SplitMix,
    builder: WorkflowBuilder,
    functions: Vec<TaskId>,
}

impl Generator {
    fn workflow(seed: u64) -> Arc<Workflow> {
        let mut generator =
            Self { dice: SplitMix(seed), builder: WorkflowBuilder::default(), functions: vec![] };
        let call = generator.builder.task("/use/functions/ask", call());
        let add = generator.template();
        let set = generator.builder.task("/use/functions/add", TaskKind::Set(add));
        generator.functions = vec![call, set];
        let steps = generator.list("/do", Where { depth: 0, in_fork: false });
        generator.builder.workflow(&steps)
    }

    fn template(&mut self) -> Template {
        template(self.dice.one(&[
            json!({ "n": "${ .n + 1 }", "items": "${ .items }" }),
            json!({ "n": "${ .n + 1 }", "items": [1, 2, 3] }),
            json!({ "n": 0, "items": [] }),
            json!({ "n": 1, "items": ["a", "b"], "context": "${ $context }" }),
            json!({ "n": "${ $item }", "at": "${ $index }", "items": "${ .items }" }),
            json!({ "error": "${ $error }", "items": [5] }),
            json!("${ . }"),
        ]))
    }

    fn condition(&mut self) -> Expression {
        expression(self.dice.one(&[".n < 3", "true", "false", ".n", ".n < 3", "$item", ".n.x"]))
    }

    fn list(&mut self, prefix: &str, place: Where) -> Vec<TaskId> {
        if self.dice.throw(8) == 0 {
            return self.back_and_forth(prefix);
        }
        let count = 1 + self.dice.throw(3);
        let mut tasks = vec![];
        for at in 0..count {
            let id = self.task(&format!("{prefix}/{at}/t{at}"), place);
            let then = match self.dice.throw(12) {
                0 => Directive::Exit,
                1 => Directive::End,
                2 if at + 1 < count => Directive::To(count as usize - 1),
                _ => Directive::Continue,
            };
            self.builder.tasks[id.0 as usize].then = then;
            tasks.push(id);
        }
        tasks
    }

    /// A list that goes back until it has counted far enough.
    fn back_and_forth(&mut self, prefix: &str) -> Vec<TaskId> {
        let add = template(json!({ "n": "${ .n + 1 }", "items": "${ .items }" }));
        let count = self.builder.task(&format!("{prefix}/0/count"), TaskKind::Set(add));
        let call = self.builder.task(&format!("{prefix}/1/ask"), call());
        self.builder.last().output.template = Some(template(json!("${ $input }")));
        let case =
            SwitchCase { name: "again".into(), when: Some(expression(".n < 3")), then: Directive::To(0) };
        let switch = self.builder.task(&format!("{prefix}/2/again"), TaskKind::Switch(vec![case]));
        vec![count, call, switch]
    }

    fn task(&mut self, reference: &str, place: Where) -> TaskId {
        let deeper = Where { depth: place.depth + 1, ..place };
        let kind = match self.dice.throw(if place.depth > 2 { 8 } else { 13 }) {
            0 | 1 => TaskKind::Set(self.template()),
            2 | 3 => call(),
            4 => TaskKind::Wait(constant(self.dice.long())),
            5 => TaskKind::Switch(self.cases()),
            6 => TaskKind::Function {
                task: self.dice.one(&self.functions.clone()),
                with: (self.dice.throw(2) == 0).then(|| self.template()),
            },
            7 => TaskKind::Raise(template(self.dice.one(&[
                json!({ "type": "https://e.test/a", "status": 500, "title": "a" }),
                json!({ "type": "https://e.test/b", "status": 409 }),
                json!({ "type": "https://e.test/c", "status": 7 }),
            ]))),
            8 => TaskKind::Do(list(&self.list(&format!("{reference}/do"), deeper))),
            9 => TaskKind::For(Loop {
                each: "item".into(),
                at: "index".into(),
                items: expression(self.dice.one(&[".items", ".items", ".items", ".n"])),
                condition: (self.dice.throw(3) == 0).then(|| self.condition()),
                body: list(&self.list(&format!("{reference}/do"), deeper)),
            }),
            10 => self.fork(reference, deeper),
            _ => self.attempts(reference, deeper),
        };
        let id = self.builder.task(reference, kind);
        let with = |chance, dice: &mut SplitMix| dice.throw(chance) == 0;
        if with(6, &mut self.dice) {
            self.builder.last().condition = Some(self.condition());
        }
        if with(6, &mut self.dice) {
            self.builder.last().input.template = Some(self.template());
        }
        if with(6, &mut self.dice) {
            self.builder.last().output.template = Some(self.template());
        }
        if !place.in_fork && with(5, &mut self.dice) {
            self.builder.last().export.template = Some(self.template());
        }
        if with(10, &mut self.dice) {
            self.builder.last().timeout = Some(constant(self.dice.long()));
        }
        id
    }

    fn cases(&mut self) -> Vec<SwitchCase> {
        let directives = [Directive::Continue, Directive::Continue, Directive::Exit, Directive::End];
        let mut case = |when: Option<Expression>| SwitchCase {
            name: "case".into(),
            when,
            then: self.dice.one(&directives),
        };
        let cases = [Some(expression(".n < 3")), None, Some(expression("true"))].map(&mut case);
        let count = self.dice.throw(4) as usize;
        cases.into_iter().take(count).collect()
    }

    fn fork(&mut self, reference: &str, place: Where) -> TaskKind {
        let mut branches = vec![];
        for at in 0..1 + self.dice.throw(3) {
            // Each at a time of its own: who is first is not by chance.
            let branch = format!("{reference}/fork/branches/{at}/b{at}");
            let wait =
                self.builder.task(&format!("{branch}/do/0/wait"), TaskKind::Wait(constant(self.dice.long())));
            let inside = Where { in_fork: true, ..place };
            let rest = self.list(&format!("{branch}/do/1/rest/do"), inside);
            let rest = self.builder.task(&format!("{branch}/do/1/rest"), TaskKind::Do(list(&rest)));
            branches.push(self.builder.task(&branch, TaskKind::Do(list(&[wait, rest]))));
            if self.dice.throw(8) == 0 {
                self.builder.last().then = self.dice.one(&[Directive::End, Directive::Exit]);
            }
        }
        TaskKind::Fork(Fork { branches: list(&branches), compete: self.dice.throw(2) == 0 })
    }

    fn attempts(&mut self, reference: &str, place: Where) -> TaskKind {
        let mut body = self.list(&format!("{reference}/try"), place);
        if self.dice.throw(2) == 0 {
            body.insert(0, self.builder.task(&format!("{reference}/try/ask"), call()));
            // Places in the list are one further.
            for id in &body {
                if let Directive::To(place) = &mut self.builder.tasks[id.0 as usize].then {
                    *place += 1;
                }
                if let TaskKind::Switch(cases) = &mut self.builder.tasks[id.0 as usize].kind {
                    for case in cases {
                        if let Directive::To(place) = &mut case.then {
                            *place += 1;
                        }
                    }
                }
            }
        }
        let some = |dice: &mut SplitMix, sides| dice.throw(sides) == 0;
        let when = |generator: &mut Self, sides| {
            let texts = ["$error.status == 500", "true", "false", ".n.x"];
            some(&mut generator.dice, sides).then(|| expression(generator.dice.one(&texts)))
        };
        let retry = some(&mut self.dice, 2).then(|| {
            Arc::new(RetryPolicy {
                when: when(self, 4),
                except_when: when(self, 6),
                delay: some(&mut self.dice, 2).then(|| constant(self.dice.long())),
                backoff: self.dice.one(&[Backoff::Constant, Backoff::Linear, Backoff::Exponential]),
                jitter: None,
                attempts: Some(self.dice.throw(3) as u32),
                attempt_duration: some(&mut self.dice, 3).then(|| constant(self.dice.long())),
                duration: some(&mut self.dice, 4).then(|| constant(self.dice.long())),
            })
        });
        let catch = Catch {
            errors: self.dice.one(&[
                ErrorFilter::default(),
                ErrorFilter::default(),
                ErrorFilter { status: Some(500), ..ErrorFilter::default() },
            ]),
            variable: "error".into(),
            when: when(self, 4),
            except_when: when(self, 6),
            retry,
            handler: some(&mut self.dice, 2)
                .then(|| list(&self.list(&format!("{reference}/catch/do"), place))),
        };
        TaskKind::Try(Try { body: list(&body), catch })
    }
}

/// What calls are answered with, and when.
fn world(seed: u64) -> impl Fn(&str, u32) -> (Millis, Result<Value, Fault>) {
    move |path, attempt| {
        let mut dice =
            SplitMix(crate::fnv::fnv1a([path.as_bytes(), &attempt.to_le_bytes(), &seed.to_le_bytes()]));
        let after = dice.long();
        let result = match dice.throw(5) {
            0 => Err(Fault { status: dice.one(&[500, 503]), ..FaultKind::Communication.fault("no answer") }),
            _ => Ok(json!({ "n": dice.throw(5), "items": [1, 2] })),
        };
        (after, result)
    }
}

const SEEDS: u64 = 4_000;

#[test]
fn the_core_goes_as_a_naive_interpreter_does() {
    let mut kinds = [0; 3];
    for seed in 0..SEEDS {
        let workflow = Generator::workflow(seed);
        let info = info(json!({ "n": 0, "items": [7, 8] }), seed);
        let world = world(seed);
        let (expected, naive) = Naive::run(&workflow, &info, &world);
        let simulation = Simulation::new(&workflow, &info, &world).ended();
        assert_eq!(*simulation.run.phase(), expected, "seed {seed}: {workflow:#?}");
        let mut calls: Vec<_> = simulation.calls.iter().map(|(at, path)| (*at, path.to_string())).collect();
        let mut theirs = naive.calls;
        calls.sort();
        theirs.sort();
        assert_eq!(calls, theirs, "seed {seed}: {workflow:#?}");
        kinds[match expected {
            RunPhase::Completed(_) => 0,
            RunPhase::Faulted(_) => 1,
            _ => 2,
        }] += 1;
        kinds[2] += usize::from(simulation.calls.len() > 2);
    }
    // They are worth looking at.
    assert!(kinds.iter().all(|count| *count > SEEDS as usize / 10), "{kinds:?}");
}

#[test]
fn a_run_made_again_of_a_part_of_its_history_goes_on_the_same_way() {
    for seed in 0..SEEDS / 4 {
        let workflow = Generator::workflow(seed);
        let info = info(json!({ "n": 0, "items": [7, 8] }), seed);
        let world = world(seed);
        let mut simulation = Simulation::new(&workflow, &info, &world);
        let mut checkpoints = vec![simulation.run.checkpoint().unwrap()];
        while simulation.next() {
            checkpoints.push(simulation.run.checkpoint().unwrap());
        }
        let mut dice = SplitMix(seed);
        let cut = dice.throw(checkpoints.len() as u64) as usize;
        let again = |checkpoint: Option<&[u8]>, events: &[(Millis, RunEvent)]| {
            let mut run = match checkpoint {
                Some(checkpoint) => Run::restore(workflow.clone(), info.clone(), checkpoint).unwrap(),
                None => Run::begin(workflow.clone(), info.clone()),
            };
            settle(&mut run);
            for (at, event) in events {
                run.take(*at, event.clone());
                settle(&mut run);
            }
            run
        };
        let text = |checkpoint: &[u8]| String::from_utf8_lossy(checkpoint).into_owned();
        let replayed = again(None, &simulation.history[..cut]);
        assert_eq!(text(&replayed.checkpoint().unwrap()), text(&checkpoints[cut]), "seed {seed} at {cut}");
        let restored = again(Some(&checkpoints[cut]), &simulation.history[cut..]);
        assert_eq!(restored.phase(), simulation.run.phase(), "seed {seed} at {cut}");
        let waits =
            |run: &Run| run.orders_again().iter().map(|order| format!("{order:?}")).collect::<Vec<_>>();
        let at_checkpoint = again(Some(&checkpoints[cut]), &[]);
        assert_eq!(waits(&at_checkpoint), waits(&replayed), "seed {seed} at {cut}");
    }
}
