//! From stage to stage of a task, and from task to task.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::Value;

use super::activation::{
    Activation, ActivationId, Ask, AskId, Body, ForPhase, ListState, Parent, Purpose, Stage,
};
use super::{Call, EvaluationKind, Order, Run, RunEvent, RunPhase, RunStepKind};
use crate::flow::duration;
use crate::flow::fault::{Fault, FaultKind};
use crate::flow::scope::{Locals, Millis, Scope, TaskScope};
use crate::flow::workflow::{Directive, DurationValue, Task, TaskId, TaskKind, TaskList};

impl Run {
    /// Goes on until something is asked, or nothing more is known.
    pub(super) fn drive(&mut self) {
        while self.state.phase == RunPhase::Running && self.state.asking.is_none() {
            if let Some(id) = self.state.ready.pop_front() {
                self.go(id);
            } else if !self.state.held.is_empty() {
                let (at, event): (Millis, RunEvent) = self.state.held.remove(0);
                self.happen(at, event);
            } else {
                return;
            }
        }
    }

    pub(super) fn activation(&self, id: ActivationId) -> Option<&Activation> {
        self.state.activations.get(&id)
    }

    pub(super) fn activation_mut(&mut self, id: ActivationId) -> Option<&mut Activation> {
        self.state.activations.get_mut(&id)
    }

    /// The task of an activation; `None`: it is the workflow's.
    pub(super) fn task_of(&self, id: ActivationId) -> Option<TaskId> {
        Some(self.activation(id)?.parent.as_ref()?.task)
    }

    pub(super) fn task(&self, id: ActivationId) -> Option<&Task> {
        Some(self.workflow.task(self.task_of(id)?))
    }

    /// Where a fault of an activation comes from.
    fn instance(&self, id: ActivationId) -> Arc<str> {
        self.task(id).map_or_else(|| "/".into(), |task| task.reference.clone())
    }

    /// What is asked at the stage that an activation is at.
    pub(super) fn asked(&self, id: ActivationId) -> Option<EvaluationKind<'_>> {
        let activation = self.activation(id)?;
        let task = self.task(id);
        let (input, output) = match task {
            Some(task) => (&task.input, &task.output),
            None => (&self.workflow.input, &self.workflow.output),
        };
        match activation.stage {
            Stage::Condition => task?.condition.as_ref().map(EvaluationKind::Expression),
            Stage::InputSchema => input.schema.as_ref().map(EvaluationKind::Schema),
            // With secrets in it, it is evaluated with the call's arguments: an activation is kept.
            Stage::InputFrom if task.is_some_and(Task::has_secret_input) => None,
            Stage::InputFrom => input.template.as_ref().map(EvaluationKind::Template),
            Stage::Timeout => match self.timeout(id)? {
                DurationValue::Expression(expression) => Some(EvaluationKind::Expression(expression)),
                DurationValue::Constant(_) => None,
            },
            Stage::Body => self.asked_by_body(id),
            Stage::OutputAs => output.template.as_ref().map(EvaluationKind::Template),
            Stage::OutputSchema => output.schema.as_ref().map(EvaluationKind::Schema),
            Stage::ExportAs => task?.export.template.as_ref().map(EvaluationKind::Template),
            Stage::ExportSchema => task?.export.schema.as_ref().map(EvaluationKind::Schema),
        }
    }

    fn timeout(&self, id: ActivationId) -> Option<&DurationValue> {
        self.task(id).map_or(&self.workflow.timeout, |task| &task.timeout).as_ref()
    }

    fn go(&mut self, id: ActivationId) {
        let most = self.info.most_tasks;
        if id.0 > most {
            let why = format!("the run has begun {most} tasks, which is the most that one may");
            // Nobody catches that: who tried again would go on for ever.
            let fault = Fault { instance: self.instance(id), ..FaultKind::Runtime.fault(why) };
            self.note(id, RunStepKind::Faulted { fault: fault.clone() });
            return self.over(RunPhase::Faulted(fault));
        }
        while let Some(activation) = self.activation(id) {
            if self.asked(id).is_some() {
                self.state.asking = Some(id);
                return;
            }
            match activation.stage {
                Stage::Timeout => {
                    if let Some(&DurationValue::Constant(after)) = self.timeout(id) {
                        self.timer(id, Purpose::Timeout, millis(after));
                    }
                }
                Stage::Body => return self.body(id),
                Stage::ExportSchema => return self.finish(id),
                _ => {}
            }
            self.next_stage(id);
        }
    }

    fn next_stage(&mut self, id: ActivationId) {
        if let Some(activation) = self.activation_mut(id) {
            activation.stage = match activation.stage {
                Stage::Condition => Stage::InputSchema,
                Stage::InputSchema => Stage::InputFrom,
                Stage::InputFrom => Stage::Timeout,
                Stage::Timeout => Stage::Body,
                Stage::Body => Stage::OutputAs,
                Stage::OutputAs => Stage::OutputSchema,
                Stage::OutputSchema => Stage::ExportAs,
                Stage::ExportAs | Stage::ExportSchema => Stage::ExportSchema,
            };
        }
    }

    pub(super) fn answered(&mut self, id: ActivationId, value: Value) {
        let Some(activation) = self.state.activations.get_mut(&id) else { return };
        match activation.stage {
            Stage::Condition if !holds(&value) => return self.skip(id),
            Stage::Condition | Stage::InputSchema | Stage::OutputSchema => {}
            Stage::InputFrom => activation.input = Arc::new(value),
            Stage::Timeout => match duration::read(&value) {
                Ok(after) => {
                    self.timer(id, Purpose::Timeout, millis(after));
                }
                Err(why) => return self.fault(id, FaultKind::Expression.fault(format!("timeout: {why}"))),
            },
            Stage::Body => return self.body_answered(id, value),
            Stage::OutputAs => activation.output = Some(Arc::new(value)),
            Stage::ExportAs => self.state.context = Arc::new(value),
            Stage::ExportSchema => return self.finish(id),
        }
        self.next_stage(id);
        self.go(id);
    }

    /// Begins a task.
    pub(super) fn start(
        &mut self,
        parent: ActivationId,
        task: TaskId,
        raw_input: Arc<Value>,
        locals: Locals,
    ) -> ActivationId {
        let id = ActivationId(self.state.next_activation);
        self.state.next_activation += 1;
        let activation = Activation {
            parent: Some(Parent { activation: parent, task }),
            started: self.state.now,
            raw_input: raw_input.clone(),
            input: raw_input.clone(),
            raw_output: None,
            output: None,
            locals,
            stage: Stage::Condition,
            body: Body::None,
            then: None,
        };
        self.state.activations.insert(id, activation);
        self.state.ready.push_back(id);
        self.note(id, RunStepKind::Began { raw_input });
        id
    }

    fn skip(&mut self, id: ActivationId) {
        self.note(id, RunStepKind::Skipped);
        let Some(activation) = self.remove(id) else { return };
        let Some(parent) = activation.parent else { return };
        self.child_done(parent.activation, id, activation.raw_input, Directive::Continue);
    }

    /// The task itself is done.
    pub(super) fn body_done(&mut self, id: ActivationId, output: Arc<Value>) {
        let Some(activation) = self.activation_mut(id) else { return };
        activation.raw_output = Some(output.clone());
        activation.output = Some(output);
        activation.stage = Stage::OutputAs;
        self.go(id);
    }

    fn finish(&mut self, id: ActivationId) {
        let Some(activation) = self.activation(id) else { return };
        let output = activation.output.clone().unwrap_or_else(|| activation.input.clone());
        if activation.parent.is_none() {
            return self.over(RunPhase::Completed(output));
        }
        self.note(id, RunStepKind::Ended { output: output.clone() });
        let Some(Activation { parent: Some(parent), then, .. }) = self.remove(id) else { return };
        let then = then.unwrap_or(self.workflow.task(parent.task).then);
        self.child_done(parent.activation, id, output, then);
    }

    /// A task is done that this one has begun.
    fn child_done(&mut self, id: ActivationId, child: ActivationId, output: Arc<Value>, then: Directive) {
        if then == Directive::End {
            return self.end(output);
        }
        let Some(activation) = self.activation_mut(id) else { return };
        let Some(list) = activation.list() else {
            return match activation.body {
                Body::Fork(_) => self.branch_done(id, child, output),
                _ => self.body_done(id, output),
            };
        };
        match then {
            Directive::Continue => list.at += 1,
            Directive::To(place) => {
                list.round += u32::from(place <= list.at);
                list.at = place;
            }
            Directive::Exit | Directive::End => list.at = usize::MAX,
        }
        self.list_next(id, output);
    }

    /// The workflow is done, with this as its output.
    fn end(&mut self, output: Arc<Value>) {
        let root = ActivationId(0);
        self.stop_below(root);
        self.state.ready.clear();
        self.body_done(root, output);
    }

    /// Begins the next task of a list, or is done with it.
    pub(super) fn list_next(&mut self, id: ActivationId, value: Arc<Value>) {
        let Some(list) = self.list_of(id) else { return };
        let Some(activation) = self.activation_mut(id) else { return };
        let Some(state) = activation.list() else { return };
        match list.get(state.at) {
            Some(task) => {
                let locals = self.locals(id);
                self.start(id, *task, value, locals);
            }
            None => self.list_done(id, value),
        }
    }

    /// Which list an activation goes through.
    fn list_of(&self, id: ActivationId) -> Option<TaskList> {
        let Some(task) = self.task(id) else { return Some(self.workflow.steps.clone()) };
        match &task.kind {
            TaskKind::Do(list) => Some(list.clone()),
            TaskKind::For(of) => Some(of.body.clone()),
            TaskKind::Try(of) => self.list_of_try(id, of),
            _ => None,
        }
    }

    /// Takes away an activation, and all that it has asked for. What it has begun is not looked for.
    fn remove(&mut self, id: ActivationId) -> Option<Activation> {
        self.forget(|ask| ask.activation == id);
        self.state.activations.remove(&id)
    }

    pub(super) fn forget(&mut self, which: impl Fn(&Ask) -> bool) {
        for (id, _) in self.state.asks.extract_if(.., |_, ask| which(ask)) {
            self.orders.push(Order::Forget(id));
        }
    }

    /// Stops an activation with all that is below it.
    pub(super) fn stop(&mut self, id: ActivationId) -> Option<Activation> {
        self.stop_below(id);
        self.remove(id)
    }

    /// Stops what an activation has begun.
    pub(super) fn stop_below(&mut self, id: ActivationId) {
        // Who is below has the greater number: parents are before what they begin.
        let mut below = BTreeSet::from([id]);
        for (&of, activation) in self.state.activations.range(id..) {
            if activation.parent.as_ref().is_some_and(|parent| below.contains(&parent.activation)) {
                below.insert(of);
            }
        }
        below.remove(&id);
        for of in below.into_iter().rev() {
            self.note(of, RunStepKind::Stopped);
            self.remove(of);
        }
    }

    /// An activation has failed: who has begun it catches that, or fails likewise.
    pub(super) fn fault(&mut self, id: ActivationId, mut fault: Fault) {
        if fault.instance.is_empty() {
            fault.instance = self.instance(id);
        }
        let mut at = id;
        loop {
            self.stop_below(at);
            self.note(at, RunStepKind::Faulted { fault: fault.clone() });
            let Some(activation) = self.remove(at) else { return };
            let Some(parent) = activation.parent else { return self.over(RunPhase::Faulted(fault)) };
            at = parent.activation;
            if self.catches(at) {
                return self.caught(at, fault);
            }
        }
    }

    pub(super) fn timer(&mut self, id: ActivationId, purpose: Purpose, after: Millis) -> AskId {
        let due = self.state.now.saturating_add(after);
        let ask = self.ask(id, purpose, due);
        self.orders.push(Order::Timer { ask, due });
        ask
    }

    pub(super) fn ask(&mut self, activation: ActivationId, purpose: Purpose, due: Millis) -> AskId {
        let ask = AskId(self.state.next_ask);
        self.state.next_ask += 1;
        self.state.asks.insert(ask, Ask { activation, purpose, due });
        ask
    }

    pub(super) fn fired(&mut self, id: ActivationId, purpose: Purpose) {
        match purpose {
            Purpose::Wait => {
                let Some(activation) = self.activation(id) else { return };
                let input = activation.input.clone();
                self.body_done(id, input);
            }
            Purpose::Timeout => self.fault(id, self.out_of_time(id)),
            Purpose::AttemptDuration => {
                self.stop_below(id);
                let why = "the attempt was not done within retry.limit.attempt.duration";
                self.caught(id, Fault { instance: self.instance(id), ..FaultKind::Timeout.fault(why) });
            }
            Purpose::Delay => self.attempt(id),
            Purpose::Call => {}
        }
    }

    /// The call of a task.
    pub(super) fn call(&self, ask: AskId, id: ActivationId) -> Option<Call> {
        let retries = self.state.retries;
        Some(Call { ask, task: self.task_of(id)?, path: self.path(id), retries, scope: self.scope(id)? })
    }

    /// Which activation it is: the task's reference, and behind it what tells it from others of the same task, from the outermost
    /// on: the index in each loop, how often a list has gone back, which task has called the function.
    pub(super) fn path(&self, id: ActivationId) -> Arc<str> {
        let mut around = Vec::new();
        let mut at = id;
        while let Some(parent) = self.activation(at).and_then(|activation| activation.parent.as_ref()) {
            let Some(activation) = self.activation(parent.activation) else { break };
            let round = |list: &ListState| (list.round > 0).then(|| format!("~{}", list.round));
            around.extend(match &activation.body {
                Body::List(list) => round(list),
                Body::Try(state) => round(&state.list),
                Body::For(state) => {
                    Some(format!("[{}]{}", state.index, round(&state.list).unwrap_or_default()))
                }
                Body::Function => self.task(parent.activation).map(|task| format!("@{}", task.reference)),
                _ => None,
            });
            at = parent.activation;
        }
        let mut path = self.task(id).map_or_else(String::new, |task| task.reference.to_string());
        path.extend(around.into_iter().rev());
        path.into()
    }

    /// What expressions of an activation may speak of at its stage.
    pub(super) fn scope(&self, id: ActivationId) -> Option<Scope> {
        let activation = self.activation(id)?;
        let output = || activation.output.clone().unwrap_or_else(|| activation.input.clone());
        let stage = activation.stage;
        let on = match stage {
            Stage::Condition | Stage::InputSchema | Stage::InputFrom => activation.raw_input.clone(),
            Stage::Timeout | Stage::Body => match &activation.body {
                Body::For(state) if state.phase == ForPhase::While => state.value.clone(),
                _ => activation.input.clone(),
            },
            Stage::OutputAs | Stage::OutputSchema | Stage::ExportAs => output(),
            Stage::ExportSchema => self.state.context.clone(),
        };
        let is_task = activation.parent.is_some();
        let task = self.task_of(id).map(|task| TaskScope {
            id: task,
            raw_input: activation.raw_input.clone(),
            raw_output: activation.raw_output.clone(),
            started: activation.started,
        });
        Some(Scope {
            workflow: self.workflow.clone(),
            run: self.info.clone(),
            on,
            context: (is_task || stage > Stage::Body).then(|| self.state.context.clone()),
            input: (is_task && stage >= Stage::Timeout).then(|| activation.input.clone()),
            output: (is_task && stage >= Stage::ExportAs).then(output),
            task,
            locals: if stage == Stage::Body { self.locals(id) } else { activation.locals.clone() },
            now: activation.started,
        })
    }
}

/// Whether a condition's value says yes, as jq has it.
pub(super) fn holds(value: &Value) -> bool {
    !matches!(value, Value::Null | Value::Bool(false))
}

pub(super) fn millis(duration: std::time::Duration) -> Millis {
    Millis::try_from(duration.as_millis()).unwrap_or(Millis::MAX)
}
