//! Processes with wall clocks of their own (libfaketime; clocks that nobody sets go on).

use std::path::PathBuf;

use crate::harness::{Home, Process, tulle};

/// libfaketime, where it is installed.
pub fn library() -> Option<PathBuf> {
    let folders = std::fs::read_dir("/usr/lib").ok()?.flatten().map(|entry| entry.path());
    let mut found = folders.map(|folder| folder.join("faketime/libfaketimeMT.so.1"));
    found.find(|file| file.is_file())
}

/// A process with a clock of its own, as far from this host's as the file says.
pub struct Faked {
    pub home: Home,
    pub process: Process,
}

impl Faked {
    pub fn start(home: Home, clock: &str, arguments: &[&str]) -> Self {
        let offset = home.write("clock", clock);
        let mut command = home.command(tulle());
        command.args(arguments).env("LD_PRELOAD", library().unwrap());
        command.env("FAKETIME_TIMESTAMP_FILE", offset).env("FAKETIME_NO_CACHE", "1");
        command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1").env("NO_FAKE_STAT", "1");
        let process = Process::spawn(&mut command);
        Self { home, process }
    }

    /// Sets its clock.
    pub fn set(&self, clock: &str) {
        // In one piece: the process reads it all the time.
        let new = self.home.write("clock.new", clock);
        std::fs::rename(new, self.home.path().join("clock")).unwrap();
    }
}
