//! The report of a run.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::run::results::Results;

#[derive(clap::Args)]
pub struct Options {
    /// The results of a run: results.json
    results: PathBuf,
    /// Where the report goes [default: beside the results]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

pub fn run(options: &Options) -> Result<()> {
    let results = Results::read(&options.results)?;
    let beside = options.results.parent().unwrap_or(Path::new("."));
    write(&results, options.out.as_deref().unwrap_or(beside))
}

pub fn write(_results: &Results, _folder: &Path) -> Result<()> {
    Ok(())
}
