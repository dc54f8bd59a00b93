//! Watches what a node has made, on a thread of its own: the kernel says when somebody changes the rules;
//! cgroups, who is in them, and the host's name service are looked at every second.

use std::io;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tulle_sys::nft_watch::{Heard, TableWatch};

use super::captor::Captor;
use super::strays::Strays;

/// How often is looked at what tells nothing by itself.
const INTERVAL: Duration = Duration::from_secs(1);

/// How long the rules are left alone after they were mended: somebody may be about to change them all.
const PAUSE: Duration = Duration::from_millis(50);

/// Watches until the captor is gone.
pub(super) fn start(captor: &Arc<Captor>) -> io::Result<()> {
    let watch = TableWatch::open(captor.table(), INTERVAL)?;
    let captor = Arc::downgrade(captor);
    std::thread::Builder::new().name("tulle-capture".to_owned()).spawn(move || run(watch, &captor))?;
    Ok(())
}

fn run(mut watch: TableWatch, captor: &Weak<Captor>) {
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
        let Some(captor) = captor.upgrade() else { return };
        let due = looked.elapsed() >= INTERVAL;
        if due || !heard.changes.is_empty() {
            captor.attend(&heard);
        }
        if due {
            if let Some(host) = captor.host() {
                host.take_back(&mut strays);
                host.follow_name_service();
            }
            looked = Instant::now();
        }
        drop(captor);
        if !heard.changes.is_empty() {
            std::thread::sleep(PAUSE);
        }
    }
}
