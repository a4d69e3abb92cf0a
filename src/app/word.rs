//! A word to systemd.

use std::io;

use tracing::warn;

use crate::systemd::Notifier;

/// Tells systemd; that it could not be told is no reason to stop.
pub(super) fn notify(notifier: &Notifier, what: &'static str, tell: impl FnOnce(&Notifier) -> io::Result<()>) {
    if let Err(error) = tell(notifier) {
        warn!(%error, what, "systemd could not be told");
    }
}
