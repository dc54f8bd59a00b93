//! The part of a kubeconfig that is needed to reach an API.

use std::path::Path;

use base64::Engine;
use serde::Deserialize;

use crate::exit::{Exit, Failure, Result};

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct File {
    #[serde(default)]
    current_context: String,
    #[serde(default)]
    contexts: Vec<NamedContext>,
    #[serde(default)]
    clusters: Vec<NamedCluster>,
    #[serde(default)]
    users: Vec<NamedUser>,
}

#[derive(Deserialize)]
struct NamedContext {
    name: String,
    context: Context,
}

#[derive(Deserialize)]
struct Context {
    cluster: String,
    user: String,
    namespace: Option<String>,
}

#[derive(Deserialize)]
struct NamedCluster {
    name: String,
    cluster: Cluster,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Cluster {
    server: String,
    certificate_authority_data: Option<String>,
    certificate_authority: Option<String>,
    tls_server_name: Option<String>,
}

#[derive(Deserialize)]
struct NamedUser {
    name: String,
    user: User,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct User {
    client_certificate_data: Option<String>,
    client_certificate: Option<String>,
    client_key_data: Option<String>,
    client_key: Option<String>,
    token: Option<String>,
}

/// Where an API is and as whom to speak to it.
pub struct Access {
    /// `https://host:port`
    pub server: String,
    pub tls_server_name: Option<String>,
    /// Where nothing else is said.
    pub namespace: Option<String>,
    /// PEM.
    pub authority: Vec<u8>,
    /// PEM: certificate chain and key.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
    pub token: Option<String>,
}

/// Reads the current context of the kubeconfig at `path`, which is the home's or was named.
pub fn read(path: &Path, is_of_home: bool) -> Result<Access> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound if !is_of_home => {
            Failure::input(format!("there is no kubeconfig {shown}")).exit(Exit::Unreachable)
        }
        std::io::ErrorKind::NotFound if path.with_file_name("node").is_dir() => Failure::new(format!(
            "this host has a node, and not the server, which commands ask: there is no {shown}"
        ))
        .help("copy the server's kubeconfig from its host, put the server's address into it, and say --kubeconfig FILE")
        .help("`tulle status`, `tulle run` and `tulle node` work without it")
        .exit(Exit::Unreachable),
        std::io::ErrorKind::NotFound => Failure::new(format!("no mesh runs here yet: there is no {shown}"))
            .help("start one: `tulle up DIR`, or `tulle server`")
            .help("is it elsewhere? Say where: --home DIR, or --kubeconfig FILE")
            .exit(Exit::Unreachable),
        std::io::ErrorKind::PermissionDenied => Failure::new(format!("no permission to read {shown}"))
            .help("it is who started the server's alone: use that user (sudo for root), or --home DIR for another mesh")
            .exit(Exit::Unreachable),
        _ => Failure::input(format!("cannot read {shown}: {error}")),
    })?;
    parse(&text, path.parent().unwrap_or(Path::new("."))).map_err(|why| {
        Failure::input(format!("{shown} is no usable kubeconfig: {why}")).help(if is_of_home {
            "the server writes a good one whenever it starts"
        } else {
            "the server writes a good one to the folder of its state (`$TULLE_HOME/kubeconfig`)"
        })
    })
}

fn parse(text: &str, folder: &Path) -> Result<Access, String> {
    let file: File = serde_saphyr::from_str(text).map_err(|e| e.to_string())?;
    let named = |what: &str, name: &str| format!("it has no {what} named `{name}`");
    let context = file.contexts.into_iter().find(|c| c.name == file.current_context);
    let context = context.ok_or_else(|| named("context", &file.current_context))?.context;
    let cluster = file.clusters.into_iter().find(|c| c.name == context.cluster);
    let cluster = cluster.ok_or_else(|| named("cluster", &context.cluster))?.cluster;
    let user = file.users.into_iter().find(|u| u.name == context.user);
    let user = user.ok_or_else(|| named("user", &context.user))?.user;
    let load = |data: &Option<String>, path: &Option<String>| match (data, path) {
        (Some(data), _) => {
            let data: String = data.split_whitespace().collect();
            base64::engine::general_purpose::STANDARD.decode(data).map(Some).map_err(|e| e.to_string())
        }
        (None, Some(path)) => {
            std::fs::read(folder.join(path)).map(Some).map_err(|e| format!("cannot read {path}: {e}"))
        }
        (None, None) => Ok(None),
    };
    let authority = load(&cluster.certificate_authority_data, &cluster.certificate_authority)?;
    let certificate = load(&user.client_certificate_data, &user.client_certificate)?;
    let key = load(&user.client_key_data, &user.client_key)?;
    Ok(Access {
        server: cluster.server,
        tls_server_name: cluster.tls_server_name,
        namespace: context.namespace,
        authority: authority.ok_or("it has no certificate authority")?,
        identity: certificate.zip(key),
        token: user.token,
    })
}
