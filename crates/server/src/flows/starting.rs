//! Begins runs.

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use serde_json::Value;
use tokio::time::Instant;
use tulle_model::flow::expression::NESTING;
use tulle_model::flow::scope::RunInfo;
use tulle_model::json_bounds::{is_deeper, is_within};
use tulle_model::name::NamespacedName;

use super::board::{MOST_QUEUED, Refusal, Taker};
use super::changes::RunChange;
use super::dispatcher::Flows;
use super::known::KnownFlow;
use super::now_millis;
use super::{FlowsError, Given, RunHeader, RunName, Start, Started, id};
use crate::ca::seal::hex;

/// How many runs may stand behind one, each started by the one before: without an end they would take the places of all others.
const MOST_DEPTH: u32 = 16;
/// In how many Flows a run is looked for that starts another one.
const MOST_PARENTS: usize = 64;
/// How long a name may be that a caller gives a run.
const LONGEST_GIVEN: usize = 255;

/// What a run is begun with.
#[derive(Debug, Clone)]
pub struct NewStart {
    pub flow: NamespacedName,
    /// The SPIFFE ID of who starts it, or a user's name; empty: somebody outside of the mesh.
    pub caller: Arc<str>,
    pub input: Value,
    /// The name that the caller gives it.
    pub given: Option<String>,
}

/// What became of it.
#[derive(Debug, Clone)]
pub enum Begun {
    /// Whoever was to carry it out itself has it.
    New {
        header: RunHeader,
        info: RunInfo,
        flow: Arc<KnownFlow>,
    },
    /// Somebody else has it.
    Elsewhere(RunHeader),
    Queued(RunHeader),
    Before(RunName),
    Otherwise(RunName),
}

impl Flows {
    /// Begins a run, for whoever has room; `runner`, a node that has asked for it, where that has.
    pub async fn start_run(&self, new: NewStart, runner: Option<&str>) -> Result<Begun, FlowsError> {
        let NewStart { flow: name, caller, input, given } = new;
        let bounds = self.book.bounds;
        let flow = self.known.get(&name).ok_or_else(|| FlowsError::NoFlow(name.clone()))?;
        if is_deeper(&input, NESTING) || !is_within(&input, bounds.document) {
            let most = format!("it has at most {} KiB, and {NESTING} levels", bounds.document >> 10);
            return Err(FlowsError::Invalid(format!("the input of the Flow {name} is too large: {most}")));
        }
        let given = given.map(|given| named(given, &input)).transpose()?;
        let started = now_millis();
        let run = RunName { namespace: name.namespace, flow: name.name, run: id::new(started) };
        // Whoever asks again is told the same, however many there are.
        if let Some(given) = &given
            && let Some(before) = self.book.started_before(&run, &caller, given).await?
        {
            return Ok(known_before(before));
        }
        let depth = self.depth(&run, &caller, given.as_ref()).await?;
        if depth > MOST_DEPTH {
            return Err(FlowsError::TooDeep(format!(
                "the Flow {} is called by a run that a run has started, and so on for {MOST_DEPTH} times, which is the \
                 most: does it call itself?",
                run.of_flow()
            )));
        }
        let admitted = self.board.lock().admit(&run, &flow, runner, Instant::now(), self.lease);
        let taker = admitted.map_err(|refusal| refused(&flow, refusal))?;
        let info = RunInfo {
            id: run.run.clone(),
            input: input.into(),
            started,
            seed: rand::random(),
            most_tasks: bounds.tasks,
            most_bytes: bounds.document,
        };
        let start = Start {
            name: run.clone(),
            info: info.clone(),
            caller,
            runner: taker.as_ref().map(Taker::name),
            workflow: flow.workflow.clone(),
            uid: flow.uid.as_str().into(),
            account: flow.account.clone(),
            depth,
            given,
        };
        let begun = self.book.start(start).await;
        if let (Err(FlowsError::Store(_)), Some(taker)) = (&begun, &taker) {
            // It may be in the store all the same: whoever looks after orphans finds out.
            let mut board = self.board.lock();
            board.set_unsure(&run);
            board.orphan(run, flow.account.clone(), 0, taker);
            drop(board);
            self.look.notify_one();
            return begun.map(known_before);
        }
        let Ok(Started::New(header)) = begun else {
            self.not_begun(&run, taker.is_some());
            return begun.map(known_before);
        };
        self.changes.tell(RunChange::Began(header.clone()));
        let Some(taker) = taker else {
            self.look.notify_one();
            return Ok(Begun::Queued(header));
        };
        let is_own = runner == Some(&*taker.node);
        let mut board = self.board.lock();
        board.tally(&flow.name).started += 1;
        let is_his = match is_own {
            true => board.begun(&run, &taker, header.lease),
            false => board.hand_over(&taker, &header),
        };
        if !is_his {
            // He was given up before it was written.
            board.orphan_of(&header);
            self.look.notify_one();
        }
        drop(board);
        Ok(if is_own { Begun::New { header, info, flow } } else { Begun::Elsewhere(header) })
    }

    /// How many runs stand behind one that is to begin. What a run calls has a name that begins with the run's, unless its author has
    /// chosen another one, which is no defence against those who want to do harm: it is to stop who has erred.
    async fn depth(&self, new: &RunName, caller: &str, given: Option<&Given>) -> Result<u32, FlowsError> {
        let parent = given.and_then(|given| id::leading(&given.name)).zip(account_of(caller));
        let Some((run, (namespace, account))) = parent else { return Ok(0) };
        let mut flows = self.known.of_account(namespace, account);
        // Most likely it calls itself. No request is to cost more than some reads.
        flows.sort_by_key(|flow| *flow != new.of_flow());
        for NamespacedName { namespace, name } in flows.into_iter().take(MOST_PARENTS) {
            let parent = RunName { namespace, flow: name, run: run.into() };
            match self.book.header(&parent).await {
                Ok(header) => return Ok(header.depth + 1),
                Err(FlowsError::NotFound(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(0)
    }

    fn not_begun(&self, run: &RunName, had_taker: bool) {
        let mut board = self.board.lock();
        board.drop_run(run);
        let tally = board.tally(&run.of_flow());
        if had_taker {
            tally.open = tally.open.saturating_sub(1);
        } else {
            tally.queued = tally.queued.saturating_sub(1);
        }
        drop(board);
        self.has_room();
    }
}

/// The namespace and the service account of a workload, by its SPIFFE ID (`spiffe://TRUST DOMAIN/ns/NAMESPACE/sa/ACCOUNT`).
fn account_of(caller: &str) -> Option<(&str, &str)> {
    let (_, path) = caller.strip_prefix("spiffe://")?.split_once("/ns/")?;
    path.split_once("/sa/")
}

/// A name that a caller gives, and what tells whether it is for the same.
fn named(name: String, input: &Value) -> Result<Given, FlowsError> {
    if name.is_empty() || name.len() > LONGEST_GIVEN || name.chars().any(char::is_control) {
        let expected = format!("1 to {LONGEST_GIVEN} printable characters are expected");
        return Err(FlowsError::Invalid(format!("the name that the caller gives the run: {expected}")));
    }
    let body = hex(digest(&SHA256, input.to_string().as_bytes()).as_ref());
    Ok(Given { name: name.into(), body: body.into() })
}

fn known_before(started: Started) -> Begun {
    match started {
        Started::Before(run) => Begun::Before(run),
        Started::Otherwise(run) => Begun::Otherwise(run),
        Started::New(header) => Begun::Elsewhere(header),
    }
}

fn refused(flow: &KnownFlow, refusal: Refusal) -> FlowsError {
    let name = &flow.name;
    match refusal {
        Refusal::Limit(limit) => at_limit(name, limit),
        Refusal::Queue(limit) => FlowsError::TooMany(format!(
            "the Flow {name} has {limit} runs that go on, as many as `spec.concurrency.limit` allows, and {MOST_QUEUED} wait for their turn"
        )),
        Refusal::Full => no_room(&name.namespace),
        Refusal::Nobody => no_runner(&name.namespace),
    }
}

pub(super) fn at_limit(flow: &NamespacedName, limit: u32) -> FlowsError {
    FlowsError::TooMany(format!(
        "the Flow {flow} has {limit} runs that go on, as many as `spec.concurrency.limit` allows"
    ))
}

pub(super) fn no_room(namespace: &str) -> FlowsError {
    FlowsError::TooMany(format!(
        "all nodes that run Flows of the namespace {namespace} have as many runs as they take; `tulle node` on another host takes more"
    ))
}

pub(super) fn no_runner(namespace: &str) -> FlowsError {
    FlowsError::NoRunner(format!(
        "no node runs Flows of the namespace {namespace}: start one with a token of `tulle token create --flows {namespace}`"
    ))
}
