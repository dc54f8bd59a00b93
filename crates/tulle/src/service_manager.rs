//! Tells the service manager that started this process, such as systemd, how far it is (sd_notify(3)): what is to come after a
//! unit of `Type=notify` waits for it to be ready, and `systemctl status` shows what was said last. Without one, nothing is said.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// Where it listens. Processes that a node starts do not have it: it is no socket of theirs.
const SOCKET: &str = tulle_node::supervise::SERVICE_MANAGER;
/// How long it may take to take a message.
const DEADLINE: Duration = Duration::from_secs(2);

/// This process serves, and is what `status` says.
pub fn ready(status: &str) {
    tell("READY=1", status);
}

/// It was asked to stop, and does what has to be done first.
pub fn stopping() {
    tell("STOPPING=1", "stopping");
}

fn tell(state: &str, status: &str) {
    let Some(socket) = std::env::var_os(SOCKET).filter(|socket| !socket.is_empty()) else { return };
    if let Err(error) = send(&socket, &message(state, status)) {
        tracing::warn!("the service manager at {} was not told {state}: {error}", socket.display());
    }
}

/// Each line of it is a variable.
fn message(state: &str, status: &str) -> String {
    format!("{state}\nSTATUS={}\n", status.replace(char::is_control, " "))
}

fn send(socket: &OsStr, message: &str) -> io::Result<()> {
    let address = match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(socket)?,
    };
    let sender = UnixDatagram::unbound()?;
    sender.set_write_timeout(Some(DEADLINE))?;
    sender.send_to_addr(message.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(manager: &UnixDatagram) -> String {
        let mut message = [0; 256];
        manager.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let length = manager.recv(&mut message).unwrap();
        String::from_utf8(message[..length].to_vec()).unwrap()
    }

    #[test]
    fn a_manager_is_told_at_a_path_and_at_a_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        send(path.as_os_str(), &message("READY=1", "runs\nMAINPID=1")).unwrap();
        assert_eq!(heard(&manager), "READY=1\nSTATUS=runs MAINPID=1\n");

        let name = format!("tulle-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let manager = UnixDatagram::bind_addr(&address).unwrap();
        send(OsStr::new(&format!("@{name}")), "STOPPING=1").unwrap();
        assert_eq!(heard(&manager), "STOPPING=1");
    }

    #[test]
    fn a_manager_that_is_not_there_or_does_not_listen_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        assert!(send(path.as_os_str(), "READY=1").is_err());
        assert!(send(OsStr::new("@"), "READY=1").is_err());
        let _deaf = UnixDatagram::bind(&path).unwrap();
        // Its queue is full some time, and it takes nothing of it.
        let failed = (0..10_000).find_map(|_| send(path.as_os_str(), "READY=1").err());
        assert_eq!(failed.map(|e| e.kind()), Some(io::ErrorKind::WouldBlock));
    }
}
