//! Stub: settings of the cache.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// `[cache]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Entries.
    pub capacity: u64,
    /// Age.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub max_age: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self { capacity: 100_000, max_age: Duration::from_secs(24 * 3600) }
    }
}
