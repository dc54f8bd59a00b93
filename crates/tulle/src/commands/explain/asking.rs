//! The workload that a request is explained for, and whether there is one.

use tulle_model::name::WorkloadName;
use tulle_model::registry::KindId;
use tulle_model::split::{MeshObject, name_of};
use tulle_model::validate::suggest::did_you_mean;

use crate::exit::{Exit, Failure, Result};

/// So many names are listed; who has more looks them up.
const MOST_LISTED: usize = 20;

/// Whether there is such a workload.
///
/// # Errors
/// Where there is none, with those that may be meant.
pub(super) fn require(objects: &[MeshObject], from: &WorkloadName) -> Result<()> {
    let names = workloads(objects);
    if names.contains(from) {
        return Ok(());
    }
    let failure =
        Failure::new(format!("there is no Workload {from}{}", hint(&names, from))).exit(Exit::NotFound);
    let near: Vec<_> = names.iter().filter(|name| name.namespace == from.namespace).collect();
    let (whose, listed) = match near.is_empty() {
        true => (format!("namespace {} has none; workloads", from.namespace), names.iter().collect()),
        false => (format!("workloads of namespace {}", from.namespace), near),
    };
    Err(match listed.len() {
        0 => failure.help("there are no workloads: `tulle run NAME -- COMMAND` starts one"),
        1..=MOST_LISTED => {
            let listed: Vec<_> = listed.into_iter().map(ToString::to_string).collect();
            failure.help(format!("{whose}: {}", listed.join(", ")))
        }
        _ => failure.help("`tulle get workloads -A` lists them"),
    })
}

/// What is not known where files alone are explained.
pub(super) fn alone(objects: &[MeshObject], from: &WorkloadName) -> String {
    let mut note = "the files alone are explained: the server was not asked".to_owned();
    if !workloads(objects).contains(from) {
        note +=
            &format!("; Workload {from} is not in them, and counts as one of its namespace without labels");
    }
    note
}

fn workloads(objects: &[MeshObject]) -> Vec<WorkloadName> {
    let workloads = objects.iter().filter(|(kind, _)| kind.id == KindId::Workload);
    workloads.map(|(_, workload)| name_of(workload)).collect()
}

/// The one that was probably meant: misspelled, of several that run the same, or of another namespace.
fn hint(names: &[WorkloadName], from: &WorkloadName) -> String {
    let one_of_several = |name: &&WorkloadName| {
        name.namespace == from.namespace
            && name.name.strip_prefix(&*from.name).is_some_and(|rest| rest.starts_with('-'))
    };
    let elsewhere = |name: &&WorkloadName| name.name == from.name;
    match names.iter().find(one_of_several).or_else(|| names.iter().find(elsewhere)) {
        Some(name) => format!("; did you mean `{name}`?"),
        None => {
            let texts: Vec<_> = names.iter().map(ToString::to_string).collect();
            did_you_mean(&from.to_string(), texts.iter().map(String::as_str))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_is_named() {
        let name = |text: &str| {
            let (namespace, name) = text.split_once('/').unwrap();
            WorkloadName::new(namespace, name)
        };
        let names: Vec<_> = ["shop/web-1", "shop/client", "other/db"].map(name).to_vec();
        for (from, expected) in [
            ("shop/web", "; did you mean `shop/web-1`?"),
            ("shop/clinet", "; did you mean `shop/client`?"),
            ("default/client", "; did you mean `shop/client`?"),
            ("shop/db", "; did you mean `other/db`?"),
            ("shop/gone", ""),
        ] {
            assert_eq!(hint(&names, &name(from)), expected, "{from}");
        }
    }
}
