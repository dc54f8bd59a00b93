//! Reads the counters of a set's elements (nfnetlink, linux/netfilter/nf_tables.h).

use std::io;
use std::time::Duration;

use crate::netlink::{Netfilter, attribute, attributes, messages, push, request, verdict};

const SUBSYSTEM: u16 = 10 << 8;
/// `NFT_MSG_NEWSETELEM`, `NFT_MSG_GETSETELEM`
const ELEMENTS: u16 = SUBSYSTEM | 12;
const GET_ELEMENTS: u16 = SUBSYSTEM | 13;
/// `NFTA_SET_ELEM_LIST_…`
const LIST_TABLE: u16 = 1;
const LIST_SET: u16 = 2;
const LIST_ELEMENTS: u16 = 3;
/// `NFTA_SET_ELEM_…`
const KEY: u16 = 1;
const EXPRESSION: u16 = 7;
/// `NFTA_DATA_VALUE`
const VALUE: u16 = 1;
/// `NFTA_EXPR_…`
const NAME: u16 = 1;
const DATA: u16 = 2;
/// `NFTA_COUNTER_PACKETS`
const PACKETS: u16 = 2;

/// The kernel answers within the call.
const PATIENCE: Duration = Duration::from_secs(2);

/// How many packets each element of each of these sets of cgroups has matched, by the cgroup's id, in a table of the
/// family `inet`.
///
/// # Errors
/// Where there is no such table or set, or the kernel does not say it.
pub fn packets_by_cgroup<const N: usize>(table: &str, sets: [&str; N]) -> io::Result<[Vec<(u64, u64)>; N]> {
    let by_id = |(key, packets): (Vec<u8>, u64)| Some((u64::from_ne_bytes(key.try_into().ok()?), packets));
    let mut netlink = Netfilter::open(0, PATIENCE)?;
    let mut all = [const { Vec::new() }; N];
    for (set, found) in sets.into_iter().zip(&mut all) {
        *found = counters(&mut netlink, table, set)?.into_iter().filter_map(by_id).collect();
    }
    Ok(all)
}

/// How many packets all elements of a set have matched.
///
/// # Errors
/// As for [`packets_by_cgroup`].
pub fn packets(table: &str, set: &str) -> io::Result<u64> {
    let counters = counters(&mut Netfilter::open(0, PATIENCE)?, table, set)?;
    Ok(counters.into_iter().map(|(_, packets)| packets).sum())
}

/// What each element has counted, by its key.
fn counters(netlink: &mut Netfilter, table: &str, set: &str) -> io::Result<Vec<(Vec<u8>, u64)>> {
    let mut question = request(GET_ELEMENTS, libc::NLM_F_DUMP as u16, libc::NFPROTO_INET as u8);
    push(&mut question, LIST_TABLE, &[table.as_bytes(), &[0]].concat());
    push(&mut question, LIST_SET, &[set.as_bytes(), &[0]].concat());
    netlink.send(&question)?;
    let mut found = Vec::new();
    loop {
        for message in messages(netlink.receive()?) {
            match message.kind {
                kind if i32::from(kind) == libc::NLMSG_DONE => return Ok(found),
                kind if i32::from(kind) == libc::NLMSG_ERROR => verdict(message.body)?,
                ELEMENTS => found.extend(elements(message.body)),
                _ => {}
            }
        }
    }
}

fn elements(message: &[u8]) -> impl Iterator<Item = (Vec<u8>, u64)> {
    let elements = attributes(attribute(message, LIST_ELEMENTS).unwrap_or_default());
    elements.filter_map(|(_, element)| {
        let key = attribute(attribute(element, KEY)?, VALUE)?;
        let expression = attribute(element, EXPRESSION)?;
        if attribute(expression, NAME)? != b"counter\0" {
            return None;
        }
        let packets = attribute(attribute(expression, DATA)?, PACKETS)?;
        Some((key.to_vec(), u64::from_be_bytes(packets.try_into().ok()?)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Attributes in one.
    fn nested(values: &[(u16, Vec<u8>)]) -> Vec<u8> {
        let mut message = request(0, 0, 0);
        let start = message.len();
        values.iter().for_each(|(kind, value)| push(&mut message, *kind, value));
        message.split_off(start)
    }

    #[test]
    fn counters_are_read_and_nonsense_is_not() {
        let element = |name: &[u8], key: &[u8]| {
            let counter = nested(&[(1, 180u64.to_be_bytes().into()), (PACKETS, 3u64.to_be_bytes().into())]);
            let expression = nested(&[(NAME, name.into()), (DATA, counter)]);
            nested(&[(KEY, nested(&[(VALUE, key.into())])), (EXPRESSION, expression)])
        };
        let message = |elements: &[Vec<u8>]| {
            let list: Vec<_> = elements.iter().map(|element| (1, element.clone())).collect();
            nested(&[(LIST_TABLE, b"t\0".into()), (LIST_ELEMENTS, nested(&list))])
        };
        let good = element(b"counter\0", &77u64.to_ne_bytes());
        let others = [element(b"quota\0", &78u64.to_ne_bytes()), Vec::new()];
        let all = message(&[&[good][..], &others].concat());
        assert_eq!(elements(&all).collect::<Vec<_>>(), [(77u64.to_ne_bytes().to_vec(), 3)]);
        for length in 0..all.len() {
            assert!(elements(&all[..length]).count() <= 1);
        }
    }
}
