//! What the owner of a workload says of it, and is told.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::{bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tulle_model::name::{ServiceName, dns_label_problem, dns_subdomain_problem};
use tulle_model::registry::KindId;
use tulle_model::validate::validate;
use tulle_sys::family::Family;
use tulle_sys::run_as::{NoUser, RunAs};

use super::environment::{MARK, respect};
use crate::capture::CaptureMode;
use crate::probes::{Probe, Target};
use crate::process_state::LastExit;

/// A workload as its owner describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WorkloadSpec {
    pub namespace: String,
    pub name: String,
    /// What telemetry calls it; the label `app` where it has none.
    pub service: String,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// `default` where none is given.
    #[serde(default = "default_name")]
    pub service_account: String,
    #[serde(default)]
    pub ports: Vec<Port>,
    /// Where its process listens.
    #[serde(default = "loopback")]
    pub app_address: IpAddr,
    /// Without one, the first port has to accept connections.
    #[serde(default)]
    pub probe: Option<Probe>,
    /// The services that it is going to call, for its environment.
    #[serde(default)]
    pub upstreams: Vec<UpstreamService>,
    /// Whom its processes run as, by name or number: as who starts them, where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// In place of that user's own groups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Whether its processes are started, and ended, by somebody else than who has it added: with namespace capture.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub attached: bool,
    /// How long its processes may take to end after SIGTERM, in milliseconds; then they get SIGKILL.
    #[serde(default = "stop_timeout_ms")]
    pub stop_timeout_ms: u64,
}

fn stop_timeout_ms() -> u64 {
    30_000
}

/// A port that a workload's process listens at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Port {
    #[serde(default)]
    pub name: String,
    pub port: u16,
    /// The port of a Service that it stands for; the same as `port` where none is given.
    #[serde(default)]
    pub target_port: Option<u16>,
}

/// A service that a workload is going to call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UpstreamService {
    pub service: ServiceName,
    /// Empty: the server is asked.
    #[serde(default)]
    pub ports: Vec<u16>,
}

fn default_name() -> String {
    "default".to_owned()
}

pub(super) fn loopback() -> IpAddr {
    Ipv4Addr::LOCALHOST.into()
}

/// What the process of a workload has to be started with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Running {
    pub namespace: String,
    pub name: String,
    /// The cgroup that it must join before its program starts.
    pub cgroup: Option<PathBuf>,
    /// A folder with what it must see in place of the host's name service ([`tulle_sys::mounts`]).
    pub name_service: Option<PathBuf>,
    /// Variables to be added to its environment.
    pub environment: Vec<(String, String)>,
    /// Where the node listens for it; what its environment says of them holds for as long as it runs.
    #[serde(default)]
    pub listeners: Vec<SocketAddr>,
    /// How it is captured; a node that does not say is of an earlier version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capture: Option<CaptureMode>,
}

/// What the process of a workload knows of the node that it was started under; of its [`Running`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Before {
    pub listeners: Vec<SocketAddr>,
    pub cgroup: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capture: Option<CaptureMode>,
}

impl Running {
    /// What is to be added to the environment of this process for the one that it starts.
    pub fn variables(&self) -> Vec<(String, String)> {
        let mut variables = self.environment.clone();
        respect(&mut variables, |name| std::env::var_os(name).is_some());
        variables
    }

    /// Where its probes ask, and as whom its commands run.
    pub fn target(&self, address: IpAddr, run_as: Option<RunAs>) -> Target {
        Target {
            address,
            cgroup: self.cgroup.clone(),
            name_service: self.name_service.clone(),
            run_as,
            environment: self.environment.clone(),
        }
    }

    /// Its processes, whoever of them has started which.
    pub fn family(&self) -> Family {
        let mark = self.environment.iter().find(|(name, _)| name == MARK);
        Family {
            cgroup: self.cgroup.clone(),
            mark: mark.map(|(name, value)| format!("{name}={value}")),
            root: None,
        }
    }
}

/// What people see of a workload.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadStatus {
    pub namespace: String,
    pub name: String,
    pub service: String,
    pub identity: String,
    pub ready: bool,
    /// Why it is not ready, or may soon not be.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// How often its process was started again after it had ended by itself.
    #[serde(default)]
    pub restarts: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_exit: Option<LastExit>,
    /// When its process is started again, in milliseconds since the epoch, where it waits for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_start_ms: Option<u64>,
    pub in_flight: u64,
    /// The Services that select it; `None` where the server has not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub services: Option<Vec<SelectingService>>,
    /// Whether `tulle run` has started it, and not the node's own process.
    #[serde(default)]
    pub owned: bool,
    pub certificate_not_after: Option<i64>,
}

/// A Service, of a workload's own namespace, that selects it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SelectingService {
    pub service: String,
    /// The Service's ports that lead to it.
    pub ports: Vec<u16>,
}

impl WorkloadSpec {
    /// Whether a description makes sense.
    ///
    /// # Errors
    /// Says of which field it does not: neither the node nor the server would take it.
    pub fn check(&self) -> anyhow::Result<()> {
        let problems = [
            ("namespace", &self.namespace, dns_label_problem(&self.namespace)),
            ("name", &self.name, dns_subdomain_problem(&self.name)),
            ("serviceAccount", &self.service_account, dns_subdomain_problem(&self.service_account)),
        ];
        for (field, value, problem) in problems {
            if let Some(problem) = problem {
                bail!("{field}: `{value}` {problem}");
            }
        }
        ensure!(!self.service.is_empty(), "service: must not be empty");
        for (i, port) in self.ports.iter().enumerate() {
            ensure!(port.port != 0, "ports[{i}].port: must be from 1 to 65535");
            let same = self.ports[..i].iter().any(|other| other.port == port.port);
            ensure!(!same, "ports[{i}].port: {} is there twice", port.port);
        }
        match validate(KindId::Workload.kind(), &self.object()).first() {
            // Where it stands in the object is the server's matter.
            Some(error) => {
                let path = error.path.to_string();
                let path = path.trim_start_matches("metadata.").trim_start_matches("spec.");
                bail!("{path}: {}", error.message)
            }
            None => Ok(()),
        }
    }

    /// Whom its processes run as; `None`: as who starts them.
    ///
    /// # Errors
    /// Where this host has no such user or group, or this process may not start others as him.
    pub fn run_as(&self) -> Result<Option<RunAs>, NoUser> {
        if self.user.is_none() && self.group.is_none() {
            return Ok(None);
        }
        let own = || nix::unistd::geteuid().to_string();
        RunAs::named(&self.user.clone().unwrap_or_else(own), self.group.as_deref()).map(Some)
    }

    /// As the server keeps it.
    fn object(&self) -> Value {
        let ports = self.ports.iter().map(|port| {
            let mut object = json!({ "port": port.port });
            if !port.name.is_empty() {
                object["name"] = port.name.as_str().into();
            }
            if let Some(target) = port.target_port.filter(|target| *target != port.port) {
                object["targetPort"] = target.into();
            }
            object
        });
        json!({
            "metadata": { "name": self.name, "namespace": self.namespace, "labels": self.labels },
            "spec": {
                "address": self.app_address,
                "serviceAccount": self.service_account,
                "ports": ports.collect::<Vec<_>>(),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptions_are_checked() {
        let good = r#"{"namespace":"shop","name":"c-0","service":"c","ports":[{"port":80}],
            "probe":{"check":{"http":{"port":80,"path":"/"}}},"upstreams":[{"service":{"namespace":"shop","name":"d"}}]}"#;
        let good: WorkloadSpec = serde_json::from_str(good).unwrap();
        assert_eq!(good.service_account, "default");
        good.check().unwrap();
        let with = |change: fn(&mut WorkloadSpec)| {
            let mut spec = good.clone();
            change(&mut spec);
            spec.check().unwrap_err().to_string()
        };
        assert!(with(|s| s.namespace = "A".into()).starts_with("namespace"));
        assert!(with(|s| s.name.clear()).starts_with("name"));
        assert!(with(|s| s.ports.push(s.ports[0].clone())).starts_with("ports[1].port"));
        assert!(with(|s| s.ports[0].port = 0).starts_with("ports[0].port"));
        // What the server alone knew.
        assert!(with(|s| _ = s.labels.insert("a b".into(), "c".into())).starts_with("labels[a b]"));
        let port = |name: &str, port| Port { name: name.into(), port, target_port: None };
        let several = |names: [&str; 2]| vec![port(names[0], 80), port(names[1], 81)];
        let mut spec = WorkloadSpec { ports: several(["web", "web"]), ..good.clone() };
        assert!(spec.check().unwrap_err().to_string().starts_with("ports[1].name"));
        spec.ports = several(["web", "Admin"]);
        assert!(spec.check().unwrap_err().to_string().starts_with("ports[1].name"));
        assert!(with(|s| s.app_address = "0.0.0.0".parse().unwrap()).starts_with("address"));
    }
}
