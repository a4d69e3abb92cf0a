//! Who may go, and when: the lanes, the window, the pace and the pauses together, without waiting.

use std::collections::HashMap;
use std::hash::Hash;
use std::task::{Context, Waker};
use std::time::Duration;

use super::lanes::{Full, Lanes};
use super::pace::{Pace, Part, Turn};
use super::pauses::Pauses;
use super::{Class, Limits, Priority, Tally, random};
use crate::clock::{Deadline, Moment};

/// The queue before one upstream. Wakers of those whose standing changes are handed out, to be used without the lock.
pub(super) struct Queue<L> {
    lanes: Lanes<L>,
    window: usize,
    /// Of the window. While one is free and the pace allows it, nobody waits.
    free: usize,
    /// Places for probes alone: leases live by them.
    reserved: usize,
    pace: Pace,
    pauses: Pauses,
    held: HashMap<u64, Held>,
    keeper: Option<Keeper>,
    /// How long a call takes, about; known from those that were answered.
    time: Duration,
    taken: [u64; Class::ALL.len()],
    turned: [u64; Class::ALL.len()],
}

/// Why somebody is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turned {
    /// Too many wait, or calls take too long.
    Crowded,
    /// By pause or pace, it would be its turn too late; after how long it is worth coming again.
    Late(Duration),
}

/// What an upstream said to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Said {
    Answered,
    Throttled(Option<Duration>),
}

/// What whoever looks is told.
pub(super) enum Look {
    Called,
    /// Sleep until then, and look again: nobody else will.
    Keep(Moment),
    Turned(Turned),
    Wait,
}

/// One ticket.
#[derive(Debug)]
pub(super) struct Held {
    came: Moment,
    deadline: Deadline,
    standing: Standing,
    waker: Option<Waker>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// In flight, since then.
    Called(Moment),
    /// The upstream has answered.
    Heard,
    Turned(Turned),
    Waiting,
}

#[derive(Clone, Copy, Debug)]
struct Keeper {
    number: u64,
    until: Moment,
}

impl<L: Clone + Eq + Hash> Queue<L> {
    pub(super) fn new(limits: Limits, now: Moment) -> Self {
        let window = limits.in_flight.max(1);
        Self {
            lanes: Lanes::new(limits.queued),
            window,
            free: window,
            reserved: RESERVED,
            pace: Pace::new(limits.quota, now),
            pauses: Pauses::new(),
            held: HashMap::new(),
            keeper: None,
            time: Duration::ZERO,
            taken: [0; Class::ALL.len()],
            turned: [0; Class::ALL.len()],
        }
    }

    pub(super) fn enter(
        &mut self,
        who: &Priority<L>,
        deadline: Deadline,
        now: Moment,
        wakes: &mut Vec<Waker>,
    ) -> Result<u64, Turned> {
        self.settle(now, wakes);
        self.make_room(who, deadline, now, wakes).inspect_err(|_| self.turned[who.class() as usize] += 1)?;
        let number = self.lanes.enter(who);
        self.held.insert(number, Held { came: now, deadline, standing: Standing::Waiting, waker: None });
        self.settle(now, wakes);
        Ok(number)
    }

    fn make_room(
        &mut self,
        who: &Priority<L>,
        deadline: Deadline,
        now: Moment,
        wakes: &mut Vec<Waker>,
    ) -> Result<(), Turned> {
        let before = self.lanes.before(who);
        self.in_time(who, before, deadline, now)?;
        // Whoever goes at once needs no seat.
        if before == 0 && self.lanes.ahead(who, 0) == 0 && self.may_go(who.class(), now) {
            return Ok(());
        }
        if let Some((other, number)) = self.lanes.room(who).map_err(|Full| Turned::Crowded)? {
            self.turn_away(&other, number, Turned::Crowded, wakes);
        }
        Ok(())
    }

    /// Lets in all who may go at `now`, and sees that somebody wakes up when the next may.
    fn settle(&mut self, now: Moment, wakes: &mut Vec<Waker>) {
        let useful = self.useful();
        loop {
            let (probes, others) = (self.may_go(Class::Probe, now), self.may_go(Class::Call, now));
            let Some((who, number)) = self.lanes.next(probes, others) else { break };
            let waited =
                self.held.get(&number).is_some_and(|held| held.came < now && held.deadline.remaining(now) < useful);
            if waited {
                let turned = self.why(&who, now);
                self.turn_away(&who, number, turned, wakes);
            } else {
                self.call(&who, number, now, wakes);
            }
        }
        self.appoint(now, wakes);
    }

    fn may_go(&mut self, class: Class, now: Moment) -> bool {
        if class == Class::Probe {
            return self.reserved > 0 && self.pace.turn(Part::Whole, now) == Turn::Now;
        }
        self.free > 0 && self.pauses.pause(now).is_zero() && self.pace.turn(Part::Common, now) == Turn::Now
    }

    fn call(&mut self, who: &Priority<L>, number: u64, now: Moment, wakes: &mut Vec<Waker>) {
        self.lanes.sent(who, number);
        self.pace.sent(now);
        *self.places(who.class()) -= 1;
        self.taken[who.class() as usize] += 1;
        self.stand(number, Standing::Called(now), wakes);
    }

    fn turn_away(&mut self, who: &Priority<L>, number: u64, turned: Turned, wakes: &mut Vec<Waker>) {
        self.lanes.left(who, number);
        self.turned[who.class() as usize] += 1;
        self.stand(number, Standing::Turned(turned), wakes);
    }

    fn stand(&mut self, number: u64, standing: Standing, wakes: &mut Vec<Waker>) {
        if let Some(held) = self.held.get_mut(&number) {
            held.standing = standing;
            wakes.extend(held.waker.take());
        }
    }

    /// The keeper is whoever is next. Where an event must come first, that event will settle things, and there is none.
    fn appoint(&mut self, now: Moment, wakes: &mut Vec<Waker>) {
        let Some(until) = self.due(now) else {
            self.keeper = None;
            return;
        };
        let waits = |held: &Held| held.standing == Standing::Waiting;
        let kept = self.keeper.filter(|keeper| self.held.get(&keeper.number).is_some_and(waits));
        let number = match kept {
            Some(keeper) if keeper.until <= until => return,
            Some(keeper) => keeper.number,
            None => match self.lanes.next(true, true) {
                Some((_, number)) => number,
                None => return,
            },
        };
        self.keeper = Some(Keeper { number, until });
        wakes.extend(self.held.get_mut(&number).and_then(|held| held.waker.take()));
    }

    /// When time alone lets somebody in who waits.
    fn due(&mut self, now: Moment) -> Option<Moment> {
        let probes = self.lanes.next(true, false).is_some() && self.reserved > 0;
        let others = self.lanes.waiting().iter().skip(1).any(|&waiting| waiting > 0) && self.free > 0;
        let turn = |turn: Turn| match turn {
            Turn::Now => Some(now),
            Turn::At(at) => Some(at),
            Turn::Unknown => None,
        };
        let probe = probes.then(|| turn(self.pace.turn(Part::Whole, now))).flatten();
        let other = others.then(|| turn(self.pace.turn(Part::Common, now))).flatten();
        let other = other.map(|at| at.max(self.pauses.until()));
        probe.into_iter().chain(other).min()
    }

    pub(super) fn look(
        &mut self,
        number: u64,
        now: Moment,
        context: &Context<'_>,
        old: &mut Option<Waker>,
        wakes: &mut Vec<Waker>,
    ) -> Look {
        self.settle(now, wakes);
        let Some(held) = self.held.get_mut(&number) else { return Look::Turned(Turned::Crowded) };
        match held.standing {
            Standing::Called(_) | Standing::Heard => return Look::Called,
            Standing::Turned(turned) => return Look::Turned(turned),
            Standing::Waiting => *old = held.waker.replace(context.waker().clone()),
        }
        if self.keeper.is_none_or(|keeper| keeper.number != number) {
            return Look::Wait;
        }
        // It may be later by now than what it was appointed for.
        self.keeper = self.due(now).map(|until| Keeper { number, until });
        self.keeper.map_or(Look::Wait, |keeper| Look::Keep(keeper.until))
    }

    pub(super) fn heard(&mut self, number: u64, said: Said, now: Moment, wakes: &mut Vec<Waker>) {
        let Some(Standing::Called(sent)) = self.held.get(&number).map(|held| held.standing) else { return };
        match said {
            Said::Answered => {
                self.pauses.answered();
                self.pace.answered(now);
                let took = now.since(sent);
                self.time = if self.time.is_zero() { took } else { (self.time * 7 + took) / 8 };
            }
            Said::Throttled(after) => {
                let before = (self.pauses.until(), self.pace.limit());
                self.pauses.throttled(now, after, random());
                self.pace.throttled(sent, now);
                if before != (self.pauses.until(), self.pace.limit()) {
                    self.turn_away_late(now, wakes);
                }
            }
        }
        if let Some(held) = self.held.get_mut(&number) {
            held.standing = Standing::Heard;
        }
    }

    pub(super) fn leave(
        &mut self,
        who: &Priority<L>,
        number: u64,
        now: Moment,
        wakes: &mut Vec<Waker>,
    ) -> Option<Held> {
        let held = self.held.remove(&number);
        match held.as_ref().map(|held| held.standing) {
            Some(Standing::Waiting) => {
                self.lanes.left(who, number);
                self.turned[who.class() as usize] += 1;
            }
            Some(Standing::Called(_)) => {
                self.pace.lost(now);
                self.vacate(who);
            }
            Some(Standing::Heard) => self.vacate(who),
            Some(Standing::Turned(_)) | None => {}
        }
        self.settle(now, wakes);
        held
    }

    fn vacate(&mut self, who: &Priority<L>) {
        self.lanes.ended(who);
        *self.places(who.class()) += 1;
    }

    const fn places(&mut self, class: Class) -> &mut usize {
        if matches!(class, Class::Probe) { &mut self.reserved } else { &mut self.free }
    }

    /// Whether one of `who` that has `own` before it in its lane can be let in, and answered, before `deadline`, as things
    /// stand at `now`.
    fn in_time(&mut self, who: &Priority<L>, own: usize, deadline: Deadline, now: Moment) -> Result<(), Turned> {
        let ahead = self.lanes.ahead(who, own);
        let (part, pause) = match who.class() {
            Class::Probe => (Part::Whole, Duration::ZERO),
            Class::Write | Class::Call | Class::Refresh | Class::WarmUp => (Part::Common, self.pauses.pause(now)),
        };
        let pace = self.pace.wait(part, ahead, self.time, now).max(pause);
        let crowd = (ahead + 1).saturating_sub(*self.places(who.class()));
        let window = self.time.saturating_mul(u32::try_from(crowd / self.window).unwrap_or(u32::MAX));
        let needed = pace.max(window) + self.useful();
        let left = deadline.remaining(now);
        if (pace.is_zero() && window.is_zero()) || needed <= left {
            return Ok(());
        }
        if window > pace {
            return Err(Turned::Crowded);
        }
        Err(Turned::Late(pause.max(needed.saturating_sub(left)).max(AGAIN)))
    }

    /// With less time than this an attempt is not worth its place in the quota.
    fn useful(&self) -> Duration {
        self.time + USEFUL
    }

    /// Things have become worse: whoever cannot make it any more need not wait to see that.
    fn turn_away_late(&mut self, now: Moment, wakes: &mut Vec<Waker>) {
        let mut left = (None, 0);
        let everyone: Vec<_> = self.lanes.everyone().map(|(who, own, number)| (who.clone(), own, number)).collect();
        for (who, own, number) in everyone {
            if left.0.as_ref() != Some(&who) {
                left = (Some(who.clone()), 0);
            }
            let Some(deadline) = self.held.get(&number).map(|held| held.deadline) else { continue };
            if let Err(turned) = self.in_time(&who, own - left.1, deadline, now) {
                left.1 += 1;
                self.turn_away(&who, number, turned, wakes);
            }
        }
    }

    /// Why one of `who` still waits.
    pub(super) fn why(&mut self, who: &Priority<L>, now: Moment) -> Turned {
        let (pause, limited) = (self.pauses.pause(now), self.pace.limit().is_some());
        if pause.is_zero() && (!limited || *self.places(who.class()) == 0) {
            return Turned::Crowded;
        }
        Turned::Late(pause.max(AGAIN))
    }
}

impl<L> Queue<L> {
    pub(super) const fn pause(&self, now: Moment) -> Duration {
        self.pauses.pause(now)
    }

    pub(super) const fn tally(&self) -> Tally {
        Tally { limit: self.pace.limit(), waiting: self.lanes.waiting(), taken: self.taken, turned: self.turned }
    }
}

/// Places for probes.
pub(super) const RESERVED: usize = 4;
/// Nothing is answered faster than in this, if it comes to waiting.
pub(super) const USEFUL: Duration = Duration::from_millis(10);
/// Sooner than after this, nothing will have changed.
const AGAIN: Duration = Duration::from_millis(100);
