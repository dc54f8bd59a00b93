//! Runs the real binary as a user would, and what stands around it.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// Ends the test here where it needs root and this is not root. `cargo xtask test` demands that
/// nothing is missing.
#[macro_export]
macro_rules! require_root {
    () => {
        if !$crate::harness::may_run("root", nix::unistd::geteuid().is_root()) {
            return;
        }
    };
}
pub use require_root;

/// Whether a test that needs `what` can run; says so where it cannot.
pub fn may_run(what: &str, available: bool) -> bool {
    let demanded = std::env::var_os("TULLE_TEST_REQUIRE_ALL").is_some();
    assert!(available || !demanded, "this test needs {what}, which is not here");
    if !available {
        eprintln!("skipped: needs {what}");
    }
    available
}

/// Only one story at a time uses the host's ports.
pub fn alone() -> std::sync::MutexGuard<'static, ()> {
    static HOST: Mutex<()> = Mutex::new(());
    HOST.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

pub fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Files with that extension, below `folder`, in order.
pub fn files_below(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_below(&path, extension));
        } else if path.extension().is_some_and(|is| is == extension) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The binary under test.
pub fn tulle() -> PathBuf {
    let built = || {
        let target =
            std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| project().join("target"), PathBuf::from);
        target.join("debug/tulle")
    };
    let path = std::env::var_os("TULLE_BIN").map_or_else(built, PathBuf::from);
    assert!(path.is_file(), "{} is not there: run `cargo build`", path.display());
    path
}

/// The interpreter with the Python packages of the tests.
pub fn python() -> PathBuf {
    std::env::var_os("TULLE_TEST_PYTHON").map_or_else(|| project().join(".venv/bin/python"), PathBuf::from)
}

/// Where the npm packages of the tests are: beside those of Python.
pub fn node_modules() -> PathBuf {
    python().ancestors().nth(2).unwrap().join("node_modules")
}

/// Whether the packages are there that [`python`] and Node find.
pub fn have_packages(python_packages: &[&str], npm_packages: &[&str]) -> bool {
    let script = "import importlib.util as u, sys; sys.exit(not all(map(u.find_spec, sys.argv[1:])))";
    let found = |status: std::io::Result<ExitStatus>| status.is_ok_and(|status| status.success());
    npm_packages.iter().all(|package| node_modules().join(package).is_dir())
        && found(Command::new(python()).args(["-c", script]).args(python_packages).status())
}

pub fn client(name: &str) -> String {
    project().join("tests/clients").join(name).display().to_string()
}

/// What a command printed and how it ended.
#[derive(Debug)]
pub struct Outcome {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Outcome {
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or(-1)
    }

    /// What it printed; it must have succeeded.
    #[track_caller]
    pub fn ok(self) -> String {
        assert!(self.status.success(), "{self:#?}");
        self.stdout
    }
}

/// Runs a command to its end, 60 s at most.
#[track_caller]
pub fn run(command: &mut Command) -> Outcome {
    let process = Process::spawn(command);
    let status = process.wait(Duration::from_secs(60));
    Outcome { status, stdout: process.stdout(), stderr: process.stderr() }
}

/// A process whose output is collected line by line. Asked to end when dropped, and killed where it does not.
pub struct Process {
    child: Mutex<Child>,
    pid: Pid,
    output: Arc<Output>,
    error: Arc<Output>,
}

#[derive(Default)]
struct Output {
    state: Mutex<(Vec<String>, bool)>,
    changed: Condvar,
}

impl Process {
    #[track_caller]
    pub fn spawn(command: &mut Command) -> Self {
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).stdin(Stdio::null());
        let mut child = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let output = collect(child.stdout.take().unwrap());
        let error = collect(child.stderr.take().unwrap());
        let pid = Pid::from_raw(child.id() as i32);
        Self { child: Mutex::new(child), pid, output, error }
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.pid, signal).unwrap();
    }

    pub fn pid(&self) -> Pid {
        self.pid
    }

    pub fn stdout(&self) -> String {
        self.output.text()
    }

    pub fn stderr(&self) -> String {
        self.error.text()
    }

    /// Waits for a line on standard output that `found` likes, and returns it.
    #[track_caller]
    pub fn wait_for_line(&self, what: &str, patience: Duration, found: impl Fn(&str) -> bool) -> String {
        self.output.wait(patience, found).unwrap_or_else(|| {
            panic!("no {what} within {patience:?}\nstdout:\n{}\nstderr:\n{}", self.stdout(), self.stderr())
        })
    }

    pub fn is_running(&self) -> bool {
        matches!(self.child.lock().unwrap().try_wait(), Ok(None))
    }

    #[track_caller]
    pub fn wait(&self, patience: Duration) -> ExitStatus {
        let mut child = self.child.lock().unwrap();
        let status = eventually("end of the process", patience, || child.try_wait().unwrap());
        // What it wrote last may still be in the pipe; a grandchild that holds the pipe is no reason to hang.
        self.output.wait_for_end();
        self.error.wait_for_end();
        status
    }

    /// Asks it to stop, as Ctrl-C does.
    #[track_caller]
    pub fn interrupt(&self) -> ExitStatus {
        self.signal(Signal::SIGINT);
        self.wait(Duration::from_secs(30))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let mut child = self.child.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        // A `tulle run` that is killed leaves its processes to a node, which may be gone.
        if !matches!(child.try_wait(), Ok(Some(_))) {
            let _ = kill(self.pid, Signal::SIGTERM);
            wait_until(FAREWELL, || matches!(child.try_wait(), Ok(Some(_))));
        }
        let _ = child.kill();
        let _ = child.wait();
        if std::thread::panicking() {
            eprintln!("--- output of process {}\n{}\n{}", self.pid, self.stdout(), self.stderr());
        }
    }
}

fn collect(pipe: impl std::io::Read + Send + 'static) -> Arc<Output> {
    let output = Arc::new(Output::default());
    let shared = output.clone();
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            shared.state.lock().unwrap().0.push(line);
            shared.changed.notify_all();
        }
        shared.state.lock().unwrap().1 = true;
        shared.changed.notify_all();
    });
    output
}

impl Output {
    fn text(&self) -> String {
        self.state.lock().unwrap().0.join("\n")
    }

    fn wait(&self, patience: Duration, found: impl Fn(&str) -> bool) -> Option<String> {
        let deadline = Instant::now() + patience;
        let mut state = self.state.lock().unwrap();
        let mut seen = 0;
        loop {
            if let Some(line) = state.0[seen..].iter().find(|line| found(line)) {
                return Some(line.clone());
            }
            seen = state.0.len();
            let left = deadline.checked_duration_since(Instant::now())?;
            if state.1 {
                return None;
            }
            state = self.changed.wait_timeout(state, left).unwrap().0;
        }
    }

    fn wait_for_end(&self) {
        let state = self.state.lock().unwrap();
        let _ = self.changed.wait_timeout_while(state, Duration::from_secs(2), |state| !state.1);
    }
}

/// How long a process that is dropped may take to end.
const FAREWELL: Duration = Duration::from_secs(3);

fn wait_until(patience: Duration, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + patience;
    while !condition() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Asks `probe` until it has an answer.
#[track_caller]
pub fn eventually<T>(what: &str, patience: Duration, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(answer) = probe() {
            return answer;
        }
        assert!(Instant::now() < deadline, "no {what} within {patience:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A state folder of its own, and commands that use it.
pub struct Home {
    folder: tempfile::TempDir,
    /// The namespace of the network that commands run in.
    pub netns: Option<String>,
    /// Run as this user and group.
    pub user: Option<u32>,
}

/// A user that has nothing: `nobody`.
pub const NOBODY: u32 = 65534;

impl Home {
    pub fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("tulle-test-").tempdir().unwrap();
        Self { folder, netns: None, user: None }
    }

    pub fn of_user(user: u32) -> Self {
        let mut home = Self::new();
        home.user = Some(user);
        std::os::unix::fs::chown(home.path(), Some(user), Some(user)).unwrap();
        home
    }

    pub fn in_netns(name: &str) -> Self {
        let mut home = Self::new();
        home.netns = Some(name.to_owned());
        home
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.path().join("kubeconfig")
    }

    /// Removes what nodes that were killed have left of cgroups and rules.
    fn tidy(&self) {
        let mut reset = Command::new(tulle());
        reset.env("TULLE_HOME", self.path()).args(["node", "reset", "--stop-timeout", "100ms"]);
        let _ = reset.stdout(Stdio::null()).stderr(Stdio::null()).status();
    }

    /// A file of the test's own in this folder.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }

    /// `program` with this home, in this network, as this user.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut prefix: Vec<String> = Vec::new();
        if let Some(netns) = &self.netns {
            prefix.extend(["ip", "netns", "exec", netns].map(str::to_owned));
        }
        if let Some(user) = self.user {
            prefix.extend(["setpriv".into(), format!("--reuid={user}"), format!("--regid={user}")]);
            prefix.extend(["--clear-groups".into(), "--inh-caps=-all".into()]);
        }
        let mut command = match prefix.split_first() {
            Some((first, rest)) => {
                let mut command = Command::new(first);
                command.args(rest).arg(program);
                command
            }
            None => Command::new(program),
        };
        command.env("TULLE_HOME", self.path()).env("HOME", self.path()).env("NO_COLOR", "1");
        command.env_remove("KUBECONFIG").env_remove("RUST_LOG").env_remove("RUST_BACKTRACE");
        command.current_dir(self.path());
        command
    }

    pub fn tulle(&self, arguments: &[&str]) -> Outcome {
        let mut command = self.command(tulle());
        command.args(arguments);
        run(&mut command)
    }

    pub fn kubectl(&self, arguments: &[&str]) -> Outcome {
        let mut command = self.command("kubectl");
        command.args(arguments).env("KUBECONFIG", self.kubeconfig());
        run(&mut command)
    }

    /// Starts `tulle` with these arguments and leaves it running.
    #[track_caller]
    pub fn start(&self, arguments: &[&str]) -> Process {
        let mut command = self.command(tulle());
        command.args(arguments);
        Process::spawn(&mut command)
    }

    /// `tulle up` of a folder with this `tulle.yaml`, until every service is ready.
    #[track_caller]
    pub fn up(&self, services: &str) -> Process {
        self.write("mesh/tulle.yaml", services);
        let folder = self.path().join("mesh").display().to_string();
        let process = self.start(&["up", &folder]);
        process.wait_for_line("readiness", Duration::from_secs(30), |line| {
            line.contains("all services are ready")
        });
        process
    }

    /// Runs a Python client as a workload of the local node.
    #[track_caller]
    pub fn run_client(&self, workload: &str, arguments: &[&str]) -> Process {
        let python = python().display().to_string();
        let mut all = vec!["run", workload, "--", python.as_str()];
        all.extend(arguments);
        self.start(&all)
    }

    /// The rows of `tulle edges`, as (source, destination, success rate, security).
    pub fn edges(&self) -> Vec<Edge> {
        let outcome = self.tulle(&["edges", "-o", "json"]);
        let Ok(value) = serde_json::from_str::<Value>(&outcome.stdout) else { return Vec::new() };
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let rows = value["edges"].as_array().cloned().unwrap_or_default();
        rows.iter()
            .map(|row| Edge {
                source: text(&row["source"]["name"]),
                destination: text(&row["destination"]["name"]),
                security: text(&row["security"]),
                success: row["successRate"].as_f64().unwrap_or(-1.0),
                requests: row["requests"].as_u64().unwrap_or(0),
            })
            .collect()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if self.path().join("node").exists() {
            self.tidy();
        }
    }
}

#[derive(Debug, Clone)]
pub struct Edge {
    pub source: String,
    pub destination: String,
    pub security: String,
    pub success: f64,
    pub requests: u64,
}

/// A wire between network namespaces with no way out: a bridge would need more, so it is one pair.
pub struct Hosts {
    pub names: [String; 2],
    pub addresses: [&'static str; 2],
}

impl Hosts {
    pub fn new() -> Self {
        // Two tests may have theirs at once.
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let id = format!("{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let names = [format!("tulle-{id}-1"), format!("tulle-{id}-2")];
        let addresses = ["10.99.0.1", "10.99.0.2"];
        let ip = |line: &str| run(Command::new("ip").args(line.split(' '))).ok();
        for name in &names {
            ip(&format!("netns add {name}"));
            ip(&format!("-n {name} link set lo up"));
        }
        let [a, b] = &names;
        ip(&format!("-n {a} link add wire type veth peer name wire netns {b}"));
        for (name, address) in names.iter().zip(addresses) {
            ip(&format!("-n {name} addr add {address}/24 dev wire"));
            ip(&format!("-n {name} link set wire up"));
        }
        Self { names, addresses }
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for name in &self.names {
            let _ = Command::new("ip").args(["netns", "del", name]).status();
        }
    }
}
