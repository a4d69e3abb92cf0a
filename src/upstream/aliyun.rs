//! Stub: settings of Alibaba Cloud KMS.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::upstream::credentials;

/// `kind = "aliyun"`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where.
    pub endpoint: String,
    /// Region.
    #[serde(default)]
    pub region: Option<String>,
    /// Extra roots.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// Plain HTTP.
    #[serde(default)]
    pub insecure: bool,
    /// Credentials.
    pub credentials: credentials::Config,
    /// Budget of one call.
    #[serde(default = "timeout", with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub timeout: Duration,
    /// Calls.
    #[serde(default = "in_flight")]
    pub max_in_flight: usize,
    /// Retries.
    #[serde(default = "retries")]
    pub retries: u32,
}

fn timeout() -> Duration {
    Duration::from_secs(2)
}

fn in_flight() -> usize {
    64
}

fn retries() -> u32 {
    2
}
