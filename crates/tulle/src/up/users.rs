//! Whom the services run as: under root, where nothing is said, the owner of the file, so that a file that says nothing of it gives
//! its owner no rights that he has not.

use std::fs;
use std::os::unix::fs::MetadataExt;

use tulle_sys::run_as::RunAs;

use super::config::Config;
use crate::exit::{Failure, Result};

/// Finds out who each service runs as. Returns what there is to warn of.
///
/// # Errors
/// Where this host has no such user, and where others than root cannot start processes as him.
pub fn choose(config: &mut Config) -> Result<Option<String>> {
    let own = nix::unistd::geteuid().as_raw();
    let owner = match tulle_sys::is_root() {
        true => fs::metadata(&config.file).map_or(own, |file| file.uid()),
        false => own,
    };
    let mut as_root = Vec::new();
    for service in &mut config.services {
        let is_said = service.user.is_some();
        if !is_said && owner == 0 {
            as_root.push(service.name.as_str());
        }
        if !is_said && service.group.is_none() && owner == own {
            continue;
        }
        // Its probe's command is started by the node, which knows no file.
        let user = service.user.get_or_insert_with(|| owner.to_string());
        let run_as = RunAs::named(user, service.group.as_deref());
        service.run_as = Some(run_as.map_err(|e| Failure::input(format!("service {}: {e}", service.name)))?);
    }
    Ok(warning(&as_root))
}

fn warning(as_root: &[&str]) -> Option<String> {
    let runs = match as_root {
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
    fn who_runs_as_root_without_a_word_is_named() {
        assert_eq!(warning(&[]), None);
        assert!(warning(&["web"]).unwrap().starts_with("web runs as root"));
        assert!(warning(&["web", "api"]).unwrap().starts_with("web, api run as root"));
    }
}
