//! Hears of changes to an nftables table (multicast of nfnetlink, linux/netfilter/nfnetlink.h).

use std::io;
use std::time::{Duration, Instant};

use crate::netlink::{Netfilter, attribute, messages, request, verdict};

/// `NFNLGRP_NFTABLES`, as a bit.
const GROUP: u32 = 1 << (7 - 1);
const SUBSYSTEM: u16 = 10;
/// `NFT_MSG_NEWGEN`: the end of every change, of any table.
const NEW_GENERATION: u16 = 15;
/// `NFT_MSG_GETGEN`, and the attribute `NFTA_GEN_ID` of its answer.
const GET_GENERATION: u16 = 16;
const GENERATION_ID: u16 = 1;
/// The name of the table, in every message about what a table holds.
const TABLE: u16 = 1;
/// How long the kernel may take to say which generation it is.
const GENERATION_DEADLINE: Duration = Duration::from_secs(1);

/// How many messages are taken at once.
const MOST_CHANGES: usize = 4096;

/// A change to a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// By the process of this number (the netlink port, which is that for `nft`).
    By(u32),
    /// There were more messages than the kernel keeps: anything may have changed.
    Missed,
}

/// What was heard at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    pub changes: Vec<Change>,
    /// All that the kernel had said by then has been heard; `None` where more may wait.
    pub until: Option<Instant>,
}

/// Hears of every change to one table.
pub struct TableWatch {
    netlink: Netfilter,
    family: u8,
    table: Vec<u8>,
}

impl TableWatch {
    /// Watches the table `table` of the family `inet`. [`TableWatch::wait`] takes at most `patience`.
    pub fn open(table: &str, patience: Duration) -> io::Result<Self> {
        let netlink = Netfilter::open(GROUP, patience)?;
        let table = [table.as_bytes(), &[0]].concat();
        Ok(Self { netlink, family: libc::NFPROTO_INET as u8, table })
    }

    /// Waits for a message of the kernel, and takes those that have come with it; what they say of the table. No changes
    /// where none comes, or they are about others.
    pub fn wait(&mut self) -> io::Result<Heard> {
        let (mut found, mut until) = (Vec::new(), None);
        let mut asked = Instant::now();
        let mut next = self.netlink.receive();
        loop {
            match next {
                Ok(datagram) => found.extend(changes(datagram, self.family, &self.table)),
                Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => found.push(Change::Missed),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    until = Some(asked);
                    break;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => break,
                Err(e) => return Err(e),
            }
            if found.len() >= MOST_CHANGES {
                break;
            }
            asked = Instant::now();
            next = self.netlink.receive_now();
        }
        found.dedup();
        Ok(Heard { changes: found, until })
    }
}

/// The number of the rules' present generation, in this network namespace: every change, of whichever table, makes it one
/// more.
///
/// # Errors
/// Where the kernel does not say it.
pub fn generation() -> io::Result<u32> {
    let mut netlink = Netfilter::open(0, GENERATION_DEADLINE)?;
    netlink.send(&request(SUBSYSTEM << 8 | GET_GENERATION, 0, libc::AF_UNSPEC as u8))?;
    let datagram = netlink.receive()?;
    let answer = messages(datagram).next().ok_or(io::ErrorKind::UnexpectedEof)?;
    if answer.kind == SUBSYSTEM << 8 | NEW_GENERATION {
        let id = attribute(answer.body, GENERATION_ID).and_then(|id| id.try_into().ok());
        return id.map(u32::from_be_bytes).ok_or_else(|| io::ErrorKind::InvalidData.into());
    }
    verdict(answer.body)?;
    Err(io::ErrorKind::InvalidData.into())
}

fn changes(datagram: &[u8], family: u8, table: &[u8]) -> Vec<Change> {
    let ours = messages(datagram).filter(|message| {
        let (subsystem, what) = (message.kind >> 8, message.kind & 0xff);
        subsystem == SUBSYSTEM
            && what != NEW_GENERATION
            && message.family == family
            && attribute(message.body, TABLE) == Some(table)
    });
    ours.map(|message| Change::By(message.port)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::push;

    #[test]
    fn changes_of_others_are_not_heard() {
        let message = |kind: u16, family, table: &[u8]| {
            let mut message = request(SUBSYSTEM << 8 | kind, 0, family);
            push(&mut message, TABLE, table);
            message[12..16].copy_from_slice(&77u32.to_ne_bytes());
            message
        };
        let inet = libc::NFPROTO_INET as u8;
        let heard = |message: Vec<u8>| changes(&message, inet, b"tulle\0");
        assert_eq!(heard(message(2, inet, b"tulle\0")), [Change::By(77)]);
        assert!(heard(message(2, inet, b"other\0")).is_empty());
        assert!(heard(message(2, 2, b"tulle\0")).is_empty());
        assert!(heard(message(NEW_GENERATION, inet, b"tulle\0")).is_empty());
        assert!(heard(Vec::new()).is_empty());
    }
}
