//! `tulle open`: a service of the running `tulle up` in a browser, by a port that leads through the mesh.

use std::io::ErrorKind;
use std::process::{Command, Stdio};

use clap::Args;

use super::services::known;
use crate::exit::{Exit, Failure, Result};
use crate::home::HomeArgs;
use crate::output::{note, print};
use crate::up::{PublishedPort, UpClient};

#[derive(Debug, Args)]
#[command(after_help = "\
A service without `publish` in tulle.yaml gets a port of this host, until the mesh ends. What comes by such ports counts as \
the outside's: policies and the Mesh's defaults hold it off as anybody who is no part of the mesh.")]
pub struct OpenArgs {
    /// Which one; the published one where there is no other
    #[arg(value_name = "SERVICE")]
    service: Option<String>,
    /// Which port of the service, by name or number [default: the first]
    #[arg(short, long, value_name = "PORT", requires = "service")]
    port: Option<String>,
    /// Print where it is, and open nothing
    #[arg(long)]
    url: bool,
    #[command(flatten)]
    home: HomeArgs,
}

pub async fn run(args: OpenArgs) -> Result<()> {
    let client = UpClient::new(&args.home.path()?);
    let status = client.status().await?;
    let place = match args.service {
        Some(service) => {
            known(&status, &service)?;
            client.open(&service, args.port).await?
        }
        None => the_published(status.published)?,
    };
    let Some(url) = place.url else {
        // What is no HTTP is for no browser.
        return print(&format!("{}\n", place.address));
    };
    print(&format!("{url}\n"))?;
    if !args.url
        && let Err(why) = show(&url)
    {
        note(&why);
    }
    Ok(())
}

fn the_published(mut published: Vec<PublishedPort>) -> Result<PublishedPort> {
    match published.len() {
        1 => Ok(published.remove(0)),
        0 => Err(Failure::new("no service is published").exit(Exit::Input).help(
            "say which one: `tulle open SERVICE`; `publish: 8080` in tulle.yaml gives it a port for good",
        )),
        _ => {
            let known: Vec<_> = published.iter().map(|port| port.service.as_str()).collect();
            let known = format!("published are: {}", known.join(", "));
            Err(Failure::new("several services are published: which one?").exit(Exit::Input).help(known))
        }
    }
}

/// Has the desktop's browser, or that of `$BROWSER`, show it.
fn show(url: &str) -> std::result::Result<(), String> {
    let browser = std::env::var("BROWSER").ok().filter(|browser| !browser.is_empty());
    let has_screen = ["DISPLAY", "WAYLAND_DISPLAY", "WSL_DISTRO_NAME"];
    if browser.is_none() && !has_screen.iter().any(|name| std::env::var_os(name).is_some()) {
        return Err("there is no screen here: open it in a browser yourself".to_owned());
    }
    // Several may be named, and each may have arguments, of which `%s` is the place.
    let browser = browser.unwrap_or_else(|| "xdg-open".to_owned());
    let mut words = crate::up::split(browser.split(':').next().unwrap_or_default())?;
    let Some(program) = (!words.is_empty()).then(|| words.remove(0)) else {
        return Err("BROWSER names no program".to_owned());
    };
    let named = words.iter().any(|word| word.contains("%s"));
    let mut command = Command::new(&program);
    command.args(words.iter().map(|word| word.replace("%s", url)));
    if !named {
        command.arg(url);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    match command.spawn() {
        Ok(_) => Ok(()),
        Err(e) if e.kind() == ErrorKind::NotFound => {
            Err(format!("there is no `{program}`, which would show it: open it in a browser yourself"))
        }
        Err(e) => Err(format!("`{program}` cannot be started: {e}")),
    }
}
