//! Whom the services run as: under root, where nothing is said, the owner of the file, so that a file that says nothing of it gives
//! its owner no rights that he has not.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use tulle_node::workloads::fill;
use tulle_sys::run_as::RunAs;

use super::config::{Check, Config, Service};
use super::own_names::OF_USER;
use crate::exit::{Failure, Result};

/// Finds out who each service runs as. Returns what there is to warn of.
///
/// # Errors
/// Where this host has no such user, and where others than root cannot start processes as him.
pub fn choose(config: &mut Config) -> Result<Option<String>> {
    let own = nix::unistd::geteuid().as_raw();
    let owner_of = |file: &Path| match tulle_sys::is_root() {
        true => fs::metadata(file).map_or(own, |file| file.uid()),
        false => own,
    };
    let mut as_root = Vec::new();
    for service in &mut config.services {
        // Who is included is given no rights that he has not.
        let owner = owner_of(config.included.get(&service.name).unwrap_or(&config.file));
        let is_said = service.user.is_some();
        if !is_said && owner == 0 {
            as_root.push(service.name.clone());
        }
        if !is_said && service.group.is_none() && owner == own {
            put_in(service, &[]);
            continue;
        }
        // Its probe's command is started by the node, which knows no file.
        let user = service.user.get_or_insert_with(|| owner.to_string());
        let run_as = RunAs::named(user, service.group.as_deref());
        let run_as = run_as.map_err(|e| Failure::input(format!("service {}: {e}", service.name)))?;
        put_in(service, &run_as.variables());
        service.run_as = Some(run_as);
    }
    Ok(warning(&as_root))
}

/// Puts in the names that depend on whom it runs as: those of this process where that is the same.
fn put_in(service: &mut Service, variables: &[(String, String)]) {
    let own = |name: &&str| Some(((*name).to_owned(), std::env::var(name).ok()?));
    let mut values: Vec<_> = OF_USER.iter().filter_map(own).collect();
    values.extend_from_slice(variables);
    let probes = service.probe.iter_mut().chain(&mut service.liveness);
    let execs = probes.filter_map(|probe| match &mut probe.check {
        Check::Exec(words) => Some(words),
        Check::Http { .. } | Check::Tcp { .. } => None,
    });
    let commands = execs.chain(&mut service.init).chain([&mut service.command]);
    let texts = commands.flatten().chain(service.environment.values_mut());
    texts.for_each(|text| *text = fill(text, &values));
}

fn warning<S: AsRef<str>>(as_root: &[S]) -> Option<String> {
    let as_root: Vec<_> = as_root.iter().map(AsRef::as_ref).collect();
    let runs = match as_root.as_slice() {
        [] => return None,
        [one] => format!("{one} runs"),
        several => format!("{} run", several.join(", ")),
    };
    Some(format!("{runs} as root, which owns tulle.yaml: `user:` of a service says otherwise"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_user_are_put_into_every_command() {
        let text = "services:\n  a:\n    command: [x, '${USER}']\n    init: [[y, '${USER}'], [z]]\n    \
                    probe: {exec: [p, '${USER}']}\n    liveness: {exec: [l, '${USER}']}\n    \
                    environment: {A: '${USER}'}\n";
        let mut config = super::super::config::of_text(text).unwrap();
        let service = &mut config.services[0];
        put_in(service, &[("USER".to_owned(), "ann".to_owned())]);
        assert_eq!(service.command, ["x", "ann"]);
        assert_eq!(service.init, [vec!["y", "ann"], vec!["z"]]);
        for (probe, name) in [(&service.probe, "p"), (&service.liveness, "l")] {
            let check = &probe.as_ref().unwrap().check;
            assert_eq!(*check, Check::Exec(vec![name.to_owned(), "ann".to_owned()]));
        }
        assert_eq!(service.environment["A"], "ann");
    }

    #[test]
    fn who_runs_as_root_without_a_word_is_named() {
        assert_eq!(warning::<&str>(&[]), None);
        assert!(warning(&["web"]).unwrap().starts_with("web runs as root"));
        assert!(warning(&["web", "api"]).unwrap().starts_with("web, api run as root"));
    }
}
