//! What the kinds of tasks do.

use std::sync::Arc;

use serde_json::Value;

use super::activation::{ActivationId, Body, Branch, ForPhase, ForState, ListState, Purpose, Stage};
use super::advance::{holds, millis};
use super::{EvaluationKind, Order, Run, RunStepKind};
use crate::flow::duration;
use crate::flow::expression::NESTING;
use crate::flow::fault::{Fault, FaultKind};
use crate::flow::scope::Locals;
use crate::flow::workflow::{Directive, DurationValue, Fork, Loop, TaskId, TaskKind};
use crate::json_bounds::{is_deeper, is_within};

impl Run {
    /// What a task asks, as far as it is.
    pub(super) fn asked_by_body(&self, id: ActivationId) -> Option<EvaluationKind<'_>> {
        let body = &self.activation(id)?.body;
        match (&self.task(id)?.kind, body) {
            (TaskKind::Set(template) | TaskKind::Raise(template), Body::None) => {
                Some(EvaluationKind::Template(template))
            }
            (TaskKind::Wait(DurationValue::Expression(expression)), Body::None) => {
                Some(EvaluationKind::Expression(expression))
            }
            (TaskKind::Function { with: Some(with), .. }, Body::None) => Some(EvaluationKind::Template(with)),
            (TaskKind::Switch(cases), Body::Switch(case)) => {
                Some(EvaluationKind::Expression(cases.get(*case)?.when.as_ref()?))
            }
            (TaskKind::For(of), Body::None) => Some(EvaluationKind::Expression(&of.items)),
            (TaskKind::For(of), Body::For(state)) if state.phase == ForPhase::While => {
                Some(EvaluationKind::Expression(of.condition.as_ref()?))
            }
            (TaskKind::Try(of), Body::Try(state)) => Self::asked_by_try(of, state),
            _ => None,
        }
    }

    /// Does what a task is there for, where nothing is to be asked for that.
    pub(super) fn body(&mut self, id: ActivationId) {
        let workflow = self.workflow.clone();
        let Some(activation) = self.activation_mut(id) else { return };
        let input = activation.input.clone();
        let Some(task) = activation.parent.as_ref().map(|parent| workflow.task(parent.task)) else {
            activation.body = Body::List(ListState::default());
            return self.list_next(id, input);
        };
        match &task.kind {
            TaskKind::Do(_) => {
                activation.body = Body::List(ListState::default());
                self.list_next(id, input);
            }
            TaskKind::Switch(cases) => {
                // The next that is to be asked; then the one that is for all others.
                let at = match activation.body {
                    Body::Switch(case) => case + 1,
                    _ => 0,
                };
                match (at..cases.len()).find(|case| cases[*case].when.is_some()) {
                    Some(next) => {
                        activation.body = Body::Switch(next);
                        self.ask_again(id);
                    }
                    None => {
                        let default = cases.iter().find(|case| case.when.is_none());
                        self.chosen(id, default.map(|case| &case.then));
                    }
                }
            }
            TaskKind::For(of) => self.iterate(id, of),
            TaskKind::Fork(of) => self.fork(id, of, &input),
            TaskKind::Try(_) => self.attempt(id),
            TaskKind::Wait(DurationValue::Constant(after)) => {
                activation.body = Body::Asked;
                self.wait(id, millis(*after), input);
            }
            TaskKind::Call(_) => {
                activation.body = Body::Asked;
                let now = self.state.now;
                let ask = self.ask(id, Purpose::Call, now);
                self.note(id, RunStepKind::Asked { ask, input });
                let call = self.call(ask, id);
                self.orders.extend(call.map(Order::Call));
            }
            TaskKind::Function { task, .. } => self.function(id, *task, input),
            // They ask first.
            TaskKind::Set(_) | TaskKind::Raise(_) | TaskKind::Wait(DurationValue::Expression(_)) => {}
        }
    }

    /// Takes the answer to [`Run::asked_by_body`].
    pub(super) fn body_answered(&mut self, id: ActivationId, value: Value) {
        let workflow = self.workflow.clone();
        let Some(activation) = self.activation_mut(id) else { return };
        let Some(parent) = &activation.parent else { return };
        let task = workflow.task(parent.task);
        match (&task.kind, &mut activation.body) {
            (TaskKind::Set(_), _) => self.body_done(id, Arc::new(value)),
            (TaskKind::Raise(_), _) => {
                let raised = Fault::raised(&value, &task.reference);
                self.fault(id, raised.unwrap_or_else(|why| FaultKind::Expression.fault(why)));
            }
            (TaskKind::Wait(_), _) => match duration::read(&value) {
                Ok(after) => {
                    activation.body = Body::Asked;
                    let input = activation.input.clone();
                    self.wait(id, millis(after), input);
                }
                Err(why) => self.fault(id, FaultKind::Expression.fault(format!("wait: {why}"))),
            },
            (TaskKind::Function { task, .. }, _) => self.function(id, *task, Arc::new(value)),
            (TaskKind::Switch(cases), Body::Switch(case)) => {
                let case = *case;
                if holds(&value) {
                    self.chosen(id, cases.get(case).map(|case| &case.then));
                } else {
                    self.body(id);
                }
            }
            (TaskKind::For(of), Body::For(_)) if !holds(&value) => self.loop_done(id),
            (TaskKind::For(_), Body::For(_)) => self.turn(id),
            (TaskKind::For(of), _) => {
                if !value.is_array() {
                    let why = format!("for.in is {}, not an array", shortly(&value));
                    return self.fault(id, FaultKind::Expression.fault(why));
                }
                let state = ForState {
                    phase: ForPhase::Body,
                    items: Arc::new(value),
                    index: 0,
                    value: activation.input.clone(),
                    list: ListState::default(),
                };
                activation.body = Body::For(Box::new(state));
                self.iterate(id, of);
            }
            (TaskKind::Try(of), Body::Try(_)) => self.try_answered(id, of, value),
            _ => {}
        }
    }

    /// Goes on with what the task asks now.
    pub(super) fn ask_again(&mut self, id: ActivationId) {
        self.state.ready.push_front(id);
    }

    /// A `switch` passes its input on; no case: as the task says.
    fn chosen(&mut self, id: ActivationId, then: Option<&Directive>) {
        let Some(activation) = self.activation_mut(id) else { return };
        activation.then = then.copied();
        let input = activation.input.clone();
        self.body_done(id, input);
    }

    fn wait(&mut self, id: ActivationId, after: u64, input: Arc<Value>) {
        let ask = self.timer(id, Purpose::Wait, after);
        self.note(id, RunStepKind::Asked { ask, input });
    }

    fn function(&mut self, id: ActivationId, task: TaskId, input: Arc<Value>) {
        let Some(activation) = self.activation_mut(id) else { return };
        activation.body = Body::Function;
        // The variables of who calls are none of its own.
        self.start(id, task, input, Locals::default());
    }

    /// Begins the next turn of a loop, if there is one: first its condition is asked for.
    fn iterate(&mut self, id: ActivationId, of: &Loop) {
        let Some(Body::For(state)) = self.activation_mut(id).map(|activation| &mut activation.body) else {
            return;
        };
        let count = state.items.as_array().map_or(0, Vec::len);
        if state.index >= count {
            return self.loop_done(id);
        }
        if of.condition.is_none() {
            return self.turn(id);
        }
        state.phase = ForPhase::While;
        self.ask_again(id);
    }

    fn turn(&mut self, id: ActivationId) {
        let Some(Body::For(state)) = self.activation_mut(id).map(|activation| &mut activation.body) else {
            return;
        };
        state.phase = ForPhase::Body;
        state.list = ListState::default();
        let value = state.value.clone();
        self.list_next(id, value);
    }

    fn loop_done(&mut self, id: ActivationId) {
        let Some(Body::For(state)) = self.activation_mut(id).map(|activation| &mut activation.body) else {
            return;
        };
        let value = state.value.clone();
        self.body_done(id, value);
    }

    /// All tasks of a list are done.
    pub(super) fn list_done(&mut self, id: ActivationId, value: Arc<Value>) {
        let workflow = self.workflow.clone();
        let Some(activation) = self.activation_mut(id) else { return };
        let kind = activation.parent.as_ref().map(|parent| &workflow.task(parent.task).kind);
        match (kind, &mut activation.body) {
            (Some(TaskKind::For(_)), Body::For(state)) => {
                state.value = value;
                state.index += 1;
                state.phase = ForPhase::Next;
                // Not from here: turns without tasks would lie on the stack, one upon the other.
                self.ask_again(id);
            }
            _ => self.body_done(id, value),
        }
    }

    fn fork(&mut self, id: ActivationId, of: &Fork, input: &Arc<Value>) {
        let locals = self.locals(id);
        if of.branches.is_empty() {
            return self.body_done(id, Arc::new(Value::Array(Vec::new())));
        }
        let branch = |task: &_| Branch::Running(self.start(id, *task, input.clone(), locals.clone()));
        let branches = of.branches.iter().map(branch).collect();
        if let Some(activation) = self.activation_mut(id) {
            activation.body = Body::Fork(branches);
        }
    }

    pub(super) fn branch_done(&mut self, id: ActivationId, child: ActivationId, output: Arc<Value>) {
        let workflow = self.workflow.clone();
        let most_bytes = self.info.most_bytes;
        let Some(activation) = self.activation_mut(id) else { return };
        let Some(TaskKind::Fork(of)) =
            activation.parent.as_ref().map(|parent| &workflow.task(parent.task).kind)
        else {
            return;
        };
        if of.compete {
            self.stop_below(id);
            return self.body_done(id, output);
        }
        let Body::Fork(branches) = &mut activation.body else { return };
        if let Some(branch) = branches.iter_mut().find(|branch| **branch == Branch::Running(child)) {
            *branch = Branch::Done(output);
        }
        let outputs = branches.iter().map(|branch| match branch {
            Branch::Done(output) => Some(output),
            Branch::Running(_) => None,
        });
        let Some(outputs) = outputs.collect::<Option<Vec<_>>>() else { return };
        let output = Value::Array(outputs.into_iter().map(|output| Value::clone(output)).collect());
        let over = match () {
            () if !is_within(&output, most_bytes) => format!("{most_bytes} bytes of JSON"),
            () if is_deeper(&output, NESTING) => format!("{NESTING} arrays and objects within one another"),
            () => return self.body_done(id, Arc::new(output)),
        };
        self.fault(
            id,
            FaultKind::Runtime.fault(format!("what the branches have made together is over {over}")),
        );
    }

    /// The variables of what a task begins, and of what it asks meanwhile.
    pub(super) fn locals(&self, id: ActivationId) -> Locals {
        let Some(activation) = self.activation(id) else { return Locals::default() };
        let outer = &activation.locals;
        match (self.task(id).map(|task| &task.kind), &activation.body) {
            (Some(TaskKind::For(of)), Body::For(state)) if activation.stage == Stage::Body => {
                let item = state.items.get(state.index).cloned().unwrap_or_default();
                outer.with(&of.at, Arc::new(state.index.into())).with(&of.each, Arc::new(item))
            }
            (Some(TaskKind::Try(of)), Body::Try(state)) => match &state.caught {
                Some(fault) => outer.with(&of.catch.variable, Arc::new(fault.value())),
                None => outer.clone(),
            },
            _ => outer.clone(),
        }
    }
}

/// A value as an error may show it.
fn shortly(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(_) => "a boolean".to_owned(),
        Value::Number(_) => "a number".to_owned(),
        Value::String(_) => "a text".to_owned(),
        Value::Array(_) => "an array".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    }
}
