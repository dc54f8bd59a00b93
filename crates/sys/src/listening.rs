//! Where this network namespace is listened at (proc_pid_net(5): `/proc/net/tcp`, `/proc/net/tcp6`).

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// TCP_LISTEN.
const LISTEN: &str = "0A";

/// Where somebody listens at those TCP ports and others than processes of this host reach him: not at loopback addresses.
///
/// # Errors
/// Where the kernel does not say.
pub fn beyond_loopback(ports: &[u16]) -> io::Result<Vec<SocketAddr>> {
    let mut found = Vec::new();
    for (table, needed) in [("/proc/self/net/tcp", true), ("/proc/self/net/tcp6", false)] {
        let file = match File::open(table) {
            // A kernel without IPv6.
            Err(e) if !needed && e.kind() == io::ErrorKind::NotFound => continue,
            opened => opened?,
        };
        for line in BufReader::new(file).lines() {
            let listener = listener(&line?).filter(|address| ports.contains(&address.port()));
            found.extend(listener.filter(|address| !address.ip().to_canonical().is_loopback()));
        }
    }
    found.sort();
    found.dedup();
    Ok(found)
}

/// Where a line of the table says that somebody listens.
fn listener(line: &str) -> Option<SocketAddr> {
    let mut words = line.split_ascii_whitespace();
    let local = words.nth(1)?;
    let state = words.nth(1)?;
    let (address, port) = local.split_once(':').filter(|_| state == LISTEN)?;
    let port = u16::from_str_radix(port, 16).ok()?;
    // Words of 32 bits as they lie in memory.
    let word = |at: usize| {
        let digits = address.get(8 * at..8 * at + 8)?;
        u32::from_str_radix(digits, 16).ok().map(u32::to_ne_bytes)
    };
    let ip: IpAddr = match address.len() {
        8 => Ipv4Addr::from(word(0)?).into(),
        32 => {
            let mut bytes = [0; 16];
            for (at, part) in bytes.chunks_mut(4).enumerate() {
                part.copy_from_slice(&word(at)?);
            }
            Ipv6Addr::from(bytes).into()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn listeners_are_found_where_others_reach_them() {
        let bind = |address: &str| TcpListener::bind(address).ok();
        let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
        let (loopback, everywhere) = (bind("127.0.0.1:0").unwrap(), bind("0.0.0.0:0").unwrap());
        let ports = [port(&loopback), port(&everywhere)];
        let expected = SocketAddr::from(([0, 0, 0, 0], ports[1]));
        assert_eq!(beyond_loopback(&ports).unwrap(), [expected]);
        assert_eq!(beyond_loopback(&ports[..1]).unwrap(), []);
        // A connection is no listener, nor is one that has gone.
        let _client = std::net::TcpStream::connect(("127.0.0.1", ports[1])).unwrap();
        assert_eq!(beyond_loopback(&ports).unwrap(), [expected]);
        drop(everywhere);
        assert_eq!(beyond_loopback(&ports).unwrap(), []);
        if let (Some(all), Some(own)) = (bind("[::]:0"), bind("[::1]:0")) {
            let ports = [port(&all), port(&own)];
            assert_eq!(
                beyond_loopback(&ports).unwrap(),
                [SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), ports[0])]
            );
        }
    }

    #[test]
    fn lines_that_say_nothing_are_passed_over() {
        for line in [
            "",
            "  sl  local_address rem_address   st",
            "0: 00 00 0A",
            "0: 0100007F:1F90 00:0 0A",
            "0: 01:1 0:0 0A",
        ] {
            let found = listener(line);
            assert!(found.is_none() || line.contains("1F90"), "{line}: {found:?}");
        }
        assert_eq!(listener("0: 0100007F:1F90 00000000:0000 01"), None, "it is connected");
    }
}
