//! `tulle diff`: what `tulle apply` would change.

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use serde_json::Value;
use similar::TextDiff;

use super::apply::apply_path;
use crate::client::{ClientArgs, resource};
use crate::exit::{Failure, Result};
use crate::manifest::{self, FileArgs};
use crate::output::{note, print, yaml};

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
        let before = client.find(&path).await?;
        let after = client.apply(&apply_path(path, true, true), &manifest.value).await?;
        let before = before.map(shown).transpose()?.unwrap_or_default();
        let after = shown(after)?;
        if before != after {
            differs = true;
            print(&render(&manifest.describe(), &before, &after))?;
        }
    }
    Ok(differs)
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
