//! What a connection takes of memory, and what becomes of its peer where there is no more.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use tulle_model::name::WorkloadName;

use super::*;
use crate::budget::{Account, Accounts, Budget, Charge, Payer};
use crate::http2::Unfit;
use crate::http2::core::Core;
use crate::http2::frame::{self, PREFACE, flag, kind};

fn account(memory: u64) -> (Arc<Budget>, Rc<Account>) {
    let budget = Budget::new(memory, 10);
    let payer = Payer::Workload(WorkloadName::new("default", "a"));
    (budget.clone(), Accounts::new(budget).of(&payer))
}

fn server(account: &Rc<Account>) -> Core {
    let mut core = Core::new(true, LIMITS);
    core.payer = Charge::on(account.clone());
    let mut hello = PREFACE.to_vec();
    frame::settings(&mut hello, &[]);
    frame::head(&mut hello, 0, kind::SETTINGS, flag::ACK, 0);
    core.receive(&hello, Duration::ZERO);
    core.charge_buffers();
    core
}

/// A header block of 30 KiB, of which the last byte is missing.
fn begun() -> Vec<u8> {
    let mut bytes = Vec::new();
    frame::head(&mut bytes, 15 << 10, kind::HEADERS, 0, 1);
    bytes.resize(bytes.len() + (15 << 10), 0);
    frame::head(&mut bytes, 15 << 10, kind::CONTINUATION, flag::END_HEADERS, 1);
    bytes.resize(bytes.len() + (15 << 10) - 1, 0);
    bytes
}

#[tokio::test(flavor = "local")]
async fn a_frame_that_has_not_come_whole_is_charged() {
    let (_budget, account) = account(4 << 20);
    let mut core = server(&account);
    let before = core.payer.bytes();
    core.receive(&begun(), Duration::ZERO);
    core.charge_buffers();
    assert!(core.payer.bytes() >= before + (16 << 10), "{} {before}", core.payer.bytes());
    assert!(core.ended.is_none());
}

#[tokio::test(flavor = "local")]
async fn a_connection_that_begins_with_one_ends_where_there_is_no_memory_for_it() {
    let (_budget, account) = account(1 << 20);
    let mut core = server(&account);
    let mut held = Charge::on(account.clone());
    while held.resize(held.bytes() + 1024).is_ok() {}
    core.receive(&begun(), Duration::ZERO);
    core.charge_buffers();
    assert!(matches!(core.ended, Some(Ended::Violation(_))), "{:?}", core.ended);
}

/// The window of all streams goes down by what it was told, once that is confirmed, and up again after a while.
#[tokio::test(flavor = "local")]
async fn windows_are_small_while_memory_is_short() {
    const SMALL: i64 = 16 << 10;
    let most = i64::from(LIMITS.stream_window);
    let (_budget, account) = account(1 << 20);
    let mut core = server(&account);
    let mut block = Vec::new();
    let mut encoder = crate::http2::hpack::Encoder::new();
    encoder.begin(&mut block);
    encoder.method(&http::Method::POST, &mut block);
    encoder.scheme("http", &mut block);
    encoder.authority("a", &mut block);
    encoder.path(b"/", &mut block);
    let open = |core: &mut Core, id: u32| {
        let mut bytes = Vec::new();
        frame::head(&mut bytes, block.len(), kind::HEADERS, flag::END_HEADERS, id);
        bytes.extend_from_slice(&block);
        core.receive(&bytes, Duration::ZERO);
        core.streams[&id].receive_window
    };
    let confirm = |core: &mut Core, now: u64| {
        let mut bytes = Vec::new();
        frame::head(&mut bytes, 0, kind::SETTINGS, flag::ACK, 0);
        core.receive(&bytes, Duration::from_millis(now));
    };
    assert_eq!(open(&mut core, 1), most);
    let mut held = Charge::on(account.clone());
    // More than there is to spare, and less than there is.
    held.set(400 << 10);
    core.charge_buffers();
    assert_eq!(open(&mut core, 3), most, "it has not heard of it yet");
    confirm(&mut core, 10);
    assert_eq!((core.streams[&1].receive_window, core.streams[&3].receive_window), (SMALL, SMALL));
    assert_eq!(open(&mut core, 5), SMALL);
    held.set(0);
    core.charge_buffers();
    assert_eq!(core.streams[&1].receive_window, SMALL, "not at once");
    confirm(&mut core, 1500);
    // Who got none asks again after a while.
    tokio::time::sleep(Duration::from_millis(20)).await;
    core.charge_buffers();
    assert!([1, 3, 5].iter().all(|id| core.streams[id].receive_window == most));
    confirm(&mut core, 1510);
    assert!([1, 3, 5].iter().all(|id| core.streams[id].receive_window == most));
    assert_eq!(open(&mut core, 7), most);
}

/// Its answer may take long.
#[tokio::test(flavor = "local")]
async fn what_is_not_read_of_a_request_is_no_longer_charged_when_nobody_will() {
    let (_budget, account) = account(1 << 20);
    let core = Rc::new(RefCell::new(server(&account)));
    let mut bytes = Vec::new();
    let block = [0x83, 0x86, 0x84, 0x01, 1, b'c'];
    frame::head(&mut bytes, block.len(), kind::HEADERS, flag::END_HEADERS, 1);
    bytes.extend(block);
    frame::head(&mut bytes, 10_000, kind::DATA, 0, 1);
    bytes.resize(bytes.len() + 10_000, 0);
    core.borrow_mut().receive(&bytes, Duration::ZERO);
    let incoming = core.borrow_mut().accepted.pop_front().unwrap();
    let (_sender, receiver) = Handle(core.clone(), None).incoming(&incoming);
    assert!(core.borrow().streams[&1].charge.bytes() >= 10_000);
    drop(receiver);
    let core = core.borrow();
    let stream = &core.streams[&1];
    assert_eq!((stream.held, stream.charge.bytes()), (0, stream.head_cost));
}

/// They came in one read with what ends the connection, and nobody has taken them.
#[tokio::test(flavor = "local")]
async fn requests_that_are_not_taken_are_let_go_when_the_connection_ends() {
    let (_budget, account) = account(1 << 20);
    let mut core = server(&account);
    let mut bytes = Vec::new();
    let block = [0x83, 0x86, 0x84, 0x01, 1, b'c'];
    frame::head(&mut bytes, block.len(), kind::HEADERS, flag::END_HEADERS, 1);
    bytes.extend(block);
    frame::head(&mut bytes, 0, kind::DATA, 0, 0);
    core.receive(&bytes, Duration::ZERO);
    assert!(matches!(core.ended, Some(Ended::Violation(_))), "{:?}", core.ended);
    assert_eq!(core.streams.len(), 0);
}

/// gRPC clients send the message with the head.
#[tokio::test(flavor = "local")]
async fn a_request_that_is_refused_with_its_body_is_answered_and_no_mistake() {
    let (_budget, account) = account(1 << 20);
    let mut core = server(&account);
    let mut held = Charge::on(account.clone());
    while held.resize(held.bytes() + 64).is_ok() {}
    let mut bytes = Vec::new();
    // POST, http, /, and an authority of one letter.
    let block = [0x83, 0x86, 0x84, 0x01, 1, b'c'];
    frame::head(&mut bytes, block.len(), kind::HEADERS, flag::END_HEADERS, 1);
    bytes.extend(block);
    for (length, flags) in [(1000, 0), (1000, flag::END_STREAM)] {
        frame::head(&mut bytes, length, kind::DATA, flags, 1);
        bytes.resize(bytes.len() + length, 0);
    }
    core.receive(&bytes, Duration::ZERO);
    assert_eq!(core.accepted.pop_front().and_then(|incoming| incoming.unfit), Some(Unfit::Unaffordable));
    assert_eq!((core.faults, core.streams[&1].reset.is_none()), (0, true));
}
