//! How much this process logs, and how that is changed while it runs. There is one log to a process, so this is one, too.

use std::sync::{Mutex, OnceLock, PoisonError};

use tracing::info;
use tracing_subscriber::EnvFilter;

type Put = Box<dyn Fn(EnvFilter) -> Result<(), String> + Send + Sync>;

struct Verbosity {
    level: Mutex<String>,
    put: Put,
}

static VERBOSITY: OnceLock<Verbosity> = OnceLock::new();

/// Why it is as it was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unchanged {
    /// Nobody has said how it is changed.
    #[error("the log of this process cannot be changed")]
    Fixed,
    /// It is no level and no filter.
    #[error("{0}")]
    NoLevel(String),
}

/// Says that the process logs at `level`, and that `put` changes it. Counts once.
pub fn begin(level: &str, put: impl Fn(EnvFilter) -> Result<(), String> + Send + Sync + 'static) {
    // Whoever came first has the log.
    let _ = VERBOSITY.set(Verbosity { level: Mutex::new(level.to_owned()), put: Box::new(put) });
}

/// What is logged now; none where that cannot be told.
#[must_use]
pub fn level() -> Option<String> {
    VERBOSITY.get().map(|verbosity| verbosity.level.lock().unwrap_or_else(PoisonError::into_inner).clone())
}

/// Logs at `level` from now on: a level for all, or for modules (`info,kmsproxy::watch=debug`). Returns what it was.
///
/// # Errors
/// [`Unchanged`] says why it is as it was.
pub fn change(level: &str) -> Result<String, Unchanged> {
    let verbosity = VERBOSITY.get().ok_or(Unchanged::Fixed)?;
    let filter = EnvFilter::try_new(level).map_err(|error| Unchanged::NoLevel(error.to_string()))?;
    let mut current = verbosity.level.lock().unwrap_or_else(PoisonError::into_inner);
    (verbosity.put)(filter).map_err(|_| Unchanged::Fixed)?;
    let was = std::mem::replace(&mut *current, level.to_owned());
    drop(current);
    info!(was, now = level, "the log level is changed");
    Ok(was)
}
