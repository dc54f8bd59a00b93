//! Host capture against the real kernel. Needs root and nft.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::process::{Command, Stdio};
use std::time::Duration;

use tulle_model::name::WorkloadName;
use tulle_node::capture::{Capture, CaptureMode, CaptureWish};
use tulle_sys::process::{Confinement, confine};

const PATIENCE: Duration = Duration::from_secs(5);

#[test]
fn a_captured_process_reaches_the_listeners_and_nothing_is_left_behind() {
    let directory = tempfile::tempdir().unwrap();
    let scope = format!("test-{}", std::process::id());
    let (capture, mode, why) = Capture::open(&scope, directory.path(), CaptureWish::Host).unwrap();
    assert_eq!(mode, CaptureMode::Host, "{why}");

    let outbound = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let dns = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    dns.set_read_timeout(Some(PATIENCE)).unwrap();
    let workload = WorkloadName::new("default", "a");
    let ports = (outbound.local_addr().unwrap().port(), dns.local_addr().unwrap().port());
    let slot = capture.add(&workload, ports.0, ports.1).unwrap();
    let cgroup = slot.cgroup.clone().unwrap();

    // A virtual address, by a client that knows nothing of the mesh; then a query to a name server.
    let script = "exec 3<>/dev/tcp/127.64.9.9/8080; echo hello >&3; read answer <&3; echo $answer; \
                  echo query >/dev/udp/127.0.0.53/53; sleep 60";
    let mut command = Command::new("bash");
    command.args(["-c", script]).stdout(Stdio::piped());
    let confinement = Confinement {
        cgroup: Some(&cgroup),
        resolv_conf: slot.resolv_conf.as_deref(),
        own_process_group: true,
    };
    confine(&mut command, confinement).unwrap();
    let mut child = command.spawn().unwrap();

    let (mut connection, _) = outbound.accept().unwrap();
    connection.set_read_timeout(Some(PATIENCE)).unwrap();
    let expected: SocketAddr = ([127, 64, 9, 9], 8080).into();
    assert_eq!(tulle_sys::original_destination(&connection).unwrap(), expected);
    let mut greeting = [0; 6];
    connection.read_exact(&mut greeting).unwrap();
    connection.write_all(b"welcome\n").unwrap();
    let mut query = [0; 64];
    let length = dns.recv(&mut query).unwrap();
    assert_eq!(&query[..length], b"query\n");

    capture.remove(&workload).unwrap();
    let mut output = String::new();
    child.stdout.take().unwrap().read_to_string(&mut output).unwrap();
    assert_eq!(output, "welcome\n");
    assert!(!child.wait().unwrap().success(), "removing a workload ends its processes");

    drop(capture);
    assert!(!cgroup.exists());
    let tables = Command::new("nft").args(["list", "tables"]).output().unwrap().stdout;
    assert!(!String::from_utf8(tables).unwrap().contains(&scope));
}

#[test]
fn what_an_earlier_process_captured_goes_on_if_it_is_wanted() {
    let directory = tempfile::tempdir().unwrap();
    let scope = format!("again-{}", std::process::id());
    let open = |keep: bool| {
        let open = if keep { Capture::open_again } else { Capture::open };
        open(&scope, directory.path(), CaptureWish::Host).unwrap().0
    };
    let names = [WorkloadName::new("default", "wanted"), WorkloadName::new("default", "forgotten")];
    let earlier = open(false);
    let mut children = names.clone().map(|name| {
        let slot = earlier.add(&name, 1, 1).unwrap();
        let mut command = Command::new("sleep");
        command.arg("60");
        let confinement =
            Confinement { cgroup: slot.cgroup.as_deref(), resolv_conf: None, own_process_group: true };
        confine(&mut command, confinement).unwrap();
        command.spawn().unwrap()
    });
    // As when it is killed: nothing is cleared.
    std::mem::forget(earlier);

    let capture = open(true);
    assert!(children.each_mut().iter_mut().all(|child| child.try_wait().unwrap().is_none()), "they go on");
    capture.add_again(&names[0], 1, 1).unwrap();
    capture.end_orphans().unwrap();
    assert!(!children[1].wait().unwrap().success(), "nobody came back for it");
    assert!(children[0].try_wait().unwrap().is_none(), "it goes on");
    drop(capture);
    assert!(!children[0].wait().unwrap().success());
}
