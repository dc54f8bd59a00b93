//! A pair of proxies out of its description.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::certificates::{Certificates, SideFiles};
use super::contender::Parts;
use super::description::{Description, SideDescription, fill};
use super::ports::Ports;
use super::process::{Process, complete};
use super::programs::Programs;
use super::scenarios::Protocol;
use super::service::{self, Service};

/// How long a proxy may take until it listens.
const START: Duration = Duration::from_secs(20);
const VERSION: Duration = Duration::from_secs(10);

/// A pair that is written down and can be started, again and again.
pub struct Pair {
    pub description: Description,
    /// Every port that a template names.
    ports: BTreeMap<String, u16>,
    client: Side,
    server: Side,
    running: Option<(Process, Process)>,
}

struct Side {
    /// For errors.
    name: String,
    command: Vec<String>,
    folder: PathBuf,
}

impl Pair {
    /// Writes the configuration of both sides into `folder`.
    pub fn new(
        description: Description,
        folder: &Path,
        programs: &Programs,
        certificates: &Certificates,
        service: &Service,
        ports: &mut Ports,
    ) -> Result<Self> {
        let mut known = BTreeMap::new();
        let name = description.name.clone();
        let mut side = |which: &str, side: &SideDescription, files: &SideFiles| {
            let folder = folder.join(which);
            let values =
                Values { description: &description, folder: &folder, certificates: files, service, programs };
            values
                .write(side, &mut known, ports)
                .map(|command| Side {
                    name: format!("{name}, {which} side"),
                    command,
                    folder: folder.clone(),
                })
                .with_context(|| format!("{name}, {which} side"))
        };
        let client = side("client", &description.client, &certificates.client)?;
        let server = side("server", &description.server, &certificates.server)?;
        for (protocol, port) in &description.entry {
            anyhow::ensure!(
                known.contains_key(port),
                "{name}: entry.{protocol:?} is `{port}`, but no template has {{{{port.{port}}}}}"
            );
        }
        Ok(Self { description, ports: known, client, server, running: None })
    }

    pub fn version(&self, programs: &Programs) -> Result<String> {
        let (program, arguments) = self.description.version.split_first().context("no version command")?;
        let script = "exec \"$@\" 2>&1";
        // Some print their version to stderr.
        let mut command = Command::new("sh");
        let file = programs.find(program)?;
        command.args(["-c", script, "sh"]).arg(&file).args(arguments);
        let output = complete(&self.description.name, &mut command, VERSION)?;
        // Some tell where they lie, too.
        let output = output.replace(&file.display().to_string(), program);
        Ok(output.lines().find(|line| !line.trim().is_empty()).unwrap_or_default().trim().to_owned())
    }

    pub fn entry(&self, protocol: Protocol) -> Option<SocketAddr> {
        let port = self.ports.get(self.description.entry.get(&protocol)?)?;
        Some(SocketAddr::from((Ipv4Addr::LOCALHOST, *port)))
    }

    /// What the client's side runs.
    pub fn program(&self) -> Option<&Path> {
        self.client.command.first().map(Path::new)
    }

    /// Starts both sides and waits until they listen.
    pub fn start(&mut self) -> Result<()> {
        let server = self.server.start()?;
        let client = self.client.start()?;
        let entries: Vec<_> = self.description.entry.keys().filter_map(|p| self.entry(*p)).collect();
        let (client, server) = self.running.insert((client, server));
        for entry in entries {
            client.wait_until_listening(entry, START)?;
        }
        server.check()?;
        let entry = self.entry(Protocol::Http1).context("a pair has to take HTTP/1.1")?;
        service::first_answer(entry, Instant::now(), START).map_err(|error| self.explain(error)).map(drop)
    }

    /// Ends the client side and starts it again. Returns when it is started, not when it is ready.
    pub fn restart_client_side(&mut self) -> Result<Instant> {
        let (client, _) = self.running.as_mut().context("the pair does not run")?;
        client.stop();
        let begin = Instant::now();
        *client = self.client.start()?;
        Ok(begin)
    }

    pub fn parts(&self) -> Parts {
        let Some((client, server)) = &self.running else { return Parts::default() };
        Parts { client: client.tree(), server: server.tree(), control: Vec::new() }
    }

    pub fn explain(&self, error: anyhow::Error) -> anyhow::Error {
        let Some((client, server)) = &self.running else { return error };
        client.explain(server.explain(error))
    }

    pub fn stop(&mut self) {
        if let Some((mut client, mut server)) = self.running.take() {
            client.stop();
            server.stop();
        }
    }
}

impl Side {
    fn start(&self) -> Result<Process> {
        let mut command = Command::new(&self.command[0]);
        command.args(&self.command[1..]).current_dir(&self.folder);
        Process::start(&self.name, &mut command, &self.folder.join("log"))
    }
}

/// What the names in the templates of one side stand for.
struct Values<'a> {
    description: &'a Description,
    folder: &'a Path,
    certificates: &'a SideFiles,
    service: &'a Service,
    programs: &'a Programs,
}

impl Values<'_> {
    /// Writes the files of this side; returns its command.
    fn write(
        &self,
        side: &SideDescription,
        known: &mut BTreeMap<String, u16>,
        ports: &mut Ports,
    ) -> Result<Vec<String>> {
        fs::create_dir_all(self.folder).with_context(|| format!("{}", self.folder.display()))?;
        let mut value = |name: &str| self.value(name, known, ports);
        for (name, template) in &side.files {
            let path = self.description.folder.join(template);
            let text =
                fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            let text = fill(&text, &mut value).with_context(|| format!("{}", path.display()))?;
            fs::write(self.folder.join(name), text)?;
        }
        let command: Result<Vec<_>> = side.command.iter().map(|part| fill(part, &mut value)).collect();
        let mut command = command.context("command")?;
        command[0] = self.programs.find(&command[0])?.display().to_string();
        Ok(command)
    }

    fn value(
        &self,
        name: &str,
        known: &mut BTreeMap<String, u16>,
        ports: &mut Ports,
    ) -> Result<Option<String>> {
        if let Some(port) = name.strip_prefix("port.") {
            if let Some(port) = known.get(port) {
                return Ok(Some(port.to_string()));
            }
            let free = ports.free()?;
            known.insert(port.to_owned(), free);
            return Ok(Some(free.to_string()));
        }
        Ok(match name {
            "folder" => Some(self.folder.display().to_string()),
            "ca" => Some(self.certificates.authority.display().to_string()),
            "certificate" => Some(self.certificates.certificate.display().to_string()),
            "key" => Some(self.certificates.key.display().to_string()),
            "bundle" => Some(self.certificates.bundle.display().to_string()),
            "service.http" => Some(self.service.http.port().to_string()),
            "service.tcp" => Some(self.service.tcp.port().to_string()),
            "user" => Some(user_name()?),
            _ => self.description.variables.get(name).cloned(),
        })
    }
}

fn user_name() -> Result<String> {
    let user = nix::unistd::User::from_uid(nix::unistd::getuid())?;
    user.map(|user| user.name).context("the user who runs this has no name")
}
