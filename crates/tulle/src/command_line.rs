//! The arguments of a command, read from its command line as the binary does: for tests.

use clap::{Args, Command};

/// What the words after the command's name say.
pub fn read<A: Args>(words: &[&str]) -> Result<A, clap::Error> {
    let command = A::augment_args(Command::new("tulle").no_binary_name(true));
    A::from_arg_matches(&command.try_get_matches_from(words)?)
}
