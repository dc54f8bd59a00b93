//! Evaluates any expression: simple ones at once, others in processes of their own, of which there are a few. These are started when
//! they are first needed, and stay.
//!
//! An expression may compute for a time that its process is charged for, and not for one on the wall: on a busy machine it takes
//! longer, and is as good as before. Where that takes longer than anybody can wait for, nothing is said of the expression
//! ([`EvaluationError::is_transient`]). Time begins when the process is up and has been asked.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::Value;
use tulle_model::flow::expression::{
    EvaluationError, EvaluationReason, Expression, Given, Template, TemplateValues,
};
use tulle_model::name::NamespacedName;

use crate::checker::LONGEST_VERDICT;
use crate::pool::{Child, Returned};
use crate::request;
use crate::turns::{Asker, Turns, WaitingBounds};

/// The command of `tulle` that evaluates expressions ([`crate::serving::serve`]), for nobody to type.
pub const COMMAND: &str = "flow-evaluator";

/// How processes are started, and what they may take.
#[derive(Debug, Clone)]
pub struct Evaluators {
    pub program: PathBuf,
    pub arguments: Vec<OsString>,
    /// How many there are at most; each is one thread's work.
    pub processes: usize,
    /// How many evaluations of one Flow may wait for one of them.
    pub waiting: usize,
    /// How many of all Flows; one of each may wait whatever others do.
    pub waiting_of_all: usize,
    /// For how long an expression may compute.
    pub time: Duration,
    /// How long an evaluation may take altogether, on a machine that has other things to do.
    pub patience: Duration,
    /// The memory that a process may have of its own, in bytes; that its stack and allocator begin with is within it.
    pub memory: usize,
}

impl Default for Evaluators {
    fn default() -> Self {
        Self {
            // Whatever became of the file that this process was started from.
            program: "/proc/self/exe".into(),
            arguments: vec![COMMAND.into()],
            processes: 2,
            waiting: 1000,
            waiting_of_all: 4000,
            time: Duration::from_millis(200),
            patience: Duration::from_secs(10),
            memory: 128 << 20,
        }
    }
}

/// Evaluates expressions; clones share its processes, for which the Flows that ask take turns.
#[derive(Clone)]
pub struct Evaluator {
    shared: Arc<Shared>,
    asker: Asker,
}

struct Shared {
    evaluators: Evaluators,
    turns: Turns,
    /// Processes that can be asked.
    idle: Mutex<Vec<Child>>,
}

impl Evaluator {
    pub fn new(evaluators: Evaluators) -> Self {
        let bounds = WaitingBounds { of_each: evaluators.waiting, of_all: evaluators.waiting_of_all };
        let turns = Turns::new(evaluators.processes.max(1), bounds);
        Self { shared: Arc::new(Shared { turns, idle: Mutex::default(), evaluators }), asker: None }
    }

    /// The same one, asked for a Flow: what waits waits among what is that Flow's.
    #[must_use]
    pub fn of(&self, flow: NamespacedName) -> Self {
        Self { shared: self.shared.clone(), asker: Some(flow) }
    }

    /// What an expression gives. To be called within a runtime of tokio.
    ///
    /// # Errors
    /// Why it gave nothing.
    pub async fn evaluate(
        &self,
        expression: &Expression,
        given: Given<'_>,
    ) -> Result<Value, EvaluationError> {
        match expression.evaluate_simple(given) {
            Some(outcome) => outcome,
            None => self.ask(expression, given).await,
        }
    }

    /// What a template becomes by what its expressions give.
    ///
    /// # Errors
    /// Why one of its expressions gave nothing, or the whole is too large.
    pub async fn evaluate_template(
        &self,
        template: &Template,
        given: Given<'_>,
    ) -> Result<Value, EvaluationError> {
        if let Some(value) = template.constant() {
            return Ok(value.clone());
        }
        let mut values = TemplateValues::new(given.largest);
        for expression in template.expressions() {
            values.push(expression, self.evaluate(expression, given).await?)?;
        }
        template.whole(values)
    }

    /// Has a process evaluate it, simple or not.
    async fn ask(&self, expression: &Expression, given: Given<'_>) -> Result<Value, EvaluationError> {
        let answer = self.exchange(|| request::encode(expression, given), given.largest).await;
        answer.map_err(|reason| EvaluationError::new(expression, reason))
    }

    /// Whether a value is as a JSON Schema says, as [`crate::checker`] answers it.
    pub(crate) async fn check(&self, schema: &Value, value: &Value) -> Result<Value, EvaluationReason> {
        self.exchange(|| request::encode_check(schema, value), LONGEST_VERDICT).await
    }

    /// Has a process answer, with a value of no more bytes than that. What waits for its turn has no copy of what it is about.
    async fn exchange(
        &self,
        encode: impl FnOnce() -> Result<Vec<u8>, EvaluationReason>,
        largest: usize,
    ) -> Result<Value, EvaluationReason> {
        let Shared { evaluators, turns, idle } = &*self.shared;
        let _turn = turns.next(&self.asker).await.map_err(EvaluationReason::Busy)?;
        let frame = encode()?;
        let kept = std::iter::from_fn(|| idle.lock().pop()).find_map(Child::if_alive);
        let child = match kept {
            Some(child) => child,
            None => Child::start(evaluators).await?,
        };
        let Returned { value, child } = child.ask(&frame, largest, evaluators).await;
        idle.lock().extend(child);
        value
    }

    /// How many evaluations are under way in processes, and wait for one.
    pub fn busy(&self) -> usize {
        self.shared.turns.busy()
    }

    /// The processes that wait for something to do, by their numbers: for measurements.
    pub fn idle(&self) -> Vec<u32> {
        self.shared.idle.lock().iter().filter_map(Child::id).collect()
    }
}
