//! `tulle validate`: looks for errors in files, with no server.

use std::path::Path;

use clap::Args;

use crate::diagnostic::Diagnostics;
use crate::exit::Result;
use crate::manifest::{self, FileArgs};
use crate::output::print;
use crate::up::config;

#[derive(Debug, Args)]
pub struct ValidateArgs {
    /// Files and folders; a folder with a tulle.yaml is checked as `tulle up` does it; - is stdin
    #[arg(value_name = "PATH", required_unless_present = "filename")]
    paths: Vec<std::path::PathBuf>,
    #[command(flatten)]
    files: FileArgs,
    /// The files are a part of something larger: Services that routes refer to may be elsewhere
    #[arg(long)]
    partial: bool,
}

pub fn run(mut args: ValidateArgs) -> Result<()> {
    args.files.filename.extend(args.paths);
    let (meshes, files): (Vec<_>, Vec<_>) = args.files.filename.into_iter().partition(|path| is_mesh(path));
    let mut count = 0;
    for mesh in &meshes {
        let config = config::load(mesh)?;
        count += config.services.len() + config.resources.len();
    }
    if !files.is_empty() {
        let set = manifest::load(&FileArgs { filename: files, ..args.files })?;
        let mut diagnostics = Diagnostics::default();
        manifest::check_references(&set.manifests, |_| None, args.partial, &mut diagnostics);
        diagnostics.into_result()?;
        count += set.manifests.len();
    }
    let objects = if count == 1 { "1 object".to_owned() } else { format!("{count} objects") };
    print(&format!("{objects} valid\n"))
}

fn is_mesh(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name == config::FILE) || path.join(config::FILE).is_file()
}
