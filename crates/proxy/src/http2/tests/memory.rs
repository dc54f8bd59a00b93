//! What a connection takes of memory, and what becomes of its peer where there is no more.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Waker};

use tulle_model::name::WorkloadName;

use super::*;
use crate::budget::{Account, Accounts, Budget, Charge, Payer};
use crate::http2::core::Core;
use crate::http2::frame::{self, PREFACE, flag, kind};
use crate::http2::stream::Way;
use crate::http2::{Incoming, Unfit};

fn account(memory: u64) -> (Arc<Budget>, Rc<Account>) {
    let budget = Budget::new(memory, 10);
    let payer = Payer::Workload(WorkloadName::new("default", "a"));
    (budget.clone(), Accounts::new(budget).of(&payer))
}

fn server(account: &Rc<Account>) -> Core {
    let mut core = greeted(account);
    confirm(&mut core, Duration::ZERO);
    core.charge_buffers();
    core
}

/// One whose client has not confirmed its settings.
fn greeted(account: &Rc<Account>) -> Core {
    let mut core = Core::new(true, LIMITS);
    core.payer = Charge::on(account.clone());
    let mut hello = PREFACE.to_vec();
    frame::settings(&mut hello, &[]);
    core.receive(&hello, Duration::ZERO);
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

const PIECE: usize = 16 << 10;

/// Requests come, which are taken and not read.
fn ask(core: &mut Core, ids: &[u32]) {
    let block = [0x83, 0x86, 0x84, 0x01, 1, b'c'];
    for id in ids {
        let mut bytes = Vec::new();
        frame::head(&mut bytes, block.len(), kind::HEADERS, flag::END_HEADERS, *id);
        bytes.extend(block);
        core.receive(&bytes, Duration::ZERO);
        core.streams.get_mut(id).unwrap().receiver_held = true;
    }
}

/// A piece of a body comes; what there is of the connection's window then.
fn send(core: &mut Core, id: u32) -> i64 {
    let mut bytes = Vec::new();
    frame::head(&mut bytes, PIECE, kind::DATA, 0, id);
    bytes.resize(bytes.len() + PIECE, 0);
    core.receive(&bytes, Duration::ZERO);
    assert_eq!(core.streams[&id].reset, None);
    core.receive_window
}

/// What is sent before the peer has heard of smaller windows needs a place, too: it gets no more of the connection's.
#[tokio::test(flavor = "local")]
async fn the_connections_window_is_kept_until_a_peer_has_heard_that_memory_is_short() {
    let window = i64::from(LIMITS.connection_window);
    let (_budget, account) = account(1 << 20);
    let mut core = server(&account);
    ask(&mut core, &[1, 3, 5, 7]);
    for _ in 0..4 {
        assert!(send(&mut core, 1) > window / 2, "it is given back");
    }
    let mut held = Charge::on(account.clone());
    // More than there is to spare, and less than there is.
    held.set(300 << 10);
    let before = core.receive_window;
    assert_eq!(send(&mut core, 3), before - PIECE as i64);
    core.charge_buffers();
    for (count, id) in [(2, 3), (3, 5), (4, 7)] {
        assert_eq!(send(&mut core, id), before - count * PIECE as i64, "it is not");
    }
    confirm(&mut core, Duration::ZERO);
    assert!(core.receive_window > window / 2, "{}", core.receive_window);
    assert_eq!(core.receiving_account().2, 0);
    // It knows now.
    let buffered = core.receiving_account().0;
    let ids = [9, 11, 13, 15];
    ask(&mut core, &ids);
    for id in ids {
        assert!(send(&mut core, id) > window / 2);
    }
    assert_eq!((core.receiving_account().0 - buffered, core.receiving_account().2), (4 * PIECE, 0));
}

/// Where it was told to nobody, or is not confirmed, others do not wait for that.
#[tokio::test(flavor = "local")]
async fn the_connections_window_is_given_back_where_there_is_memory_again() {
    for told in [false, true] {
        let (_budget, account) = account(1 << 20);
        let mut core = if told { server(&account) } else { greeted(&account) };
        ask(&mut core, &[1]);
        let mut held = Charge::on(account.clone());
        held.set(350 << 10);
        send(&mut core, 1);
        core.now = Duration::from_secs(9);
        core.charge_buffers();
        assert_eq!((core.windows.told() < LIMITS.stream_window, core.receiving_account().2), (told, PIECE));
        held.set(0);
        // Who got none asks again after a while.
        tokio::time::sleep(Duration::from_millis(20)).await;
        core.charge_buffers();
        assert_eq!(core.receiving_account().2, if told { PIECE } else { 0 });
        core.now = Duration::from_secs(10);
        core.charge_buffers();
        assert_eq!(core.receiving_account().2, 0, "{told}");
    }
}

#[tokio::test(flavor = "local")]
async fn a_window_that_is_kept_is_no_reason_for_another_connection() {
    let (_budget, account) = account(1 << 20);
    let mut core = client();
    let mut held = Charge::on(account.clone());
    held.set(350 << 10);
    core.open().unwrap();
    for id in [1, 3] {
        let mut bytes = Vec::new();
        frame::head(&mut bytes, 1, kind::HEADERS, flag::END_HEADERS, id);
        bytes.push(0x88);
        core.receive(&bytes, Duration::ZERO);
        let stream = core.streams.get_mut(&id).unwrap();
        (stream.charge, stream.receiver_held) = (Charge::on(account.clone()), true);
        for _ in 0..3 {
            send(&mut core, id);
        }
    }
    assert_eq!(core.receiving_account().2, 6 * PIECE);
    assert!(core.has_room());
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

/// A client's side, which has opened one stream.
fn client() -> Core {
    let mut core = Core::new(false, LIMITS);
    let mut hello = Vec::new();
    frame::settings(&mut hello, &[]);
    frame::head(&mut hello, 0, kind::SETTINGS, flag::ACK, 0);
    core.receive(&hello, Duration::ZERO);
    core.open().unwrap();
    core
}

/// What was not kept of it is nothing that has come: whoever reads on must not take it for the whole.
#[tokio::test(flavor = "local")]
async fn a_body_whose_end_is_refused_for_memory_does_not_end() {
    const LAST: usize = 10_000;
    for is_server in [true, false] {
        let (_budget, account) = account(1 << 20);
        let mut core = if is_server { server(&account) } else { client() };
        core.payer = Charge::on(account.clone());
        // POST, http, /, and an authority of one letter; or 200.
        let block: &[u8] = if is_server { &[0x83, 0x86, 0x84, 0x01, 1, b'c'] } else { &[0x88] };
        let mut bytes = Vec::new();
        frame::head(&mut bytes, block.len(), kind::HEADERS, flag::END_HEADERS, 1);
        bytes.extend(block);
        core.receive(&bytes, Duration::ZERO);
        let stream = core.streams.get_mut(&1).unwrap();
        if !is_server {
            stream.charge = Charge::on(account.clone());
        }
        // All has been said the other way.
        stream.sending = Way::Ended;
        let mut held = Charge::on(account.clone());
        while held.resize(held.bytes() + 64).is_ok() {}
        let mut bytes = Vec::new();
        frame::head(&mut bytes, LAST, kind::DATA, flag::END_STREAM, 1);
        bytes.resize(bytes.len() + LAST, 0);
        core.receive(&bytes, Duration::ZERO);
        let (head, ()) = http::Request::new(()).into_parts();
        let handle = Handle(Rc::new(RefCell::new(core)), None);
        let (_sender, mut receiver) = handle.incoming(&Incoming { id: 1, head, unfit: None });
        let read = receiver.poll_data(&Context::from_waker(Waker::noop()));
        assert!(matches!(read, Poll::Ready(Some(Err(_)))), "{is_server}: {read:?}");
    }
}

/// The peer has heard of the windows.
fn confirm(core: &mut Core, now: Duration) {
    let mut bytes = Vec::new();
    frame::head(&mut bytes, 0, kind::SETTINGS, flag::ACK, 0);
    core.receive(&bytes, now);
}

#[tokio::test(flavor = "local")]
async fn less_is_written_at_a_time_while_memory_is_short() {
    let (_budget, account) = account(1 << 20);
    let core = server(&account);
    assert_eq!(core.out_limit(), 128 << 10);
    let mut held = Charge::on(account.clone());
    held.set(400 << 10);
    assert_eq!(core.out_limit(), 8 << 10);
}

/// It costs more to charge every byte than to charge some that are not there.
#[tokio::test(flavor = "local")]
async fn buffers_are_charged_in_steps() {
    const STEP: usize = 16 << 10;
    let (_budget, account) = account(4 << 20);
    let mut core = server(&account);
    for (capacity, charged) in [
        (1, STEP),
        (STEP, STEP),
        (STEP + 1, 2 * STEP),
        (4 * STEP, 4 * STEP),
        (2 * STEP + 1, 4 * STEP),
        (2 * STEP, 2 * STEP),
        (1, 2 * STEP),
        (4 * STEP - 1, 4 * STEP),
        (1, STEP),
    ] {
        core.out.bytes = Vec::with_capacity(capacity);
        core.charge_buffers();
        assert_eq!(core.payer.bytes(), charged, "{capacity}");
    }
    core.receive(&begun(), Duration::ZERO);
    let begun = core.input.held() - (4 << 10);
    assert!(begun > STEP);
    core.charge_buffers();
    assert_eq!(core.payer.bytes(), (core.out.bytes.capacity() + begun).next_multiple_of(STEP));
}

/// Only a peer that has nothing under way yet is sent away for what it begins.
#[tokio::test(flavor = "local")]
async fn what_is_there_is_charged_whether_there_is_memory_for_it_or_not() {
    for (streams, head, is_server, ends) in
        [(0, true, true, true), (0, false, true, false), (1, true, true, false), (1, true, false, false)]
    {
        let (_budget, account) = account(1 << 20);
        let mut core = if is_server { server(&account) } else { client() };
        core.payer = Charge::on(account.clone());
        if is_server && streams > 0 {
            core.streams.insert(1, crate::http2::stream::Stream::new(0, 0));
        }
        if head {
            core.input.partial = Vec::with_capacity(40 << 10);
        } else {
            core.out.bytes = Vec::with_capacity(40 << 10);
        }
        let mut held = Charge::on(account.clone());
        while held.resize(held.bytes() + 64).is_ok() {}
        core.charge_buffers();
        assert_eq!(core.ended.is_some(), ends, "{streams} {head} {is_server}");
        assert_eq!(core.payer.bytes() >= 32 << 10, !ends, "{streams} {head} {is_server}");
    }
    // Nothing is under way on a client's side, either.
    let mut core = client();
    core.streams.clear();
    let (_budget, account) = account(1 << 20);
    core.payer = Charge::on(account.clone());
    core.input.partial = Vec::with_capacity(40 << 10);
    let mut held = Charge::on(account.clone());
    while held.resize(held.bytes() + 64).is_ok() {}
    core.charge_buffers();
    assert!(core.ended.is_none());
}

/// A peer may take it amiss to be told over and over.
#[tokio::test(flavor = "local")]
async fn a_peer_is_told_of_windows_when_they_change_and_not_more_often_than_it_takes() {
    const SMALL: u32 = 16 << 10;
    let (_budget, account) = account(1 << 20);
    let mut core = server(&account);
    let most = core.windows.told();
    let second = Duration::from_secs(1);
    let mut said = core.out.bytes.len();
    // What came, and what is said of windows then.
    for (at, short, confirmed, told) in [
        (second, false, false, None),
        (2 * second, true, false, Some(SMALL)),
        (4 * second, true, false, None),
        (4 * second, false, false, None),
        (4 * second, true, true, None),
        (5 * second, false, false, Some(most)),
        (5 * second, true, false, None),
        (5 * second, true, true, Some(SMALL)),
        (6 * second - Duration::from_nanos(1), false, true, None),
        (6 * second, false, false, Some(most)),
        (9 * second, false, true, None),
    ] {
        match confirmed {
            true => confirm(&mut core, at),
            false => core.now = at,
        }
        core.windows.short = short;
        core.charge_buffers();
        assert!(!core.windows.short, "it is looked at once");
        let mut expected = Vec::new();
        if let Some(window) = told {
            frame::settings(&mut expected, &[(frame::setting::INITIAL_WINDOW_SIZE, window)]);
        }
        assert_eq!(core.out.bytes[said..], expected, "{at:?} {short} {confirmed}");
        said = core.out.bytes.len();
    }
    core.end(Ended::Closed);
    said = core.out.bytes.len();
    core.windows.short = true;
    core.now = 20 * second;
    core.charge_buffers();
    assert_eq!((core.out.bytes.len(), core.windows.told()), (said, most), "nobody hears it");
}

/// Streams that we open after we have told the peer are none of those whose windows get smaller by it.
#[test]
fn a_clients_streams_have_the_windows_that_the_peer_has_heard_of() {
    const SMALL: i64 = 16 << 10;
    let most = i64::from(LIMITS.stream_window);
    let mut core = client();
    let windows = |core: &Core| [1, 3, 5].map(|id| core.streams.get(&id).map(|stream| stream.receive_window));
    assert_eq!(windows(&core), [Some(most), None, None]);
    core.windows.short = true;
    core.charge_buffers();
    core.open().unwrap();
    assert_eq!(windows(&core), [Some(most), Some(SMALL), None]);
    confirm(&mut core, Duration::ZERO);
    assert_eq!(windows(&core), [Some(SMALL), Some(SMALL), None]);
    confirm(&mut core, Duration::from_secs(2));
    assert_eq!(windows(&core), [Some(SMALL), Some(SMALL), None], "it says so again");
    core.charge_buffers();
    core.open().unwrap();
    assert_eq!(windows(&core), [Some(most), Some(most), Some(most)]);
    confirm(&mut core, Duration::from_secs(3));
    assert_eq!(windows(&core), [Some(most), Some(most), Some(most)]);
}
