//! When something was recorded, on both clocks.

use jiff::Timestamp;
use serde::Serialize;

use crate::clock::{Clock, Moment};

/// The wall clock, for people, and the boot clock, which nobody can set.
#[derive(Serialize)]
pub(super) struct Stamp {
    /// RFC 3339 in UTC, with microseconds.
    time: String,
    /// Microseconds since the machine's boot.
    boot_us: u64,
}

/// Both clocks, read in one breath: what the boot clock said then is told by the wall clock of now.
#[derive(Clone, Copy)]
pub(super) struct Clocks {
    pub(super) now: Moment,
    wall: Timestamp,
}

impl Clocks {
    pub(super) fn read(clock: &dyn Clock) -> Self {
        Self { now: clock.now(), wall: clock.wall() }
    }

    pub(super) fn stamp(&self, at: Moment) -> Stamp {
        let wall = self.wall.saturating_sub(self.now.since(at)).unwrap_or(Timestamp::MIN);
        Stamp { time: format!("{wall:.6}"), boot_us: micros(at) }
    }
}

pub(super) fn micros(at: Moment) -> u64 {
    u64::try_from(at.since(Moment::BOOT).as_micros()).unwrap_or(u64::MAX)
}
