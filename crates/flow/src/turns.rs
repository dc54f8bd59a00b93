//! Who is next where several Flows ask for a few processes: they take turns, so that one whose expressions run away makes the
//! others wait for about one of these, and not for all. Who asks alone has all processes.

use std::collections::{BTreeMap, HashMap, VecDeque};

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tulle_model::name::NamespacedName;

/// The Flow that asks; whoever asks for none is as one Flow.
pub(crate) type Asker = Option<NamespacedName>;

pub(crate) struct Turns {
    /// How many may have theirs at once.
    most: usize,
    bounds: WaitingBounds,
    line: Mutex<Line>,
}

/// How many may wait for their turn.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WaitingBounds {
    pub(crate) of_each: usize,
    /// Beyond it there is one of each still: a Flow is not refused for what others do.
    pub(crate) of_all: usize,
}

/// Where a turn is free, nobody waits.
#[derive(Default)]
struct Line {
    free: usize,
    waiting: usize,
    last_ticket: u64,
    /// The order in which those come that are in `queues`.
    round: VecDeque<Asker>,
    /// By ticket, which is by when they came. None is empty.
    queues: HashMap<Asker, BTreeMap<u64, oneshot::Sender<()>>>,
}

/// It ends when this is dropped, and is the next one's then.
pub(crate) struct Turn<'t>(&'t Turns);

/// Somebody who waits, and may be dropped meanwhile.
struct InLine<'t> {
    turns: &'t Turns,
    asker: &'t Asker,
    ticket: u64,
}

impl Turns {
    pub(crate) fn new(most: usize, bounds: WaitingBounds) -> Self {
        let line = Line { free: most, ..Line::default() };
        Self { most, bounds, line: Mutex::new(line) }
    }

    /// Waits for a turn.
    ///
    /// # Errors
    /// So many wait already that it is not waited.
    pub(crate) async fn next<'t>(&'t self, asker: &'t Asker) -> Result<Turn<'t>, usize> {
        let (in_line, turn) = {
            let mut line = self.line.lock();
            if line.free > 0 {
                line.free -= 1;
                return Ok(Turn(self));
            }
            let (ticket, turn) = line.enter(asker, self.bounds)?;
            (InLine { turns: self, asker, ticket }, turn)
        };
        // As long as `in_line` is there, the other end is dropped only once it has told.
        let _ = turn.await;
        Ok(in_line.taken())
    }

    /// How many have their turn, and wait for it.
    pub(crate) fn busy(&self) -> usize {
        let line = self.line.lock();
        self.most - line.free + line.waiting
    }

    /// A turn has ended, or nobody has taken it.
    fn pass_on(&self) {
        let next = self.line.lock().next();
        // Whoever is gone by now gives it on.
        next.map(|tells| tells.send(()));
    }
}

impl Line {
    fn enter(&mut self, asker: &Asker, bounds: WaitingBounds) -> Result<(u64, oneshot::Receiver<()>), usize> {
        let of_asker = self.queues.get(asker).map_or(0, BTreeMap::len);
        if of_asker >= bounds.of_each {
            return Err(of_asker);
        }
        if of_asker > 0 && self.waiting >= bounds.of_all {
            return Err(self.waiting);
        }
        if of_asker == 0 {
            self.round.push_back(asker.clone());
        }
        self.waiting += 1;
        self.last_ticket += 1;
        let (tells, turn) = oneshot::channel();
        self.queues.entry(asker.clone()).or_default().insert(self.last_ticket, tells);
        Ok((self.last_ticket, turn))
    }

    /// Whose a turn is that nobody has; without anybody it is free.
    fn next(&mut self) -> Option<oneshot::Sender<()>> {
        let Some(asker) = self.round.pop_front() else {
            self.free += 1;
            return None;
        };
        let queue = self.queues.get_mut(&asker)?;
        let (_, tells) = queue.pop_first()?;
        self.waiting -= 1;
        if queue.is_empty() {
            self.queues.remove(&asker);
        } else {
            self.round.push_back(asker);
        }
        Some(tells)
    }

    /// Somebody waits no more. `None`: they have a turn by now.
    fn leave(&mut self, asker: &Asker, ticket: u64) -> Option<oneshot::Sender<()>> {
        let queue = self.queues.get_mut(asker)?;
        let tells = queue.remove(&ticket)?;
        self.waiting -= 1;
        if queue.is_empty() {
            self.queues.remove(asker);
            self.round.retain(|other| other != asker);
        }
        Some(tells)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.pass_on();
    }
}

impl<'t> InLine<'t> {
    fn taken(self) -> Turn<'t> {
        let turn = Turn(self.turns);
        std::mem::forget(self);
        turn
    }
}

impl Drop for InLine<'_> {
    fn drop(&mut self) {
        let left = self.turns.line.lock().leave(self.asker, self.ticket);
        if left.is_none() {
            self.turns.pass_on();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::Pin;
    use std::task::{Context, Poll, Waker};

    use proptest::prelude::*;

    use super::*;

    const BOUNDS: WaitingBounds = WaitingBounds { of_each: 100, of_all: 1_000 };

    /// Somebody who asks for a turn.
    struct Asks<'t>(Pin<Box<dyn Future<Output = Result<Turn<'t>, usize>> + 't>>);

    impl<'t> Asks<'t> {
        /// In line, unless it is answered at once.
        fn new(turns: &'t Turns, asker: &'t Asker) -> Result<Self, Result<Turn<'t>, usize>> {
            let mut asks = Self(Box::pin(turns.next(asker)));
            match asks.poll() {
                Poll::Ready(turn) => Err(turn),
                Poll::Pending => Ok(asks),
            }
        }

        fn waiting(turns: &'t Turns, asker: &'t Asker) -> Self {
            Self::new(turns, asker).unwrap_or_else(|_| panic!("it waits"))
        }

        fn poll(&mut self) -> Poll<Result<Turn<'t>, usize>> {
            self.0.as_mut().poll(&mut Context::from_waker(Waker::noop()))
        }

        fn turn(&mut self) -> Option<Turn<'t>> {
            match self.poll() {
                Poll::Ready(turn) => turn.ok(),
                Poll::Pending => None,
            }
        }
    }

    fn flow(name: &str) -> Asker {
        Some(NamespacedName::new("shop", name))
    }

    fn at_once<'t>(turns: &'t Turns, asker: &'t Asker) -> Turn<'t> {
        match Asks::new(turns, asker) {
            Err(Ok(turn)) => turn,
            _ => panic!("a turn is free"),
        }
    }

    fn refused(turns: &Turns, asker: &Asker) -> usize {
        match Asks::new(turns, asker) {
            Err(Err(others)) => others,
            _ => panic!("it is not refused"),
        }
    }

    #[test]
    fn flows_take_turns() {
        let (turns, a, b, nobody) = (Turns::new(1, BOUNDS), flow("a"), flow("b"), None);
        let mut has = at_once(&turns, &a);
        let mut all: Vec<_> = (0..4).map(|_| ("a", Asks::waiting(&turns, &a))).collect();
        all.extend((0..2).map(|_| ("b", Asks::waiting(&turns, &b))));
        all.push(("nobody", Asks::waiting(&turns, &nobody)));
        let mut order = Vec::new();
        while !all.is_empty() {
            drop(has);
            let next = all.iter_mut().enumerate().find_map(|(at, (_, asks))| Some((at, asks.turn()?)));
            let (at, turn) = next.expect("one is next");
            order.push(all.remove(at).0);
            has = turn;
        }
        assert_eq!(order, ["a", "b", "nobody", "a", "b", "a", "a"]);
        drop(has);
        assert_eq!(turns.busy(), 0);
    }

    #[test]
    fn who_asks_alone_has_all() {
        let (turns, a) = (Turns::new(2, BOUNDS), flow("a"));
        let (first, second) = (at_once(&turns, &a), at_once(&turns, &a));
        let (mut third, mut fourth) = (Asks::waiting(&turns, &a), Asks::waiting(&turns, &a));
        drop((first, second));
        assert!(third.turn().is_some() && fourth.turn().is_some());
    }

    #[test]
    fn whoever_is_gone_gives_their_turn_on() {
        let (turns, a, b) = (Turns::new(1, BOUNDS), flow("a"), flow("b"));
        let has = at_once(&turns, &a);
        let (gone, late, mut last) =
            (Asks::waiting(&turns, &a), Asks::waiting(&turns, &a), Asks::waiting(&turns, &b));
        drop(gone);
        assert_eq!(turns.busy(), 3);
        drop(has);
        // It is its turn, but it has not heard of it.
        assert!(last.turn().is_none());
        drop(late);
        assert_eq!(turns.busy(), 1);
        drop(last.turn().expect("it is given on"));
        assert_eq!(turns.busy(), 0);
        drop(at_once(&turns, &a));
    }

    #[test]
    fn a_flow_is_not_refused_for_what_others_do() {
        let bounds = WaitingBounds { of_each: 3, of_all: 4 };
        let (turns, a, b, c) = (Turns::new(1, bounds), flow("a"), flow("b"), flow("c"));
        let has = at_once(&turns, &a);
        let of_a: Vec<_> = (0..3).map(|_| Asks::waiting(&turns, &a)).collect();
        assert_eq!(refused(&turns, &a), 3);
        let first = Asks::waiting(&turns, &b);
        assert_eq!(refused(&turns, &b), 4);
        let mut of_c = Asks::waiting(&turns, &c);
        assert_eq!(refused(&turns, &c), 5);
        drop((of_a, first));
        let more: Vec<_> = (0..2).map(|_| Asks::waiting(&turns, &c)).collect();
        assert_eq!(refused(&turns, &c), 3);
        drop((more, has));
        drop(of_c.turn().expect("nobody else waits"));
        assert_eq!(turns.busy(), 0);
    }

    proptest! {
        /// Whatever is asked for, taken, given up and ended, in whichever order: no turn is lost, and none is there twice.
        #[test]
        fn there_are_always_as_many_turns(steps in prop::collection::vec((0..4_u8, any::<prop::sample::Index>()), 0..200)) {
            let flows: Vec<_> = ["a", "b", "c"].map(flow).into_iter().chain([None]).collect();
            let turns = Turns::new(2, WaitingBounds { of_each: 5, of_all: 12 });
            let (mut line, mut have) = (Vec::new(), Vec::new());
            for (step, index) in steps {
                match step {
                    0 => match Asks::new(&turns, &flows[index.index(flows.len())]) {
                        Ok(asks) => line.push(asks),
                        Err(turn) => have.extend(turn.ok()),
                    },
                    1 if !line.is_empty() => {
                        let at = index.index(line.len());
                        if let Some(turn) = line[at].turn() {
                            drop(line.swap_remove(at));
                            have.push(turn);
                        }
                    }
                    2 if !line.is_empty() => drop(line.swap_remove(index.index(line.len()))),
                    3 if !have.is_empty() => drop(have.swap_remove(index.index(have.len()))),
                    _ => {}
                }
                prop_assert!(have.len() <= 2);
                prop_assert_eq!(turns.busy(), line.len() + have.len());
                let state = turns.line.lock();
                prop_assert!(state.free == 0 || state.waiting == 0);
                prop_assert_eq!(state.round.len(), state.queues.len());
                prop_assert!(state.round.iter().all(|asker| !state.queues[asker].is_empty()));
            }
            // All come to their turn.
            drop(have);
            while !line.is_empty() {
                let before = line.len();
                line.retain_mut(|asks| asks.turn().is_none());
                prop_assert!(line.len() < before);
            }
            prop_assert_eq!(turns.busy(), 0);
        }
    }
}
