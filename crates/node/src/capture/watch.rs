//! Watches what a node has made on the host, on a thread of its own: the kernel says when somebody changes the rules;
//! cgroups, who is in them, and the host's name service are looked at every second.

use std::io;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tulle_sys::nft_watch::{Heard, TableWatch};

use super::host::Host;
use super::strays::Strays;

/// How often is looked at what tells nothing by itself.
const INTERVAL: Duration = Duration::from_secs(1);

/// How long the rules are left alone after they were mended: somebody may be about to change them all.
const PAUSE: Duration = Duration::from_millis(50);

/// Watches until the host is gone.
pub(super) fn start(host: &Arc<Host>) -> io::Result<()> {
    let watch = TableWatch::open(host.table(), INTERVAL)?;
    let host = Arc::downgrade(host);
    std::thread::Builder::new().name("tulle-capture".to_owned()).spawn(move || run(watch, &host))?;
    Ok(())
}

fn run(mut watch: TableWatch, host: &Weak<Host>) {
    let mut looked = Instant::now();
    let mut strays = Strays::default();
    loop {
        let heard = match watch.wait() {
            Ok(heard) => heard,
            Err(e) => {
                tracing::warn!("changes of the nftables rules are not seen: {e}");
                std::thread::sleep(INTERVAL);
                Heard { changes: Vec::new(), until: None }
            }
        };
        let Some(host) = host.upgrade() else { return };
        let due = looked.elapsed() >= INTERVAL;
        if due || !heard.changes.is_empty() {
            host.attend(&heard);
        }
        if due {
            host.take_back(&mut strays);
            host.follow_name_service();
            looked = Instant::now();
        }
        drop(host);
        if !heard.changes.is_empty() {
            std::thread::sleep(PAUSE);
        }
    }
}
