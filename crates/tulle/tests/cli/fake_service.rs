//! Fake services that call each other, and stop without a failed request.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

struct FakeService {
    child: Child,
    address: String,
    output: BufReader<std::process::ChildStdout>,
}

impl FakeService {
    fn start(arguments: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_tulle"))
            .args(["fake-service", "--listen", "127.0.0.1:0"])
            .args(arguments)
            .env_remove("HTTP_PROXY")
            .env_remove("http_proxy")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        let address = line.trim().rsplit(' ').next().unwrap().to_owned();
        Self { child, address, output }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    fn terminate(&self) {
        let pid = nix::unistd::Pid::from_raw(self.child.id() as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    }
}

impl Drop for FakeService {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn connect(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream
}

/// Reads one answer with a content-length: its head and its body.
fn answer(stream: &mut TcpStream) -> (String, String) {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert!(reader.read_line(&mut head).unwrap() > 0, "closed after {head:?}");
    }
    let length = head.lines().find_map(|l| l.strip_prefix("content-length: ")).unwrap().parse().unwrap();
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    (head, String::from_utf8(body).unwrap())
}

#[test]
fn the_path_goes_over_http_and_grpc() {
    let e = FakeService::start(&["--name", "e", "--body-size", "100k"]);
    let f = FakeService::start(&["--name", "f"]);
    let (to_e, to_f) = (format!("http://{}", e.address), format!("grpc://{}", f.address));
    let d = FakeService::start(&["--name", "d", "--parallel", "--upstream", &to_e, "--upstream", &to_f]);
    let to_d = format!("grpc://{}", d.address);
    let mut a = FakeService::start(&["--name", "a", "--every", "20ms", "--upstream", &to_d]);
    for _ in 0..3 {
        let line = a.line();
        assert!(line.starts_with("a → d → (e, f)   200   "), "{line}");
    }
    drop(f);
    let failed = std::iter::repeat_with(|| a.line()).take(200).find(|line| line.contains("✗")).unwrap();
    assert!(failed.starts_with("a✗ → d✗ → (e, 127.0.0.1✗)   502"), "{failed}");
}

#[test]
fn errors_come_at_their_rate() {
    let service = FakeService::start(&["--name", "x", "--error-rate", "100%", "--error-code", "503"]);
    let mut stream = connect(&service.address);
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let (head, body) = answer(&mut stream);
    assert!(head.starts_with("HTTP/1.1 503"), "{head}");
    assert!(body.contains("--error-rate"), "{body}");
}

#[test]
fn a_stop_fails_nobody() {
    let mut service = FakeService::start(&["--name", "x", "--latency", "300ms"]);
    let request = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";
    let mut busy = connect(&service.address);
    let mut idle = connect(&service.address);
    idle.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    assert!(answer(&mut idle).0.starts_with("HTTP/1.1 200"));
    busy.write_all(request).unwrap();
    // It is in flight once it was read; there is no sign of that from outside.
    std::thread::sleep(Duration::from_millis(100));
    service.terminate();
    std::thread::sleep(Duration::from_millis(50));

    // A connection that was idle, and a new one, are served once more.
    let mut late = connect(&service.address);
    for stream in [&mut idle, &mut late] {
        stream.write_all(request).unwrap();
    }
    for stream in [&mut busy, &mut idle, &mut late] {
        let (head, body) = answer(stream);
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        assert!(head.contains("connection: close"), "{head}");
        assert!(body.contains("\"name\":\"x\""), "{body}");
        assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0, "the connection is closed");
    }
    assert!(service.child.wait().unwrap().success());
}
