//! The daemon's pulse, and what it is told.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::Receiver;
use tokio::time::{Interval, MissedTickBehavior, interval};

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

/// What the daemon is told.
enum Word {
    /// To stop.
    End,
    /// To reload; whoever ordered it wants to know what came of it.
    Reload(Option<Order>),
    /// To look at files that change without a word.
    Look,
}

impl Signals {
    async fn next(&mut self, looks: &mut Interval) -> Word {
        tokio::select! {
            () = Self::end(&mut self.terminate, &mut self.interrupt) => Word::End,
            _ = self.hangup.recv() => Word::Reload(None),
            Some(order) = self.orders.recv() => Word::Reload(Some(order)),
            _ = looks.tick() => Word::Look,
        }
    }

    async fn end(terminate: &mut Signal, interrupt: &mut Signal) {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    }
}

/// Waits for a signal to stop, and reloads when told to. Who is told to stop while files are read does not wait for them.
pub(super) async fn until_told(mut signals: Signals, house: &mut Living) {
    let mut looks = interval(LOOKS);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let word = signals.next(&mut looks).await;
        let carried_out = async {
            match word {
                Word::End => return false,
                Word::Reload(None) => drop(house.reload().await),
                Word::Reload(Some(order)) => order.answer(house.reload().await),
                Word::Look => house.renew().await,
            }
            true
        };
        let told = Signals::end(&mut signals.terminate, &mut signals.interrupt);
        let goes_on = tokio::select! {
            goes_on = carried_out => goes_on,
            () = told => false,
        };
        if !goes_on {
            return;
        }
    }
}

/// Shows that the data path takes turns, to health and to systemd: each beat is one, for a worker has to pick it up. To be
/// spawned there, and apart from whatever else the daemon is about: reading files that do not come is not being stuck.
pub(super) async fn beat(health: Arc<Health>, notifier: Arc<Notifier>, watchdog: Option<Duration>) {
    let mut beats = interval(watchdog.unwrap_or(BEAT).min(BEAT));
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        beats.tick().await;
        health.beat();
        if watchdog.is_some() {
            notify(&notifier, "watchdog", Notifier::watchdog);
        }
    }
}

/// Between two looks at files that change without a word.
const LOOKS: Duration = Duration::from_secs(5);
