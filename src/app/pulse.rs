//! The daemon's pulse: it shows that the data path takes turns, until it is told to stop.

use std::io;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tracing::warn;

use super::BEAT;
use crate::admin::Health;
use crate::systemd::Notifier;

/// What tells the daemon to stop: SIGTERM and SIGINT. Once this is made, neither ends the process by itself, so it is
/// made before anybody is told that the daemon is ready.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Within the runtime.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }
}

/// Waits for a signal to stop; meanwhile the data path shows that it takes turns, to health and to systemd.
pub(super) async fn until_told(mut signals: Signals, health: &Health, notifier: &Notifier, watchdog: Option<Duration>) {
    let mut beats = interval(watchdog.unwrap_or(BEAT).min(BEAT));
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = signals.terminate.recv() => return,
            _ = signals.interrupt.recv() => return,
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
