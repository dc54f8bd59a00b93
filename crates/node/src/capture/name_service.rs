//! What workloads see of the host's name service, kept in step with the host: a resolv.conf(5) whose only name server
//! is an address from which queries are redirected whatever routes there are, and no nscd or systemd-resolved.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use tulle_sys::cgroup::Cgroup;
use tulle_sys::mounts::{self, OWN_EMPTY, OWN_RESOLV_CONF, OWN_RESOLVED, Overlay, RESOLV_CONF};

use crate::files::Version;

/// A name server that is always reachable: what is sent there is redirected to the node's DNS.
const REDIRECTED_NAME_SERVER: &str = "127.0.0.53";

/// nsswitch.conf(5).
const NSSWITCH: &str = "/etc/nsswitch.conf";

/// The files of systemd-resolved that [`RESOLV_CONF`] leads to on most hosts.
const RESOLVED_FILES: [&str; 2] = ["stub-resolv.conf", "resolv.conf"];

pub(super) struct NameService {
    folder: PathBuf,
    seen: Mutex<Seen>,
}

/// What the host had when it was looked at last.
#[derive(Default, PartialEq)]
struct Seen {
    version: Option<Version>,
    overlays: Vec<Overlay>,
}

impl NameService {
    /// Keeps its files in `folder`.
    pub(super) fn open(folder: PathBuf) -> io::Result<Self> {
        mounts::may_mount()?;
        for folder in [OWN_RESOLVED, OWN_EMPTY].map(|name| folder.join(name)) {
            fs::create_dir_all(&folder)?;
            fs::set_permissions(&folder, Permissions::from_mode(0o755))?;
        }
        let service = Self { folder, seen: Mutex::default() };
        service.refresh()?;
        Ok(service)
    }

    /// What a workload's process is to be started with.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Follows the host. `true` where mounts of workloads may have gone by what the host did.
    pub(super) fn refresh(&self) -> io::Result<bool> {
        let mut seen = self.seen.lock();
        let version = Version::of(Path::new(RESOLV_CONF));
        if version.is_none() || seen.version != version {
            let host = match fs::read_to_string(RESOLV_CONF) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => String::new(),
                other => other?,
            };
            self.write(&redirected(&host))?;
            seen.version = version;
        }
        let overlays = mounts::overlays(&self.folder)?;
        let changed = overlays != seen.overlays;
        seen.overlays = overlays;
        Ok(changed)
    }

    /// Puts mounts back that the processes of a cgroup have lost.
    pub(super) fn cover(&self, cgroup: &Cgroup) {
        let Ok(processes) = cgroup.processes() else { return };
        let seen = self.seen.lock();
        let mut namespaces = Vec::new();
        for process in processes {
            // A process that is gone needs nothing.
            let Ok(namespace) = fs::metadata(format!("/proc/{process}/ns/mnt")) else { continue };
            if namespaces.contains(&namespace.ino()) {
                continue;
            }
            namespaces.push(namespace.ino());
            match mounts::cover(process, &seen.overlays) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(
                        "the process {process} in {} sees the host's name service: names of the mesh may not \
                         resolve there ({e})",
                        cgroup.path().display()
                    );
                }
                _ => {}
            }
        }
    }

    /// In place, as workloads have this file mounted; in one write, so that nobody reads half of it: empty lines stand
    /// where the content before was longer.
    fn write(&self, content: &str) -> io::Result<()> {
        let path = self.folder.join(OWN_RESOLV_CONF);
        let file = File::options().read(true).write(true).create(true).truncate(false).open(&path)?;
        file.set_permissions(Permissions::from_mode(0o644))?;
        let mut content = content.as_bytes().to_vec();
        let before = file.metadata()?.len() as usize;
        content.resize(content.len().max(before), b'\n');
        let mut old = vec![0; content.len()];
        if before != content.len() || file.read_exact_at(&mut old, 0).is_err() || old != content {
            file.write_all_at(&content, 0)?;
        }
        // Where the host's file is one of systemd-resolved, whose folder is hidden.
        let own = fs::canonicalize(RESOLV_CONF).ok().filter(|path| mounts::is_resolveds(path));
        let own = own.as_deref().and_then(Path::file_name);
        for name in RESOLVED_FILES.iter().map(std::ffi::OsStr::new).chain(own) {
            let link = self.folder.join(OWN_RESOLVED).join(name);
            if inode(&link) != inode(&path) {
                let _ = fs::remove_file(&link);
                fs::hard_link(&path, &link)?;
            }
        }
        Ok(())
    }
}

fn inode(path: &Path) -> Option<u64> {
    fs::metadata(path).ok().map(|metadata| metadata.ino())
}

/// Why the C library would not ask DNS servers at all, if so.
pub(super) fn without_dns() -> Option<String> {
    let text = fs::read_to_string(NSSWITCH).ok()?;
    asks_no_dns(&text)
        .then(|| format!("names of the mesh will not resolve: `hosts:` in {NSSWITCH} does not name `dns`"))
}

/// Where the C library asks somebody before it asks DNS servers, by no packet: nscd(8) and nss-resolve(8).
const ASKED_FIRST: [&str; 2] = ["/run/nscd/socket", "/run/systemd/resolve/io.systemd.Resolve"];

/// Why names of the mesh may not be asked for by DNS here, if so.
pub(super) fn past_dns() -> Option<String> {
    let asked = ASKED_FIRST.into_iter().find(|socket| Path::new(socket).exists())?;
    Some(format!(
        "names of the mesh will not resolve for what asks {asked} for them: hide it from the processes here"
    ))
}

fn asks_no_dns(nsswitch: &str) -> bool {
    let hosts = nsswitch.lines().filter_map(|line| line.trim_start().strip_prefix("hosts:"));
    let mut hosts = hosts.map(|line| line.split('#').next().unwrap_or_default());
    hosts.next_back().is_some_and(|line| !line.split_whitespace().any(|word| word == "dns"))
}

/// The host's, but for its name servers.
fn redirected(resolv_conf: &str) -> String {
    let is_server = |line: &&str| line.split_whitespace().next() == Some("nameserver");
    let others = resolv_conf.lines().filter(|line| !is_server(line));
    let server = format!("nameserver {REDIRECTED_NAME_SERVER}");
    others.chain([server.as_str()]).flat_map(|line| [line, "\n"]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirected_resolv_conf_keeps_the_rest() {
        let text = redirected("search shop.example\nnameserver 10.0.0.2\n nameserver ::1\noptions ndots:2\n");
        assert_eq!(text, "search shop.example\noptions ndots:2\nnameserver 127.0.0.53\n");
        assert_eq!(redirected(""), "nameserver 127.0.0.53\n");
    }

    #[test]
    fn a_shorter_resolv_conf_replaces_a_longer_one() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join(OWN_RESOLVED)).unwrap();
        let service = NameService { folder: folder.path().to_owned(), seen: Mutex::default() };
        let file = folder.path().join(OWN_RESOLV_CONF);
        service.write("search a.example b.example\nnameserver 1.2.3.4\n").unwrap();
        let inode = fs::metadata(&file).unwrap().ino();
        service.write("nameserver 1.2.3.4\n").unwrap();
        let text = fs::read_to_string(&file).unwrap();
        assert_eq!(text.trim_end(), "nameserver 1.2.3.4");
        assert_eq!(fs::metadata(&file).unwrap().ino(), inode, "workloads have it mounted");
        assert_eq!(
            fs::read_to_string(folder.path().join(OWN_RESOLVED).join("stub-resolv.conf")).unwrap(),
            text
        );
    }

    #[test]
    fn a_host_that_asks_no_dns_is_known() {
        assert!(!asks_no_dns("hosts: files dns\n"));
        assert!(!asks_no_dns("passwd: files\n") && !asks_no_dns(""));
        assert!(!asks_no_dns("hosts: mymachines resolve [!UNAVAIL=return] files myhostname dns\n"));
        assert!(asks_no_dns("hosts: files resolve # dns\n"));
    }
}
