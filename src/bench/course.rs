//! A load under way: what its threads have in common, and what can be seen of it from outside.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier, OnceLock};
use std::time::Duration;

use crate::clock::{Clock as _, Moment, System};

/// One load, while it lasts.
pub(super) struct Course {
    /// When all were connected.
    start: OnceLock<Moment>,
    limit: Duration,
    pub(super) barrier: Barrier,
    pub(super) good: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) wrong: AtomicBool,
    /// Nanoseconds from the start; zero while there was none.
    pub(super) last_plaintext: AtomicU64,
    pub(super) stop: AtomicBool,
    /// Threads that still drive.
    driving: AtomicU64,
    interrupted: Arc<AtomicBool>,
}

impl Course {
    pub(super) fn new(limit: Duration, threads: u32, interrupted: Arc<AtomicBool>) -> Self {
        Self {
            start: OnceLock::new(),
            limit,
            // And whoever waits for them.
            barrier: Barrier::new(threads as usize + 1),
            good: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            wrong: AtomicBool::new(false),
            last_plaintext: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            driving: AtomicU64::new(u64::from(threads)),
            interrupted,
        }
    }

    /// A thread has come to its end.
    pub(super) fn left(&self) {
        self.driving.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn elapsed(&self) -> Duration {
        let now = System.now();
        now.since(*self.start.get_or_init(|| now))
    }

    /// Whether nothing more is to be done: the time is up, somebody wishes it, or a plaintext was wrong.
    pub(super) fn is_over(&self, now: Duration) -> bool {
        let wished = self.stop.load(Ordering::Relaxed) || self.interrupted.load(Ordering::Relaxed);
        if wished || self.wrong.load(Ordering::Relaxed) {
            self.stop.store(true, Ordering::Relaxed);
            return true;
        }
        if now > self.limit {
            self.stop.store(true, Ordering::Relaxed);
            self.interrupted.store(true, Ordering::Relaxed);
        }
        now > self.limit
    }

    /// Whether all threads have come to their end.
    pub(super) fn is_done(&self) -> bool {
        self.driving.load(Ordering::Relaxed) == 0
    }

    /// Sleeps for `span`, or for as long as there is something to wait for.
    pub(super) fn rest(&self, span: Duration) {
        let until = System.now() + span;
        while !self.is_done() && System.now() < until {
            std::thread::sleep(TICK);
        }
    }

    /// Waits until `then`, or until the load is over. Returns whether it is not.
    pub(super) fn wait_until(&self, then: Duration) -> bool {
        loop {
            let now = self.elapsed();
            if self.is_over(now) {
                return false;
            }
            if now >= then {
                return true;
            }
            std::thread::sleep((then - now).min(TICK));
        }
    }
}

const TICK: Duration = Duration::from_millis(5);
