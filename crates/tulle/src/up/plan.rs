//! What a changed file asks for: which services come and go, which start anew, and which are not touched.

use super::config::{Config, Port, Service};

/// What becomes of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServiceChange {
    Added,
    Removed,
    /// These fields are others: its processes start anew.
    Restarts(Vec<&'static str>),
    /// There are to be as many processes; those that stay are not touched.
    Scaled {
        from: u32,
        to: u32,
    },
    /// These fields are others, which its processes need not know.
    Updated(Vec<&'static str>),
}

impl ServiceChange {
    /// As people are told.
    pub fn describe(&self) -> String {
        match self {
            Self::Added => "is new: it starts".to_owned(),
            Self::Removed => "is gone: it is drained, and ends".to_owned(),
            Self::Restarts(fields) => format!("{} changed: it starts anew", fields.join(", ")),
            Self::Scaled { from, to } => format!("replicas changed from {from} to {to}"),
            Self::Updated(fields) => format!("{} changed: its processes go on", fields.join(", ")),
        }
    }
}

/// What changes from one description to another, by service.
///
/// # Errors
/// Says what cannot change while the mesh runs.
pub fn plan(before: &Config, after: &Config) -> Result<Vec<(String, ServiceChange)>, String> {
    if before.namespace != after.namespace {
        return Err(format!(
            "namespace: it cannot change from `{}` to `{}` while the mesh runs: `tulle down`, and `tulle up` again",
            before.namespace, after.namespace
        ));
    }
    let mut changes = Vec::new();
    for service in &before.services {
        if !after.services.iter().any(|s| s.name == service.name) {
            changes.push((service.name.clone(), ServiceChange::Removed));
        }
    }
    for service in &after.services {
        let change = match before.services.iter().find(|s| s.name == service.name) {
            None => Some(ServiceChange::Added),
            Some(old) => change(old, service),
        };
        changes.extend(change.map(|change| (service.name.clone(), change)));
    }
    Ok(changes)
}

fn change(old: &Service, new: &Service) -> Option<ServiceChange> {
    let restarts = [
        ("command", old.command != new.command),
        ("ports", listens(&old.ports) != listens(&new.ports)),
        ("environment", old.environment != new.environment),
        ("directory", old.directory != new.directory),
        ("probe", old.probe != new.probe),
        ("liveness", old.liveness != new.liveness),
        ("init", old.init != new.init),
        ("restart", old.restart != new.restart),
        ("stopSignal", old.stop_signal != new.stop_signal),
        ("stopTimeout", old.stop_timeout != new.stop_timeout),
        ("serviceAccount", old.service_account != new.service_account),
        ("user", (&old.user, &old.group, &old.run_as) != (&new.user, &new.group, &new.run_as)),
        ("labels", old.labels != new.labels),
        // What a process took before there was one is not counted.
        ("limits", old.limits.is_empty() && !new.limits.is_empty()),
    ];
    let updates = [
        ("ports", old.ports != new.ports),
        ("publish", old.publish != new.publish),
        ("annotations", old.annotations != new.annotations),
        ("dependsOn", old.depends_on != new.depends_on),
        ("watch", old.watch != new.watch),
        ("limits", old.limits != new.limits),
    ];
    let changed = |fields: &[(&'static str, bool)]| -> Vec<&'static str> {
        fields.iter().filter(|(_, is_other)| *is_other).map(|(name, _)| *name).collect()
    };
    let (restarts, updates) = (changed(&restarts), changed(&updates));
    if !restarts.is_empty() {
        Some(ServiceChange::Restarts(restarts))
    } else if old.replicas != new.replicas {
        Some(ServiceChange::Scaled { from: old.replicas, to: new.replicas })
    } else if !updates.is_empty() {
        Some(ServiceChange::Updated(updates))
    } else {
        None
    }
}

/// What the processes know of their ports: the rest is the Service's alone.
fn listens(ports: &[Port]) -> Vec<(Option<&str>, u16)> {
    ports.iter().map(|port| (port.name.as_deref(), port.target_port)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::config::of_text as read;
    use super::*;

    fn planned(before: &str, after: &str) -> Result<Vec<String>, String> {
        let [before, after] = [before, after].map(|text| read(text).unwrap());
        let changes = plan(&before, &after)?;
        Ok(changes.into_iter().map(|(name, change)| format!("{name} {}", change.describe())).collect())
    }

    #[test]
    fn what_did_not_change_is_not_touched() {
        let before = "services:\n  a: {command: x, port: 80}\n  b: {command: y}\n  c: {command: z}\n";
        assert_eq!(planned(before, before), Ok(vec![]));
        let after = "services:\n  b: {command: [y, -v], replicas: 2}\n  a: {command: x, port: 80}\n  d: {command: z}\n";
        let expected = [
            "c is gone: it is drained, and ends",
            "b command changed: it starts anew",
            "d is new: it starts",
        ];
        assert_eq!(planned(before, after).unwrap(), expected);
        for (field, expected) in [
            ("replicas: 3", "replicas changed from 1 to 3"),
            ("publish: 8080", "publish changed: its processes go on"),
            ("annotations: {a.b/c: d}", "annotations changed: its processes go on"),
            ("dependsOn: [b]", "dependsOn changed: its processes go on"),
            ("limits: {cpu: 1}", "limits changed: it starts anew"),
            ("environment: {A: b}", "environment changed: it starts anew"),
            ("stopTimeout: 1s, restart: on-failure", "restart, stopTimeout changed: it starts anew"),
        ] {
            let after = before.replace("port: 80}", &format!("port: 80, {field}}}"));
            assert_eq!(planned(before, &after).unwrap(), [format!("a {expected}")], "{field}");
        }
        let limited = before.replace("port: 80}", "port: 80, limits: {memory: 1Gi}}");
        for limits in ["limits: {memory: 2Gi, cpu: 1}", "limits: {}"] {
            let after = limited.replace("limits: {memory: 1Gi}", limits);
            assert_eq!(
                planned(&limited, &after).unwrap(),
                ["a limits changed: its processes go on"],
                "{limits}"
            );
        }
        // How the port is called in the mesh is no matter of the process.
        let after = before.replace("port: 80}", "ports: [{port: 8080, targetPort: 80, appProtocol: http}]}");
        assert_eq!(planned(before, &after).unwrap(), ["a ports changed: its processes go on"]);
        let error = planned(before, &format!("namespace: shop\n{before}")).unwrap_err();
        assert!(error.starts_with("namespace: it cannot change from `default` to `shop`"), "{error}");
    }
}
