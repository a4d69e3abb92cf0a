//! Stub: settings of listeners.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::tls;

/// Which dialect a listener speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FaceName {
    /// Alibaba Cloud KMS OpenAPI.
    Aliyun,
}

/// One `[[listener]]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Name.
    pub name: String,
    /// Dialect.
    pub face: FaceName,
    /// Where.
    pub address: String,
    /// TLS.
    #[serde(default)]
    pub tls: Option<tls::Config>,
    /// Upstream.
    pub upstream: String,
    /// Host allow-list.
    #[serde(default)]
    pub hosts: Vec<String>,
    /// Plain TCP on loopback.
    #[serde(default)]
    pub insecure: bool,
    /// Mode of a unix socket.
    #[serde(default)]
    pub mode: Option<String>,
    /// Connections.
    #[serde(default = "thousand")]
    pub max_connections: usize,
    /// Requests.
    #[serde(default = "thousand")]
    pub max_in_flight: usize,
    /// Budget of one request.
    #[serde(default = "timeout", with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub timeout: Duration,
}

fn thousand() -> usize {
    1024
}

fn timeout() -> Duration {
    Duration::from_millis(2500)
}
