//! The places of a window and those who wait for one, each in the lane of its holder.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::{self, Debug};
use std::future::poll_fn;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use super::Priority;

/// A window and its queue.
///
/// A place that is freed goes to the lane with the fewest places, and among equals to the one that has had or given back
/// none for longest; within a lane, to whoever came first. So a lane that is alone may have the whole window; one without
/// a place, with `n` others like it before it, has its first when `n + 1` were freed, however many wait in longer lanes;
/// and lanes that always have someone waiting hold equal parts of the window, even where the calls of some take longer.
/// [`Priority::Upkeep`] is served when nobody else waits.
///
/// Each operation takes O(log n) under one lock, which is held across no await and no wake-up.
pub(super) struct Lanes<L> {
    inner: Mutex<Inner<L>>,
}

impl<L: Clone + Eq + Hash> Lanes<L> {
    /// `places` that are free, and room for `seats` to wait.
    pub(super) fn new(places: usize, seats: usize) -> Self {
        let (lanes, tickets) = (HashMap::new(), HashMap::new());
        let (turns, lengths) = (BTreeMap::new(), BTreeMap::new());
        Self { inner: Mutex::new(Inner { free: places, seats, seated: 0, drawn: 0, lanes, tickets, turns, lengths }) }
    }

    /// Enters the lane of `who`: where it is `open`, into a place if one is free; else to wait, aside.
    ///
    /// None where too many wait and nobody can be shed for it. A lane with less than its even part of the seats has the
    /// last of the longest lane shed.
    pub(super) fn enter<'a>(&'a self, who: &'a Priority<L>, open: bool) -> Option<Ticket<'a, L>> {
        let (number, shed) = self.locked(|inner| inner.enter(who, open))?;
        wake(shed);
        Some(Ticket { lanes: self, who, number })
    }

    fn locked<R>(&self, act: impl FnOnce(&mut Inner<L>) -> R) -> R {
        act(&mut self.lock())
    }
}

impl<L> Lanes<L> {
    /// How many wait.
    pub(super) fn waiting(&self) -> usize {
        self.lock().seated
    }

    fn lock(&self) -> MutexGuard<'_, Inner<L>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<L> Debug for Lanes<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lanes({} waiting)", self.waiting())
    }
}

/// Somebody who waits for a place, or has one. Dropped, it leaves no trace, and its place goes to the next.
#[derive(Debug)]
pub(super) struct Ticket<'a, L: Clone + Eq + Hash> {
    lanes: &'a Lanes<L>,
    who: &'a Priority<L>,
    number: u64,
}

/// The seat went to a lane that has fewer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shed;

impl<L: Clone + Eq + Hash> Ticket<'_, L> {
    /// Steps from aside into the line, at the position by which it entered.
    pub(super) fn line_up(&self) {
        wake(self.lanes.locked(|inner| inner.line_up(self.who, self.number)));
    }

    /// Steps out of the line, or gives the place back, and keeps waiting.
    pub(super) fn stand_aside(&self) {
        wake(self.lanes.locked(|inner| inner.stand_aside(self.who, self.number)));
    }

    /// Waits for the place. While aside, it waits to be shed.
    pub(super) async fn called(&self) -> Result<(), Shed> {
        poll_fn(|context| {
            let (standing, _old) = self.lanes.locked(|inner| inner.look(self.number, context));
            match standing {
                Standing::Aside | Standing::InLine => Poll::Pending,
                Standing::Placed => Poll::Ready(Ok(())),
                Standing::Shed => Poll::Ready(Err(Shed)),
            }
        })
        .await
    }
}

impl<L: Clone + Eq + Hash> Drop for Ticket<'_, L> {
    fn drop(&mut self) {
        let (_old, next) = self.lanes.locked(|inner| inner.leave(self.who, self.number));
        wake(next);
    }
}

struct Inner<L> {
    /// While one is free, nobody is in line.
    free: usize,
    seats: usize,
    /// Those aside and in line. May exceed `seats` by who gave a place back when a pause began.
    seated: usize,
    /// Numbers drawn so far, for tickets and turns.
    drawn: u64,
    /// Those with somebody who waits or has a place.
    lanes: HashMap<Priority<L>, Lane>,
    tickets: HashMap<u64, Held>,
    /// The lanes with somebody in line, the next one first.
    turns: BTreeMap<(bool, usize, u64), Priority<L>>,
    /// The lanes with somebody waiting, the longest last.
    lengths: BTreeMap<(usize, u64), Priority<L>>,
}

#[derive(Debug)]
struct Held {
    standing: Standing,
    waker: Option<Waker>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// Waits for something else than a place, such as the end of a pause.
    Aside,
    InLine,
    Placed,
    Shed,
}

#[derive(Debug)]
struct Lane {
    placed: usize,
    /// When it was last given a place or gave one back, or came; no two lanes have the same.
    turn: u64,
    /// Aside and in line, by ticket: the first came first.
    waiting: BTreeSet<u64>,
    in_line: BTreeSet<u64>,
}

impl<L: Clone + Eq + Hash> Inner<L> {
    fn enter(&mut self, who: &Priority<L>, open: bool) -> Option<(u64, Option<Waker>)> {
        let placed = open && self.free > 0;
        let shed = if placed { None } else { self.make_room(who)? };
        let number = self.draw();
        self.tickets.insert(number, Held { standing: Standing::Aside, waker: None });
        self.sit(who, number);
        if placed {
            self.place(who, number);
        }
        Some((number, shed))
    }

    fn sit(&mut self, who: &Priority<L>, number: u64) {
        self.seated += 1;
        self.change(who, |lane| lane.waiting.insert(number));
    }

    /// A seat for one more of `who`; outer `None` where there is none, inner where nobody had to go for it.
    fn make_room(&mut self, who: &Priority<L>) -> Option<Option<Waker>> {
        if self.seated < self.seats {
            return Some(None);
        }
        let own = self.lanes.get(who).map_or(0, |lane| lane.waiting.len());
        let lanes = self.lengths.len() + usize::from(own == 0);
        if *who == Priority::Upkeep || own >= self.seats / lanes {
            return None;
        }
        // With all seats taken and less than an even part of them here, there is a lane with more.
        let longest = self.lengths.last_key_value()?.1.clone();
        let last = *self.lanes.get(&longest)?.waiting.last()?;
        self.rise(&longest, last);
        Some(self.stand(last, Standing::Shed))
    }

    fn line_up(&mut self, who: &Priority<L>, number: u64) -> Option<Waker> {
        if self.standing(number) != Standing::Aside {
            return None;
        }
        self.stand(number, Standing::InLine);
        self.change(who, |lane| lane.in_line.insert(number));
        self.serve()
    }

    fn stand_aside(&mut self, who: &Priority<L>, number: u64) -> Option<Waker> {
        match self.standing(number) {
            Standing::Aside | Standing::Shed => None,
            Standing::InLine => {
                self.stand(number, Standing::Aside);
                self.change(who, |lane| lane.in_line.remove(&number));
                None
            }
            Standing::Placed => {
                self.stand(number, Standing::Aside);
                self.sit(who, number);
                self.vacate(who)
            }
        }
    }

    fn look(&mut self, number: u64, context: &Context<'_>) -> (Standing, Option<Waker>) {
        let Some(held) = self.tickets.get_mut(&number) else { return (Standing::Shed, None) };
        // The old waker is dropped by the caller, without the lock: that may drop a task, and another ticket with it.
        (held.standing, held.waker.replace(context.waker().clone()))
    }

    fn leave(&mut self, who: &Priority<L>, number: u64) -> (Option<Held>, Option<Waker>) {
        let held = self.tickets.remove(&number);
        let next = match held.as_ref().map(|held| held.standing) {
            Some(Standing::Aside | Standing::InLine) => {
                self.rise(who, number);
                None
            }
            Some(Standing::Placed) => self.vacate(who),
            Some(Standing::Shed) | None => None,
        };
        (held, next)
    }

    /// One who waited does so no longer.
    fn rise(&mut self, who: &Priority<L>, number: u64) {
        self.seated -= 1;
        self.change(who, |lane| {
            lane.waiting.remove(&number);
            lane.in_line.remove(&number);
        });
    }

    fn vacate(&mut self, who: &Priority<L>) -> Option<Waker> {
        self.free += 1;
        let turn = self.draw();
        self.change(who, |lane| {
            lane.placed -= 1;
            lane.turn = turn;
        });
        self.serve()
    }

    /// Gives a free place to who is next. Places become free one by one, so there is never a second to give.
    fn serve(&mut self) -> Option<Waker> {
        let who = self.turns.first_key_value().filter(|_| self.free > 0)?.1.clone();
        let number = *self.lanes.get(&who)?.in_line.first()?;
        self.place(&who, number)
    }

    fn place(&mut self, who: &Priority<L>, number: u64) -> Option<Waker> {
        self.free -= 1;
        let turn = self.draw();
        self.change(who, |lane| {
            lane.placed += 1;
            lane.turn = turn;
        });
        self.rise(who, number);
        self.stand(number, Standing::Placed)
    }

    /// The one way in which a lane changes: its entries in `turns` and `lengths` change with it.
    fn change<R>(&mut self, who: &Priority<L>, change: impl FnOnce(&mut Lane) -> R) -> R {
        let mut lane = self.lanes.remove(who).unwrap_or_else(|| Lane::new(self.draw()));
        self.turns.remove(&lane.rank(who));
        self.lengths.remove(&lane.length());
        let changed = change(&mut lane);
        if !lane.in_line.is_empty() {
            self.turns.insert(lane.rank(who), who.clone());
        }
        if !lane.waiting.is_empty() {
            self.lengths.insert(lane.length(), who.clone());
        }
        if lane.placed > 0 || !lane.waiting.is_empty() {
            self.lanes.insert(who.clone(), lane);
        }
        changed
    }

    fn standing(&self, number: u64) -> Standing {
        self.tickets.get(&number).map_or(Standing::Shed, |held| held.standing)
    }

    fn stand(&mut self, number: u64, standing: Standing) -> Option<Waker> {
        let held = self.tickets.get_mut(&number)?;
        held.standing = standing;
        held.waker.take_if(|_| matches!(standing, Standing::Placed | Standing::Shed))
    }
}

impl<L> Inner<L> {
    const fn draw(&mut self) -> u64 {
        self.drawn += 1;
        self.drawn
    }
}

impl Lane {
    const fn new(turn: u64) -> Self {
        Self { placed: 0, turn, waiting: BTreeSet::new(), in_line: BTreeSet::new() }
    }

    fn rank<L: PartialEq>(&self, who: &Priority<L>) -> (bool, usize, u64) {
        (*who == Priority::Upkeep, self.placed, self.turn)
    }

    fn length(&self) -> (usize, u64) {
        (self.waiting.len(), self.turn)
    }
}

/// Without the lock: what wakes up may want it at once.
fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    const A: Priority<char> = Priority::Call('a');
    const B: Priority<char> = Priority::Call('b');
    const C: Priority<char> = Priority::Call('c');

    fn wait<'a>(lanes: &'a Lanes<char>, who: &'a Priority<char>) -> Ticket<'a, char> {
        let ticket = lanes.enter(who, true).unwrap();
        ticket.line_up();
        ticket
    }

    fn crowd<'a>(lanes: &'a Lanes<char>, who: &'a Priority<char>, count: usize) -> Vec<Ticket<'a, char>> {
        (0..count).map(|_| wait(lanes, who)).collect()
    }

    impl Ticket<'_, char> {
        fn standing(&self) -> Standing {
            self.lanes.lock().standing(self.number)
        }

        fn placed(&self) -> bool {
            self.standing() == Standing::Placed
        }
    }

    fn placed(tickets: &[Ticket<'_, char>]) -> usize {
        tickets.iter().filter(|ticket| ticket.placed()).count()
    }

    /// The lanes that are served in `rounds` of this: the call that has had its place for longest ends.
    fn served(tickets: &mut Vec<Ticket<'_, char>>, rounds: usize) -> String {
        let mut running: VecDeque<u64> = tickets.iter().filter(|it| it.placed()).map(|it| it.number).collect();
        let mut order = String::new();
        for _ in 0..rounds {
            let ends = running.pop_front().unwrap();
            tickets.retain(|ticket| ticket.number != ends);
            let next = tickets.iter().find(|it| it.placed() && !running.contains(&it.number)).unwrap();
            running.push_back(next.number);
            order.push(match next.who {
                Priority::Call(lane) => *lane,
                Priority::Upkeep => '-',
                Priority::Probe => '!',
            });
        }
        order
    }

    #[test]
    fn the_first_call_of_a_lane_has_the_next_place_however_many_wait_in_another() {
        let lanes = Lanes::new(4, 16_384);
        let mut flood = crowd(&lanes, &A, 10_000);
        assert_eq!(placed(&flood), 4);
        let one = wait(&lanes, &B);
        assert!(!one.placed());
        flood.remove(0);
        assert!(one.placed());
        assert_eq!(placed(&flood), 3);
    }

    #[test]
    fn newcomers_are_served_in_turn_before_anyone_is_served_twice() {
        let lanes = Lanes::new(1, 100);
        let mut all = crowd(&lanes, &A, 5);
        all.extend(crowd(&lanes, &B, 5));
        all.extend(crowd(&lanes, &C, 5));
        assert_eq!(served(&mut all, 14), "bcabcabcabcabc");
    }

    #[test]
    fn a_lane_that_comes_and_goes_does_not_pass_those_that_wait() {
        let lanes = Lanes::new(1, 100);
        let mut busy = wait(&lanes, &A);
        for _ in 0..3 {
            // Each time, `b` has no call left when it comes again, and is new.
            let (other, again) = (wait(&lanes, &C), wait(&lanes, &B));
            drop(busy);
            assert!(other.placed() && !again.placed());
            drop(other);
            assert!(again.placed());
            busy = again;
        }
    }

    #[test]
    fn lanes_that_always_wait_have_equal_parts_of_what_is_freed() {
        let lanes = Lanes::new(6, 1000);
        let mut all = crowd(&lanes, &A, 200);
        all.extend(crowd(&lanes, &B, 200));
        all.extend(crowd(&lanes, &C, 200));
        let order = served(&mut all, 96).split_off(6);
        let count = |lane| order.chars().filter(|&it| it == lane).count();
        assert_eq!([count('a'), count('b'), count('c')], [30, 30, 30]);
    }

    #[test]
    fn a_lane_alone_has_the_whole_window_and_keeps_no_more_than_its_part_when_another_comes() {
        let lanes = Lanes::new(8, 100);
        let mut slow = crowd(&lanes, &A, 30);
        assert_eq!(placed(&slow), 8);
        let mut quick = crowd(&lanes, &B, 30);
        slow.drain(..4);
        assert_eq!((placed(&slow), placed(&quick)), (4, 4));
        // What is quick ends often, and does not lose its part by it.
        for _ in 0..20 {
            quick.remove(0);
            assert_eq!((placed(&slow), placed(&quick)), (4, 4));
        }
    }

    #[test]
    fn who_leaves_the_line_is_passed_over_and_who_leaves_with_a_place_gives_it_on() {
        let lanes = Lanes::new(1, 100);
        let mut all = crowd(&lanes, &A, 4);
        drop(all.remove(2));
        drop(all.remove(1));
        assert_eq!(lanes.waiting(), 1);
        drop(all.remove(0));
        assert!(all[0].placed());
        all.clear();
        assert_eq!(lanes.lock().free, 1);
        assert!(lanes.lock().lanes.is_empty() && lanes.lock().tickets.is_empty());
    }

    #[test]
    fn upkeep_is_served_when_nobody_waits() {
        let lanes = Lanes::new(1, 100);
        let mut all = vec![wait(&lanes, &B), wait(&lanes, &Priority::Upkeep)];
        all.extend(crowd(&lanes, &A, 2));
        assert_eq!(served(&mut all, 3), "aa-");
    }

    #[test]
    fn with_all_seats_taken_the_longest_lane_sheds_its_last_for_who_has_less_than_its_part() {
        let lanes = Lanes::new(1, 10);
        let flood = crowd(&lanes, &A, 11);
        assert!(lanes.enter(&A, true).is_none());
        let others = crowd(&lanes, &B, 5);
        assert!(lanes.enter(&B, true).is_none(), "an even part is taken");
        assert!(lanes.enter(&Priority::Upkeep, true).is_none(), "nobody has to go for upkeep");
        assert_eq!(lanes.waiting(), 10);
        let shed: Vec<usize> = (0..11).filter(|&at| flood[at].standing() == Standing::Shed).collect();
        assert_eq!(shed, [6, 7, 8, 9, 10]);
        assert!(others.iter().all(|ticket| ticket.standing() == Standing::InLine));
    }

    #[test]
    fn a_place_given_back_keeps_its_owner_first_in_its_lane() {
        let lanes = Lanes::new(1, 100);
        let all = crowd(&lanes, &A, 3);
        all[0].stand_aside();
        assert!(all[1].placed());
        all[0].line_up();
        all[1].stand_aside();
        assert!(all[0].placed());
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Enter(usize, bool),
        LineUp(usize),
        StandAside(usize),
        Drop(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (0..4_usize, any::<bool>()).prop_map(|(who, open)| Step::Enter(who, open)),
            4 => any::<usize>().prop_map(Step::LineUp),
            1 => any::<usize>().prop_map(Step::StandAside),
            2 => any::<usize>().prop_map(Step::Drop),
        ];
        prop::collection::vec(step, 0..120)
    }

    /// What holds between any two operations.
    fn check(lanes: &Lanes<char>, tickets: &[Ticket<'_, char>], places: usize) {
        let inner = lanes.lock();
        let standing = |wanted| tickets.iter().filter(|it| inner.standing(it.number) == wanted).count();
        let (aside, in_line) = (standing(Standing::Aside), standing(Standing::InLine));
        assert_eq!(inner.free + standing(Standing::Placed), places);
        assert_eq!((inner.seated, inner.tickets.len()), (aside + in_line, tickets.len()));
        assert!(inner.free == 0 || in_line == 0, "a place is free while somebody waits for one");
        for (who, lane) in &inner.lanes {
            let own = |wanted| tickets.iter().filter(|it| it.who == who && inner.standing(it.number) == wanted).count();
            assert_eq!(lane.placed, own(Standing::Placed));
            assert_eq!(lane.in_line.len(), own(Standing::InLine));
            assert_eq!(lane.waiting.len(), own(Standing::InLine) + own(Standing::Aside));
            assert_eq!(inner.turns.get(&lane.rank(who)) == Some(who), !lane.in_line.is_empty());
            assert_eq!(inner.lengths.get(&lane.length()) == Some(who), !lane.waiting.is_empty());
        }
        let lined = inner.lanes.values().filter(|lane| !lane.in_line.is_empty()).count();
        let waiting = inner.lanes.values().filter(|lane| !lane.waiting.is_empty()).count();
        assert_eq!((inner.turns.len(), inner.lengths.len()), (lined, waiting));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn no_order_of_events_loses_a_place_or_a_seat(steps in steps(), places in 1..4_usize, seats in 0..12_usize) {
            let who = [A, B, C, Priority::Upkeep];
            let lanes = Lanes::new(places, seats);
            let mut tickets = Vec::new();
            for step in steps {
                let at = |any: usize, tickets: &Vec<_>| (!tickets.is_empty()).then(|| any % tickets.len().max(1));
                match step {
                    Step::Enter(lane, open) => tickets.extend(lanes.enter(&who[lane], open)),
                    Step::LineUp(any) => at(any, &tickets).into_iter().for_each(|at| tickets[at].line_up()),
                    Step::StandAside(any) => at(any, &tickets).into_iter().for_each(|at| tickets[at].stand_aside()),
                    Step::Drop(any) => at(any, &tickets).into_iter().for_each(|at| drop(tickets.swap_remove(at))),
                }
                check(&lanes, &tickets, places);
            }
            tickets.clear();
            let inner = lanes.lock();
            prop_assert_eq!((inner.free, inner.seated, inner.lanes.len()), (places, 0, 0));
        }
    }
}
