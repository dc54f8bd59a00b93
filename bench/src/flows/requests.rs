//! Requests of the clients: this program again, as `load`, through the proxy of their workload.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::run::process::complete;
use crate::run::results::Load;
use crate::run::service::this_program;

/// Beyond its own time, for connecting and for what is still in flight.
const GRACE: Duration = Duration::from_secs(60);
/// What each run is given.
const BODY: &str = r#"{"order": 17, "item": "tulle, white", "count": 3}"#;
/// Seconds after which a request has failed.
const TIMEOUT: &str = "30";

/// POSTs to a name of the mesh, over connections that stay.
#[derive(Debug, Clone)]
pub struct Requests {
    pub name: &'static str,
    pub proxy: SocketAddr,
    pub connections: u32,
    pub seconds: f64,
    pub warmup: f64,
    /// Stop after so many.
    pub at_most: Option<u64>,
    /// Whether not to wait for the runs' ends.
    pub respond_async: bool,
    /// Whose CPU time is taken in the measured window.
    pub watched: Vec<u32>,
}

impl Requests {
    pub fn of(name: &'static str, proxy: SocketAddr) -> Self {
        Self {
            name,
            proxy,
            connections: 1,
            seconds: 10.0,
            warmup: 0.0,
            at_most: None,
            respond_async: false,
            watched: Vec::new(),
        }
    }

    /// Makes them, and tells what came of it.
    pub fn make(&self) -> Result<Load> {
        let mut command = Command::new(this_program());
        command.args(["load", "http1", "--target", &self.proxy.to_string(), "--timeout", TIMEOUT]);
        // In absolute form, as proxies are asked (RFC 9112, section 3.2.2).
        command.args(["--path", &format!("http://{}/", self.name), "--authority", self.name]);
        command.args(["--body", BODY, "--header", "content-type: application/json"]);
        if self.respond_async {
            command.args(["--header", "prefer: respond-async"]);
        }
        command.args(["--connections", &self.connections.to_string()]);
        command.args(["--seconds", &self.seconds.to_string(), "--warmup", &self.warmup.to_string()]);
        if let Some(most) = self.at_most {
            command.args(["--requests", &most.to_string()]);
        }
        if !self.watched.is_empty() {
            let pids: Vec<_> = self.watched.iter().map(u32::to_string).collect();
            command.args(["--watch", &pids.join(",")]);
        }
        let name = format!("requests to {}", self.name);
        let deadline = Duration::from_secs_f64(self.seconds + self.warmup) + GRACE;
        let printed = complete(&name, &mut command, deadline)?;
        let load: Load =
            serde_json::from_str(printed.trim()).with_context(|| format!("{name}: {printed}"))?;
        ensure!(
            load.watched.len() == self.watched.len(),
            "{name}: CPU time of {} processes where {} were asked for",
            load.watched.len(),
            self.watched.len()
        );
        Ok(load)
    }

    /// One request; an error unless it is answered well.
    pub fn once(&self) -> Result<()> {
        let load = self.make()?;
        ensure!(load.requests > load.non_2xx && load.errors == 0, "{} does not answer well", self.name);
        Ok(())
    }
}

/// An error where requests failed, as what was measured then means nothing.
pub fn all_answered(load: &Load) -> Result<()> {
    let (failed, ill) = (load.errors, load.non_2xx);
    ensure!(
        failed == 0 && ill == 0,
        "of {} requests {failed} were not answered, and {ill} with another status than 2xx",
        load.requests + failed
    );
    ensure!(load.requests > 0, "no request was answered in the measured time");
    Ok(())
}
