//! Ports that nobody listens at.

use std::net::{Ipv4Addr, TcpListener};

use anyhow::{Result, bail};

/// Below the ports that the kernel gives to outgoing connections (32768 and up, as a rule): one of
/// those could be in use by a connection of the load when a proxy is started again.
const FIRST: u16 = 20_000;
const LAST: u16 = 32_000;
/// Between two runs that were started one after the other; more than one needs.
const APART: u32 = 151;

/// Hands out each port once.
pub struct Ports {
    next: u16,
}

impl Ports {
    /// Begins where another run on the same machine most likely does not: between a port's being found free
    /// and its use, others could find it free, too.
    pub fn new() -> Self {
        let spread = std::process::id().wrapping_mul(APART) % u32::from(LAST - FIRST - 1_000);
        Self { next: FIRST + u16::try_from(spread).unwrap_or_default() }
    }

    pub fn free(&mut self) -> Result<u16> {
        while self.next < LAST {
            let port = self.next;
            self.next += 1;
            if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
                return Ok(port);
            }
        }
        bail!("no port between {FIRST} and {LAST} is free")
    }
}
