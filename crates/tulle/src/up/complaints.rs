//! What is said of services that are not well: once, and what changes all the time not all the time.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

/// So long a service may take to be ready before it is said why it is not.
const START_PATIENCE: Duration = Duration::from_secs(1);
/// How long it is until something else is said of the same workload, at most.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// What was said of each workload.
#[derive(Default)]
pub struct Complaints(HashMap<String, Complaint>);

struct Complaint {
    since: Instant,
    said: String,
    next: Instant,
    pause: Duration,
    /// When something is to be said of it that was held back.
    due: Option<Instant>,
}

impl Complaints {
    /// What is to be said now of a workload.
    pub fn heard(&mut self, name: &str, complaint: Option<String>, now: Instant) -> Option<String> {
        let Some(text) = complaint else {
            self.0.remove(name);
            return None;
        };
        // One that is ready has been asked already, and answered wrongly.
        let patience = if text.starts_with("not ready") || text.starts_with("waits") {
            START_PATIENCE
        } else {
            Duration::ZERO
        };
        let known = self.0.entry(name.to_owned()).or_insert_with(|| Complaint {
            since: now,
            said: String::new(),
            next: now,
            pause: START_PATIENCE,
            due: None,
        });
        let may_be_said = (known.since + patience).max(known.next);
        known.due = (known.said != text && now < may_be_said).then_some(may_be_said);
        if known.due.is_some() || known.said == text {
            return None;
        }
        known.next = now + known.pause;
        known.pause = (known.pause * 2).min(LONGEST_PAUSE);
        known.said.clone_from(&text);
        Some(text)
    }

    /// Forgets all others than these.
    pub fn keep(&mut self, names: &HashSet<String>) {
        self.0.retain(|name, _| names.contains(name));
    }

    /// When something is to be said next that is known already.
    pub fn due(&self) -> Option<Instant> {
        self.0.values().filter_map(|complaint| complaint.due).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_said_once_and_not_all_the_time() {
        let mut complaints = Complaints::default();
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut heard = |text: &str, ms| {
            complaints.heard("a", Some(text.to_owned()).filter(|t| !t.is_empty()), at(ms)).is_some()
        };
        assert!(!heard("not ready: x", 0) && !heard("not ready: x", 900), "it may just start");
        assert!(heard("not ready: x", 1000) && !heard("not ready: x", 60_000));
        assert!(heard("not ready: y", 60_100) && !heard("not ready: z", 60_200));
        assert!(heard("not ready: z", 62_100));
        assert!(!heard("", 62_200) && heard("its probe fails (1 of 3): x", 62_300), "that is said at once");
        let changes = (0..10_000).filter(|n| heard(&format!("not ready: {n}"), 70_000 + n * 100)).count();
        assert!((10..40).contains(&changes), "{changes} in 1000 s");
    }

    #[test]
    fn what_is_held_back_is_due_at_its_time() {
        let mut complaints = Complaints::default();
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let not_ready = || Some("not ready: x".to_owned());
        assert_eq!(complaints.due(), None);
        assert_eq!(complaints.heard("a", not_ready(), at(0)), None);
        assert_eq!(complaints.heard("b", not_ready(), at(300)), None);
        assert_eq!(complaints.due(), Some(at(1000)));
        assert_eq!(complaints.heard("a", not_ready(), at(1000)), not_ready());
        assert_eq!(complaints.due(), Some(at(1300)));
        complaints.keep(&["a".to_owned()].into());
        assert_eq!(complaints.due(), None);
        assert_eq!(complaints.heard("a", Some("not ready: y".to_owned()), at(1200)), None);
        assert_eq!(complaints.due(), Some(at(2000)), "it has said something a moment ago");
    }
}
