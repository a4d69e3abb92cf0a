//! The waiting: every call to an upstream goes through this one gate, and those who may not yet sleep before it.

use std::fmt::{self, Debug};
use std::future::poll_fn;
use std::hash::Hash;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

use tokio::time::{Sleep, sleep};

use super::queue::{Look, Queue, Said, Turned};
use super::{Limits, Priority, Tally};
use crate::clock::{Clock, Deadline};

/// The gate of one upstream.
///
/// Nothing runs for it in the background. Whoever comes, ends a call or wakes up lets in all who may go; and where only time
/// can let the next one in, one of those who wait, the *keeper*, sleeps until then for all.
pub(super) struct Gate<L> {
    clock: Arc<dyn Clock>,
    queue: Mutex<Queue<L>>,
}

impl<L: Clone + Eq + Hash> Gate<L> {
    pub(super) fn new(limits: Limits, clock: Arc<dyn Clock>) -> Self {
        let queue = Queue::new(limits, clock.now());
        Self { clock, queue: Mutex::new(queue) }
    }

    /// Comes to ask: at once, if nobody and nothing stands before; else to wait.
    ///
    /// # Errors
    /// [`Turned`] where that cannot end before `deadline`, or too many wait.
    pub(super) fn enter<'a>(&'a self, who: &'a Priority<L>, deadline: Deadline) -> Result<Ticket<'a, L>, Turned> {
        let now = self.clock.now();
        let number = self.locked(|queue, wakes| queue.enter(who, deadline, now, wakes))?;
        Ok(Ticket { gate: self, who, number })
    }

    pub(super) fn pause(&self) -> Duration {
        let now = self.clock.now();
        self.lock().pause(now)
    }

    /// What wakes up may want the lock at once, and so may what is dropped with a waker: both come after it.
    fn locked<R>(&self, act: impl FnOnce(&mut Queue<L>, &mut Vec<Waker>) -> R) -> R {
        let mut wakes = Vec::new();
        let done = act(&mut self.lock(), &mut wakes);
        wakes.into_iter().for_each(Waker::wake);
        done
    }
}

impl<L> Gate<L> {
    pub(super) fn tally(&self) -> Tally {
        self.lock().tally()
    }

    fn lock(&self) -> MutexGuard<'_, Queue<L>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<L> Debug for Gate<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Gate({} waiting)", self.tally().waiting.iter().sum::<usize>())
    }
}

/// Somebody who waits, or is in flight. Dropped, it leaves no trace but in the pace.
#[derive(Debug)]
pub(super) struct Ticket<'a, L: Clone + Eq + Hash> {
    gate: &'a Gate<L>,
    who: &'a Priority<L>,
    number: u64,
}

impl<L: Clone + Eq + Hash> Ticket<'_, L> {
    /// Waits to be let in.
    ///
    /// # Errors
    /// [`Turned`] where meanwhile that has become impossible in time, or the seat went to another lane.
    pub(super) async fn called(&self) -> Result<(), Turned> {
        let mut alarm = pin!(None::<Sleep>);
        poll_fn(|context| {
            loop {
                let now = self.gate.clock.now();
                let mut old = None;
                let look = self.gate.locked(|queue, wakes| queue.look(self.number, now, context, &mut old, wakes));
                match look {
                    Look::Called => return Poll::Ready(Ok(())),
                    Look::Turned(turned) => return Poll::Ready(Err(turned)),
                    Look::Wait => return Poll::Pending,
                    Look::Keep(until) => alarm.set(Some(sleep(until.since(now)))),
                }
                if alarm.as_mut().as_pin_mut().is_none_or(|alarm| alarm.poll(context).is_pending()) {
                    return Poll::Pending;
                }
            }
        })
        .await
    }

    /// Why it was not called before its deadline.
    pub(super) fn late(&self) -> Turned {
        let now = self.gate.clock.now();
        self.gate.locked(|queue, _| queue.why(self.who, now))
    }

    /// The call has ended with what the upstream said.
    pub(super) fn heard(self, said: Said) {
        let now = self.gate.clock.now();
        self.gate.locked(|queue, wakes| queue.heard(self.number, said, now, wakes));
    }
}

impl<L: Clone + Eq + Hash> Drop for Ticket<'_, L> {
    fn drop(&mut self) {
        let now = self.gate.clock.now();
        let _old = self.gate.locked(|queue, wakes| queue.leave(self.who, self.number, now, wakes));
    }
}
