//! The kernel's memory of connections (ctnetlink, linux/netfilter/nfnetlink_conntrack.h).

use std::io;
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::netlink::{Netfilter, attribute, messages, push, request, verdict};

const SUBSYSTEM: u16 = 1 << 8;
const GET: u16 = SUBSYSTEM | 1;
const DELETE: u16 = SUBSYSTEM | 2;
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_ZONE: u16 = 3;
const ID: u16 = 12;
const NESTED: u16 = 0x8000;

/// The kernel answers within the call.
const PATIENCE: Duration = Duration::from_secs(2);

/// Has the kernel forget every connection whose original direction lies in one of the zones. Returns how many
/// those were.
///
/// # Errors
/// Where it cannot be asked. What ends by itself meanwhile is no error.
pub fn forget(zones: &RangeInclusive<u16>) -> io::Result<usize> {
    let mut netlink = Netfilter::open(0, PATIENCE)?;
    // A flush that names a zone flushes everything before Linux 6.8: so they are listed, and deleted one by one.
    netlink.send(&request(GET, libc::NLM_F_DUMP as u16, libc::AF_UNSPEC as u8))?;
    let mut found = Vec::new();
    'listing: loop {
        for message in messages(netlink.receive()?) {
            match i32::from(message.kind) {
                libc::NLMSG_DONE => break 'listing,
                libc::NLMSG_ERROR => verdict(message.body)?,
                _ => found.extend(deletion(message.family, message.body, zones)),
            }
        }
    }
    for deletion in &found {
        netlink.send(deletion)?;
        for message in messages(netlink.receive()?) {
            match verdict(message.body) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
    }
    Ok(found.len())
}

/// The request that deletes an entry, where its original direction lies in one of the zones.
fn deletion(family: u8, entry: &[u8], zones: &RangeInclusive<u16>) -> Option<Vec<u8>> {
    let original = attribute(entry, TUPLE_ORIGINAL)?;
    let zone = attribute(original, TUPLE_ZONE)?.try_into().ok().map(u16::from_be_bytes)?;
    if !zones.contains(&zone) {
        return None;
    }
    let mut message = request(DELETE, libc::NLM_F_ACK as u16, family);
    push(&mut message, TUPLE_ORIGINAL | NESTED, original);
    // Another one may have its addresses by now.
    push(&mut message, ID, attribute(entry, ID)?);
    Some(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_of_the_zones_are_deleted_and_no_others() {
        let entry = |zone: u16| {
            let mut tuple = Vec::new();
            tuple.extend([6, 0, 3, 0]);
            tuple.extend(zone.to_be_bytes());
            tuple.extend([0, 0]);
            let mut message = request(GET, 0, 2);
            push(&mut message, TUPLE_ORIGINAL | NESTED, &tuple);
            push(&mut message, ID, &[1, 2, 3, 4]);
            message[20..].to_vec()
        };
        let of = |zone| deletion(2, &entry(zone), &(40000..=40001));
        assert!(of(39999).is_none() && of(40002).is_none());
        assert!(of(40000).is_some() && of(40001).is_some());
        assert!(deletion(2, &[], &(0..=u16::MAX)).is_none());
    }
}
