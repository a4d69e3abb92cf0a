//! Stub: settings of TLS.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A listener's certificate.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// PEM chain.
    pub certificate_file: PathBuf,
    /// PEM key.
    pub key_file: PathBuf,
    /// PEM roots that client certificates must chain to.
    #[serde(default)]
    pub client_ca_file: Option<PathBuf>,
}
