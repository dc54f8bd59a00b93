//! `tulle validate`: looks for errors in files, with no server.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use clap::Args;
use tulle_model::name::ServiceName;
use tulle_model::registry::KindId;
use tulle_model::validate::{OfferedPort, offered_ports};

use super::apply::print_skipped;
use crate::diagnostic::Diagnostics;
use crate::exit::{Failure, Result};
use crate::manifest::{self, FileArgs, Manifest, UP_FILE};
use crate::output::{note, print};
use crate::up::config::Config;
use crate::up::{ProfileArgs, load};

#[derive(Debug, Args)]
pub struct ValidateArgs {
    /// Files and folders; a folder with a tulle.yaml is checked as `tulle up` does it, with -f its other
    /// files, too; - is stdin [default: .]
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    files: FileArgs,
    /// The files are a part of something larger: Services that routes refer to may be elsewhere
    #[arg(long)]
    partial: bool,
    #[command(flatten)]
    profiles: ProfileArgs,
}

pub fn run(mut args: ValidateArgs) -> Result<()> {
    // `tulle apply -f` takes the objects that are there beside a tulle.yaml. What else is in the folder of a project is none.
    let beside = args.files.filename.iter().filter(|path| is_mesh(path));
    let beside: Vec<_> =
        beside.filter(|path| manifest::has_files(path, args.files.recursive)).cloned().collect();
    args.files.filename.extend(args.paths);
    if args.files.filename.is_empty() {
        args.files.filename.push(".".into());
    }
    let (mut meshes, mut files): (Vec<_>, Vec<_>) =
        args.files.filename.into_iter().partition(|path| is_mesh(path));
    files.extend(beside);
    if args.files.recursive {
        files.iter().for_each(|path| find_meshes(path, &mut meshes));
    }
    let mut count = 0;
    let mut warnings = Diagnostics::default();
    let profiles = args.profiles.chosen();
    let meshes = meshes.iter().map(|mesh| load(mesh, &profiles)).collect::<Result<Vec<_>>>()?;
    for config in &meshes {
        count += config.services.len() + config.resources.len();
        manifest::find_idle(&config.resources, |name| config.ports_of(name), &mut warnings);
        manifest::find_ignored(&config.resources, &mut warnings);
        match &config.skipped {
            Some(line) if args.files.strict => return Err(Failure::input(format!("resources: {line}"))),
            skipped => skipped.iter().for_each(|line| note(line)),
        }
    }
    if !files.is_empty() {
        let mut set = manifest::load(&FileArgs { filename: files, ..args.files })?;
        // Those that a tulle.yaml names are checked with it.
        let resources = meshes.iter().flat_map(|mesh| &mesh.resources);
        let checked: HashSet<_> = resources.filter_map(Manifest::file).collect();
        set.manifests.retain(|manifest| manifest.file().is_none_or(|file| !checked.contains(&file)));
        print_skipped(&set)?;
        let mut diagnostics = Diagnostics::default();
        let known = |name: &ServiceName| meshes.iter().find_map(|mesh| mesh.ports_of(name));
        let missing = (!args.partial).then_some("name the file that has it, too, or say --partial");
        let given = |kind: KindId, name: &ServiceName| match kind {
            KindId::Service => known(name),
            _ => meshes.iter().find_map(|mesh| described_ports(mesh, kind, name)),
        };
        manifest::check_references(&set.manifests, given, missing, &mut diagnostics);
        diagnostics.into_result()?;
        manifest::find_idle(&set.manifests, known, &mut warnings);
        manifest::find_ignored(&set.manifests, &mut warnings);
        count += set.manifests.len();
    }
    if !warnings.is_empty() {
        note(&warnings.render());
    }
    let objects = if count == 1 { "1 object".to_owned() } else { format!("{count} objects") };
    print(&format!("{objects} valid\n"))
}

/// The ports of what a document of a tulle.yaml describes.
fn described_ports(mesh: &Config, kind: KindId, name: &ServiceName) -> Option<Vec<OfferedPort>> {
    let is_meant = |document: &&Manifest| {
        document.kind.id == kind
            && document.name() == &*name.name
            && document.namespace() == Some(&*name.namespace)
    };
    offered_ports(kind, &mesh.resources.iter().find(is_meant)?.value)
}

/// The folders in a folder that have a tulle.yaml.
fn find_meshes(folder: &Path, meshes: &mut Vec<PathBuf>) {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut folders: Vec<_> = entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).collect();
    folders.sort_by_key(std::fs::DirEntry::path);
    for folder in folders.iter().map(std::fs::DirEntry::path) {
        if is_mesh(&folder) {
            meshes.push(folder.clone());
        }
        find_meshes(&folder, meshes);
    }
}

fn is_mesh(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name == UP_FILE) || path.join(UP_FILE).is_file()
}
