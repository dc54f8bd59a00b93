//! `limits` of a service: how much memory and CPU each of its processes may take, with all that it starts. They hold by its
//! cgroup: the one that host capture has made, else one that is made for them.

use std::path::{Path, PathBuf};

use tulle_model::name::WorkloadName;
use tulle_node::capture::cgroup_of;
use tulle_sys::cgroup;
use tulle_sys::cgroup_limits::{self, Delegated, Limits, NoLimits};

use super::config::Config;
use super::field::Field;
use crate::exit::{Exit, Failure, Result};
use crate::units::{parse_cpu, parse_memory_limit};

pub const FIELDS: &[&str] = &["memory", "cpu"];

/// What other tools have instead.
const FOREIGN_FIELDS: &[(&str, &str)] = &[
    ("cpus", "did you mean `cpu`?"),
    ("mem", "did you mean `memory`?"),
    ("pids", "memory and CPU can be limited"),
    ("ephemeral-storage", "memory and CPU can be limited"),
];

/// Reads `{memory: 512Mi, cpu: 500m}`.
pub fn read(field: &Field<'_>) -> Limits {
    if !field.is_object_of(FIELDS, FOREIGN_FIELDS, "{memory: 512Mi, cpu: 500m}") {
        return Limits::default();
    }
    Limits {
        memory: quantity(field.get("memory"), parse_memory_limit, "such as 512Mi or 2Gi"),
        cpu: quantity(field.get("cpu"), parse_cpu, "such as 500m or 0.5"),
    }
}

fn quantity<T>(
    field: Option<Field<'_>>,
    parse: fn(&str) -> std::result::Result<T, String>,
    such_as: &str,
) -> Option<T> {
    let field = field?;
    match parse(&field.scalar()?) {
        Ok(quantity) => Some(quantity),
        Err(message) => {
            field.wrong(&message, such_as);
            None
        }
    }
}

/// Whether the limits can hold here: to be asked before anything is touched.
///
/// # Errors
/// Says which of them cannot, and what to do.
pub fn check(config: &Config) -> Result<()> {
    for service in config.services.iter().filter(|service| !service.limits.is_empty()) {
        let controllers: Vec<_> = service.limits.controllers().collect();
        for controller in &controllers {
            let possible = Delegated::with([*controller]).and_then(|place| place.hand_down(&[*controller]));
            possible.map_err(|why| {
                let field = format!("services.{}.limits.{}", service.name, controller.as_str());
                Failure::new(format!("{field}: it cannot be kept to here: {why}"))
                    .exit(Exit::Input)
                    .help(why.help())
            })?;
        }
    }
    Ok(())
}

/// Where a process starts that has these limits: in `cgroup`, where it has one, else in one of its own.
///
/// # Errors
/// Where the system refuses.
pub fn confine(
    scope: &str,
    workload: &WorkloadName,
    cgroup: Option<PathBuf>,
    limits: &Limits,
) -> std::result::Result<Option<PathBuf>, NoLimits> {
    if limits.is_empty() {
        return Ok(cgroup);
    }
    let place = Delegated::with(limits.controllers())?;
    let segments = cgroup_of(scope, workload);
    let segments = segments.each_ref().map(String::as_str);
    if cgroup.is_none() {
        let path = place.path(&segments);
        // What an earlier `up` has left, that was killed.
        cgroup::destroy(&path).map_err(|error| NoLimits::Io { path, error })?;
    }
    place.limit(&segments, limits).map(Some)
}

/// Has other limits hold for processes that run.
///
/// # Errors
/// Where the system refuses.
pub fn change(
    scope: &str,
    workload: &WorkloadName,
    cgroup: &Path,
    limits: &Limits,
) -> std::result::Result<(), NoLimits> {
    match limits.is_empty() {
        true => cgroup_limits::set(cgroup, limits),
        false => confine(scope, workload, Some(cgroup.to_owned()), limits).map(drop),
    }
}

/// Removes what was made for processes that have ended, as far as nobody is in it.
pub fn clear(scope: &str) {
    let Ok(place) = Delegated::with([]) else { return };
    let segments = cgroup_of(scope, &WorkloadName::new("", ""));
    let folder = place.path(&[segments[0].as_str(), segments[1].as_str()]);
    let _ = cgroup::remove(&folder);
    // Another node of this host may have cgroups there.
    let _ = folder.parent().map(std::fs::remove_dir);
}

#[cfg(test)]
mod tests {
    use super::super::config::of_text;

    #[test]
    fn limits_are_read_and_what_is_none_is_said_at_its_field() {
        let file = |limits: &str| format!("services:\n  a: {{command: x, limits: {limits}}}\n");
        for (limits, expected) in [
            ("{memory: 512Mi, cpu: 500m}", (Some(512 << 20), Some(500))),
            ("{memory: 536870912}", (Some(512 << 20), None)),
            ("{cpu: 0.50}", (None, Some(500))),
            ("{cpu: '2'}", (None, Some(2000))),
            ("{}", (None, None)),
        ] {
            let limits = of_text(&file(limits)).unwrap().services[0].limits;
            assert_eq!((limits.memory, limits.cpu), expected);
        }
        for (limits, why) in [
            (
                "{memory: 512m}",
                "services.a.limits.memory: `512m` has no unit of Kubernetes: did you mean `512Mi`?",
            ),
            ("{cpu: 1m}", "services.a.limits.cpu: `1m` is too little: 10m is the least"),
            ("{cpu: true}", "services.a.limits.cpu: `true` is no amount of CPU"),
            ("{memory: [1]}", "services.a.limits.memory: it is a list, a text is expected"),
            ("{cpus: 1}", "services.a.limits.cpus: there is no such field; did you mean `cpu`?"),
            ("1Gi", "services.a.limits: it is a text, an object is expected"),
        ] {
            let said = of_text(&file(limits)).err().map(|e| e.to_string()).unwrap_or_default();
            assert!(said.contains(why), "{limits}: {said}");
        }
    }
}
