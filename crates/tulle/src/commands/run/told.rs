//! What `tulle run` says of its workload: who it is, when it takes traffic, and by which Services it is found.

use std::time::{Duration, Instant};

use tulle_model::legible::legible;
use tulle_node::client::NodeClient;
use tulle_node::workloads::{UpstreamService, WorkloadSpec, WorkloadStatus};

use crate::output::note_wrapped;

/// How often the node is asked.
const LOOK: Duration = Duration::from_millis(100);
/// The same of what takes long.
const LATER_LOOK: Duration = Duration::from_secs(1);
/// After how long it is said why it is not ready.
const SLOW: Duration = Duration::from_secs(5);
/// How long the server may take to say which Services select it.
const SERVICES_DEADLINE: Duration = Duration::from_secs(2);

/// What it is going to call: that of which its owner speaks, and what there is in its namespace, as for processes of `tulle up`.
pub async fn upstreams(client: &NodeClient, spec: &WorkloadSpec) -> Vec<UpstreamService> {
    // Nothing is handed to processes that run already.
    if spec.attached {
        return spec.upstreams.clone();
    }
    let of_namespace = match client.services_of(&spec.namespace).await {
        Ok(of_namespace) => of_namespace,
        // Without its node, what adds the workload says so.
        Err(error) if error.is::<std::io::Error>() => Default::default(),
        Err(error) => {
            tracing::warn!("the services of {} are not in its environment: {error:#}", spec.namespace);
            Default::default()
        }
    };
    if of_namespace.left_out > 0 {
        tracing::warn!(
            "{} has more services than fit into the environment: without the last {}, but those of --upstream",
            spec.namespace,
            of_namespace.left_out
        );
    }
    let mut upstreams = of_namespace.services;
    upstreams.retain(|known| spec.upstreams.iter().all(|named| named.service != known.service));
    upstreams.extend(spec.upstreams.iter().cloned());
    upstreams
}

/// Says who it is; an older node does not tell.
pub async fn say_who(client: &NodeClient, spec: &WorkloadSpec) {
    if let Ok(status) = client.workload(&spec.namespace, &spec.name).await {
        note_wrapped(&format!("workload {}/{}, {}", spec.namespace, spec.name, status.identity), 2);
    }
}

/// Says when it is ready, and which Services select it; once.
pub async fn say_ready(client: &NodeClient, spec: &WorkloadSpec) {
    // What serves nothing is not waited for: only that somebody is led to it is worth a word.
    let serves = !spec.ports.is_empty();
    let is_waited_for = serves || spec.probe.is_some();
    let began = Instant::now();
    let mut ready = None;
    let mut said = false;
    loop {
        // Without its node it is not ready, which is said elsewhere.
        let status = client.workload(&spec.namespace, &spec.name).await.ok();
        match status {
            Some(status) if status.ready => {
                let since = *ready.get_or_insert_with(Instant::now);
                if status.services.is_some() || since.elapsed() > SERVICES_DEADLINE {
                    let after = since.duration_since(began).as_secs_f64();
                    let found = if serves { found_by(spec, &status) } else { String::new() };
                    if is_waited_for {
                        note_wrapped(&format!("ready after {after:.1} s{found}"), 2);
                    }
                    if !serves {
                        without_port(&status).iter().for_each(|line| note_wrapped(line, 2));
                    }
                    return;
                }
            }
            Some(status)
                if is_waited_for && began.elapsed() > SLOW && !std::mem::replace(&mut said, true) =>
            {
                note_wrapped(&format!("not ready yet: {}", status.reason), 2);
            }
            _ => {}
        }
        tokio::time::sleep(if began.elapsed() > SLOW { LATER_LOOK } else { LOOK }).await;
    }
}

/// `: web:80 leads to it`
fn found_by(spec: &WorkloadSpec, status: &WorkloadStatus) -> String {
    let Some(services) = &status.services else {
        return "; which Services select it, the server has not said".to_owned();
    };
    let places = services.iter().flat_map(|of| of.ports.iter().map(|port| format!("{}:{port}", of.service)));
    let places: Vec<_> = places.collect();
    if !places.is_empty() {
        return format!(": {} to it", leads(&places));
    }
    if !services.is_empty() {
        let names: Vec<_> = services.iter().map(|of| of.service.as_str()).collect();
        let (by, them) = (names.join(", "), if names.len() == 1 { "it leads" } else { "they lead" });
        return format!(
            "; its labels are those of {by}, but {them} to other ports (--port PORT, as targetPort says it)"
        );
    }
    let labels: Vec<_> = spec.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let (namespace, labels) = (&spec.namespace, labels.join(","));
    let none = format!(
        "; no Service of {namespace} selects it by its labels, {labels}: nobody can call it by a name (others: --label KEY=VALUE)"
    );
    legible(&none).into_owned()
}

/// What who has no port should know: that Services select it, which then lead nowhere.
fn without_port(status: &WorkloadStatus) -> Option<String> {
    let services = status.services.as_deref().filter(|services| !services.is_empty())?;
    let names: Vec<_> = services.iter().map(|of| of.service.as_str()).collect();
    Some(format!("{} would lead to it, but it has no port (--port PORT)", names.join(", ")))
}

fn leads(places: &[String]) -> String {
    match places {
        [one] => format!("{one} leads"),
        [first @ .., last] => format!("{} and {last} lead", first.join(", ")),
        [] => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn services_that_lead_to_it_are_named_or_what_it_lacks() {
        let spec =
            json!({ "namespace": "shop", "name": "web-2", "service": "web", "labels": { "app": "web-2" } });
        let spec: WorkloadSpec = serde_json::from_value(spec).unwrap();
        let status = |services: serde_json::Value| -> WorkloadStatus {
            let status = json!({
                "namespace": "shop", "name": "web-2", "service": "web", "identity": "spiffe://x/ns/shop/sa/web",
                "ready": true, "inFlight": 0, "certificateNotAfter": null, "services": services,
            });
            serde_json::from_value(status).unwrap()
        };
        let said = |services| found_by(&spec, &status(services));
        let of = |service: &str, ports: &[u16]| json!({ "service": service, "ports": ports });
        assert_eq!(said(json!([of("web", &[80])])), ": web:80 leads to it");
        assert_eq!(said(json!([of("a", &[80, 81]), of("b", &[1])])), ": a:80, a:81 and b:1 lead to it");
        assert!(said(json!([of("web", &[])])).contains("those of web, but it leads to other ports (--port"));
        let portless = without_port(&status(json!([of("web", &[80])]))).unwrap();
        assert!(portless.starts_with("web would lead to it, but it has no port"), "{portless}");
        assert_eq!((without_port(&status(json!([]))), without_port(&status(json!(null)))), (None, None));
        assert!(said(json!([])).contains("no Service of shop selects it by its labels, app=web-2:"));
        assert!(said(json!(null)).contains("the server has not said"));
    }
}
