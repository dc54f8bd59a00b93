//! Which services run: those without `profiles` always, others where one of theirs is chosen.

use std::collections::HashMap;

use clap::Args;
use serde_json::Value;
use tulle_model::validate::suggest::did_you_mean;

use super::config::Service;
use super::field::Field;
use crate::exit::{Failure, Result};

/// The variable that chooses profiles, too: names with commas between them.
const VARIABLE: &str = "TULLE_PROFILES";

/// Chooses all of them.
const ALL: &str = "*";

#[derive(Debug, Clone, Default, Args)]
pub struct ProfileArgs {
    /// With the services of these profiles (repeatable; * for all); so does TULLE_PROFILES=A,B
    #[arg(long = "profile", value_name = "NAME")]
    profiles: Vec<String>,
}

impl ProfileArgs {
    pub fn chosen(&self) -> Profiles {
        let variable = std::env::var(VARIABLE).unwrap_or_default();
        let others = variable.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned);
        Profiles { named: self.profiles.clone(), others: others.collect() }
    }
}

/// Those that are chosen.
#[derive(Debug, Default)]
pub struct Profiles {
    /// On the command line: they are to be there.
    named: Vec<String>,
    others: Vec<String>,
}

impl Profiles {
    /// Whether a service with these fields runs.
    pub fn runs(&self, service: &Value) -> bool {
        let profiles = names(service);
        let chosen =
            |name: &&str| self.named.iter().chain(&self.others).any(|chosen| chosen == name || chosen == ALL);
        profiles.is_empty() || profiles.iter().any(chosen)
    }

    /// # Errors
    /// Where one is named that no service has.
    pub fn check<'v>(&self, services: impl Iterator<Item = &'v Value>) -> Result<()> {
        let known: Vec<_> = services.flat_map(names).collect();
        match self.named.iter().find(|name| *name != ALL && !known.contains(&name.as_str())) {
            Some(unknown) => {
                let hint = did_you_mean(unknown, known.iter().copied());
                Err(Failure::input(format!("no service has the profile `{unknown}`{hint}")))
            }
            None => Ok(()),
        }
    }
}

/// The profiles of a service; wrong ones are none.
fn names(service: &Value) -> Vec<&str> {
    let profiles = service.get("profiles").and_then(Value::as_array);
    profiles.into_iter().flatten().filter_map(Value::as_str).collect()
}

/// Says what is wrong with the field itself.
pub fn check_names(service: &Field<'_>) {
    for item in service.get("profiles").map(|field| field.items("[debug]")).unwrap_or_default() {
        let Some(name) = item.text() else { continue };
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        if !name.starts_with(|c: char| c.is_ascii_alphanumeric()) || !name.chars().all(is_name) {
            item.wrong(
                &format!("`{name}` is no name of a profile"),
                "letters, digits, _, - and . are expected",
            );
        }
    }
}

/// Says of those that run which need one that does not: it would never be ready.
pub fn check_dependencies(services: &[Service], fields: &HashMap<String, Field<'_>>) {
    let runs = |name: &str| services.iter().any(|service| service.name == name);
    for service in services {
        let needed = service.depends_on.iter().map(|on| &on.service).filter(|name| !runs(name));
        for (name, other) in needed.filter_map(|name| Some((name, fields.get(name)?))) {
            let Some(list) = fields[&service.name].get("dependsOn") else { continue };
            let place = match list.value {
                Value::Array(_) => list.items("").into_iter().find(|item| item.value == name.as_str()),
                _ => list
                    .entries("")
                    .into_iter()
                    .find(|(key, _)| *key == name.as_str())
                    .map(|(_, field)| field),
            };
            let profiles = names(other.value).join(", ");
            let message = format!("`{name}` does not run: none of its profiles ({profiles}) is chosen");
            place.unwrap_or(list).wrong(&message, "`--profile` chooses one");
        }
    }
}
