//! A load: some threads, one start, what all of them see, and an end that comes in any case.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier, OnceLock};
use std::time::Duration;

use super::deks::Deks;
use super::driver::{self, Drive};
use super::endpoint::Endpoint;
use super::measured::Measured;
use super::processors::Processors;
use super::source::Source;
use super::speech::Terms;
use crate::clock::{Clock as _, Moment, System};

/// What the threads of a load have in common, and what can be seen of it from outside while it lasts.
pub(super) struct Shared {
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

impl Shared {
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

/// How a load is made.
#[derive(Clone)]
pub(super) struct Load<'a> {
    pub(super) terms: &'a Terms,
    pub(super) endpoint: &'a Arc<Endpoint>,
    pub(super) deks: &'a Deks,
    pub(super) connections: usize,
    pub(super) threads: u32,
    pub(super) patience: Duration,
    /// How long it is expected to last.
    pub(super) expected: Duration,
    /// When it ends in any case.
    pub(super) limit: Duration,
    pub(super) processors: &'a Processors,
    pub(super) interrupted: Arc<AtomicBool>,
}

impl Load<'_> {
    /// Goes through the source of each thread; `source` makes one for a part of so many. `meanwhile` runs beside.
    ///
    /// # Errors
    /// Where nobody listens.
    pub(super) fn run<R>(
        &self,
        source: &(dyn Fn((u32, u32)) -> Box<dyn Source> + Sync),
        meanwhile: impl FnOnce(&Shared) -> R,
    ) -> io::Result<(Measured, R)> {
        let threads = self.threads.clamp(1, u32::try_from(self.connections).unwrap_or(u32::MAX).max(1));
        let parties = threads as usize + 1;
        let shared = Shared {
            start: OnceLock::new(),
            limit: self.limit,
            barrier: Barrier::new(parties),
            good: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            wrong: AtomicBool::new(false),
            last_plaintext: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            driving: AtomicU64::new(u64::from(threads)),
            interrupted: Arc::clone(&self.interrupted),
        };
        let span = (self.expected / WINDOWS).max(WINDOW_MIN);
        std::thread::scope(|scope| {
            let running: Vec<_> = (0..threads)
                .map(|part| {
                    let (source, shared) = (source((part, threads)), &shared);
                    let connections = self.connections / threads as usize
                        + usize::from((part as usize) < self.connections % threads as usize);
                    scope.spawn(move || {
                        self.processors.for_client();
                        let spins = self.processors.are_parted();
                        let Load { terms, endpoint, deks, patience, .. } = *self;
                        let drive = Drive { terms, endpoint, deks, connections, patience, span, spins, shared };
                        let measured = driver::drive(&drive, source);
                        shared.driving.fetch_sub(1, Ordering::Relaxed);
                        measured
                    })
                })
                .collect();
            shared.barrier.wait();
            let seen = meanwhile(&shared);
            let mut whole = Measured::new(span);
            for thread in running {
                whole.add(&thread.join().expect("a driver does not panic")?);
            }
            Ok((whole, seen))
        })
    }
}

const TICK: Duration = Duration::from_millis(5);
/// Moments in which a load is cut for its plots.
const WINDOWS: u32 = 60;
const WINDOW_MIN: Duration = Duration::from_millis(20);
