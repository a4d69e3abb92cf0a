//! Stub: settings of metrics.

use serde::{Deserialize, Serialize};

/// `[metrics]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where.
    pub address: Option<String>,
}
