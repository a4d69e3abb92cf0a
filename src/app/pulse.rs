//! The daemon's pulse: it shows that the data path takes turns, until it is told to stop.

use std::io;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tracing::warn;

use super::BEAT;
use crate::admin::Health;
use crate::systemd::Notifier;

/// Waits for a signal to stop; meanwhile the data path shows that it takes turns, to health and to systemd.
pub(super) async fn until_told(health: &Health, notifier: &Notifier, watchdog: Option<Duration>) -> io::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut beats = interval(watchdog.unwrap_or(BEAT).min(BEAT));
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            _ = beats.tick() => {
                // A turn of the pool, not only of this task: a worker must pick it up.
                let turn = tokio::spawn(tokio::task::yield_now());
                if timeout(BEAT, turn).await.is_ok() {
                    health.beat();
                    if watchdog.is_some() {
                        notify(notifier, "watchdog", Notifier::watchdog);
                    }
                }
            }
        }
    }
}

/// Tells systemd; that it could not be told is no reason to stop.
pub(super) fn notify(notifier: &Notifier, what: &'static str, tell: impl FnOnce(&Notifier) -> io::Result<()>) {
    if let Err(error) = tell(notifier) {
        warn!(%error, what, "systemd could not be told");
    }
}
