//! Stub: the house.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::config::Plan;

/// Why a command ended otherwise than well.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Somebody else listens there.
    #[error("{address} is taken")]
    Taken {
        /// Where.
        address: String,
    },
    /// The configuration cannot be.
    #[error("{0}")]
    Config(String),
    /// Anything later.
    #[error("{0}")]
    Runtime(String),
}

/// What `kmsproxy dev` and `kmsproxy emulator` were told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Where keys survive.
    pub state_dir: PathBuf,
    /// Where to listen.
    pub listen: SocketAddr,
    /// How slow the embedded KMS is.
    pub kms_latency: Duration,
    /// One machine-readable line when ready.
    pub json: bool,
}

/// Runs the daemon until it is told to stop.
///
/// # Errors
/// See [`Error`].
pub fn serve(_plan: Plan) -> Result<(), Error> {
    Err(Error::Runtime("not built yet".into()))
}

/// Runs the daemon in front of the embedded KMS.
///
/// # Errors
/// See [`Error`].
pub fn dev(_options: Options) -> Result<(), Error> {
    Err(Error::Runtime("not built yet".into()))
}

/// Runs the embedded KMS alone.
///
/// # Errors
/// See [`Error`].
pub fn emulator(_options: Options) -> Result<(), Error> {
    Err(Error::Runtime("not built yet".into()))
}
