//! The audit log: who changed what through the API, and who was refused.
//!
//! One JSON object a line, in files of the server's home that their owner alone can read: `changes.jsonl`, `denied.jsonl`, `nodes.jsonl` for
//! what nodes and workloads are refused at the nodes' port, and `anonymous.jsonl` for refusals of whoever has not shown who he is. They are
//! apart so that whoever is refused a million times pushes nobody's change out, and neither a node nor a stranger a user's refusal. Each is rotated at [`LARGEST`] bytes, and the
//! oldest of [`FILES`] files goes. No value of a Secret and no token is in them ([`diff`]).

pub mod diff;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};
use tulle_model::legible::legible_start;

/// How many bytes a file may have before the next is begun.
const LARGEST: u64 = 16 << 20;
/// How many files there are of each sort, with the one that is written.
const FILES: usize = 8;
/// How many entries may wait to be written.
const WAITING: usize = 1024;
/// How many of these may be of strangers, and how many of nodes.
const FEW_WAITING: usize = 128;
/// How many characters of what a client says of itself are kept.
const LONGEST_TEXT: usize = 256;

/// What happened.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AuditEntry {
    /// When: RFC 3339, in milliseconds.
    pub time: String,
    /// Who; `system:anonymous` for whoever has not shown who he is.
    pub user: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// Who acted as the user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub impersonated_by: Option<String>,
    /// `create`, `update`, `patch`, `delete`, …; of paths the method in lower case; of a node `join`, `subscribe`, `discover`,
    /// `sign`, `report`, `readkeys` and `list`.
    pub verb: String,
    /// What was asked for: `services/shop/cart`, `httproutes.gateway.networking.k8s.io/shop/cart`, `/metrics`.
    pub object: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub subresource: String,
    /// The status that was answered.
    pub code: u16,
    /// `allowed` or `denied`.
    pub decision: String,
    /// Which objects allowed it, or why it was denied.
    pub reason: String,
    /// What changed: a JSON patch (RFC 6902).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub diff: Option<Value>,
    /// The client's own name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub client: String,
    /// Whether it happened at the nodes' port.
    #[serde(skip)]
    pub at_nodes_port: bool,
}

impl AuditEntry {
    /// What a node was refused that its certificate names.
    pub fn of_node(node: &str, verb: &str, object: String, reason: String) -> Self {
        let groups = vec!["system:nodes".to_owned()];
        Self { groups, ..Self::of_peer(format!("system:node:{node}"), verb, object, reason) }
    }

    /// What somebody was refused at the nodes' port; [`ANONYMOUS`] who has shown no certificate.
    pub fn of_peer(user: String, verb: &str, object: String, reason: String) -> Self {
        let (verb, decision) = (verb.to_owned(), DENIED.to_owned());
        Self { user, verb, object, code: 403, decision, reason, at_nodes_port: true, ..Self::default() }
    }

    /// In which files it stands.
    fn sort(&self) -> Sort {
        match (self.decision == DENIED, self.user == ANONYMOUS) {
            (false, _) => Sort::Changes,
            (true, true) => Sort::Anonymous,
            (true, false) if self.at_nodes_port => Sort::Nodes,
            (true, false) => Sort::Denied,
        }
    }
}

/// The user of an entry about whoever has not shown who he is.
pub const ANONYMOUS: &str = "system:anonymous";

/// The sorts of files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sort {
    Changes,
    Denied,
    Nodes,
    Anonymous,
}

impl Sort {
    const ALL: [Self; 4] = [Self::Changes, Self::Denied, Self::Nodes, Self::Anonymous];
    /// Those of refusals.
    const REFUSALS: [Self; 3] = [Self::Denied, Self::Nodes, Self::Anonymous];

    /// How many entries may wait.
    fn most_waiting(self) -> usize {
        match self {
            Self::Changes | Self::Denied => usize::MAX,
            Self::Nodes | Self::Anonymous => FEW_WAITING,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Changes => "changes",
            Self::Denied => "denied",
            Self::Nodes => "nodes",
            Self::Anonymous => "anonymous",
        }
    }
}

/// Which entries are wanted.
#[derive(Debug, Clone, Default)]
pub struct AuditFilter {
    pub denied: bool,
    pub user: Option<String>,
    pub verb: Option<String>,
    /// A part of the object's name.
    pub object: Option<String>,
    pub limit: usize,
}

impl AuditFilter {
    fn matches(&self, entry: &AuditEntry) -> bool {
        let is =
            |wanted: &Option<String>, found: &str| wanted.as_deref().is_none_or(|wanted| wanted == found);
        is(&self.user, &entry.user)
            && is(&self.verb, &entry.verb)
            && self.object.as_deref().is_none_or(|part| entry.object.contains(part))
    }
}

/// Writes the log, and reads it; clones share it. The writer's thread ends with the last of them.
#[derive(Clone)]
pub struct Audit {
    folder: PathBuf,
    queue: mpsc::Sender<QueuedEntry>,
    lost: Arc<AtomicU64>,
    /// How many entries of each sort wait.
    waiting: Arc<[AtomicUsize; Sort::ALL.len()]>,
}

/// An entry that is to be written, and who waits for that.
struct QueuedEntry {
    entry: Box<AuditEntry>,
    done: Option<oneshot::Sender<()>>,
}

impl Audit {
    /// The log in a folder, which is made with the first entry: a server starts with a full disk, too.
    ///
    /// # Errors
    /// Where there is no thread for it.
    pub fn open(folder: &Path) -> io::Result<Self> {
        let (queue, mut waiting) = mpsc::channel(WAITING);
        let lost = Arc::new(AtomicU64::new(0));
        let counts = Arc::<[AtomicUsize; Sort::ALL.len()]>::default();
        let (at, losing, written) = (folder.to_owned(), lost.clone(), counts.clone());
        std::thread::Builder::new().name("tulle-audit".to_owned()).spawn(move || {
            let mut logs = Sort::ALL.map(|sort| AuditLog::new(&at, sort.name()));
            while let Some(QueuedEntry { entry, done }) = waiting.blocking_recv() {
                let sort = entry.sort();
                written[sort as usize].fetch_sub(1, Ordering::Relaxed);
                let log = &mut logs[sort as usize];
                if let Err(error) = log.write(&entry) {
                    losing.fetch_add(1, Ordering::Relaxed);
                    tracing::error!(
                        %error, user = entry.user, verb = entry.verb, object = entry.object,
                        "the audit log cannot be written"
                    );
                }
                if let Some(done) = done {
                    let _ = done.send(());
                }
            }
        })?;
        Ok(Self { folder: folder.to_owned(), queue, lost, waiting: counts })
    }

    /// Writes an entry, and returns when it is in the file. About a stranger nobody waits: see [`Audit::note`].
    pub async fn write(&self, entry: AuditEntry) {
        if entry.sort() == Sort::Anonymous {
            return self.note(entry);
        }
        let (done, written) = oneshot::channel();
        self.waiting[entry.sort() as usize].fetch_add(1, Ordering::Relaxed);
        if self.queue.send(QueuedEntry { entry: Box::new(stamped(entry)), done: Some(done) }).await.is_ok() {
            let _ = written.await;
        }
    }

    /// Has an entry written, for who cannot wait; where too many wait it is lost, and counted.
    pub fn note(&self, entry: AuditEntry) {
        let sort = entry.sort();
        let waiting = &self.waiting[sort as usize];
        let has_room = waiting.fetch_add(1, Ordering::Relaxed) < sort.most_waiting();
        if !has_room
            || self.queue.try_send(QueuedEntry { entry: Box::new(stamped(entry)), done: None }).is_err()
        {
            waiting.fetch_sub(1, Ordering::Relaxed);
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many entries could not be written.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// The latest entries, the newest first.
    ///
    /// # Errors
    /// Where the files cannot be read.
    pub async fn read(&self, wanted: AuditFilter) -> io::Result<Vec<AuditEntry>> {
        let folder = self.folder.clone();
        let reading = tokio::task::spawn_blocking(move || read(&folder, &wanted));
        reading.await.map_err(io::Error::other)?
    }
}

/// What [`AuditEntry::decision`] says.
pub const ALLOWED: &str = "allowed";
pub const DENIED: &str = "denied";

fn stamped(entry: AuditEntry) -> AuditEntry {
    let time = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string();
    let short = |text: &str| legible_start(text, LONGEST_TEXT).into_owned();
    AuditEntry {
        time,
        user: short(&entry.user),
        groups: entry.groups.iter().take(32).map(|group| short(group)).collect(),
        verb: short(&entry.verb),
        subresource: short(&entry.subresource),
        object: legible_start(&entry.object, 1024).into_owned(),
        reason: legible_start(&entry.reason.replace('\n', " "), 1024).into_owned(),
        client: short(&entry.client),
        ..entry
    }
}

fn path(folder: &Path, name: &str, age: usize) -> PathBuf {
    match age {
        0 => folder.join(format!("{name}.jsonl")),
        age => folder.join(format!("{name}.{age}.jsonl")),
    }
}

/// The files of one sort.
struct AuditLog {
    folder: PathBuf,
    name: &'static str,
    file: Option<(File, u64)>,
}

impl AuditLog {
    fn new(folder: &Path, name: &'static str) -> Self {
        Self { folder: folder.to_owned(), name, file: None }
    }

    fn write(&mut self, entry: &AuditEntry) -> io::Result<()> {
        let mut line = serde_json::to_vec(entry)?;
        line.push(b'\n');
        let result = self.append(&line);
        if result.is_err() {
            // A part of the line may be there: the next one begins anew.
            self.file = None;
        }
        result
    }

    fn append(&mut self, line: &[u8]) -> io::Result<()> {
        if self.file.as_ref().is_some_and(|(_, size)| *size >= LARGEST) {
            self.file = None;
            self.rotate()?;
        }
        let (file, size) = match &mut self.file {
            Some(open) => open,
            None => self.file.insert(open(&path(&self.folder, self.name, 0))?),
        };
        file.write_all(line)?;
        *size += line.len() as u64;
        Ok(())
    }

    fn rotate(&self) -> io::Result<()> {
        for age in (0..FILES - 1).rev() {
            match fs::rename(path(&self.folder, self.name, age), path(&self.folder, self.name, age + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

/// Opens a file to be gone on with, and its size. What a crash left of a line is ended.
fn open(path: &Path) -> io::Result<(File, u64)> {
    use std::os::unix::fs::FileExt;
    if let Some(folder) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    let mut file = OpenOptions::new().create(true).append(true).read(true).mode(0o600).open(path)?;
    let mut size = file.metadata()?.len();
    let mut last = [b'\n'];
    if size > 0 {
        file.read_exact_at(&mut last, size - 1)?;
    }
    if last != *b"\n" {
        file.write_all(b"\n")?;
        size += 1;
    }
    Ok((file, size))
}

fn read(folder: &Path, wanted: &AuditFilter) -> io::Result<Vec<AuditEntry>> {
    if !wanted.denied {
        return read_sort(folder, Sort::Changes, wanted);
    }
    let mut found = Vec::new();
    for sort in Sort::REFUSALS {
        found.extend(read_sort(folder, sort, wanted)?);
    }
    // The newest first; what each sort has is in its order.
    found.sort_by(|a, b| b.time.cmp(&a.time));
    found.truncate(wanted.limit);
    Ok(found)
}

fn read_sort(folder: &Path, sort: Sort, wanted: &AuditFilter) -> io::Result<Vec<AuditEntry>> {
    let name = sort.name();
    let mut found = Vec::new();
    for age in 0..FILES {
        let text = match fs::read(path(folder, name, age)) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => break,
            Err(error) => return Err(error),
        };
        let entries = text.rsplit(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok());
        let missing = wanted.limit - found.len();
        found.extend(entries.filter(|entry| wanted.matches(entry)).take(missing));
        if found.len() >= wanted.limit {
            break;
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn entry(user: &str, decision: &str) -> AuditEntry {
        AuditEntry {
            user: user.to_owned(),
            decision: decision.to_owned(),
            verb: "get".to_owned(),
            ..AuditEntry::default()
        }
    }

    #[tokio::test]
    async fn entries_are_read_back_the_newest_first() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("audit");
        let audit = Audit::open(&folder).unwrap();
        for user in ["ann", "bob", "ann\nINFO all is well"] {
            audit.write(entry(user, ALLOWED)).await;
        }
        audit.write(AuditEntry { verb: "X".repeat(100_000), ..entry("eve", DENIED) }).await;
        assert!(fs::metadata(folder.join("denied.jsonl")).unwrap().len() < 2000);
        let users = async |wanted: AuditFilter| {
            let entries = audit.read(AuditFilter { limit: 10, ..wanted }).await.unwrap();
            entries.into_iter().map(|entry| entry.user).collect::<Vec<_>>()
        };
        let changes = users(AuditFilter::default()).await;
        assert_eq!(changes[1..], ["bob", "ann"]);
        assert!(!changes[0].contains('\n'), "{changes:?}");
        assert_eq!(users(AuditFilter { denied: true, ..AuditFilter::default() }).await, ["eve"]);
        assert_eq!(
            users(AuditFilter { user: Some("bob".to_owned()), ..AuditFilter::default() }).await,
            ["bob"]
        );
        for file in ["changes.jsonl", "denied.jsonl"] {
            let mode = fs::metadata(folder.join(file)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{file}");
        }
        // A crash in the middle of a line costs that line.
        drop(audit);
        OpenOptions::new()
            .append(true)
            .open(folder.join("changes.jsonl"))
            .unwrap()
            .write_all(b"{\"user")
            .unwrap();
        let audit = Audit::open(&folder).unwrap();
        audit.write(entry("carl", ALLOWED)).await;
        let entries = audit.read(AuditFilter { limit: 2, ..AuditFilter::default() }).await.unwrap();
        assert_eq!((entries[0].user.as_str(), entries.len()), ("carl", 2));
    }

    #[tokio::test]
    async fn a_flood_of_strangers_or_of_a_node_pushes_nobody_elses_refusal_out() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("audit");
        let audit = Audit::open(&folder).unwrap();
        audit.write(entry("eve", DENIED)).await;
        // More than ever wait: the queue keeps room for those who are known.
        for _ in 0..20 * WAITING {
            audit.note(entry(ANONYMOUS, DENIED));
            audit.note(AuditEntry::of_node("n1", "report", "workloads/a/b".to_owned(), String::new()));
            assert!(audit.queue.capacity() >= WAITING - 2 * FEW_WAITING - 1);
        }
        audit.note(entry("mallory", DENIED));
        audit.write(entry("ann", ALLOWED)).await;
        let users = async |user: Option<&str>| {
            let wanted =
                AuditFilter { denied: true, user: user.map(str::to_owned), limit: 5, ..Default::default() };
            audit.read(wanted).await.unwrap().into_iter().map(|entry| entry.user).collect::<Vec<_>>()
        };
        assert_eq!(users(Some("eve")).await, ["eve"]);
        assert_eq!(users(Some("mallory")).await, ["mallory"]);
        assert_eq!(users(Some(ANONYMOUS)).await.len(), 5);
        assert_eq!(users(Some("system:node:n1")).await.len(), 5);
        let all = users(None).await;
        assert!(all.contains(&"mallory".to_owned()) && all.len() == 5, "by time, whoever it is: {all:?}");
        let known = fs::read_to_string(folder.join("denied.jsonl")).unwrap();
        assert_eq!(known.lines().count(), 2);
    }

    #[test]
    fn files_are_rotated_and_the_oldest_goes() {
        let home = tempfile::tempdir().unwrap();
        let mut log = AuditLog::new(home.path(), "changes");
        for n in 0..FILES + 3 {
            log.write(&entry(&n.to_string(), ALLOWED)).unwrap();
            // As if it were full.
            log.file.as_mut().unwrap().1 = LARGEST;
        }
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), FILES);
        let wanted = AuditFilter { limit: 100, ..AuditFilter::default() };
        let users: Vec<_> = read(home.path(), &wanted).unwrap().into_iter().map(|entry| entry.user).collect();
        let expected: Vec<_> = (3..FILES + 3).rev().map(|n| n.to_string()).collect();
        assert_eq!(users, expected);
    }
}
