//! A service that writes down who has called it, and when.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A request that came.
#[derive(Debug, Clone)]
pub struct Counted {
    pub path: String,
    /// `Idempotency-Key`
    pub key: String,
    /// When, in milliseconds since the epoch.
    pub at: u64,
}

/// Serves for as long as the process lives, a thread for each connection.
pub struct CountingService {
    pub port: u16,
    counted: Arc<Mutex<Vec<Counted>>>,
}

impl CountingService {
    /// Answers 200 after that time, with the path as JSON.
    pub fn start(latency: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let counted = Arc::<Mutex<Vec<Counted>>>::default();
        let all = counted.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let all = all.clone();
                std::thread::spawn(move || drop(serve(&stream, &all, latency)));
            }
        });
        Self { port, counted }
    }

    pub fn counted(&self) -> Vec<Counted> {
        self.counted.lock().unwrap().clone()
    }
}

pub fn now_millis() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

/// Answers one request after the other.
fn serve(stream: &TcpStream, all: &Mutex<Vec<Counted>>, latency: Duration) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut writer = stream;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
        let (mut key, mut length) = (String::new(), 0);
        loop {
            let mut field = String::new();
            reader.read_line(&mut field)?;
            let Some((name, value)) = field.trim_end().split_once(": ") else { break };
            match name.to_ascii_lowercase().as_str() {
                "idempotency-key" => value.clone_into(&mut key),
                "content-length" => length = value.parse().unwrap_or(0),
                _ => {}
            }
        }
        reader.read_exact(&mut vec![0; length])?;
        all.lock().unwrap().push(Counted { path: path.clone(), key, at: now_millis() });
        std::thread::sleep(latency);
        let body = format!("{path:?}");
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        writer.write_all(format!("{head}{body}").as_bytes())?;
    }
}
