//! How the KMS behaves: slow, faulty, short of quota, silent.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::chance;
use crate::clock::Moment;

/// What is wrong with the KMS; the default is nothing. Replaced whole, and in force for the next decision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Behaviour {
    /// How long an answer takes: half of it before the KMS decides, half after, as on a real line. So a refusal can
    /// overtake an answer that was given before it.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub latency: Duration,
    /// At most this much more, evenly spread.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub jitter: Duration,
    /// The share of calls that fail with `InternalFailure`.
    pub error_rate: Rate,
    /// Calls in each second before the rest are throttled; 0 throttles all; `null` is no limit.
    pub quota: Option<u32>,
    /// Whether no call is answered until this changes or its deadline passes.
    pub stall: bool,
}

impl Behaviour {
    /// Half of one call's latency, drawn anew each time.
    pub(super) fn half_way(&self) -> Duration {
        self.latency.saturating_add(self.jitter.mul_f64(chance::share())) / 2
    }
}

/// A share from 0 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Rate(f64);

impl Rate {
    /// Draws: true in this share of draws; never for 0, always for 1.
    pub(super) fn hits(self) -> bool {
        chance::share() < self.0
    }
}

impl TryFrom<f64> for Rate {
    type Error = NotARate;

    fn try_from(share: f64) -> Result<Self, NotARate> {
        if (0.0..=1.0).contains(&share) { Ok(Self(share)) } else { Err(NotARate) }
    }
}

impl From<Rate> for f64 {
    fn from(rate: Rate) -> Self {
        rate.0
    }
}

/// A number that is no share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotARate;

impl fmt::Display for NotARate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a rate is a number from 0 to 1")
    }
}

impl std::error::Error for NotARate {}

/// Counts calls in windows of a second, each of which begins with its first call. Around the border of two windows
/// twice the quota may pass within one second.
#[derive(Debug)]
pub(super) struct Quota(Mutex<(Moment, u32)>);

impl Default for Quota {
    fn default() -> Self {
        Self(Mutex::new((Moment::BOOT, 0)))
    }
}

impl Quota {
    /// Whether one more call is within `limit` at `now`.
    pub(super) fn admits(&self, limit: u32, now: Moment) -> bool {
        let mut window = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if now.since(window.0) >= WINDOW {
            *window = (now, 0);
        }
        window.1 = window.1.saturating_add(1);
        window.1 <= limit
    }
}

const WINDOW: Duration = Duration::from_secs(1);
