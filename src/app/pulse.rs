//! The daemon's pulse: it shows that the data path takes turns, until it is told to stop.

use std::io;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::Receiver;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::BEAT;
use super::reload::Living;
use super::word::notify;
use crate::admin::{Health, Order};
use crate::systemd::Notifier;

/// What tells the daemon to stop (SIGTERM, SIGINT) or to reload (SIGHUP, and orders). Once this is made, no signal ends the
/// process by itself, so it is made before anybody is told that the daemon is ready.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    orders: Receiver<Order>,
}

impl Signals {
    /// Within the runtime.
    pub(super) fn new(orders: Receiver<Order>) -> io::Result<Self> {
        let [terminate, interrupt, hangup] =
            [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()].map(signal);
        Ok(Self { terminate: terminate?, interrupt: interrupt?, hangup: hangup?, orders })
    }
}

/// Waits for a signal to stop, and reloads when told to; meanwhile the data path shows that it takes turns, to health and to systemd.
pub(super) async fn until_told(
    mut signals: Signals,
    house: &mut Living<'_>,
    health: &Health,
    watchdog: Option<Duration>,
) {
    let mut looks = interval(LOOKS);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut beats = interval(watchdog.unwrap_or(BEAT).min(BEAT));
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = signals.terminate.recv() => return,
            _ = signals.interrupt.recv() => return,
            _ = signals.hangup.recv() => drop(house.reload()),
            Some(order) = signals.orders.recv() => order.answer(house.reload()),
            _ = looks.tick() => house.renew(),
            _ = beats.tick() => {
                // A turn of the pool, not only of this task: a worker must pick it up.
                let turn = tokio::spawn(tokio::task::yield_now());
                if timeout(BEAT, turn).await.is_ok() {
                    health.beat();
                    if watchdog.is_some() {
                        notify(&house.notifier, "watchdog", Notifier::watchdog);
                    }
                }
            }
        }
    }
}

/// Between two looks at files that change without a word.
const LOOKS: Duration = Duration::from_secs(5);
