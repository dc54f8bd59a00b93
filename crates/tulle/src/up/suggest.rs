//! The commands that `tulle up` suggests: they work when they are pasted into another terminal.

use std::path::Path;

use super::config::Config;
use crate::terminal::quote;

/// What a command of another terminal has to be told to reach this mesh.
pub struct Suggestions<'a> {
    /// How the binary is called there.
    program: String,
    config: &'a Config,
    home: &'a Path,
    kubeconfig: &'a Path,
}

impl<'a> Suggestions<'a> {
    pub fn new(config: &'a Config, home: &'a Path, kubeconfig: &'a Path) -> Self {
        Self { program: program(), config, home, kubeconfig }
    }

    /// Each with what it is for.
    pub fn all(&self) -> Vec<(&'static str, String)> {
        let home = match crate::home::is_default(self.home) {
            true => String::new(),
            false => format!(" --home {}", quote(&self.home.display().to_string())),
        };
        // The namespace is that of the file, where nothing is said.
        let tulle = |rest: &str| format!("{} {rest}{home}", self.program);
        let mut all = vec![
            ("look:", tulle("status")),
            ("", tulle("edges")),
            (
                "",
                format!(
                    "{}kubectl --kubeconfig {} get services,workloads",
                    sudo(),
                    quote(&self.kubeconfig.display().to_string())
                ),
            ),
        ];
        let is_http = |protocol: &Option<String>| {
            let protocol = protocol.as_ref().map(|p| p.to_ascii_lowercase());
            protocol.is_none_or(|p| matches!(p.as_str(), "http" | "http1" | "http/1.1"))
        };
        let mut ports = self.config.services.iter().flat_map(|s| s.ports.iter().map(move |p| (s, p)));
        // What nothing depends on is what people call.
        let called = ports.rfind(|(_, port)| is_http(&port.app_protocol));
        if let Some((service, port)) = called {
            let url = format!("http://{}:{}/", service.name, port.port);
            all.push(("call:", format!("{} -- curl {url}", tulle("run me"))));
        }
        all
    }
}

/// The binary as a shell finds it: by its name where that is it.
fn program() -> String {
    let Ok(own) = std::env::current_exe() else { return format!("{}tulle", sudo()) };
    let path = std::env::var_os("PATH").unwrap_or_default();
    let first = std::env::split_paths(&path).map(|folder| folder.join("tulle")).find(|file| file.is_file());
    let is_own = first.and_then(|file| file.canonicalize().ok()) == own.canonicalize().ok();
    let name = if is_own { "tulle".to_owned() } else { quote(&own.display().to_string()) };
    format!("{}{name}", sudo())
}

/// Who used sudo(8) for this has another user's terminals.
fn sudo() -> &'static str {
    if crate::home::is_root() && std::env::var_os("SUDO_USER").is_some() { "sudo " } else { "" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tulle_node::supervise::Restart;

    use crate::up::config::{Port, STOP_TIMEOUT, Service, Sources};

    #[test]
    fn commands_name_the_mesh() {
        let port = |port, app_protocol: Option<&str>| Port {
            name: None,
            port,
            target_port: port,
            app_protocol: app_protocol.map(str::to_owned),
        };
        let service = |name: &str, ports| Service {
            name: name.to_owned(),
            command: vec!["x".to_owned()],
            ports,
            publish: Vec::new(),
            replicas: 1,
            host: None,
            is_numbered: false,
            restart: Restart::Always,
            watch: Vec::new(),
            stop_timeout: STOP_TIMEOUT,
            stop_signal: None,
            limits: Default::default(),
            user: None,
            group: None,
            run_as: None,
            environment: Default::default(),
            directory: None,
            probe: None,
            liveness: None,
            init: Vec::new(),
            depends_on: Vec::new(),
            service_account: name.to_owned(),
            labels: Default::default(),
            annotations: Default::default(),
        };
        let config = Config {
            file: "/mesh/tulle.yaml".into(),
            sources: Sources::default(),
            folder: "/mesh".into(),
            name: "mesh".to_owned(),
            namespace: "shop".to_owned(),
            services: vec![
                service("api", vec![port(9000, None)]),
                service("db", vec![port(5432, Some("tcp"))]),
                service("job", Vec::new()),
            ],
            resting: Vec::new(),
            included: Default::default(),
            resources: Vec::new(),
            elsewhere: Vec::new(),
            skipped: None,
        };
        let suggestions = Suggestions {
            program: "tulle".to_owned(),
            config: &config,
            home: Path::new("/my mesh"),
            kubeconfig: Path::new("/my mesh/kubeconfig"),
        };
        let commands: Vec<_> = suggestions.all().into_iter().map(|(_, command)| command).collect();
        assert_eq!(commands[0], "tulle status --home '/my mesh'");
        assert_eq!(commands[1], "tulle edges --home '/my mesh'");
        assert!(commands[2].ends_with("kubectl --kubeconfig '/my mesh/kubeconfig' get services,workloads"));
        assert_eq!(commands[3], "tulle run me --home '/my mesh' -- curl http://api:9000/");
    }
}
