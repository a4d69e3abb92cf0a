//! One clock for all hosts: simulated time, and what is made of it by a suspended machine and a hand on the wall clock.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use kmsproxy::clock::{Clock, Moment};

#[derive(Debug, Default)]
pub(crate) struct Simulated {
    /// The latest instant that any host has seen: for whoever asks between two steps of the simulation.
    latest_ns: AtomicU64,
    slept_ms: AtomicU64,
    stepped_ms: AtomicI64,
}

impl Simulated {
    /// Boot time goes on, and no timer with it.
    pub(crate) fn sleep(&self, span: Duration) {
        self.slept_ms.fetch_add(u64::try_from(span.as_millis()).unwrap(), Ordering::Relaxed);
    }

    pub(crate) fn step_wall(&self, by: SignedDuration) {
        self.stepped_ms.fetch_add(i64::try_from(by.as_millis()).unwrap(), Ordering::Relaxed);
    }

    pub(crate) fn ns(&self) -> u64 {
        u64::try_from(self.now().since(Moment::BOOT).as_nanos()).unwrap()
    }

    fn elapsed(&self) -> Duration {
        if let Some(elapsed) = turmoil::sim_elapsed() {
            self.latest_ns.fetch_max(u64::try_from(elapsed.as_nanos()).unwrap(), Ordering::Relaxed);
            return elapsed;
        }
        Duration::from_nanos(self.latest_ns.load(Ordering::Relaxed))
    }

    fn since_start(&self) -> Duration {
        self.elapsed() + Duration::from_millis(self.slept_ms.load(Ordering::Relaxed))
    }
}

impl Clock for Simulated {
    fn now(&self) -> Moment {
        Moment::BOOT + UPTIME + self.since_start()
    }

    fn wall(&self) -> Timestamp {
        let stepped = SignedDuration::from_millis(self.stepped_ms.load(Ordering::Relaxed));
        START + stepped + SignedDuration::try_from(self.since_start()).unwrap()
    }
}

const UPTIME: Duration = Duration::from_secs(3600);
const START: Timestamp = Timestamp::constant(1_767_323_045, 0);
