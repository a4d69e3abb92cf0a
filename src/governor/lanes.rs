//! Who waits, in which order they go, and who must give way when too many wait.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;

use super::{Class, Priority};

/// The queue: a lane for each holder in each class.
///
/// The next is of the highest class that waits, except that of any four that go while both wait, writes are three at most.
/// Within a class it is of the lane with the fewest calls in flight, and among equals of the one that has had or ended none
/// for longest; within a lane, whoever came first. So a lane that is alone may have everything; one with nothing in flight
/// goes after as many others of its class as wait like it before it, however many wait in longer lanes; and lanes that
/// always have someone waiting hold equal parts, even where the calls of some take longer.
///
/// Knows no time and no limit but that of the seats. Each operation takes O(log n).
#[derive(Debug)]
pub(super) struct Lanes<L> {
    seats: usize,
    seated: usize,
    /// Numbers drawn so far, for tickets and turns.
    drawn: u64,
    /// Those with somebody who waits or is in flight.
    lanes: HashMap<Priority<L>, Lane>,
    /// The lanes with somebody waiting, by class, in each the next one first.
    turns: BTreeMap<(Class, usize, u64), Priority<L>>,
    /// The lanes with somebody waiting; last, the one that gives way.
    lengths: BTreeMap<(Class, usize, u64), Priority<L>>,
    /// How many wait, by class.
    waiting: [usize; Class::ALL.len()],
    /// Writes since a call of the next class went.
    writes_in_a_row: u32,
}

#[derive(Debug)]
struct Lane {
    in_flight: usize,
    /// When it last had or ended a call, or came; no two lanes have the same.
    turn: u64,
    /// By ticket: the first came first.
    waiting: BTreeSet<u64>,
}

/// Too many wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full;

impl<L: Clone + Eq + Hash> Lanes<L> {
    /// With room for `seats` to wait.
    pub(super) fn new(seats: usize) -> Self {
        Self {
            seats,
            seated: 0,
            drawn: 0,
            lanes: HashMap::new(),
            turns: BTreeMap::new(),
            lengths: BTreeMap::new(),
            waiting: [0; Class::ALL.len()],
            writes_in_a_row: 0,
        }
    }

    /// Has one more of `who` wait. Returns its ticket.
    pub(super) fn enter(&mut self, who: &Priority<L>) -> u64 {
        let number = self.draw();
        self.seated += 1;
        self.waiting[who.class() as usize] += 1;
        self.change(who, |lane| lane.waiting.insert(number));
        number
    }

    /// Whether there is a seat for one more of `who`, and whose ticket is void for it.
    ///
    /// Background work gives way to calls; a lane that has its even part of the seats gives way to one that has less; and
    /// probes are few, and never turned away.
    pub(super) fn room(&self, who: &Priority<L>) -> Result<Option<(Priority<L>, u64)>, Full> {
        if self.seated < self.seats || who.class() == Class::Probe {
            return Ok(None);
        }
        let longest = self.lengths.last_key_value().map(|(_, longest)| longest).ok_or(Full)?;
        let own = self.before(who);
        let lanes = self.lengths.len() + usize::from(own == 0);
        let even = who.class().is_background() || (!longest.class().is_background() && own >= self.seats / lanes);
        if even {
            return Err(Full);
        }
        // With all seats taken and less than an even part of them here, there is a lane with more.
        let last = self.lanes.get(longest).and_then(|lane| lane.waiting.last()).ok_or(Full)?;
        Ok(Some((longest.clone(), *last)))
    }

    /// Who goes next: of the probes first, where those may go; and of all others, where those may.
    pub(super) fn next(&self, probes: bool, others: bool) -> Option<(Priority<L>, u64)> {
        let probe = self.first(Class::Probe).filter(|_| probes);
        let who = probe.or_else(|| if others { self.next_other() } else { None })?;
        let number = self.lanes.get(who)?.waiting.first()?;
        Some((who.clone(), *number))
    }

    fn next_other(&self) -> Option<&Priority<L>> {
        let (write, call) = (self.first(Class::Write), self.first(Class::Call));
        let foreground = if self.writes_in_a_row < WRITES_IN_A_ROW { write.or(call) } else { call.or(write) };
        foreground.or_else(|| self.first(Class::Refresh)).or_else(|| self.first(Class::WarmUp))
    }

    fn first(&self, class: Class) -> Option<&Priority<L>> {
        self.turns.range((class, 0, 0)..=(class, usize::MAX, u64::MAX)).next().map(|(_, who)| who)
    }

    /// One who waited is in flight.
    pub(super) fn sent(&mut self, who: &Priority<L>, number: u64) {
        match who.class() {
            Class::Write => self.writes_in_a_row = self.writes_in_a_row.saturating_add(1),
            Class::Call => self.writes_in_a_row = 0,
            Class::Probe | Class::Refresh | Class::WarmUp => {}
        }
        let turn = self.draw();
        self.change(who, |lane| {
            lane.in_flight += 1;
            lane.turn = turn;
        });
        self.left(who, number);
    }

    /// One who was in flight is so no longer.
    pub(super) fn ended(&mut self, who: &Priority<L>) {
        let turn = self.draw();
        self.change(who, |lane| {
            lane.in_flight -= 1;
            lane.turn = turn;
        });
    }

    /// One who waited does so no longer.
    pub(super) fn left(&mut self, who: &Priority<L>, number: u64) {
        self.seated -= 1;
        self.waiting[who.class() as usize] -= 1;
        self.change(who, |lane| lane.waiting.remove(&number));
    }

    /// How many of `who` wait.
    pub(super) fn before(&self, who: &Priority<L>) -> usize {
        self.lanes.get(who).map_or(0, |lane| lane.waiting.len())
    }

    /// How many go before one of `who` that has `own` before it in its lane, if nobody else comes.
    pub(super) fn ahead(&self, who: &Priority<L>, own: usize) -> usize {
        let class = who.class();
        let lanes = self.turns.range((class, 0, 0)..=(class, usize::MAX, u64::MAX));
        let equals = lanes.filter(|(_, other)| *other != who).map(|(_, other)| self.before(other).min(own + 1));
        let class_ahead = own + equals.sum::<usize>();
        let waiting = |class: Class| self.waiting[class as usize];
        let writes_in_a_row = WRITES_IN_A_ROW as usize;
        class_ahead
            + match class {
                Class::Probe => 0,
                Class::Write => waiting(Class::Call).min(class_ahead / writes_in_a_row),
                Class::Call => waiting(Class::Write).min((class_ahead + 1) * writes_in_a_row),
                Class::Refresh => waiting(Class::Write) + waiting(Class::Call),
                Class::WarmUp => waiting(Class::Write) + waiting(Class::Call) + waiting(Class::Refresh),
            }
    }

    /// Everyone who waits, with the number of those before it in its lane.
    pub(super) fn everyone(&self) -> impl Iterator<Item = (&Priority<L>, usize, u64)> {
        let lane = |(who, lane): (_, &Lane)| (who, lane.waiting.iter().copied().enumerate().collect::<Vec<_>>());
        self.lanes.iter().map(lane).flat_map(|(who, all)| all.into_iter().map(move |(own, number)| (who, own, number)))
    }

    /// The one way in which a lane changes: its entries in `turns` and `lengths` change with it.
    fn change<R>(&mut self, who: &Priority<L>, change: impl FnOnce(&mut Lane) -> R) -> R {
        let mut lane = self.lanes.remove(who).unwrap_or_else(|| Lane::new(self.draw()));
        self.turns.remove(&lane.rank(who));
        self.lengths.remove(&lane.length(who));
        let changed = change(&mut lane);
        if !lane.waiting.is_empty() {
            self.turns.insert(lane.rank(who), who.clone());
            self.lengths.insert(lane.length(who), who.clone());
        }
        if lane.in_flight > 0 || !lane.waiting.is_empty() {
            self.lanes.insert(who.clone(), lane);
        }
        changed
    }
}

impl<L> Lanes<L> {
    /// How many wait, by class.
    pub(super) const fn waiting(&self) -> [usize; Class::ALL.len()] {
        self.waiting
    }

    const fn draw(&mut self) -> u64 {
        self.drawn += 1;
        self.drawn
    }
}

impl Lane {
    const fn new(turn: u64) -> Self {
        Self { in_flight: 0, turn, waiting: BTreeSet::new() }
    }

    const fn rank<L>(&self, who: &Priority<L>) -> (Class, usize, u64) {
        (who.class(), self.in_flight, self.turn)
    }

    /// Of calls, the longest lane gives way; but background work before them, and probes never.
    fn length<L>(&self, who: &Priority<L>) -> (Class, usize, u64) {
        let class = if who.class() == Class::Write { Class::Call } else { who.class() };
        (class, self.waiting.len(), self.turn)
    }
}

/// While calls of the next class wait.
const WRITES_IN_A_ROW: u32 = 3;

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    const A: Priority<char> = Priority::Call('a');
    const B: Priority<char> = Priority::Call('b');
    const C: Priority<char> = Priority::Call('c');
    const WRITE: Priority<char> = Priority::Write('w');

    /// A window that is filled whenever a place is free.
    struct Window {
        lanes: Lanes<char>,
        free: usize,
        flying: VecDeque<Priority<char>>,
        /// Who went, in that order.
        order: String,
    }

    impl Window {
        fn new(free: usize, seats: usize) -> Self {
            Self { lanes: Lanes::new(seats), free, flying: VecDeque::new(), order: String::new() }
        }

        fn come(&mut self, who: &Priority<char>, count: usize) {
            for _ in 0..count {
                self.lanes.enter(who);
                self.fill();
            }
        }

        fn fill(&mut self) {
            while self.free > 0
                && let Some((who, number)) = self.lanes.next(true, true)
            {
                self.free -= 1;
                self.lanes.sent(&who, number);
                self.order.push(name(&who));
                self.flying.push_back(who);
            }
        }

        fn end(&mut self, who: &Priority<char>) {
            let at = self.flying.iter().position(|flying| flying == who).unwrap();
            self.flying.remove(at);
            self.lanes.ended(who);
            self.free += 1;
            self.fill();
        }

        /// Who goes as the oldest `count` calls end.
        fn served(&mut self, count: usize) -> String {
            let before = self.order.len();
            for _ in 0..count {
                let oldest = self.flying.front().unwrap().clone();
                self.end(&oldest);
            }
            self.order.split_off(before)
        }

        fn flying(&self, who: &Priority<char>) -> usize {
            self.flying.iter().filter(|flying| *flying == who).count()
        }
    }

    fn name(who: &Priority<char>) -> char {
        match who {
            Priority::Call(lane) | Priority::Write(lane) => *lane,
            Priority::Refresh => '-',
            Priority::WarmUp => '~',
            Priority::Probe => '!',
        }
    }

    #[test]
    fn the_first_call_of_a_lane_has_the_next_place_however_many_wait_in_another() {
        let mut window = Window::new(4, 16_384);
        window.come(&A, 10_000);
        window.come(&B, 1);
        assert_eq!(window.served(2), "ba");
    }

    #[test]
    fn newcomers_are_served_in_turn_before_anyone_is_served_twice() {
        let mut window = Window::new(1, 100);
        for lane in [A, B, C] {
            window.come(&lane, 5);
        }
        assert_eq!(window.served(14), "bcabcabcabcabc");
    }

    #[test]
    fn a_lane_that_comes_and_goes_does_not_pass_those_that_wait() {
        let mut window = Window::new(1, 100);
        window.come(&A, 1);
        let mut busy = A;
        for _ in 0..3 {
            // Each time, `b` has no call left when it comes again, and is new.
            window.come(&C, 1);
            window.come(&B, 1);
            window.end(&busy);
            assert_eq!(window.flying, [C]);
            window.end(&C);
            assert_eq!(window.flying, [B]);
            busy = B;
        }
    }

    #[test]
    fn lanes_that_always_wait_have_equal_parts_of_what_is_freed() {
        let mut window = Window::new(6, 1000);
        for lane in [A, B, C] {
            window.come(&lane, 200);
        }
        let order = window.served(96).split_off(6);
        let count = |lane| order.chars().filter(|&it| it == lane).count();
        assert_eq!([count('a'), count('b'), count('c')], [30, 30, 30]);
    }

    #[test]
    fn a_lane_alone_has_the_whole_window_and_keeps_no_more_than_its_part_when_another_comes() {
        let mut window = Window::new(8, 100);
        window.come(&A, 30);
        assert_eq!(window.flying(&A), 8);
        window.come(&B, 30);
        for _ in 0..4 {
            window.end(&A);
        }
        assert_eq!((window.flying(&A), window.flying(&B)), (4, 4));
        // What is quick ends often, and does not lose its part by it.
        for _ in 0..20 {
            window.end(&B);
            assert_eq!((window.flying(&A), window.flying(&B)), (4, 4));
        }
    }

    #[test]
    fn probes_go_before_writes_those_before_calls_but_for_every_fourth_and_background_work_last() {
        let mut window = Window::new(1, 100);
        window.come(&A, 1);
        for lane in [Priority::WarmUp, Priority::Refresh] {
            window.come(&lane, 2);
        }
        window.come(&A, 4);
        window.come(&WRITE, 8);
        window.come(&Priority::Probe, 2);
        assert_eq!(window.served(18), "!!wwwawwwawwaa--~~");
    }

    #[test]
    fn a_flood_of_writes_before_a_call_came_counts_as_well() {
        let mut window = Window::new(1, 100);
        window.come(&WRITE, 10);
        assert_eq!(window.served(5), "wwwww");
        window.come(&A, 1);
        assert_eq!(window.served(2), "aw");
    }

    #[test]
    fn what_is_ahead_is_what_goes_before() {
        let mut window = Window::new(1, 1000);
        window.come(&A, 1);
        let lanes: [(Priority<char>, usize); 6] =
            [(A, 20), (B, 3), (C, 7), (WRITE, 12), (Priority::Refresh, 4), (Priority::WarmUp, 5)];
        for (lane, count) in &lanes {
            window.come(lane, *count);
        }
        for (lane, _) in lanes {
            let own = window.lanes.before(&lane);
            let ahead = window.lanes.ahead(&lane, own);
            // As it comes out, if one more of it came now.
            let mut trial = Window::new(1, 1000);
            trial.come(&A, 1);
            for (other, count) in &[(A, 20), (B, 3), (C, 7), (WRITE, 12), (Priority::Refresh, 4), (Priority::WarmUp, 5)]
            {
                trial.come(other, *count + usize::from(*other == lane));
            }
            let order = trial.served(52);
            let came = order.char_indices().filter(|&(_, it)| it == name(&lane)).nth(own).unwrap().0;
            assert!(came.abs_diff(ahead) <= 3, "{lane:?}: {ahead} told, {came} in {order}");
        }
    }

    #[test]
    fn with_all_seats_taken_the_longest_lane_gives_way_to_who_has_less_than_its_part_and_background_work_first() {
        let mut lanes = Lanes::new(10);
        let flood: Vec<u64> = (0..8).map(|_| lanes.enter(&A)).collect();
        let background = [lanes.enter(&Priority::Refresh), lanes.enter(&Priority::WarmUp)];
        assert_eq!(lanes.room(&Priority::Refresh), Err(Full), "nobody goes for background work");
        assert_eq!(lanes.room(&Priority::Probe), Ok(None));
        for (gone, number) in [(Priority::WarmUp, background[1]), (Priority::Refresh, background[0])] {
            assert_eq!(lanes.room(&A), Ok(Some((gone.clone(), number))));
            lanes.left(&gone, number);
            lanes.enter(&A);
        }
        assert_eq!(lanes.room(&A), Err(Full));
        for _ in 0..5 {
            let (longest, last) = lanes.room(&B).unwrap().unwrap();
            assert_eq!(longest, A);
            lanes.left(&longest, last);
            lanes.enter(&B);
        }
        assert_eq!(lanes.room(&B), Err(Full), "an even part is taken");
        assert_eq!((lanes.before(&A), lanes.before(&B)), (5, 5));
        assert_eq!(lanes.next(true, true), Some((A, flood[0])));
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Enter(usize),
        Send(bool, bool),
        Leave(usize),
        End(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (0..6_usize).prop_map(Step::Enter),
            4 => any::<(bool, bool)>().prop_map(|(probes, others)| Step::Send(probes, others)),
            1 => any::<usize>().prop_map(Step::Leave),
            2 => any::<usize>().prop_map(Step::End),
        ];
        prop::collection::vec(step, 0..120)
    }

    /// What holds between any two operations.
    fn check(lanes: &Lanes<char>, waiting: &[(Priority<char>, u64)], flying: &[Priority<char>]) {
        assert_eq!((lanes.seated, lanes.waiting.iter().sum::<usize>()), (waiting.len(), waiting.len()));
        assert_eq!(lanes.everyone().count(), waiting.len());
        for (who, lane) in &lanes.lanes {
            let own = waiting.iter().filter(|(other, _)| other == who).count();
            assert_eq!((lane.waiting.len(), lane.in_flight), (own, flying.iter().filter(|it| *it == who).count()));
            assert_eq!(lanes.turns.get(&lane.rank(who)) == Some(who), own > 0);
            assert_eq!(lanes.lengths.get(&lane.length(who)) == Some(who), own > 0);
        }
        let lined = lanes.lanes.values().filter(|lane| !lane.waiting.is_empty()).count();
        assert_eq!((lanes.turns.len(), lanes.lengths.len()), (lined, lined));
        assert_eq!(lanes.next(true, true).is_some(), !waiting.is_empty());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn no_order_of_events_loses_anybody(steps in steps(), seats in 1..12_usize) {
            let who = [A, B, WRITE, Priority::Refresh, Priority::WarmUp, Priority::Probe];
            let mut lanes = Lanes::new(seats);
            let (mut waiting, mut flying) = (Vec::new(), Vec::new());
            for step in steps {
                match step {
                    Step::Enter(lane) => {
                        if let Ok(gone) = lanes.room(&who[lane]) {
                            if let Some((gone, number)) = gone {
                                lanes.left(&gone, number);
                                waiting.retain(|it| *it != (gone.clone(), number));
                            }
                            waiting.push((who[lane].clone(), lanes.enter(&who[lane])));
                        }
                    }
                    Step::Send(probes, others) => {
                        if let Some((next, number)) = lanes.next(probes, others) {
                            let allowed = if next == Priority::Probe { probes } else { others };
                            prop_assert!(allowed);
                            lanes.sent(&next, number);
                            waiting.retain(|it| *it != (next.clone(), number));
                            flying.push(next);
                        }
                    }
                    Step::Leave(any) if !waiting.is_empty() => {
                        let (gone, number) = waiting.swap_remove(any % waiting.len());
                        lanes.left(&gone, number);
                    }
                    Step::End(any) if !flying.is_empty() => {
                        let ended = flying.swap_remove(any % flying.len());
                        lanes.ended(&ended);
                    }
                    Step::Leave(_) | Step::End(_) => {}
                }
                check(&lanes, &waiting, &flying);
            }
            waiting.iter().for_each(|(who, number)| lanes.left(who, *number));
            flying.iter().for_each(|who| lanes.ended(who));
            prop_assert!(lanes.lanes.is_empty() && lanes.seated == 0);
        }
    }
}
