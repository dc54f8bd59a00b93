//! Another interpreter, written apart from the core: it goes through a workflow as the DSL tells of it, one task inside of the
//! other, and takes branches one after the other. What they would have done after something around them had ended is taken
//! back. What two branches do to the context is not for it.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::simulation::{World, evaluate};
use crate::flow::duration;
use crate::flow::expression::{Expression, Template};
use crate::flow::fault::{Fault, FaultKind};
use crate::flow::run::{EvaluationKind, RunPhase};
use crate::flow::scope::{Locals, Millis, RunInfo, Scope, TaskScope};
use crate::flow::workflow::{
    Backoff, Directive, DurationValue, Fork, Loop, RetryPolicy, Task, TaskId, TaskKind, Try, Workflow,
};

pub struct Naive<'w> {
    pub calls: Vec<(Millis, String)>,
    workflow: Arc<Workflow>,
    info: Arc<RunInfo>,
    world: &'w World,
    context: Value,
}

enum NaiveEnd {
    Done(Value, Directive),
    Workflow(Value),
    Fault(Fault),
}

/// Where a task is: with which variables, and inside of what.
#[derive(Clone)]
struct Around {
    variables: BTreeMap<String, Value>,
    path: String,
}

/// What an expression of a task is about.
struct TaskPlace<'t> {
    id: TaskId,
    task: &'t Task,
    raw: &'t Value,
    input: Option<&'t Value>,
    raw_output: Option<&'t Value>,
    began: Millis,
}

impl<'w> Naive<'w> {
    pub fn run(workflow: &Arc<Workflow>, info: &Arc<RunInfo>, world: &'w World) -> (RunPhase, Self) {
        let mut naive =
            Self { calls: vec![], workflow: workflow.clone(), info: info.clone(), world, context: json!({}) };
        let around = Around { variables: BTreeMap::new(), path: String::new() };
        let input = Value::clone(&info.input);
        let (_, end) = naive.list(&workflow.steps, input, &around, info.started);
        let phase = match end {
            NaiveEnd::Done(value, _) | NaiveEnd::Workflow(value) => RunPhase::Completed(Arc::new(value)),
            NaiveEnd::Fault(fault) => RunPhase::Faulted(fault),
        };
        (phase, naive)
    }

    fn evaluate(
        &self,
        asked: EvaluationKind<'_>,
        on: &Value,
        place: &TaskPlace,
        around: &Around,
        output: bool,
    ) -> Result<Value, Fault> {
        let mut locals = Locals::default();
        for (name, value) in &around.variables {
            locals = locals.with(&name.as_str().into(), Arc::new(value.clone()));
        }
        let input = place.input.map(|input| Arc::new(input.clone()));
        let scope = Scope {
            workflow: self.workflow.clone(),
            run: self.info.clone(),
            on: Arc::new(on.clone()),
            context: Some(Arc::new(self.context.clone())),
            input,
            output: output.then(|| Arc::new(on.clone())),
            task: Some(TaskScope {
                id: place.id,
                raw_input: Arc::new(place.raw.clone()),
                raw_output: place.raw_output.map(|output| Arc::new(output.clone())),
                started: place.began,
            }),
            locals,
            now: place.began,
        };
        evaluate(asked, &scope).map_err(|fault| Fault { instance: place.task.reference.clone(), ..fault })
    }

    fn list(
        &mut self,
        tasks: &[TaskId],
        mut value: Value,
        around: &Around,
        mut now: Millis,
    ) -> (Millis, NaiveEnd) {
        let (mut at, mut back) = (0, 0);
        while at < tasks.len() {
            let suffix = if back > 0 { format!("~{back}") } else { String::new() };
            let around = Around { path: format!("{}{suffix}", around.path), ..around.clone() };
            let (then, end) = self.task(tasks[at], value, &around, now);
            now = then;
            match end {
                NaiveEnd::Done(output, directive) => {
                    value = output;
                    match directive {
                        Directive::Continue => at += 1,
                        Directive::To(place) => {
                            back += u32::from(place <= at);
                            at = place;
                        }
                        Directive::Exit => break,
                        Directive::End => return (now, NaiveEnd::Workflow(value)),
                    }
                }
                other => return (now, other),
            }
        }
        (now, NaiveEnd::Done(value, Directive::Continue))
    }

    fn task(&mut self, id: TaskId, raw: Value, around: &Around, began: Millis) -> (Millis, NaiveEnd) {
        let workflow = self.workflow.clone();
        let task = workflow.task(id);
        let place = TaskPlace { id, task, raw: &raw, input: None, raw_output: None, began };
        macro_rules! go {
            ($now:expr, $result:expr) => {
                match $result {
                    Ok(value) => value,
                    Err(fault) => return ($now, NaiveEnd::Fault(fault)),
                }
            };
        }
        if let Some(condition) = &task.condition {
            let value =
                go!(began, self.evaluate(EvaluationKind::Expression(condition), &raw, &place, around, false));
            if value == json!(false) || value.is_null() {
                return (began, NaiveEnd::Done(raw, Directive::Continue));
            }
        }
        let input = match &task.input.template {
            Some(from) => {
                go!(began, self.evaluate(EvaluationKind::Template(from), &raw, &place, around, false))
            }
            None => raw.clone(),
        };
        let place = TaskPlace { input: Some(&input), ..place };
        let limit = task.timeout.as_ref().map(|limit| self.duration(limit, &place, around));
        let limit = match limit {
            Some(limit) => Some(began + go!(began, limit)),
            None => None,
        };
        let mark = self.calls.len();
        let (mut now, mut end) = self.kind(&place, &input, around);
        if let Some(limit) = limit.filter(|limit| *limit < now) {
            self.take_back(mark, limit);
            now = limit;
            let after = limit - began;
            let after = if after.is_multiple_of(1_000) {
                format!("{} s", after / 1_000)
            } else {
                format!("{after} ms")
            };
            let fault = FaultKind::Timeout.fault(format!("it was not done within its timeout of {after}"));
            end = NaiveEnd::Fault(Fault { instance: task.reference.clone(), ..fault });
        }
        let (output, directive) = match end {
            NaiveEnd::Done(output, directive) => (output, directive),
            other => return (now, other),
        };
        let raw_output = output;
        let place = TaskPlace { raw_output: Some(&raw_output), ..place };
        let output = match &task.output.template {
            Some(template) => {
                go!(
                    now,
                    self.evaluate(EvaluationKind::Template(template), &raw_output, &place, around, false)
                )
            }
            None => raw_output.clone(),
        };
        if let Some(template) = &task.export.template {
            self.context =
                go!(now, self.evaluate(EvaluationKind::Template(template), &output, &place, around, true));
        }
        (now, NaiveEnd::Done(output, directive))
    }

    /// What was called after something had ended was never called.
    fn take_back(&mut self, mark: usize, after: Millis) {
        let later = self.calls.split_off(mark);
        self.calls.extend(later.into_iter().filter(|(at, _)| *at <= after));
    }

    fn duration(&self, of: &DurationValue, place: &TaskPlace, around: &Around) -> Result<Millis, Fault> {
        let duration = match of {
            DurationValue::Constant(duration) => *duration,
            DurationValue::Expression(expression) => {
                let on = place.input.unwrap_or(place.raw);
                let value =
                    self.evaluate(EvaluationKind::Expression(expression), on, place, around, false)?;
                duration::read(&value).map_err(|why| FaultKind::Expression.fault(why))?
            }
        };
        Ok(duration.as_millis() as Millis)
    }

    fn kind(&mut self, place: &TaskPlace, input: &Value, around: &Around) -> (Millis, NaiveEnd) {
        let (task, now) = (place.task, place.began);
        let then = task.then;
        let done = |(now, end): (Millis, NaiveEnd)| match end {
            NaiveEnd::Done(value, _) => (now, NaiveEnd::Done(value, then)),
            other => (now, other),
        };
        let template =
            |of: &Template| self.evaluate(EvaluationKind::Template(of), input, place, around, false);
        match &task.kind {
            TaskKind::Do(list) => done(self.list(list, input.clone(), around, now)),
            TaskKind::Set(of) => match template(of) {
                Ok(value) => (now, NaiveEnd::Done(value, then)),
                Err(fault) => (now, NaiveEnd::Fault(fault)),
            },
            TaskKind::Raise(of) => {
                let raised = template(of).and_then(|fields| {
                    Fault::raised(&fields, &task.reference).map_err(|why| Fault {
                        instance: task.reference.clone(),
                        ..FaultKind::Expression.fault(why)
                    })
                });
                (now, NaiveEnd::Fault(raised.unwrap_or_else(|fault| fault)))
            }
            TaskKind::Switch(cases) => {
                for case in cases {
                    let Some(when) = &case.when else { continue };
                    match self.evaluate(EvaluationKind::Expression(when), input, place, around, false) {
                        Ok(value) if value != json!(false) && !value.is_null() => {
                            return (now, NaiveEnd::Done(input.clone(), case.then));
                        }
                        Ok(_) => {}
                        Err(fault) => return (now, NaiveEnd::Fault(fault)),
                    }
                }
                let default = cases.iter().find(|case| case.when.is_none());
                (now, NaiveEnd::Done(input.clone(), default.map_or(then, |case| case.then)))
            }
            TaskKind::Wait(of) => match self.duration(of, place, around) {
                Ok(after) => (now + after, NaiveEnd::Done(input.clone(), then)),
                Err(fault) => (now, NaiveEnd::Fault(fault)),
            },
            TaskKind::Call(_) => {
                let path = format!("{}{}", task.reference, around.path);
                let before = self.calls.iter().filter(|(_, other)| *other == path).count();
                self.calls.push((now, path.clone()));
                let (after, result) = (self.world)(&path, before as u32);
                match result {
                    Ok(value) => (now + after, NaiveEnd::Done(value, then)),
                    Err(fault) => {
                        (now + after, NaiveEnd::Fault(Fault { instance: task.reference.clone(), ..fault }))
                    }
                }
            }
            TaskKind::Function { task: of, with } => {
                let argument = match with {
                    Some(with) => match template(with) {
                        Ok(value) => value,
                        Err(fault) => return (now, NaiveEnd::Fault(fault)),
                    },
                    None => input.clone(),
                };
                let inside = Around {
                    variables: BTreeMap::new(),
                    path: format!("{}@{}", around.path, task.reference),
                };
                done(self.task(*of, argument, &inside, now))
            }
            TaskKind::For(of) => done(self.every(of, place, input, around)),
            TaskKind::Fork(of) => done(self.branches(of, input, around, now)),
            TaskKind::Try(of) => done(self.attempts(of, place, input, around)),
        }
    }

    fn every(&mut self, of: &Loop, place: &TaskPlace, input: &Value, around: &Around) -> (Millis, NaiveEnd) {
        let mut now = place.began;
        let ask = |naive: &Self, of: &Expression, on: &Value, around: &Around| {
            naive.evaluate(EvaluationKind::Expression(of), on, place, around, false)
        };
        let items = match ask(self, &of.items, input, around) {
            Ok(Value::Array(items)) => items,
            Ok(other) => {
                let what = if other.is_null() { "null" } else { "a number" };
                let fault = FaultKind::Expression.fault(format!("for.in is {what}, not an array"));
                return (now, NaiveEnd::Fault(Fault { instance: place.task.reference.clone(), ..fault }));
            }
            Err(fault) => return (now, NaiveEnd::Fault(fault)),
        };
        let mut value = input.clone();
        for (index, item) in items.into_iter().enumerate() {
            let mut inside = around.clone();
            inside.variables.insert(of.each.to_string(), item);
            inside.variables.insert(of.at.to_string(), json!(index));
            inside.path = format!("{}[{index}]", around.path);
            if let Some(condition) = &of.condition {
                match ask(self, condition, &value, &inside) {
                    Ok(answer) if answer == json!(false) || answer.is_null() => break,
                    Ok(_) => {}
                    Err(fault) => return (now, NaiveEnd::Fault(fault)),
                }
            }
            match self.list(&of.body, value, &inside, now) {
                (then, NaiveEnd::Done(output, _)) => (now, value) = (then, output),
                other => return other,
            }
        }
        (now, NaiveEnd::Done(value, Directive::Continue))
    }

    fn branches(&mut self, of: &Fork, input: &Value, around: &Around, began: Millis) -> (Millis, NaiveEnd) {
        let mark = self.calls.len();
        let mut ends: Vec<(Millis, NaiveEnd)> = vec![];
        for task in of.branches.iter() {
            ends.push(self.task(*task, input.clone(), around, began));
        }
        let over = |end: &NaiveEnd| {
            of.compete || !matches!(end, NaiveEnd::Done(_, directive) if *directive != Directive::End)
        };
        let first = ends.iter().enumerate().filter(|(_, (_, end))| over(end)).min_by_key(|(_, (at, _))| *at);
        if let Some((first, _)) = first {
            let (at, end) = ends.swap_remove(first);
            self.take_back(mark, at);
            return (
                at,
                match end {
                    NaiveEnd::Done(value, Directive::End) => NaiveEnd::Workflow(value),
                    other => other,
                },
            );
        }
        let at = ends.iter().map(|(at, _)| *at).max().unwrap_or(began);
        let outputs = ends.into_iter().filter_map(|(_, end)| match end {
            NaiveEnd::Done(value, _) => Some(value),
            _ => None,
        });
        (at, NaiveEnd::Done(outputs.collect(), Directive::Continue))
    }

    fn attempts(
        &mut self,
        of: &Try,
        place: &TaskPlace,
        input: &Value,
        around: &Around,
    ) -> (Millis, NaiveEnd) {
        let policy = of.catch.retry.as_deref();
        let mut now = place.began;
        let mut retries = 0;
        loop {
            let mark = self.calls.len();
            let began = now;
            let (then, end) = self.list(&of.body, input.clone(), around, now);
            now = then;
            let mut fault = match &end {
                NaiveEnd::Fault(fault) => Some(fault.clone()),
                _ => None,
            };
            let limit = policy.and_then(|policy| policy.attempt_duration.as_ref());
            if let Some(limit) = limit {
                let limit = began + self.duration(limit, place, around).unwrap_or_default();
                if limit < now {
                    self.take_back(mark, limit);
                    now = limit;
                    let why = "the attempt was not done within retry.limit.attempt.duration";
                    fault = Some(Fault {
                        instance: place.task.reference.clone(),
                        ..FaultKind::Timeout.fault(why)
                    });
                }
            }
            let Some(fault) = fault else { return (now, end) };
            if !of.catch.errors.matches(&fault) {
                return (now, NaiveEnd::Fault(fault));
            }
            let mut inside = around.clone();
            inside.variables.insert(of.catch.variable.to_string(), fault.value());
            let holds = |of: &Option<Expression>, otherwise: bool| match of {
                Some(of) => self
                    .evaluate(EvaluationKind::Expression(of), input, place, &inside, false)
                    .map(|value| value != json!(false) && !value.is_null()),
                None => Ok(otherwise),
            };
            let catches = holds(&of.catch.when, true)
                .and_then(|when| Ok(when && !holds(&of.catch.except_when, false)?));
            match catches {
                Ok(true) => {}
                Ok(false) => return (now, NaiveEnd::Fault(fault)),
                Err(fault) => return (now, NaiveEnd::Fault(fault)),
            }
            let again = match policy {
                Some(policy) if policy.attempts.is_none_or(|most| retries < most) => {
                    let wanted = holds(&policy.when, true)
                        .and_then(|when| Ok(when && !holds(&policy.except_when, false)?));
                    match wanted {
                        Ok(true) => self.delay(policy, retries, place, &inside),
                        Ok(false) => None,
                        Err(fault) => return (now, NaiveEnd::Fault(fault)),
                    }
                    .filter(|delay| {
                        let limit = policy.duration.as_ref();
                        let limit =
                            limit.map(|limit| self.duration(limit, place, around).unwrap_or_default());
                        limit.is_none_or(|limit| now + delay <= place.began + limit)
                    })
                }
                _ => None,
            };
            if let Some(delay) = again {
                now += delay;
                retries += 1;
                continue;
            }
            return match &of.catch.handler {
                Some(handler) => self.list(handler, input.clone(), &inside, now),
                None if policy.is_some() => (now, NaiveEnd::Fault(fault)),
                None => (now, NaiveEnd::Done(input.clone(), Directive::Continue)),
            };
        }
    }

    fn delay(
        &self,
        policy: &RetryPolicy,
        retries: u32,
        place: &TaskPlace,
        around: &Around,
    ) -> Option<Millis> {
        let of = |duration: &Option<DurationValue>| {
            duration.as_ref().map_or(0, |delay| self.duration(delay, place, around).unwrap_or_default())
        };
        let delay = of(&policy.delay);
        Some(match policy.backoff {
            Backoff::Constant => delay,
            Backoff::Linear => delay * u64::from(retries + 1),
            Backoff::Exponential => delay * 2_u64.pow(retries),
        })
    }
}
