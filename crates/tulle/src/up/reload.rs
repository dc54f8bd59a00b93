//! A file that changes while its mesh runs: what it says now is carried out, and the rest is not touched.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::Mutex;
use tokio::time::sleep;
use tulle_server::objects::Objects;

use super::config::{Config, Sources};
use super::elsewhere::Elsewhere;
use super::files::{self, Mark, mark};
use super::load::load;
use super::plan::{ServiceChange, plan};
use super::profiles::Profiles;
use super::screen::Screen;
use super::services::Services;
use super::{limits, mesh, objects, published, users};
use crate::exit::{Failure, Result};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_millis(300);
/// For how long nothing may have changed before they are read: editors, and `git checkout`, write several.
const QUIET: Duration = Duration::from_millis(150);

/// Where the objects are that the file describes.
pub enum Kept {
    Here(Objects),
    Elsewhere(Arc<Elsewhere>),
}

/// Reads the file again, and has the mesh be as it says.
pub struct Reload {
    pub path: PathBuf,
    pub profiles: Profiles,
    /// The services that are to run, with what they depend on; `None`: all.
    pub chosen: parking_lot::Mutex<Option<BTreeSet<String>>>,
    pub services: Arc<Services>,
    pub kept: Kept,
    pub screen: Arc<Screen>,
    /// Why the file is not taken as it is now, in short.
    pub refused: parking_lot::Mutex<Option<String>>,
    /// One change at a time.
    pub turn: Mutex<()>,
}

impl Reload {
    /// Follows the files for as long as this is polled.
    pub async fn follow(&self) {
        let mut seen = look(&self.services.config().sources);
        loop {
            sleep(LOOK).await;
            let mut now = look(&self.services.config().sources);
            if now == seen {
                continue;
            }
            loop {
                sleep(QUIET).await;
                let later = look(&self.services.config().sources);
                if later == now {
                    break;
                }
                now = later;
            }
            // What is written from here on, while this change is carried out, is another one.
            seen = now;
            if let Err(why) = self.now(None).await {
                self.screen.say("the change is not taken, and nothing is touched:");
                let why = anstream::adapter::strip_str(&why).to_string();
                why.lines().for_each(|line| self.screen.say(line));
            }
        }
    }

    /// Returns what changed, when services that went have ended and others have begun to start. `also`: what is to run from now on
    /// beside what runs; where it is empty, all.
    ///
    /// # Errors
    /// Says what is wrong: then all is as before, but where the store fails.
    pub async fn now(&self, also: Option<&[String]>) -> Result<Vec<String>, String> {
        let _turn = self.turn.lock().await;
        let outcome = self.carry_out(also).await.map_err(|failure| failure.to_string());
        let why = outcome.as_ref().err().map(|why| anstream::adapter::strip_str(why).to_string());
        *self.refused.lock() = why.and_then(|why| why.lines().next().map(str::to_owned));
        outcome
    }

    async fn carry_out(&self, also: Option<&[String]>) -> Result<Vec<String>> {
        let before = self.services.config();
        let mut after = load(&self.path, &self.profiles)?;
        let chosen = self.chosen_with(also);
        if let Some(chosen) = &chosen {
            // One that the file has no more has gone with it.
            let there = |name: &&String| also.is_some_and(|also| also.contains(name)) || after.has(name);
            let chosen = chosen.iter().filter(there).cloned().collect();
            after.choose(&chosen)?;
        }
        if let Kept::Elsewhere(elsewhere) = &self.kept {
            after.on_host(&elsewhere.host)?;
            after.elsewhere = elsewhere.known();
        }
        users::choose(&mut after)?;
        limits::check(&after)?;
        let changes = plan(&before, &after).map_err(Failure::new)?;
        let mut own: BTreeSet<u16> = self.services.shared.ports.borrow().keys().copied().collect();
        own.extend(before.services.iter().flat_map(|s| &s.publish).map(|publish| publish.address.port()));
        mesh::check_free(&after, &own)?;
        published::check_free(&after, Some(&before))?;
        let mut said: Vec<String> =
            changes.iter().map(|(name, change)| format!("{name} {}", change.describe())).collect();
        if resources(&before) != resources(&after) {
            said.push("resources changed".to_owned());
        }
        *self.chosen.lock() = chosen;
        // What only the sources say is taken, too.
        self.screen.know(&after);
        said.iter().for_each(|line| self.screen.say(line));
        if let Kept::Here(objects) = &self.kept {
            objects::put(objects, &after).await?;
        }
        let after = Arc::new(after);
        self.services.change(after.clone(), &changes);
        let published = self.services.published.follow(&after).await;
        published.iter().flatten().for_each(|port| self.screen.say(&port.to_string()));
        let gone = changes.iter().filter(|(_, change)| *change == ServiceChange::Removed);
        join_all(gone.map(|(name, _)| self.services.remove(name))).await;
        // Last: what was under way to them has ended.
        match &self.kept {
            Kept::Here(objects) => {
                let flows = objects::remove_others(objects, &after).await;
                for flow in flows? {
                    self.screen.say(&format!("the Flow {flow} is gone, and all its runs with it"));
                }
            }
            Kept::Elsewhere(elsewhere) => elsewhere.look_again(),
        }
        // All else that the change asks for is done by then.
        published?;
        Ok(said)
    }

    fn chosen_with(&self, also: Option<&[String]>) -> Option<BTreeSet<String>> {
        let chosen = self.chosen.lock().clone();
        match also {
            None => chosen,
            Some([]) => None,
            Some(also) => chosen.map(|chosen| chosen.into_iter().chain(also.iter().cloned()).collect()),
        }
    }
}

fn resources(config: &Config) -> Vec<&serde_json::Value> {
    config.resources.iter().map(|resource| &resource.value).collect()
}

fn look(sources: &Sources) -> Vec<(PathBuf, Option<Mark>)> {
    let marked = |path: PathBuf| {
        let known = fs::metadata(&path).ok();
        (path, known.as_ref().map(mark))
    };
    let matching = sources.patterns.iter().flat_map(|(folder, pattern)| files::matching(folder, pattern));
    sources.files.iter().cloned().chain(matching).map(marked).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_change_of_a_file_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tulle.yaml");
        let sources = Sources {
            files: vec![file.clone()],
            patterns: vec![(folder.path().to_owned(), "*.r.yaml".to_owned())],
        };
        let mut before = look(&sources);
        let mut is_other = || {
            let now = look(&sources);
            let is_other = now != before;
            before = now;
            is_other
        };
        fs::write(&file, "a").unwrap();
        assert!(is_other() && !is_other());
        // Of the same size, and as editors do it.
        fs::write(folder.path().join("new"), "b").unwrap();
        fs::rename(folder.path().join("new"), &file).unwrap();
        assert!(is_other());
        fs::write(folder.path().join("x.r.yaml"), "b").unwrap();
        assert!(is_other());
        fs::remove_file(folder.path().join("x.r.yaml")).unwrap();
        assert!(is_other());
        fs::remove_file(&file).unwrap();
        assert!(is_other() && !is_other());
    }
}
