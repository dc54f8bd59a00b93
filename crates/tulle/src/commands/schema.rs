//! `tulle schema`: what editors know a file by.

use clap::{Args, ValueEnum};

use crate::exit::Result;
use crate::output::print_json;
use crate::up::schema;

#[derive(Debug, Args)]
#[command(after_help = "\
    tulle schema up > tulle.schema.json

An editor with the YAML language server then completes and explains fields of a tulle.yaml that begins with
    # yaml-language-server: $schema=tulle.schema.json")]
pub struct SchemaArgs {
    /// Of which file
    #[arg(value_enum)]
    file: Described,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Described {
    /// tulle.yaml, which `tulle up` reads
    Up,
}

pub fn run(args: &SchemaArgs) -> Result<()> {
    match args.file {
        Described::Up => print_json(&schema()),
    }
}
