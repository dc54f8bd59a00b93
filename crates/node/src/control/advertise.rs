//! Where other nodes reach this one's links. Where nobody has said it and the links are taken at all
//! addresses, it is the address that this host has on its way to the server; that may change while the
//! node runs.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::net::UdpSocket;
use tokio::sync::watch;

use crate::dialer::Dialer;

/// How often it is looked at: where the server's address is known, and where its name has to be resolved.
const LOOK: Duration = Duration::from_secs(3);
const LOOK_BY_NAME: Duration = Duration::from_secs(30);

/// The address, as it is now.
pub struct Advertised {
    /// Where the links are taken.
    link: SocketAddr,
    server: String,
    dialer: Dialer,
    /// Whether it is the host's, and may change.
    follows: bool,
    current: watch::Sender<SocketAddr>,
    looked: Instant,
}

impl Advertised {
    /// The links are taken at `link`; `said` is what the operator says.
    pub async fn new(link: SocketAddr, said: Option<SocketAddr>, (server, dialer): (&str, Dialer)) -> Self {
        let follows = said.is_none() && link.ip().is_unspecified();
        let mut address = said.unwrap_or(link);
        if follows {
            match on_the_way(link, server, dialer).await {
                Ok(found) => address = found,
                Err(e) => tracing::warn!(
                    "the address at which other nodes reach this one is not known ({e}), so it is said to be \
                     {link} until it is: set it with --advertise"
                ),
            }
        }
        let current = watch::Sender::new(address);
        Self { link, server: server.to_owned(), dialer, follows, current, looked: Instant::now() }
    }

    /// The address, and what it becomes.
    pub fn watch(&self) -> watch::Receiver<SocketAddr> {
        self.current.subscribe()
    }

    /// Looks again, if it is time; whether it is another one now.
    pub async fn refresh(&mut self) -> bool {
        let by_name = self.server.parse::<SocketAddr>().is_err();
        let every = if by_name { LOOK_BY_NAME } else { LOOK };
        if !self.follows || self.looked.elapsed() < every {
            return false;
        }
        self.looked = Instant::now();
        // Without a way to the server, the address from before is as good as any.
        let Ok(found) = on_the_way(self.link, &self.server, self.dialer).await else { return false };
        let changed = self.current.send_if_modified(|now| std::mem::replace(now, found) != found);
        if changed {
            tracing::info!("this host's address has changed: other nodes reach this one at {found}");
        }
        changed
    }
}

/// The address that this host has on its way to the server. Connecting a UDP socket looks up the route
/// and sends nothing.
async fn on_the_way(link: SocketAddr, server: &str, dialer: Dialer) -> std::io::Result<SocketAddr> {
    let socket = UdpSocket::bind((link.ip(), 0)).await?;
    socket.connect(&*dialer.addresses(server).await?).await?;
    Ok(SocketAddr::new(socket.local_addr()?.ip(), link.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVER: (&str, Dialer) = ("127.0.0.1:1", Dialer { marked: false });

    #[tokio::test]
    async fn only_an_address_that_nobody_has_said_is_looked_up() {
        let all: SocketAddr = "0.0.0.0:15008".parse().unwrap();
        let address = |advertised: &Advertised| *advertised.watch().borrow();
        let mut found = Advertised::new(all, None, SERVER).await;
        assert_eq!(address(&found), "127.0.0.1:15008".parse().unwrap());
        let said = Advertised::new(all, Some("10.1.1.1:9".parse().unwrap()), SERVER).await;
        assert_eq!(address(&said), "10.1.1.1:9".parse().unwrap());
        let one = Advertised::new("10.1.1.2:9".parse().unwrap(), None, SERVER).await;
        assert_eq!(address(&one), "10.1.1.2:9".parse().unwrap());
        assert!(!said.follows && !one.follows);

        // As if the host had another address until now.
        found.current.send_replace("10.1.1.3:15008".parse().unwrap());
        assert!(!found.refresh().await, "not yet");
        found.looked -= LOOK;
        assert!(found.refresh().await);
        assert_eq!(address(&found), "127.0.0.1:15008".parse().unwrap());
    }
}
