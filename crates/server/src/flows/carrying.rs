//! What runners do with the runs that they have.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tulle_model::flow::history::Outcome;
use tulle_model::rbac::{AUTHENTICATED, ApiAction, Asker, ResourceAction};
use tulle_model::registry::KindId;

use super::changes::RunChange;
use super::dispatcher::{Counted, Flows};
use super::{Append, Appended, FlowsError, HistoryPart, Loaded, RunHeader, RunName, RunState};

/// Secrets by their names and keys, and why others are not among them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RunSecrets {
    pub secrets: BTreeMap<String, BTreeMap<String, String>>,
    pub refused: BTreeMap<String, String>,
}

impl Flows {
    fn require_lease(&self, run: &RunName, node: &str, lease: u64) -> Result<(), FlowsError> {
        let mut board = self.board.lock();
        match board.has(run, node, lease) {
            true => {
                board.hear_of(run);
                Ok(())
            }
            false => Err(FlowsError::Lost(run.clone())),
        }
    }

    /// What a runner needs to carry on a run, with the first part of its history.
    pub async fn load(&self, run: &RunName, node: &str, lease: u64) -> Result<Loaded, FlowsError> {
        self.require_lease(run, node, lease)?;
        let loaded = self.book.load(run, true).await?;
        match loaded.header.lease == lease {
            true => Ok(loaded),
            false => Err(FlowsError::Lost(run.clone())),
        }
    }

    /// Another part of the history of a run that a node has.
    pub async fn history(
        &self,
        run: &RunName,
        node: &str,
        lease: u64,
        first: u32,
    ) -> Result<HistoryPart, FlowsError> {
        self.require_lease(run, node, lease)?;
        self.book.history(run, first).await
    }

    /// Adds to a run's history.
    pub async fn append(&self, run: &RunName, node: &str, append: Append) -> Result<(), FlowsError> {
        let lease = append.lease;
        self.require_lease(run, node, lease)?;
        let Appended { header, is_new } = match self.book.append(run, &append).await {
            Err(lost @ FlowsError::Lost(_)) => {
                self.board_is_behind(run, lease).await?;
                return Err(lost);
            }
            appended => appended?,
        };
        if header.state == RunState::Active && header.lease == lease {
            self.board.lock().shown(run, &append.entries);
            return Ok(());
        }
        {
            let mut board = self.board.lock();
            if !board.release(run, lease) && header.state.is_over() {
                // Somebody may be about to take one up that was an orphan, and finds it over.
                board.release(run, 0);
            }
        }
        if !is_new {
            return Ok(());
        }
        if header.state.is_over() {
            self.ended(&header, Counted::Open);
            return Ok(());
        }
        self.changes.tell(RunChange::Now(header.clone()));
        if let RunState::Waiting { until } = header.state {
            self.waits_until(until);
        }
        if header.state == RunState::Active {
            // What its runner did not hear in time is told to the next.
            self.board.lock().orphan_of(&header);
        }
        self.has_room();
        Ok(())
    }

    /// A node has a lease here that the store does not have: somebody may have ended the run before the lease was told.
    async fn board_is_behind(&self, run: &RunName, lease: u64) -> Result<(), FlowsError> {
        let is_over = match self.book.header(run).await {
            Ok(header) => header.state.is_over(),
            Err(FlowsError::NotFound(_)) => true,
            Err(error) => return Err(error),
        };
        if is_over {
            self.board.lock().release(run, lease);
        }
        Ok(())
    }

    /// What came of a run, and its state: at the end, or after a time.
    pub async fn outcome(
        &self,
        run: &RunName,
        wait: Duration,
        may_see: impl Fn(&RunHeader) -> bool,
    ) -> Result<(RunHeader, Option<Outcome>), FlowsError> {
        let waiter = self.ends.wait(run);
        let end = waiter.as_ref().map(|waiter| waiter.end.notified());
        let mut end = std::pin::pin!(end);
        if let Some(end) = end.as_mut().as_pin_mut() {
            end.enable();
        }
        let seen = async || {
            let header = self.book.header(run).await?;
            if may_see(&header) { Ok(header) } else { Err(FlowsError::NotFound(run.clone())) }
        };
        let mut header = seen().await?;
        if !header.state.is_over() && !wait.is_zero() {
            let Some(end) = end.as_mut().as_pin_mut() else {
                return Err(FlowsError::TooMany("too many wait for the end of runs".to_owned()));
            };
            if tokio::time::timeout(wait, end).await.is_ok() {
                header = seen().await?;
            }
        }
        let outcome = if header.state.is_over() { self.book.outcome(run).await? } else { None };
        Ok((header, outcome))
    }

    /// The Secrets that a run's workflow lists, as its service account may read them.
    pub async fn secrets(&self, run: &RunName, node: &str, lease: u64) -> Result<RunSecrets, FlowsError> {
        self.require_lease(run, node, lease)?;
        let header = self.book.header(run).await?;
        let workflow = self.book.workflow(&header).await?;
        let listed = workflow.pointer("/use/secrets").and_then(|listed| listed.as_array());
        let mut found = RunSecrets::default();
        for name in listed.into_iter().flatten().filter_map(|name| name.as_str()) {
            match self.secret(&header, name).await? {
                Ok(data) => drop(found.secrets.insert(name.to_owned(), data)),
                Err(why) => drop(found.refused.insert(name.to_owned(), why)),
            }
        }
        Ok(found)
    }

    async fn secret(
        &self,
        header: &RunHeader,
        name: &str,
    ) -> Result<Result<BTreeMap<String, String>, String>, FlowsError> {
        let namespace = &*header.name.namespace;
        let account = format!("system:serviceaccount:{namespace}:{}", header.account);
        let groups = [
            "system:serviceaccounts".to_owned(),
            format!("system:serviceaccounts:{namespace}"),
            AUTHENTICATED.to_owned(),
        ];
        let asker = Asker { name: &account, groups: &groups };
        let action =
            ResourceAction { verb: "get", resource: "secrets", namespace, name, ..ResourceAction::default() };
        if self.access.decide(asker, &ApiAction::Resource(action)).is_none() {
            return Ok(Err(format!(
                "the service account {namespace}/{} may not `get` the Secret {namespace}/{name}: bind a role to {account}",
                header.account
            )));
        }
        let object = self.objects.get(KindId::Secret.kind(), namespace, name).await;
        let Some(object) = object.map_err(FlowsError::Objects)? else {
            return Ok(Err(format!("there is no Secret {namespace}/{name}")));
        };
        let mut data = BTreeMap::new();
        for (key, value) in object["data"].as_object().into_iter().flatten() {
            let bytes = value.as_str().and_then(|text| STANDARD.decode(text).ok()).unwrap_or_default();
            match String::from_utf8(bytes) {
                Ok(text) => drop(data.insert(key.clone(), text)),
                Err(_) => {
                    return Ok(Err(format!(
                        "`data.{key}` of the Secret {namespace}/{name} is no text (UTF-8)"
                    )));
                }
            }
        }
        Ok(Ok(data))
    }
}
