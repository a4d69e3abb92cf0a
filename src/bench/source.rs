//! Which call begins when: by a schedule, when another has ended, or one after the other.

use std::collections::VecDeque;
use std::time::Duration;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// The DEK of that index.
    Decrypt(u32),
    /// A new DEK.
    Encrypt,
    /// `Version` of v1 or `Status` of v2.
    Greeting,
}

/// One call. Times count from the start of the load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) what: What,
    /// When it was to begin: its latency counts from here.
    pub(super) planned: Duration,
    /// Whose it is, for sources that have several callers.
    pub(super) lane: u32,
}

/// What a source says when it is asked for a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// This one is due.
    Call(Call),
    /// None before then.
    At(Duration),
    /// None before one of those under way has ended.
    Waiting,
    /// None any more.
    Over,
}

/// Says which calls are due. Each thread of the client has its own.
pub(super) trait Source: Send {
    /// The next call at `now`.
    fn next(&mut self, now: Duration) -> Next;

    /// Told when a call of `lane` has ended.
    fn ended(&mut self, lane: u32, now: Duration);

    /// Whether calls leave by schedule, whatever became of those before.
    fn is_open(&self) -> bool;

    /// What the next `count` calls will ask, where that is known: their requests can be signed before the load begins.
    fn foreseen(&mut self, _count: usize) -> Vec<What> {
        Vec::new()
    }
}

/// Chooses what the call of a number asks.
pub(super) type Pick = Box<dyn FnMut(u64) -> What + Send>;

/// Open loop: so many calls a second, evenly, for a time.
pub(super) struct Schedule {
    every: Duration,
    offset: Duration,
    until: Duration,
    count: u64,
    pick: Pick,
}

impl Schedule {
    /// `part` of `parts` threads has its part of `rate`.
    pub(super) fn new(rate: f64, until: Duration, (part, parts): (u32, u32), pick: Pick) -> Self {
        let whole = Duration::from_secs_f64(1.0 / rate);
        Self { every: whole * parts, offset: whole * part, until, count: 0, pick }
    }
}

impl Source for Schedule {
    fn next(&mut self, now: Duration) -> Next {
        // In nanoseconds, so that a long run does not drift by what a multiplication of 32 bits cannot hold.
        let after =
            Duration::from_nanos(u64::try_from(self.every.as_nanos()).unwrap_or(u64::MAX).saturating_mul(self.count));
        let planned = self.offset + after;
        if planned >= self.until {
            return Next::Over;
        }
        if planned > now {
            return Next::At(planned);
        }
        let what = (self.pick)(self.count);
        self.count += 1;
        Next::Call(Call { what, planned, lane: 0 })
    }

    fn ended(&mut self, _: u32, _: Duration) {}

    fn is_open(&self) -> bool {
        true
    }
}

/// Closed loop: so many callers, each of which asks again when it is answered, for a time.
pub(super) struct Callers {
    idle: u32,
    until: Duration,
    count: u64,
    pick: Pick,
    /// What was chosen ahead.
    chosen: VecDeque<What>,
}

impl Callers {
    pub(super) fn new(callers: u32, until: Duration, pick: Pick) -> Self {
        Self { idle: callers, until, count: 0, pick, chosen: VecDeque::new() }
    }

    fn choose(&mut self) -> What {
        self.count += 1;
        (self.pick)(self.count - 1)
    }
}

impl Source for Callers {
    fn next(&mut self, now: Duration) -> Next {
        if now >= self.until {
            return Next::Over;
        }
        if self.idle == 0 {
            return Next::Waiting;
        }
        self.idle -= 1;
        let what = self.chosen.pop_front().unwrap_or_else(|| self.choose());
        Next::Call(Call { what, planned: now, lane: 0 })
    }

    fn ended(&mut self, _: u32, _: Duration) {
        self.idle += 1;
    }

    fn foreseen(&mut self, count: usize) -> Vec<What> {
        while self.chosen.len() < count {
            let what = self.choose();
            self.chosen.push_back(what);
        }
        self.chosen.iter().copied().collect()
    }

    fn is_open(&self) -> bool {
        false
    }
}

/// Callers that each have a list to go through, one call after the other, from a given time on.
pub(super) struct Chains {
    left: Vec<VecDeque<What>>,
    /// Since when each could go on; none while its call is under way.
    ready: VecDeque<(u32, Duration)>,
    from: Duration,
    under_way: usize,
}

impl Chains {
    pub(super) fn new(chains: Vec<VecDeque<What>>, from: Duration) -> Self {
        let ready = (0..).zip(&chains).map(|(lane, _)| (lane, from)).collect();
        Self { left: chains, ready, from, under_way: 0 }
    }
}

impl Source for Chains {
    fn next(&mut self, now: Duration) -> Next {
        if now < self.from {
            return Next::At(self.from);
        }
        while let Some((lane, planned)) = self.ready.pop_front() {
            if let Some(what) = self.left[lane as usize].pop_front() {
                self.under_way += 1;
                return Next::Call(Call { what, planned, lane });
            }
        }
        if self.under_way == 0 { Next::Over } else { Next::Waiting }
    }

    fn ended(&mut self, lane: u32, now: Duration) {
        self.under_way -= 1;
        self.ready.push_back((lane, now));
    }

    fn is_open(&self) -> bool {
        false
    }
}

/// Goes through `count` DEKs in an order that is not that in which they were made.
pub(super) fn stride(first: u64, count: usize) -> impl Fn(u64) -> u32 + Send {
    // A prime that divides hardly any count.
    let count = count.max(1) as u64;
    move |number| u32::try_from((number + first).wrapping_mul(7919) % count).expect("DEKs are numbered in 32 bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_does_not_wait_for_answers_and_says_when_each_call_was_due() {
        let ms = Duration::from_millis;
        let mut schedule = Schedule::new(100.0, ms(30), (0, 1), Box::new(|_| What::Encrypt));
        let call = |planned| Next::Call(Call { what: What::Encrypt, planned, lane: 0 });
        assert_eq!(schedule.next(ms(0)), call(ms(0)));
        assert_eq!(schedule.next(ms(5)), Next::At(ms(10)));
        assert_eq!(schedule.next(ms(200)), call(ms(10)));
        assert_eq!(schedule.next(ms(200)), call(ms(20)));
        assert_eq!(schedule.next(ms(200)), Next::Over);
    }

    #[test]
    fn a_chain_asks_one_after_the_other() {
        let mut chains = Chains::new(vec![[What::Decrypt(1), What::Decrypt(2)].into()], Duration::ZERO);
        let call = |index, planned| Next::Call(Call { what: What::Decrypt(index), planned, lane: 0 });
        assert_eq!(chains.next(Duration::ZERO), call(1, Duration::ZERO));
        assert_eq!(chains.next(Duration::ZERO), Next::Waiting);
        chains.ended(0, Duration::from_millis(7));
        assert_eq!(chains.next(Duration::from_secs(1)), call(2, Duration::from_millis(7)));
        chains.ended(0, Duration::from_secs(2));
        assert_eq!(chains.next(Duration::from_secs(2)), Next::Over);
    }
}
