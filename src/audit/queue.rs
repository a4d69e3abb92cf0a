//! The bounded queue between those who answer and the one who writes.

use std::mem;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::batch::Batch;
use super::chain::Keys;
use super::record::Record;
use crate::clock::Moment;

/// A list under a lock that is held for one push or one swap. Whoever pushes wakes the writer only where it sleeps, and a
/// busy writer does not sleep but looks again a few milliseconds later: a hit pays for a push, and not for a system call.
#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
    capacity: usize,
}

#[derive(Debug, Default)]
struct State {
    batch: Batch,
    dropped: u64,
    asleep: bool,
    closing: bool,
    ended: bool,
}

/// There is no room, or nobody writes any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full;

impl Queue {
    pub(super) fn new(capacity: usize) -> Self {
        Self { state: Mutex::default(), changed: Condvar::new(), capacity }
    }

    pub(super) fn push(&self, at: Moment, record: &Record<'_>, keys: &Keys) -> Result<(), Full> {
        let digest = Batch::digest(record, keys);
        let mut state = self.lock();
        if state.batch.len() >= self.capacity || state.closing || state.ended {
            return Err(Full);
        }
        state.batch.add(at, record, digest);
        if mem::take(&mut state.asleep) {
            drop(state);
            self.changed.notify_all();
        }
        Ok(())
    }

    /// Notes that a record was lost.
    pub(super) fn lose(&self) {
        self.lock().dropped += 1;
    }

    /// Moves all there is into `batch`, which must be empty; where there is nothing, waits for the first, at most `span`.
    /// How many were lost since it was last called.
    pub(super) fn take(&self, batch: &mut Batch, span: Duration) -> u64 {
        let mut state = self.lock();
        if state.batch.is_empty() && !state.closing && !span.is_zero() {
            state.asleep = true;
            let idle = |state: &mut State| state.asleep && !state.closing;
            let waited = self.changed.wait_timeout_while(state, span, idle);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            state.asleep = false;
        }
        mem::swap(&mut state.batch, batch);
        mem::take(&mut state.dropped)
    }

    /// Whether there will be no more.
    pub(super) fn is_closing(&self) -> bool {
        self.lock().closing
    }

    pub(super) fn len(&self) -> usize {
        self.lock().batch.len()
    }

    /// Takes no more, and waits until the writer has ended, at most `span`. Whether it has.
    pub(super) fn close(&self, span: Duration) -> bool {
        let mut state = self.lock();
        state.closing = true;
        self.changed.notify_all();
        let waited = self.changed.wait_timeout_while(state, span, |state| !state.ended);
        waited.unwrap_or_else(PoisonError::into_inner).0.ended
    }

    /// Nobody writes any more.
    pub(super) fn end(&self) {
        self.lock().ended = true;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
