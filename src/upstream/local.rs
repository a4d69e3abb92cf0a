//! Stub: settings of the embedded KMS.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// `kind = "local"`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where keys are kept.
    pub state_dir: PathBuf,
    /// Latency.
    #[serde(default, with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub latency: Duration,
}
