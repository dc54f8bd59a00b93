//! The small file that describes a pair of proxies, and the templates of their configuration.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::programs::Programs;
use super::scenarios::Protocol;

/// A pair of proxies: everything that has to be known to run it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Description {
    /// Short, for command lines and results.
    pub name: String,
    /// For people.
    pub title: String,
    /// What the two proxies speak to each other inside of TLS.
    pub between: String,
    /// Where it comes from.
    #[serde(default)]
    pub package: String,
    /// Prints the version.
    pub version: Vec<String>,
    /// How it is set up, for the report.
    #[serde(default)]
    pub settings: Vec<String>,
    /// The port (a name of `{{port.NAME}}`) at which the client side takes clients of each protocol. What is
    /// left out, the pair cannot do.
    pub entry: BTreeMap<Protocol, String>,
    /// Values for `{{NAME}}` in the templates and commands of both sides.
    #[serde(default)]
    pub variables: BTreeMap<String, String>,
    pub client: SideDescription,
    pub server: SideDescription,
    /// Where the description lies: its templates do, too.
    #[serde(skip)]
    pub folder: PathBuf,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SideDescription {
    /// What to run, in the foreground.
    pub command: Vec<String>,
    /// Files to be written first: each name with its template, relative to the description.
    #[serde(default)]
    pub files: BTreeMap<String, PathBuf>,
}

impl Description {
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let folder = path.parent().unwrap_or(Path::new(".")).to_owned();
        Self::parse(&text, folder).with_context(|| format!("{} is no description of a pair", path.display()))
    }

    fn parse(text: &str, folder: PathBuf) -> Result<Self> {
        let mut description: Self = toml::from_str(text)?;
        let good = |c: char| c.is_ascii_alphanumeric() || c == '-';
        if description.name.is_empty() || !description.name.chars().all(good) {
            bail!("name: `{}` is not made of letters, digits and -", description.name);
        }
        for (side, command) in [("client", &description.client), ("server", &description.server)] {
            if command.command.is_empty() {
                bail!("{side}.command: there is none");
            }
        }
        if description.version.is_empty() {
            bail!("version: there is no command");
        }
        description.folder = folder;
        Ok(description)
    }

    /// Whether what it runs is installed.
    pub fn programs(&self, programs: &Programs) -> Result<()> {
        let commands = [&self.client.command, &self.server.command];
        commands.into_iter().try_for_each(|command| programs.find(&command[0]).map(drop))
    }

    /// The descriptions that come with the project.
    pub fn all_in(folder: &Path) -> Result<Vec<Self>> {
        let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
        let mut paths: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        paths.retain(|path| path.extension().is_some_and(|e| e == "toml"));
        paths.sort();
        paths.iter().map(|path| Self::read(path)).collect()
    }
}

/// Puts `{{NAME}}` in; asks `value` for what each stands for.
pub fn fill(template: &str, mut value: impl FnMut(&str) -> Result<Option<String>>) -> Result<String> {
    let mut filled = String::with_capacity(template.len());
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        let Some((name, after)) = after.split_once("}}") else {
            bail!("`{{{{` without `}}}}`");
        };
        filled.push_str(before);
        match value(name.trim())? {
            Some(value) => filled.push_str(&value),
            None => bail!("there is nothing that `{{{{{name}}}}}` could stand for"),
        }
        rest = after;
    }
    filled.push_str(rest);
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_replaced_and_unknown_ones_refused() {
        let value = |name: &str| Ok((name == "port.http").then(|| "80".to_owned()));
        assert_eq!(fill("a {{port.http}}:{{ port.http }} { b }", value).unwrap(), "a 80:80 { b }");
        assert!(fill("{{port.https}}", value).unwrap_err().to_string().contains("port.https"));
        assert!(fill("{{port.http", value).is_err());
    }

    #[test]
    fn descriptions_of_the_project_are_good() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers");
        let all = Description::all_in(&folder).unwrap();
        let names: Vec<_> = all.iter().map(|d| d.name.as_str()).collect();
        assert_eq!(names, ["envoy-h1", "envoy-h2", "haproxy-h1", "haproxy-h2", "nginx"]);
        for description in all {
            assert!(description.entry.contains_key(&Protocol::Http1), "{}", description.name);
            for side in [&description.client, &description.server] {
                for template in side.files.values() {
                    let text = fs::read_to_string(folder.join(template)).unwrap();
                    // A listener that nothing is connected to would be a slip.
                    assert!(text.contains("{{port.link}}"), "{}", template.display());
                }
            }
        }
    }

    #[test]
    fn errors_name_the_field() {
        let good = r#"
            name = "x"
            title = "X"
            between = "HTTP/2"
            version = ["x", "-v"]
            [entry]
            http1 = "http"
            [client]
            command = ["x"]
            [server]
            command = ["x"]
        "#;
        assert_eq!(Description::parse(good, PathBuf::new()).unwrap().entry[&Protocol::Http1], "http");
        for (change, to, expected) in [
            ("name = \"x\"", "name = \"x/y\"", "name"),
            ("http1", "http7", "http7"),
            ("command = [\"x\"]", "command = []", "client.command"),
            ("[server]", "[serve]", "serve"),
        ] {
            let bad = good.replacen(change, to, 1);
            let error = format!("{:#}", Description::parse(&bad, PathBuf::new()).unwrap_err());
            assert!(error.contains(expected), "{error}");
        }
    }
}
