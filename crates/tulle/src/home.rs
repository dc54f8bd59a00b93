//! Where Tulle keeps its state, and how its API is found.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::exit::{Failure, Result};

/// Options of every command that uses the state on this machine.
#[derive(Debug, Clone, Args)]
pub struct HomeArgs {
    /// The folder of Tulle's state [default: /var/lib/tulle as root, ~/.local/share/tulle otherwise]
    #[arg(long, value_name = "DIR", env = "TULLE_HOME", global = true)]
    home: Option<PathBuf>,
}

impl HomeArgs {
    /// The options where the folder is known, or is to be the default.
    pub fn of(home: Option<PathBuf>) -> Self {
        Self { home }
    }

    /// The folder, absolute; it may not exist yet.
    pub fn path(&self) -> Result<PathBuf> {
        let path = match &self.home {
            Some(path) if !path.as_os_str().is_empty() => path.clone(),
            _ => default_home()?,
        };
        Ok(std::path::absolute(path)?)
    }
}

/// Whether commands find the folder without being told.
pub fn is_default(home: &Path) -> bool {
    default_home().is_ok_and(|default| default == home)
}

/// Makes the folder, for its owner only, where it is not there yet.
pub fn create(home: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(home).map_err(|error| {
        Failure::new(format!("cannot make the folder {}: {error}", home.display()))
            .help("another one: --home DIR, or the variable TULLE_HOME")
    })
}

fn default_home() -> Result<PathBuf> {
    if is_root() {
        return Ok("/var/lib/tulle".into());
    }
    if let Some(data) = std::env::var_os("XDG_DATA_HOME").filter(|d| Path::new(d).is_absolute()) {
        return Ok(Path::new(&data).join("tulle"));
    }
    match std::env::var_os("HOME").filter(|h| !h.is_empty()) {
        Some(home) => Ok(Path::new(&home).join(".local/share/tulle")),
        None => {
            Err(Failure::input("there is no folder for Tulle's state: neither TULLE_HOME nor HOME is set")
                .help("set one: --home DIR, or the variable TULLE_HOME"))
        }
    }
}

/// Whether this process has root's rights.
pub fn is_root() -> bool {
    // The owner of this process' own entry is its effective user.
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|m| m.uid() == 0)
}
