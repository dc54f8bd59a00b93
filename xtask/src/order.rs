//! `cargo xtask order`: learns which functions a node runs, for the linker to put them side by side
//! (`crates/tulle/build.rs`). It runs a small mesh whose nodes are watched by valgrind: they join, send and
//! take requests over HTTP and gRPC, stop, and do it all again from what they have on disk.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// What is written.
const LIST: &str = "crates/tulle/node-functions.txt";
const PATIENCE: Duration = Duration::from_secs(60);
/// How long the mesh is watched while requests go on.
const TRAFFIC: Duration = Duration::from_secs(15);
/// A client that speaks to the listener of a service, in more than one way.
const CURL: &str = "while sleep 0.2; do
    curl -s --noproxy '*' http://$C_SERVICE_HOST:$C_SERVICE_PORT/
    curl -s --noproxy '*' --http2-prior-knowledge http://$C_SERVICE_HOST:$C_SERVICE_PORT/
    head -c 300000 /dev/zero | curl -s --noproxy '*' --data-binary @- http://$C_SERVICE_HOST:$C_SERVICE_PORT/
done > /dev/null 2>&1";
/// Valgrind's processor lacks what real ones have: what AWS-LC runs there instead goes to the end.
const UNSEEN: &[&str] = &["_avx2", "_avx512", "x25519"];
/// Functions of a trace of which fewer than this share is in the binary are of another version: with 93 in a hundred a node had
/// 2 MiB more of the binary in memory than with all.
const LEAST_KNOWN: f64 = 0.95;

/// Writes the list anew, or only looks whether the one that is there still fits the binary.
pub fn run(root: &Path, check: bool) -> Result<()> {
    crate::run(&mut crate::release_build(root))?;
    let binary = crate::target(root).join("release/tulle");
    let file = root.join(LIST);
    if check {
        return look(&binary, &file);
    }
    let mut calls = HashMap::new();
    for trace in trace(&binary)? {
        count(&trace, &mut calls);
    }
    let known = functions_of(&binary)?;
    // Not what the C library has, and addresses without a name.
    calls.retain(|function, _| known.contains(function));
    let unseen = |function: &&String| {
        function.starts_with("aws_lc") && UNSEEN.iter().any(|part| function.contains(part))
    };
    for function in known.iter().filter(unseen) {
        calls.entry(function.clone()).or_default();
    }
    // What runs for every request comes first, what runs at the start only comes last.
    let mut functions: Vec<_> = calls.into_iter().collect();
    functions.sort_by(|(a, calls_of_a), (b, calls_of_b)| calls_of_b.cmp(calls_of_a).then(a.cmp(b)));
    let mut text = String::new();
    for (function, _) in &functions {
        writeln!(text, "{function}")?;
    }
    fs::write(&file, text)?;
    // The binary of the new order.
    crate::run(&mut crate::release_build(root))?;
    println!("{LIST}: {} functions", functions.len());
    look(&binary, &file)
}

/// How many of the functions of the list the binary has.
fn look(binary: &Path, list: &Path) -> Result<()> {
    let functions = functions_of(binary)?;
    let list = fs::read_to_string(list)?;
    let known = list.lines().filter(|&function| functions.contains(function)).count();
    let all = list.lines().count();
    println!("{known} of {all} functions of the list are in the binary");
    let share = known as f64 / all.max(1) as f64;
    ensure!(
        share >= LEAST_KNOWN,
        "the list is out of date: run `cargo xtask order`, and commit what it writes"
    );
    Ok(())
}

fn functions_of(binary: &Path) -> Result<HashSet<String>> {
    let output = Command::new("nm").arg(binary).output().context("nm cannot be run")?;
    let symbols = String::from_utf8_lossy(&output.stdout);
    Ok(symbols.lines().filter_map(|line| line.rsplit(' ').next()).map(str::to_owned).collect())
}

/// Adds how often each function was called, by callgrind's account.
fn count(trace: &str, calls: &mut HashMap<String, u64>) {
    let mut names: HashMap<&str, &str> = HashMap::new();
    let mut called = "";
    for line in trace.lines() {
        if let Some(function) = line.strip_prefix("fn=").or_else(|| line.strip_prefix("cfn=")) {
            // "(7) name" at first, then "(7)".
            let (id, name) = function.split_once(' ').unwrap_or((function, ""));
            if !name.is_empty() {
                // "name'2" is its second level of recursion.
                names.insert(id, name.split('\'').next().unwrap_or(name));
            }
            called = names.get(id).copied().unwrap_or_default();
            calls.entry(called.to_owned()).or_default();
        } else if let Some(rest) = line.strip_prefix("calls=") {
            let times = rest.split(' ').next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(1);
            *calls.entry(called.to_owned()).or_default() += times;
        }
    }
}

/// A mesh of one run, in a folder of its own.
struct Mesh<'a> {
    binary: &'a Path,
    folder: PathBuf,
    server: SocketAddr,
    processes: Vec<Child>,
}

impl Drop for Mesh<'_> {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.kill();
            let _ = process.wait();
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// What valgrind wrote of each node.
fn trace(binary: &Path) -> Result<Vec<String>> {
    let folder = std::env::temp_dir().join(format!("tulle-order-{}", std::process::id()));
    let [server, api, app] = [free_address()?, free_address()?, free_address()?];
    let mut mesh = Mesh { binary, folder, server, processes: Vec::new() };
    let listen = [server.to_string(), api.to_string()];
    let (server, _) = mesh.command("server", None);
    mesh.start(server, &["server", "--listen-nodes", &listen[0], "--listen-api", &listen[1]])?;
    eventually("answer of the server", || mesh.tulle("server", &["get", "namespaces"]).is_ok())?;
    let port = app.port().to_string();
    let service = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: c, namespace: default}}\n\
         spec: {{selector: {{app: c}}, ports: [{{port: {port}}}]}}\n"
    );
    let file = mesh.folder.join("c.yaml");
    fs::write(&file, service)?;
    mesh.tulle("server", &["apply", "-f", &file.display().to_string()])?;

    let mut traces = Vec::new();
    // Each way of capture; as root there are both.
    for (joins, capture) in [(true, "explicit"), (false, "explicit"), (false, "auto")] {
        let mut nodes = Vec::new();
        for name in ["one", "two"] {
            let token = joins.then(|| mesh.tulle("server", &["token", "create"])).transpose()?;
            nodes.push(mesh.node(name, token.as_deref().map(str::trim), capture)?);
        }
        for workload in mesh.traffic(&port)? {
            mesh.stop(workload)?;
        }
        for node in nodes {
            ensure!(mesh.stop(node)?.success(), "a node failed: look at what it said above");
            let file = mesh.trace_file(node);
            traces.push(fs::read_to_string(&file).with_context(|| format!("no {}", file.display()))?);
        }
    }
    Ok(traces)
}

impl Mesh<'_> {
    /// The binary with the state of `home`; watched where there is a file for the trace.
    fn command(&self, home: &str, trace: Option<&Path>) -> (Command, PathBuf) {
        let home = self.folder.join(home);
        let _ = fs::create_dir_all(&home);
        let mut command = match trace {
            Some(file) => {
                let mut command = Command::new("valgrind");
                command.args(["--tool=callgrind", "--demangle=no", "-q"]);
                command.arg(format!("--callgrind-out-file={}", file.display())).arg(self.binary);
                command
            }
            None => Command::new(self.binary),
        };
        command.env("TULLE_HOME", &home).stdin(Stdio::null()).stdout(Stdio::null());
        (command, home)
    }

    fn start(&mut self, mut command: Command, arguments: &[&str]) -> Result<usize> {
        let process = command.args(arguments).spawn().with_context(|| format!("{command:?}"))?;
        self.processes.push(process);
        Ok(self.processes.len() - 1)
    }

    fn tulle(&self, home: &str, arguments: &[&str]) -> Result<String> {
        let (mut command, _) = self.command(home, None);
        let output = command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).output()?;
        if !output.status.success() {
            bail!("{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    fn trace_file(&self, process: usize) -> PathBuf {
        self.folder.join(format!("{process}.trace"))
    }

    fn stop(&mut self, process: usize) -> Result<ExitStatus> {
        let process = &mut self.processes[process];
        crate::run(Command::new("kill").arg(process.id().to_string()))?;
        Ok(process.wait()?)
    }

    /// Requests from node one to node two, for a while; returns who makes and takes them.
    fn traffic(&mut self, port: &str) -> Result<[usize; 3]> {
        let binary = self.binary.display().to_string();
        let upstream = format!("c:{port}");
        let (service, _) = self.command("two", None);
        let c = self.start(service, &["run", "c", "--port", port, "--", &binary, "fake-service"])?;
        let (client, _) = self.command("one", None);
        let (own, http, grpc) =
            (free_address()?.port().to_string(), format!("http://{upstream}"), format!("grpc://{upstream}"));
        let calls = ["--upstream", &http, "--upstream", &grpc, "--every", "50ms"];
        let run = ["run", "a", "--upstream", &upstream, "--port", &own, "--", &binary, "fake-service"];
        let a = self.start(client, &[&run[..], &calls].concat())?;
        let (client, _) = self.command("one", None);
        let b = self.start(client, &["run", "b", "--upstream", &upstream, "--", "sh", "-c", CURL])?;
        sleep(TRAFFIC);
        Ok([a, b, c])
    }

    fn node(&mut self, name: &str, token: Option<&str>, capture: &str) -> Result<usize> {
        let trace = self.trace_file(self.processes.len());
        let (command, home) = self.command(name, Some(&trace));
        let server = self.server.to_string();
        let mut arguments = vec!["node", "--name", name, "--server", &server, "--capture", capture];
        // Each at an address of its own, where the ports are free.
        let own = format!("127.0.0.{}", if name == "one" { 2 } else { 3 });
        let (links, admin) = (format!("{own}:15008"), format!("{own}:15020"));
        arguments.extend(["--listen-links", &links, "--listen-admin", &admin, "--workers", "1"]);
        arguments.extend(token.iter().flat_map(|token| ["--token", token]));
        let socket = home.join("node.sock");
        let _ = fs::remove_file(&socket);
        let process = self.start(command, &arguments)?;
        eventually("node", || socket.exists())?;
        Ok(process)
    }
}

fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

fn eventually(what: &str, condition: impl Fn() -> bool) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        ensure!(Instant::now() < end, "no {what} within {PATIENCE:?}");
        sleep(Duration::from_millis(50));
    }
    Ok(())
}
