//! What whoever is not obeyed is told.

use http::StatusCode;
use serde::{Deserialize, Serialize};

/// Why a command is not obeyed, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Refusal {
    #[serde(skip)]
    pub(super) status: StatusCode,
    /// Why not.
    pub error: String,
    /// What to do.
    pub remedy: String,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, error: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { status, error: error.into(), remedy: remedy.into() }
    }
}

/// For a caller that is not in the configuration.
pub(super) fn unknown_caller() -> Refusal {
    let remedy = "`kmsproxy check --print` shows the configuration with its [[caller]]s";
    Refusal::new(StatusCode::NOT_FOUND, "there is no caller of that name", remedy)
}

/// For a listener that is not in the configuration.
pub(super) fn unknown_listener() -> Refusal {
    let remedy = "`kmsproxy status` shows those that there are";
    Refusal::new(StatusCode::NOT_FOUND, "there is no listener of that name", remedy)
}

/// For a key that nobody has used here.
pub(super) fn unknown_key(key: &str) -> Refusal {
    let remedy = "`kmsproxy keys` lists those that are; an alias is known once it has been used here";
    // What was taken for a key may be anything, so it is told in short and without what a terminal would obey.
    let shown: String = key.chars().take(64).flat_map(char::escape_debug).collect();
    Refusal::new(StatusCode::NOT_FOUND, format!("no key {shown} is known here"), remedy)
}
