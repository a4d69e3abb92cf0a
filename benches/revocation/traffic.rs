//! Every DEK asked for, all the time.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::time::{MissedTickBehavior, interval_at, sleep_until};

use crate::dek::{Dek, Line, Seen};
use crate::scene::Scene;

/// When the DEK of each trial is first asked for after `begun`: spread over a probe interval, so that later no two keys
/// are at the same point between two probes.
pub(crate) fn first_asked(begun: Instant, trial: usize) -> Instant {
    begun + PACE * u32::try_from(trial).unwrap()
}

/// Asks for the DEK of each trial from its turn on, until `stop`, and tells all that came. Each has a connection of its own:
/// on a shared one, an answer that the KMS holds up would hold up the questions of other trials behind it.
pub(crate) fn run(scene: &Scene, begun: Instant, stop: &AtomicBool) -> Vec<Vec<Seen>> {
    let socket = scene.socket();
    let callers = scene.deks.iter().enumerate();
    let callers = callers.map(|(trial, dek)| caller(&socket, dek, first_asked(begun, trial), stop));
    scene.runtime.block_on(join_all(callers))
}

async fn caller(socket: &Path, dek: &Dek, from: Instant, stop: &AtomicBool) -> Vec<Seen> {
    // Not before: a connection on which nothing is asked for long is closed.
    sleep_until(from.into()).await;
    let mut line = Line::open(socket).await;
    let mut ticks = interval_at(from.into(), PACE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut seen = Vec::new();
    while !stop.load(Ordering::Relaxed) && from.elapsed() < SPAN_MAX {
        ticks.tick().await;
        seen.push(dek.decrypt(&mut line).await);
    }
    seen
}

/// From one question to the next for the same DEK.
pub(crate) const PACE: Duration = Duration::from_millis(50);
/// Should nobody say stop.
const SPAN_MAX: Duration = Duration::from_secs(80);
