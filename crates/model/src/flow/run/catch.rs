//! `try`: what is caught, when it is tried again, and what is done instead.
//!
//! An error that is caught is tried again as long as the policy allows; then `catch.do` is run, or, where there is none, the
//! task fails with the error after all. Without a policy and without `catch.do` the task is done with its input.

use serde_json::Value;

use super::activation::{ActivationId, Body, ListState, Purpose, RetryDurations, TryPhase, TryState};
use super::advance::{holds, millis};
use super::{EvaluationKind, Run, RunStepKind};
use crate::flow::duration;
use crate::flow::fault::{Fault, FaultKind};
use crate::flow::scope::Millis;
use crate::flow::workflow::{Backoff, DurationValue, RetryPolicy, TaskKind, TaskList, Try};
use crate::fnv::fnv1a;

/// The duration of a policy that a phase is for, and its field.
fn duration_of(phase: TryPhase, policy: &RetryPolicy) -> Option<(&DurationValue, &'static str)> {
    match phase {
        TryPhase::AttemptDuration => {
            Some((policy.attempt_duration.as_ref()?, "retry.limit.attempt.duration"))
        }
        TryPhase::Duration => Some((policy.duration.as_ref()?, "retry.limit.duration")),
        TryPhase::Delay => Some((policy.delay.as_ref()?, "retry.delay")),
        TryPhase::JitterFrom => Some((&policy.jitter.as_ref()?[0], "retry.jitter.from")),
        TryPhase::JitterTo => Some((&policy.jitter.as_ref()?[1], "retry.jitter.to")),
        _ => None,
    }
}

impl Run {
    fn try_state(&mut self, id: ActivationId) -> Option<&mut TryState> {
        match &mut self.activation_mut(id)?.body {
            Body::Try(state) => Some(state),
            _ => None,
        }
    }

    /// Whether what fails below an activation is for it to catch.
    pub(super) fn catches(&self, id: ActivationId) -> bool {
        let body = self.activation(id).map(|activation| &activation.body);
        matches!(body, Some(Body::Try(state)) if state.phase == TryPhase::Body)
    }

    pub(super) fn list_of_try(&self, id: ActivationId, of: &Try) -> Option<TaskList> {
        match &self.activation(id)?.body {
            Body::Try(state) if state.phase == TryPhase::Handler => of.catch.handler.clone(),
            _ => Some(of.body.clone()),
        }
    }

    pub(super) fn asked_by_try<'w>(of: &'w Try, state: &TryState) -> Option<EvaluationKind<'w>> {
        let policy = of.catch.retry.as_deref();
        let expression = match state.phase {
            TryPhase::When => of.catch.when.as_ref(),
            TryPhase::ExceptWhen => of.catch.except_when.as_ref(),
            TryPhase::RetryWhen => policy?.when.as_ref(),
            TryPhase::RetryExceptWhen => policy?.except_when.as_ref(),
            phase => match duration_of(phase, policy?)?.0 {
                DurationValue::Expression(expression) => Some(expression),
                DurationValue::Constant(_) => None,
            },
        };
        expression.map(EvaluationKind::Expression)
    }

    /// Begins an attempt.
    pub(super) fn attempt(&mut self, id: ActivationId) {
        let now = self.state.now;
        let Some(activation) = self.activation_mut(id) else { return };
        match &mut activation.body {
            Body::Try(state) => {
                state.phase = TryPhase::AttemptDuration;
                state.list = ListState::default();
                state.caught = None;
            }
            body => {
                *body = Body::Try(Box::new(TryState {
                    phase: TryPhase::AttemptDuration,
                    retries: 0,
                    began: now,
                    list: ListState::default(),
                    caught: None,
                    durations: RetryDurations::default(),
                }));
            }
        }
        self.try_on(id);
    }

    /// An error has come out of the attempt.
    pub(super) fn caught(&mut self, id: ActivationId, fault: Fault) {
        self.forget(|ask| ask.activation == id && ask.purpose == Purpose::AttemptDuration);
        let workflow = self.workflow.clone();
        let Some(TaskKind::Try(of)) = self.task_of(id).map(|task| &workflow.task(task).kind) else { return };
        if !of.catch.errors.matches(&fault) {
            return self.fault(id, fault);
        }
        let Some(state) = self.try_state(id) else { return };
        state.caught = Some(fault);
        state.phase = TryPhase::When;
        self.try_on(id);
    }

    /// Goes on from a phase: to the next that asks something, or that waits.
    fn try_on(&mut self, id: ActivationId) {
        let workflow = self.workflow.clone();
        let Some(TaskKind::Try(of)) = self.task_of(id).map(|task| &workflow.task(task).kind) else { return };
        let policy = of.catch.retry.as_deref();
        while let Some(state) = self.try_state(id) {
            if Self::asked_by_try(of, state).is_some() {
                return self.ask_again(id);
            }
            let phase = state.phase;
            if let Some((DurationValue::Constant(duration), _)) =
                policy.and_then(|policy| duration_of(phase, policy))
            {
                self.keep(id, phase, millis(*duration));
            }
            if !self.pass(id, of) {
                return;
            }
        }
    }

    pub(super) fn try_answered(&mut self, id: ActivationId, of: &Try, value: Value) {
        let Some(phase) = self.try_state(id).map(|state| state.phase) else { return };
        match phase {
            TryPhase::When | TryPhase::ExceptWhen => {
                if holds(&value) != (phase == TryPhase::When) {
                    return self.let_through(id);
                }
            }
            TryPhase::RetryWhen | TryPhase::RetryExceptWhen => {
                if holds(&value) != (phase == TryPhase::RetryWhen) {
                    return self.handle(id, of);
                }
            }
            _ => {
                let policy = of.catch.retry.as_deref();
                let Some((_, field)) = policy.and_then(|policy| duration_of(phase, policy)) else { return };
                match duration::read(&value) {
                    Ok(duration) => self.keep(id, phase, millis(duration)),
                    Err(why) => {
                        return self.fault(id, FaultKind::Expression.fault(format!("{field}: {why}")));
                    }
                }
            }
        }
        if self.pass(id, of) {
            self.try_on(id);
        }
    }

    /// Takes what a policy's duration has come to.
    fn keep(&mut self, id: ActivationId, phase: TryPhase, duration: Millis) {
        let Some(state) = self.try_state(id) else { return };
        match phase {
            TryPhase::AttemptDuration => {
                self.timer(id, Purpose::AttemptDuration, duration);
            }
            TryPhase::Duration => state.durations.limit = Some(duration),
            TryPhase::Delay => state.durations.delay = duration,
            TryPhase::JitterFrom => state.durations.jitter_from = duration,
            TryPhase::JitterTo => state.durations.jitter_to = duration,
            _ => {}
        }
    }

    /// Leaves a phase in which nothing is asked any more; whether there is another one that may ask something.
    fn pass(&mut self, id: ActivationId, of: &Try) -> bool {
        let Some(state) = self.try_state(id) else { return false };
        state.phase = match state.phase {
            TryPhase::AttemptDuration => {
                state.phase = TryPhase::Body;
                self.try_body(id);
                return false;
            }
            TryPhase::When => TryPhase::ExceptWhen,
            TryPhase::ExceptWhen => match of.catch.retry.as_deref() {
                Some(policy) if policy.attempts.is_none_or(|most| state.retries < most) => {
                    TryPhase::RetryWhen
                }
                _ => {
                    self.handle(id, of);
                    return false;
                }
            },
            TryPhase::RetryWhen => TryPhase::RetryExceptWhen,
            TryPhase::RetryExceptWhen => TryPhase::Duration,
            TryPhase::Duration => TryPhase::Delay,
            TryPhase::Delay => TryPhase::JitterFrom,
            TryPhase::JitterFrom => TryPhase::JitterTo,
            TryPhase::JitterTo => TryPhase::Delayed,
            TryPhase::Delayed => {
                self.delay(id, of);
                return false;
            }
            TryPhase::Body | TryPhase::Handler => return false,
        };
        true
    }

    fn try_body(&mut self, id: ActivationId) {
        let Some(activation) = self.activation(id) else { return };
        let input = activation.input.clone();
        self.list_next(id, input);
    }

    /// Waits for the next attempt, if there is time for it.
    fn delay(&mut self, id: ActivationId, of: &Try) {
        let now = self.state.now;
        let seed = self.info.seed ^ (u64::from(id.0) << 32);
        let Some(policy) = of.catch.retry.as_deref() else { return };
        let Some(state) = self.try_state(id) else { return };
        let RetryDurations { limit, delay, jitter_from, jitter_to } = state.durations;
        let jitter = between(jitter_from, jitter_to, seed.wrapping_add(state.retries.into()));
        let delay = grown(delay, policy.backoff, state.retries).saturating_add(jitter);
        let due = now.saturating_add(delay);
        if limit.is_some_and(|limit| due > state.began.saturating_add(limit)) {
            return self.handle(id, of);
        }
        state.retries += 1;
        let fault = state.caught.clone();
        if let Some(fault) = fault {
            self.note(id, RunStepKind::Retrying { fault, due });
        }
        if due == now {
            self.attempt(id);
        } else {
            self.timer(id, Purpose::Delay, due - now);
        }
    }

    /// It is not tried again.
    fn handle(&mut self, id: ActivationId, of: &Try) {
        let Some(state) = self.try_state(id) else { return };
        if of.catch.handler.is_none() && of.catch.retry.is_some() {
            return self.let_through(id);
        }
        state.phase = TryPhase::Handler;
        state.list = ListState::default();
        let fault = state.caught.clone();
        if let Some(fault) = fault {
            self.note(id, RunStepKind::Caught { fault });
        }
        let Some(activation) = self.activation(id) else { return };
        let input = activation.input.clone();
        if of.catch.handler.is_some() { self.list_next(id, input) } else { self.body_done(id, input) }
    }

    fn let_through(&mut self, id: ActivationId) {
        let Some(fault) = self.try_state(id).and_then(|state| state.caught.clone()) else { return };
        self.fault(id, fault);
    }
}

/// The delay before another attempt, when there were `retries` of them.
fn grown(delay: Millis, backoff: Backoff, retries: u32) -> Millis {
    match backoff {
        Backoff::Constant => delay,
        Backoff::Linear => delay.saturating_mul(u64::from(retries) + 1),
        Backoff::Exponential => delay.saturating_mul(1_u64.checked_shl(retries).unwrap_or(u64::MAX)),
    }
}

/// A number from `from` to `to`, of which `seed` decides.
fn between(from: Millis, to: Millis, seed: u64) -> Millis {
    let range = to.saturating_sub(from).saturating_add(1);
    from.saturating_add(fnv1a([seed.to_le_bytes().as_slice()]) % range)
}
