//! Probes of a service of `tulle.yaml`.

use std::time::Duration;

use super::config::words;
use super::field::Field;
use super::service_ports::Port;

#[derive(Debug, Clone, PartialEq)]
pub struct Probe {
    pub check: Check,
    pub interval: Option<Duration>,
    pub timeout: Option<Duration>,
    pub startup: Option<Duration>,
    pub failures: Option<u32>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Check {
    Http { path: String, port: Option<u16> },
    Tcp { port: Option<u16> },
    Exec(Vec<String>),
}

pub const PROBE_FIELDS: &[&str] =
    &["http", "tcp", "exec", "port", "interval", "timeout", "startup", "failures"];

/// What is asked, with the ports that may be.
pub fn probe(field: &Field<'_>, ports: &[Port]) -> Option<Probe> {
    if !field.is_object_of(PROBE_FIELDS, &[], "{http: /healthz}") {
        return None;
    }
    let port = field.get("port").and_then(|f| {
        let port = f.port()?;
        if !ports.iter().any(|p| p.target_port == port) {
            f.wrong(
                &format!("the service does not listen at port {port}"),
                "one of the service's ports is expected",
            );
        }
        Some(port)
    });
    let checks = [field.get("http"), field.get("tcp"), field.get("exec")];
    let check = match &checks {
        [Some(http), None, None] => {
            let path = http.text()?;
            if !path.starts_with('/') {
                http.wrong(&format!("`{path}` is no path"), "a path begins with /");
            } else if let Err(error) = path.parse::<http::Uri>() {
                let message = format!("`{path}` is no path that can be asked for: {error}");
                http.wrong(&message, "as in a URL: a space is %20");
            }
            Check::Http { path, port }
        }
        [None, Some(tcp), None] => {
            if tcp.value != true {
                tcp.wrong("it can be `true` only", "`tcp: true` asks whether the port accepts connections");
            }
            Check::Tcp { port }
        }
        [None, None, Some(exec)] => Check::Exec(words(exec)?),
        _ => {
            field.wrong_field("exactly one of `http`, `tcp` and `exec` is expected", "one check is expected");
            return None;
        }
    };
    if ports.is_empty() && !matches!(check, Check::Exec(_)) {
        field.wrong_field("the service has no port that could be asked", "give the service a port");
    }
    Some(Probe {
        check,
        interval: field.get("interval").and_then(|f| f.duration()),
        timeout: field.get("timeout").and_then(|f| f.duration()),
        startup: field.get("startup").and_then(|f| f.duration()),
        failures: field.get("failures").and_then(|f| f.number(1, 1000)).map(|n| n as u32),
    })
}
