//! `tulle diff`: what `tulle apply` would change.

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use serde_json::Value;
use similar::TextDiff;
use tulle_model::registry::KindId;

use super::apply::{FIELD_MANAGER, apply_path};
use crate::client::{ClientArgs, resource};
use crate::exit::{Failure, Result};
use crate::manifest::{self, FileArgs};
use crate::output::{note, print, yaml};

/// What kubectl keeps of the object as it was applied, values of Secrets included.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

#[derive(Debug, Args)]
#[command(
    after_help = "Exits with 0 where there is no difference and with 1 where there is one, as diff does."
)]
pub struct DiffArgs {
    #[command(flatten)]
    files: FileArgs,
    /// The namespace of objects that name none
    #[arg(short, long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    namespace: Option<String>,
    #[command(flatten)]
    client: ClientArgs,
}

/// Whether there is a difference.
pub async fn run(args: DiffArgs) -> Result<bool> {
    if args.files.filename.is_empty() {
        return Err(Failure::input("nothing is said about which files to compare").help("tulle diff -f FILE"));
    }
    let mut set = manifest::load(&args.files)?;
    set.skipped_note().iter().for_each(|line| note(line));
    if set.manifests.is_empty() {
        return Ok(false);
    }
    let client = args.client.client()?;
    set.default_namespace(args.namespace.as_deref().unwrap_or(client.namespace()));
    set.check_duplicates()?;
    let mut differs = false;
    for manifest in &set.manifests {
        let path = resource(manifest.kind, manifest.namespace(), Some(manifest.name()));
        let mut before = client.find(&path).await?;
        let mut after = client.apply(&apply_path(path, FIELD_MANAGER, true, true), &manifest.value).await?;
        if manifest.kind.id == KindId::Secret {
            mask(before.as_mut(), &mut after);
        }
        let before = before.map(shown).transpose()?.unwrap_or_default();
        let after = shown(after)?;
        if before != after {
            differs = true;
            print(&render(&manifest.describe(), &before, &after))?;
        }
    }
    Ok(differs)
}

/// Takes the values out of a Secret, and says which differ, as kubectl does: what is compared ends up in terminals and logs.
fn mask(before: Option<&mut Value>, after: &mut Value) {
    let mut none = Value::Null;
    let before = before.unwrap_or(&mut none);
    for (fields, hidden) in [("/data", ""), ("/stringData", ""), ("/metadata/annotations", LAST_APPLIED)] {
        let was = before.pointer(fields).cloned().unwrap_or_default();
        let is = after.pointer(fields).cloned().unwrap_or_default();
        mask_values(before.pointer_mut(fields), hidden, (&is, "*** (before)"));
        mask_values(after.pointer_mut(fields), hidden, (&was, "*** (after)"));
    }
}

/// Those of the name `hidden`; all where it is empty.
fn mask_values(values: Option<&mut Value>, hidden: &str, (others, different): (&Value, &str)) {
    let values = values.and_then(Value::as_object_mut).into_iter().flatten();
    for (name, value) in values.filter(|(name, _)| hidden.is_empty() || *name == hidden) {
        let other = others.get(name);
        *value = if other.is_some_and(|other| other != value) { different } else { "***" }.into();
    }
}

/// An object without what the server keeps for itself.
fn shown(mut object: Value) -> Result<String> {
    if let Some(fields) = object.as_object_mut() {
        fields.remove("status");
    }
    if let Some(metadata) = object["metadata"].as_object_mut() {
        for field in ["managedFields", "resourceVersion", "generation", "uid", "creationTimestamp"] {
            metadata.remove(field);
        }
    }
    yaml(&object)
}

fn render(name: &str, before: &str, after: &str) -> String {
    use anstyle::AnsiColor::{Cyan, Green, Red};
    let diff = TextDiff::from_lines(before, after);
    let text = diff.unified_diff().header(&format!("{name} on the server"), name).to_string();
    let mut out = String::new();
    for (index, line) in text.lines().enumerate() {
        let style = match line.as_bytes().first() {
            _ if index < 2 => anstyle::Style::new().bold(),
            Some(b'+') => Green.on_default(),
            Some(b'-') => Red.on_default(),
            Some(b'@') => Cyan.on_default(),
            _ => anstyle::Style::new(),
        };
        out.push_str(&format!("{style}{line}{style:#}\n"));
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_of_secrets_are_compared_and_not_shown() {
        let secret = |password: &str| {
            json!({
                "metadata": { "name": "s", "annotations": { "note": "n", LAST_APPLIED: password } },
                "data": { "password": password, "user": "cm9vdA==" },
            })
        };
        let (mut before, mut after) = (secret("b25l"), secret("dHdv"));
        after["data"]["new"] = json!("dGhyZWU=");
        mask(Some(&mut before), &mut after);
        assert_eq!(before["data"], json!({ "password": "*** (before)", "user": "***" }));
        assert_eq!(after["data"], json!({ "password": "*** (after)", "user": "***", "new": "***" }));
        assert_eq!(after["metadata"]["annotations"]["note"], "n");
        let text = format!("{before}{after}");
        for value in ["b25l", "dHdv", "cm9vdA", "dGhyZWU"] {
            assert!(!text.contains(value), "{text}");
        }
        let mut made = secret("b25l");
        mask(None, &mut made);
        assert_eq!(made["data"]["password"], "***");
    }
}
