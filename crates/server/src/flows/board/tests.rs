use tulle_model::flow::run::RunEvent;

use super::*;
use crate::flows::RunState;

const LEASE: Duration = Duration::from_secs(2);
const SECOND: Duration = Duration::from_secs(1);

fn run(name: &str) -> RunName {
    RunName { namespace: "shop".into(), flow: "order".into(), run: name.into() }
}

/// A run's header under a lease, with what is wanted of it since which lease.
fn leased(name: &str, lease: u64, wanted: &[(RunWish, u64)]) -> RunHeader {
    let mut all = RunWishes::default();
    wanted.iter().for_each(|(wish, since)| all.add(wish.clone(), *since));
    RunHeader {
        name: run(name),
        state: RunState::Active,
        started: 1,
        ended: None,
        caller: "web".into(),
        workflow: "w".into(),
        uid: "1".into(),
        account: "till".into(),
        runner: "n1/1".into(),
        lease,
        entries: 0,
        bytes: 0,
        depth: 0,
        given: None,
        wanted: all,
    }
}

struct Day {
    board: Board,
    now: Instant,
}

impl Day {
    fn new() -> Self {
        Self { board: Board::default(), now: Instant::now() }
    }

    fn open(&mut self, node: &str, spaces: &str, most: usize) -> (u64, mpsc::Receiver<RunnerNote>) {
        self.open_with(node, spaces, most, Vec::new())
    }

    /// The stream of a process that has runs.
    fn open_with(
        &mut self,
        node: &str,
        spaces: &str,
        most: usize,
        holds: Vec<(RunName, u64)>,
    ) -> (u64, mpsc::Receiver<RunnerNote>) {
        let (notes, told) = mpsc::channel(16);
        let new = NewRunner {
            node: node.into(),
            instance: "1".into(),
            stamp: Some(Stamp(1)),
            spaces: vec![spaces.to_owned()].into(),
            most,
            notes,
            holds,
        };
        (self.board.open(new, self.now).0, told)
    }

    /// The stream of a process opens anew, which has a run.
    fn reopen(&mut self, node: &str, holds: &str, lease: u64) -> mpsc::Receiver<RunnerNote> {
        self.open_with(node, "shop", 10, vec![(run(holds), lease)]).1
    }

    fn take_orphans(&mut self, namespace: &str) -> Vec<(RunName, Arc<str>)> {
        self.board.take_orphans(namespace, 9, self.now, LEASE)
    }

    fn take_up(&mut self, name: &str, first: Option<&str>) -> Result<String, NoTaker> {
        let taken = self.board.take_up(&run(name), &"till".into(), first, self.now, LEASE);
        taken.map(|taker| taker.node.to_string())
    }
}

#[test]
fn a_run_is_for_who_may_have_it_and_has_the_most_room() {
    let mut day = Day::new();
    assert_eq!(day.take_up("r0", None), Err(NoTaker::Nobody));
    let (bank, _told) = day.open("bank", "bank", 10);
    assert_eq!(day.take_up("r0", None), Err(NoTaker::Nobody));
    let (_, _big) = day.open("big", "shop", 4);
    let (_, _small) = day.open("small", "*", 2);
    let mut taken = Vec::new();
    for name in ["r1", "r2", "r3"] {
        taken.push(day.take_up(name, None).unwrap());
    }
    taken.sort();
    assert_eq!(taken, ["big", "big", "small"], "by shares of what they take");
    assert_eq!(day.take_up("r1", None), Err(NoTaker::Taken));
    // Who asks for it has it, as long as he has room.
    assert_eq!(day.take_up("r4", Some("small")), Ok("small".to_owned()));
    assert_eq!(day.take_up("r5", Some("small")), Ok("big".to_owned()));
    assert_eq!(day.take_up("r6", Some("bank")), Ok("big".to_owned()));
    assert_eq!(day.take_up("r7", None), Err(NoTaker::Full));
    // The one that is silent has none.
    day.now += LEASE;
    assert!(!day.board.heard("bank", bank + 9, day.now, LEASE), "of an older stream");
    assert_eq!(day.take_up("r8", None), Err(NoTaker::Nobody));
}

#[test]
fn a_silent_runner_loses_what_it_has() {
    let mut day = Day::new();
    let (session, mut told) = day.open("n1", "shop", 10);
    day.take_up("r1", None).unwrap();
    let taker = Taker::named("n1/1");
    assert!(day.board.begun(&run("r1"), &taker, 1));
    assert!(day.board.calls_as("n1", "shop", "till") && !day.board.calls_as("n1", "bank", "till"));
    day.now += SECOND;
    assert!(!day.board.heard("n1", session, day.now, LEASE));
    day.now += SECOND;
    assert!(!day.board.expire(day.now, LEASE));
    assert_eq!(day.board.next_expiry(LEASE), Some(day.now + SECOND));
    day.now += SECOND;
    assert!(day.board.expire(day.now, LEASE));
    assert_eq!(told.try_recv(), Ok(RunnerNote::Lost(run("r1"), 1)));
    assert!(!day.board.calls_as("n1", "shop", "till"));
    assert_eq!(day.board.next_expiry(LEASE), None);
    assert_eq!(day.take_orphans("shop"), [(run("r1"), "till".into())]);
    day.board.put_back_orphan(run("r1"));
    assert!(day.board.heard("n1", session, day.now, LEASE), "it is back, and has nothing");
    assert_eq!(day.take_up("r1", None), Ok("n1".to_owned()));
    // What was written of an earlier lease comes late.
    assert!(day.board.hand_over(&taker, &leased("r1", 3, &[(RunWish::Resume, 2)])));
    assert!(!day.board.hand_over(&taker, &leased("r1", 2, &[])));
    assert_eq!(told.try_recv(), Ok(RunnerNote::Given(run("r1"), 3, vec![RunWish::Resume])));
    assert!(day.board.has(&run("r1"), "n1", 3) && !day.board.has(&run("r1"), "n2", 3));
    // It is no orphan any more, though the list still has it.
    assert_eq!(day.take_orphans("shop"), []);
}

#[test]
fn what_a_runner_may_not_have_heard_is_told_again() {
    let mut day = Day::new();
    let (_, mut told) = day.open("n1", "shop", 10);
    day.take_up("r1", None).unwrap();
    // Before it is known whether it has the run: it is in the store under the lease that is written then, or after that.
    day.board.wish(&leased("r1", 1, &[]), RunWish::Suspend);
    assert!(told.try_recv().is_err());
    let taker = Taker::named("n1/1");
    assert!(day.board.hand_over(&taker, &leased("r1", 1, &[])));
    assert_eq!(told.try_recv(), Ok(RunnerNote::Given(run("r1"), 1, vec![RunWish::Suspend])));
    day.board.wish(&leased("r1", 1, &[]), RunWish::Resume);
    assert_eq!(told.try_recv(), Ok(RunnerNote::Wish(run("r1"), RunWish::Resume)));
    // A stream that opens anew tells what was said since the run was given, until its history shows it.
    let mut told = day.reopen("n1", "r1", 1);
    assert_eq!(told.try_recv(), Ok(RunnerNote::Wish(run("r1"), RunWish::Resume)));
    day.board.shown(&run("r1"), &[HistoryEntry::new(1, RunEvent::Resumed)]);
    let mut told = day.reopen("n1", "r1", 1);
    assert!(told.try_recv().is_err());
    assert!(!day.board.release(&run("r1"), 2), "of another lease");
    assert!(day.board.release(&run("r1"), 1) && !day.board.release(&run("r1"), 1), "once");
    day.board.wish(&leased("r1", 1, &[]), RunWish::Resume);
    assert!(!day.board.knows(&run("r1")));
    day.take_up("r2", None).unwrap();
    assert!(day.board.hand_over(&taker, &leased("r2", 2, &[(RunWish::Suspend, 1)])));
    assert_eq!(told.try_recv(), Ok(RunnerNote::Given(run("r2"), 2, vec![RunWish::Suspend])));
    let mut told = day.reopen("n1", "r2", 2);
    assert!(told.try_recv().is_err(), "it was told that with the run");
    // However often: there is no more to be told than the last of each.
    for wish in [RunWish::Suspend, RunWish::Resume].iter().cycle().take(101) {
        day.board.wish(&leased("r2", 2, &[]), wish.clone());
        assert_eq!(told.try_recv(), Ok(RunnerNote::Wish(run("r2"), wish.clone())));
    }
    let mut told = day.reopen("n1", "r2", 2);
    assert_eq!(told.try_recv(), Ok(RunnerNote::Wish(run("r2"), RunWish::Suspend)));
    assert!(told.try_recv().is_err());
}

#[test]
fn a_runner_that_does_not_read_is_cut_off() {
    let mut day = Day::new();
    let (session, told) = day.open("n1", "shop", 100);
    for at in 0..20 {
        let name = at.to_string();
        if day.take_up(&name, None).is_err() {
            break;
        }
        day.board.hand_over(&Taker::named("n1/1"), &leased(&name, 1, &[]));
    }
    assert!(!day.board.is_open("n1", session));
    assert_eq!((told.len(), day.board.spaces("n1", Some(Stamp(1)))), (16, None));
    // It opens another one, and is told of those that it does not have.
    let (_, told) = day.open("n1", "shop", 100);
    assert_eq!(told.len(), 16);
}

#[test]
fn what_the_store_has_not_said_is_put_right() {
    let mut day = Day::new();
    let (order, taker) = (run("r1").of_flow(), Taker::named("n1/1"));
    for (name, is_over, expected) in [("r1", false, (0, 0)), ("r2", true, (0, 1))] {
        day.board.tally(&order).open += 1;
        day.board.orphan(run(name), "till".into(), 0, &taker);
        day.board.set_unsure(&run(name));
        for _ in 0..2 {
            day.board.was_not_begun(&run(name), is_over);
            let tally = day.board.tally(&order);
            assert_eq!((tally.open, tally.over), expected, "{name}");
        }
    }
    day.board.tally(&order).open += 1;
    day.board.set_unsure(&run("r3"));
    assert!(day.board.set_sure(&run("r3")));
    day.board.was_not_begun(&run("r3"), false);
    assert_eq!(day.board.tally(&order).open, 1);
}

#[test]
fn who_joins_under_a_name_has_nothing_of_who_had_it() {
    let mut day = Day::new();
    let (session, _told) = day.open("n1", "shop", 10);
    assert!(day.board.spaces("n1", Some(Stamp(1))).is_some());
    for other in [None, Some(Stamp(2))] {
        assert_eq!(day.board.spaces("n1", other), None);
    }
    day.board.joined("n1");
    assert!(!day.board.is_open("n1", session));
    assert_eq!(day.board.spaces("n1", Some(Stamp(1))), None);
    assert_eq!(day.take_up("r1", None), Err(NoTaker::Nobody));
}

/// The answer to who began a run is lost: he does not know that he has it.
#[test]
fn a_run_of_which_nothing_is_heard_is_given_again() {
    let mut day = Day::new();
    let (_, mut told) = day.open("n1", "shop", 10);
    let taker = Taker::named("n1/1");
    for name in ["r1", "r2", "r3"] {
        day.take_up(name, None).unwrap();
        assert!(day.board.begun(&run(name), &taker, 1));
    }
    day.board.tell_again(day.now, LEASE);
    day.board.hear_of(&run("r2"));
    day.board.release(&run("r3"), 1);
    day.now += SECOND;
    day.board.tell_again(day.now, LEASE);
    assert!(told.try_recv().is_err());
    // Again and again, until something is heard.
    for wait in [SECOND, 2 * LEASE, 4 * LEASE] {
        day.now += wait - SECOND / 2;
        day.board.tell_again(day.now, LEASE);
        assert!(told.try_recv().is_err(), "{wait:?}");
        day.now += SECOND / 2;
        day.board.tell_again(day.now, LEASE);
        assert_eq!(told.try_recv(), Ok(RunnerNote::Given(run("r1"), 1, Vec::new())), "{wait:?}");
        assert!(told.try_recv().is_err());
    }
    day.board.hear_of(&run("r1"));
    day.now += 100 * LEASE;
    day.board.tell_again(day.now, LEASE);
    assert!(told.try_recv().is_err());
}

/// However many others have begun before it, of which something was heard.
#[test]
fn a_run_of_which_nothing_is_heard_does_not_wait_behind_others() {
    let mut day = Day::new();
    let (_, mut told) = day.open("n1", "shop", 10_000);
    let taker = Taker::named("n1/1");
    for at in 0..5_000 {
        let name = at.to_string();
        day.take_up(&name, None).unwrap();
        assert!(day.board.begun(&run(&name), &taker, 1));
        if at < 4_999 {
            day.board.hear_of(&run(&name));
        }
    }
    day.board.tell_again(day.now, LEASE);
    day.now += LEASE;
    day.board.tell_again(day.now, LEASE);
    assert_eq!(told.try_recv(), Ok(RunnerNote::Given(run("4999"), 1, Vec::new())));
}

/// What people have ended is not taken from who has it since.
#[test]
fn who_has_a_run_go_on_keeps_it_from_who_has_ended_it() {
    let mut day = Day::new();
    let (_, mut told) = day.open("n1", "shop", 10);
    let taker = Taker::named("n1/1");
    day.take_up("r1", None).unwrap();
    assert!(day.board.hand_over(&taker, &leased("r1", 1, &[])));
    assert!(told.try_recv().is_ok());
    day.board.take_away(&run("r1"), 2);
    assert_eq!(told.try_recv(), Ok(RunnerNote::Lost(run("r1"), 1)));
    // It was cancelled under 2, and is retried under 3 before that is told.
    day.take_up("r1", None).unwrap();
    day.board.take_away(&run("r1"), 2);
    assert!(day.board.knows(&run("r1")));
    assert!(day.board.hand_over(&taker, &leased("r1", 3, &[])));
    day.board.take_away(&run("r1"), 2);
    assert!(day.board.has(&run("r1"), "n1", 3));
}

/// The store fails while it is to say that a run that waited has begun.
#[test]
fn a_run_whose_turn_it_is_is_counted_once() {
    let mut day = Day::new();
    let order = run("r1").of_flow();
    day.board.tally(&order).queued = 2;
    day.board.begins(&run("r1"), false, false);
    assert!(day.board.is_unsure(&run("r1")));
    for is_sure in [false, true] {
        day.board.begins(&run("r1"), true, is_sure);
        let tally = *day.board.tally(&order);
        assert_eq!((tally.open, tally.queued, tally.started), (1, 1, 1));
    }
    assert_eq!(day.board.with_queue().len(), 1);
    day.board.begins(&run("r2"), false, true);
    assert!(!day.board.is_unsure(&run("r2")) && day.board.with_queue().is_empty());
}

/// Of a node that is started again and again, the last process has what the others had.
#[test]
fn what_a_node_had_is_for_the_process_that_is_there() {
    let mut day = Day::new();
    let (_, _told) = day.open("n1", "shop", 10);
    let [first, second, third] = ["1", "2", "3"].map(|instance| Taker::named(&format!("n1/{instance}")));
    day.take_up("r1", None).unwrap();
    assert!(day.board.hand_over(&first, &leased("r1", 1, &[])));
    let again = |day: &mut Day, instance: &str| {
        let (notes, told) = mpsc::channel(16);
        let new = NewRunner {
            node: "n1".into(),
            instance: instance.into(),
            stamp: Some(Stamp(1)),
            spaces: vec!["shop".to_owned()].into(),
            most: 10,
            notes,
            holds: Vec::new(),
        };
        (day.board.open(new, day.now).1, told)
    };
    let (inherited, _told) = again(&mut day, "2");
    assert_eq!(inherited, [run("r1")]);
    // It is gone before its lease is written, and the next is there.
    let (inherited, mut told) = again(&mut day, "3");
    assert_eq!(inherited, [run("r1")]);
    assert!(!day.board.inherit(&run("r1"), &second));
    assert!(day.board.inherit(&run("r1"), &third) && !day.board.inherit(&run("r1"), &third), "once");
    // What was written for the second is not for the third.
    assert!(!day.board.hand_over(&second, &leased("r1", 2, &[])));
    assert!(day.board.hand_over(&third, &leased("r1", 3, &[])));
    assert_eq!(told.try_recv(), Ok(RunnerNote::Given(run("r1"), 3, Vec::new())));
    assert!(day.board.has(&run("r1"), "n1", 3));
}

#[test]
fn a_runner_that_leaves_gives_up_its_runs_with_its_stream() {
    let mut day = Day::new();
    let (session, _told) = day.open("n1", "shop", 10);
    day.take_up("r1", None).unwrap();
    assert!(day.board.hand_over(&Taker::named("n1/1"), &leased("r1", 1, &[])));
    day.board.leaves("n1", session + 1);
    assert!(day.take_up("r2", None).is_ok(), "another stream said so");
    day.board.leaves("n1", session);
    assert_eq!(day.take_up("r3", None), Err(NoTaker::Full));
    // It goes on with what it has until then.
    assert!(day.board.has(&run("r1"), "n1", 1) && day.take_orphans("shop").is_empty());
    day.board.closed("n1", session);
    let orphans: Vec<_> = day.take_orphans("shop").into_iter().map(|(run, _)| run).collect();
    assert_eq!(orphans.len(), 2);
    assert!(orphans.contains(&run("r1")) && orphans.contains(&run("r2")));
}

#[test]
fn a_run_that_a_runner_cannot_read_is_for_others() {
    let mut day = Day::new();
    let (session, _told) = day.open("old", "shop", 10);
    day.take_up("r1", None).unwrap();
    day.take_up("r2", None).unwrap();
    for name in ["r1", "r2"] {
        assert!(day.board.hand_over(&Taker::named("old/1"), &leased(name, 1, &[])));
    }
    for (session, lease) in [(session + 1, 1), (session, 2)] {
        assert!(!day.board.cannot_read("old", session, &run("r1"), lease), "of another stream, or lease");
    }
    assert!(day.board.cannot_read("old", session, &run("r1"), 1));
    assert!(!day.board.cannot_read("old", session, &run("r1"), 1), "once");
    assert_eq!(day.take_up("r1", None), Err(NoTaker::Unreadable));
    assert_eq!(day.take_orphans("shop"), [], "nobody who is there can read it");
    // The same process, which can read it no better.
    let (session, mut told) = day.open_with("old", "shop", 10, vec![(run("r2"), 1)]);
    assert!(told.try_recv().is_err(), "it is not given it again");
    assert_eq!((day.take_orphans("shop"), day.take_up("r1", None)), (vec![], Err(NoTaker::Unreadable)));
    let (new, mut told_new) = day.open("new", "shop", 10);
    assert_eq!(day.take_orphans("shop"), [(run("r1"), "till".into())]);
    assert_eq!(day.take_up("r1", Some("old")), Ok("new".to_owned()));
    assert!(day.board.hand_over(&Taker::named("new/1"), &leased("r1", 2, &[])));
    assert_eq!(told_new.try_recv(), Ok(RunnerNote::Given(run("r1"), 2, Vec::new())));
    // The one that can is silent for a while: when it is back, it has the run again.
    day.now += LEASE;
    assert!(day.board.heard("old", session, day.now, LEASE));
    assert!(day.board.expire(day.now, LEASE));
    assert_eq!(day.take_orphans("shop"), []);
    assert!(day.board.heard("new", new, day.now, LEASE));
    assert_eq!(day.take_orphans("shop"), [(run("r1"), "till".into())]);
    assert_eq!(day.take_up("r1", None), Ok("new".to_owned()));
    // Others are for it as well, as long as it has room; and what is over is kept in nobody's mind.
    for name in ["r3", "r4", "r5"] {
        assert_eq!(day.take_up(name, None), Ok("new".to_owned()));
    }
    day.board.drop_run(&run("r1"));
    assert_eq!(day.take_up("r1", None), Ok("old".to_owned()));
}

#[test]
fn a_runner_that_can_read_nothing_is_given_nothing() {
    let mut day = Day::new();
    let (session, _told) = day.open("old", "shop", MOST_UNREADABLE + 9);
    let names: Vec<String> = (0..=MOST_UNREADABLE).map(|n| format!("r{n}")).collect();
    for name in &names {
        assert_eq!(day.take_up(name, None), Ok("old".to_owned()));
        assert!(day.board.begun(&run(name), &Taker::named("old/1"), 1));
    }
    for name in &names {
        assert!(day.board.cannot_read("old", session, &run(name), 1));
    }
    assert_eq!(day.take_up("other", None), Err(NoTaker::Full));
    let (_, _told) = day.open("new", "shop", 10);
    assert_eq!(day.take_up(&names[MOST_UNREADABLE], None), Ok("new".to_owned()));
}
