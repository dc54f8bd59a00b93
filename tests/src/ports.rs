//! Ports for processes that are told where to listen.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};

/// Below those that the kernel gives to connections (32,768 on), and above those that tests name.
const FIRST: u16 = 20_000;
const MOST: u16 = 10_000;

/// A port that nobody has. It is none that a connection could be given until somebody listens there, and is handed out once.
pub fn free_port() -> u16 {
    static HANDED_OUT: AtomicU16 = AtomicU16::new(0);
    // Another process begins elsewhere: what has ended lingers.
    let begin = (std::process::id() % u32::from(MOST)) as u16;
    for _ in 0..1000 {
        let port = FIRST + (begin + HANDED_OUT.fetch_add(1, Ordering::Relaxed)) % MOST;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
    panic!("no port from {FIRST} on is free");
}
