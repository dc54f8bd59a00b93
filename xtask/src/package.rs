//! The Debian package: `deploy/` with the binary, put together by Debian's own dpkg-deb.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

#[derive(Args)]
pub struct PackageArgs {
    /// A binary that is there, in place of building the release's
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Which package of this version it is: higher ones are upgrades
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    revision: u32,
    /// Where it is put [default: target/package]
    #[arg(long, value_name = "DIR")]
    into: Option<PathBuf>,
    /// Compress nothing: large, and quickly made
    #[arg(long)]
    uncompressed: bool,
}

/// Who answers for it, where neither DEBFULLNAME nor DEBEMAIL says who.
const MAINTAINER: (&str, &str) = ("Tulle maintainers", "maintainers@tulle.dev");

/// What is taken over as it is: from the project, into the package.
const FILES: &[(&str, &str)] = &[
    ("deploy/systemd/tulle-server.service", "usr/lib/systemd/system/tulle-server.service"),
    ("deploy/systemd/tulle-node.service", "usr/lib/systemd/system/tulle-node.service"),
    ("deploy/systemd/tulle-up@.service", "usr/lib/systemd/system/tulle-up@.service"),
    ("deploy/default/tulle-server", "etc/default/tulle-server"),
    ("deploy/default/tulle-node", "etc/default/tulle-node"),
    ("deploy/default/tulle-up", "etc/default/tulle-up"),
    ("deploy/debian/copyright", "usr/share/doc/tulle/copyright"),
    ("deploy/README.md", "usr/share/doc/tulle/README.Debian"),
    ("docs/hosts.md", "usr/share/doc/tulle/hosts.md"),
    ("docs/up.md", "usr/share/doc/tulle/up.md"),
    ("deploy/debian/conffiles", "DEBIAN/conffiles"),
];

/// What dpkg runs.
const SCRIPTS: [&str; 3] = ["postinst", "prerm", "postrm"];

/// What completes in zsh, as clap_complete names it.
const ZSH_FUNCTION: &str = "_clap_dynamic_completer_tulle";
/// zsh runs a file of completions as the function that it asks, at the first tab, so that it has to answer as well.
const ZSH_FIRST_TAB: &str =
    "\nif [[ ${funcstack[1]} == _tulle ]]; then _clap_dynamic_completer_tulle \"$@\"; fi\n";

/// Makes the package, and says where it is.
pub fn run(root: &Path, args: &PackageArgs) -> Result<()> {
    let binary = match &args.binary {
        Some(binary) => binary.clone(),
        None => {
            crate::run(crate::release(root).args(["-p", "tulle"]))?;
            crate::target(root).join("release/tulle")
        }
    };
    let elf = fs::read(&binary).with_context(|| binary.display().to_string())?;
    let architecture = architecture(&elf).with_context(|| binary.display().to_string())?;
    let version = format!("{}-{}", version_of(root)?, args.revision);
    let into = args.into.clone().unwrap_or_else(|| crate::target(root).join("package"));
    let name = format!("tulle_{version}_{architecture}");
    let tree = Tree::new(into.join(&name))?;

    tree.binary(&binary)?;
    for (from, to) in FILES {
        tree.put(to, &fs::read(root.join(from)).with_context(|| (*from).to_owned())?)?;
    }
    for script in SCRIPTS {
        let from = root.join("deploy/debian").join(script);
        tree.put(&format!("DEBIAN/{script}"), &fs::read(&from).with_context(|| from.display().to_string())?)?;
        tree.permit(&format!("DEBIAN/{script}"), 0o755)?;
    }
    fs::create_dir_all(tree.0.join("etc/tulle"))?;
    let bash = completions(&binary, "bash")?;
    let zsh = completions(&binary, "zsh")?;
    ensure!(
        zsh.contains(ZSH_FUNCTION),
        "completions for zsh have no function {ZSH_FUNCTION}: `ZSH_FIRST_TAB` calls it"
    );
    let zsh = zsh + ZSH_FIRST_TAB;
    let fish = completions(&binary, "fish")?;
    tree.put("usr/share/bash-completion/completions/tulle", bash.as_bytes())?;
    tree.put("usr/share/zsh/vendor-completions/_tulle", zsh.as_bytes())?;
    tree.put("usr/share/fish/vendor_completions.d/tulle.fish", fish.as_bytes())?;

    let (default_name, default_address) = MAINTAINER;
    let said = |variable: &str, default: &str| std::env::var(variable).unwrap_or_else(|_| default.to_owned());
    let maintainer = format!("{} <{}>", said("DEBFULLNAME", default_name), said("DEBEMAIL", default_address));
    tree.zipped("usr/share/doc/tulle/changelog.gz", &fs::read_to_string(root.join("CHANGELOG.md"))?)?;
    tree.zipped(
        "usr/share/doc/tulle/changelog.Debian.gz",
        &format!(
            "tulle ({version}) unstable; urgency=medium\n\n  * Package of this version; changelog.gz has what is new in it.\n\n \
             -- {maintainer}  {}\n",
            date_of(root)?
        ),
    )?;
    let control = fs::read_to_string(root.join("deploy/debian/control")).context("deploy/debian/control")?;
    let kilobytes =
        said_by(Command::new("du").args(["-sk", "--apparent-size", "--exclude=DEBIAN"]).arg(&tree.0))?;
    let kilobytes = kilobytes.split_whitespace().next().context("du says nothing")?.to_owned();
    let control = control
        .replace("@VERSION@", &version)
        .replace("@ARCHITECTURE@", architecture)
        .replace("@MAINTAINER@", &maintainer)
        .replace("@INSTALLED_SIZE@", &kilobytes)
        .replace("@LIBC@", &libc(&elf)?);
    tree.put("DEBIAN/control", control.as_bytes())?;
    tree.sums()?;

    let package = into.join(format!("{name}.deb"));
    let mut build = Command::new("dpkg-deb");
    build.args(["--root-owner-group", if args.uncompressed { "-Znone" } else { "-Zxz" }, "--build"]);
    said_by(build.arg(&tree.0).arg(&package))?;
    fs::remove_dir_all(&tree.0)?;
    println!("{}", package.display());
    Ok(())
}

/// The files of a package, which become what they are in it. Folders and modes are as Debian wants them.
struct Tree(PathBuf);

impl Tree {
    /// An empty one.
    fn new(folder: PathBuf) -> Result<Self> {
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        fs::create_dir_all(folder.join("DEBIAN")).with_context(|| folder.display().to_string())?;
        Ok(Self(folder))
    }

    fn put(&self, path: &str, content: &[u8]) -> Result<()> {
        let file = self.0.join(path);
        fs::create_dir_all(file.parent().context("a file is in a folder")?)?;
        fs::write(&file, content).with_context(|| file.display().to_string())?;
        self.permit(path, 0o644)
    }

    fn permit(&self, path: &str, mode: u32) -> Result<()> {
        fs::set_permissions(self.0.join(path), fs::Permissions::from_mode(mode))
            .with_context(|| path.to_owned())
    }

    /// Without what only a debugger reads.
    fn binary(&self, from: &Path) -> Result<()> {
        self.put("usr/bin/tulle", &[])?;
        let to = self.0.join("usr/bin/tulle");
        said_by(Command::new("strip").arg("--strip-unneeded").arg(from).arg("-o").arg(&to))?;
        self.permit("usr/bin/tulle", 0o755)
    }

    fn zipped(&self, path: &str, text: &str) -> Result<()> {
        let plain = path.strip_suffix(".gz").context("its name ends so")?;
        self.put(plain, text.as_bytes())?;
        said_by(Command::new("gzip").args(["-9", "-n", "-f"]).arg(self.0.join(plain))).map(drop)
    }

    /// What `dpkg --verify` holds the files against.
    fn sums(&self) -> Result<()> {
        let mut find = Command::new("sh");
        find.args(["-c", "find etc usr -type f -print0 | LC_ALL=C sort -z | xargs -0 md5sum"])
            .current_dir(&self.0);
        let sums = said_by(&mut find)?;
        self.put("DEBIAN/md5sums", sums.as_bytes())
    }
}

/// What a shell is to read, from the binary itself, which is called by the name that it will have.
fn completions(binary: &Path, shell: &str) -> Result<String> {
    said_by(Command::new(binary).arg0("tulle").args(["completions", shell]))
}

/// As Debian calls what a binary runs on (elf(5), `e_machine`).
fn architecture(elf: &[u8]) -> Result<&'static str> {
    ensure!(elf.starts_with(b"\x7fELF"), "is no binary of Linux");
    match elf.get(18..20) {
        Some([62, 0]) => Ok("amd64"),
        Some([183, 0]) => Ok("arm64"),
        other => bail!("is for a machine that is not known here: {other:?}"),
    }
}

/// The version of the C library that it needs: the highest of the symbols' that it is linked with.
fn libc(elf: &[u8]) -> Result<String> {
    const PREFIX: &[u8] = b"\0GLIBC_2.";
    let minor = elf.windows(PREFIX.len() + 3).filter_map(|window| {
        let digits: Vec<_> = window.strip_prefix(PREFIX)?.iter().take_while(|b| b.is_ascii_digit()).collect();
        digits.into_iter().try_fold(0_u32, |number, digit| Some(number * 10 + u32::from(digit - b'0')))
    });
    let minor =
        minor.max().filter(|minor| *minor > 0).context("the binary needs no C library of Debian's")?;
    Ok(format!("2.{minor}"))
}

fn version_of(root: &Path) -> Result<String> {
    let text = fs::read_to_string(root.join("Cargo.toml")).context("Cargo.toml")?;
    let manifest: toml::Table = text.parse().context("Cargo.toml")?;
    let version = manifest.get("workspace").and_then(|w| w.get("package")?.get("version")?.as_str());
    Ok(version.context("Cargo.toml has no version")?.to_owned())
}

/// When what it is made of was committed, so that the same makes the same; where nobody knows, now.
fn date_of(root: &Path) -> Result<String> {
    let committed = said_by(Command::new("git").args(["log", "-1", "--format=%ct"]).current_dir(root));
    let seconds = std::env::var("SOURCE_DATE_EPOCH").ok().or(committed.ok());
    let mut date = Command::new("date");
    date.args(["-u", "-R"]).env("LC_ALL", "C");
    if let Some(seconds) = seconds {
        date.arg("-d").arg(format!("@{}", seconds.trim()));
    }
    Ok(said_by(&mut date)?.trim().to_owned())
}

/// Runs a command, and returns what it printed.
fn said_by(command: &mut Command) -> Result<String> {
    let line = format!("{command:?}");
    let output = command.output().with_context(|| format!("{line} could not be started"))?;
    ensure!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binary_says_what_it_needs() {
        let elf = [
            &b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x03\0\x3e\0"[..],
            b"x\0GLIBC_2.9\0\0GLIBC_2.34\0GLIBC_2.2.5\0",
        ]
        .concat();
        assert_eq!(architecture(&elf).unwrap(), "amd64");
        assert_eq!(libc(&elf).unwrap(), "2.34");
        assert!(architecture(b"#!/bin/sh\n").is_err() && libc(&elf[..20]).is_err());
    }
}
