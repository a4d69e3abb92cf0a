//! Stub: settings of leases.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The `lease` table of an upstream.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Terms {
    /// How long one success lasts.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub duration: Duration,
    /// How often keys are probed.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub probe: Duration,
    /// How much longer in an outage.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub outage_grace: Duration,
}

impl Default for Terms {
    fn default() -> Self {
        Self { duration: Duration::from_secs(30), probe: Duration::from_secs(10), outage_grace: Duration::ZERO }
    }
}
