//! What happens without any request: probes renew or end leases, old entries are asked about again, what has expired
//! is dropped, and jumps of the clock or of our identity close the door.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::select;
use tokio::sync::Semaphore;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use crate::cache::Cache;
use crate::clock::Moment;
use crate::engine::Engine;
use crate::ledger::word;
use crate::metrics;

/// The upkeep of one upstream.
#[derive(Debug)]
pub struct Watch {
    engine: Arc<Engine>,
    tasks: TaskTracker,
    probing: Arc<Semaphore>,
    identity: Mutex<Arc<str>>,
}

impl Watch {
    /// Watches `engine`; probes run in `tasks`.
    #[must_use]
    pub fn new(engine: Arc<Engine>, tasks: TaskTracker) -> Self {
        let identity = Mutex::new(engine.identity());
        Self { engine, tasks, probing: Arc::new(Semaphore::new(PROBES_AT_ONCE)), identity }
    }

    /// Takes turns until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let mut ticks = interval(TURN);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let refresher = self.tasks.spawn(refresh(Arc::clone(&self.engine), stop.clone()));
        loop {
            select! {
                () = stop.cancelled() => break,
                () = self.engine.ledger().hurried() => {}
                _ = ticks.tick() => {}
            }
            self.turn(self.engine.clock().now());
        }
        refresher.abort();
    }

    /// One turn: checks the clocks and our identity, and launches the probes that are due at `now`.
    pub fn turn(&self, now: Moment) {
        self.engine.check_drift(now);
        self.check_identity();
        for (scope, sample) in self.engine.ledger().due(now) {
            let (engine, probing) = (Arc::clone(&self.engine), Arc::clone(&self.probing));
            self.tasks.spawn(async move {
                let Ok(_place) = probing.acquire().await else { return };
                let outcome = engine.probe(&scope, sample).await;
                let label = outcome.as_ref().err().map_or("ok", |fault| fault.kind().label());
                ::metrics::counter!(metrics::PROBES, "upstream" => engine.ledger().upstream().to_owned(), "outcome" => label)
                    .increment(1);
                match outcome {
                    Ok(()) => debug!(key = %scope.key(), "probe: the KMS consents"),
                    Err(fault) => warn!(key = %scope.key(), %fault, "probe failed"),
                }
            });
        }
        self.publish(now);
    }

    fn check_identity(&self) {
        let current = self.engine.identity();
        let mut known = self.identity.lock().unwrap_or_else(PoisonError::into_inner);
        if **known == *current {
            return;
        }
        let had_one = !known.is_empty();
        *known = current;
        drop(known);
        if had_one {
            self.engine.ledger().suspend_all("our identity at the KMS has changed");
        }
    }

    fn publish(&self, now: Moment) {
        let upstream = self.engine.ledger().upstream();
        for report in self.engine.ledger().report(now).into_iter().take(metrics::KEYS_MAX) {
            let standing = word(&report.standing);
            for state in STATES {
                metrics::lease(upstream, report.key.as_str(), state).set(if state == standing { 1.0 } else { 0.0 });
            }
        }
    }
}

/// Drops what has expired from `cache`, once a second, until `stop`.
pub async fn sweep(cache: Arc<Cache>, stop: CancellationToken) {
    let mut ticks = interval(SWEEP);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let entries = ::metrics::gauge!(metrics::ENTRIES);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        cache.sweep();
        // Exact up to 2^53 entries.
        #[allow(clippy::cast_precision_loss)]
        entries.set(cache.len() as f64);
    }
}

async fn refresh(engine: Arc<Engine>, stop: CancellationToken) {
    let mut ticks = interval(REFRESH);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        engine.refresh(REFRESHES_AT_ONCE).await;
    }
}

const TURN: Duration = Duration::from_millis(200);
const SWEEP: Duration = Duration::from_secs(1);
const REFRESH: Duration = Duration::from_secs(5);
const PROBES_AT_ONCE: usize = 16;
/// One after the other, so that refreshing never takes more than one place in the upstream's quota.
const REFRESHES_AT_ONCE: usize = 64;
const STATES: [&str; 6] = ["lapsed", "refused", "serving", "serving_by_grace", "suspended", "unknown"];
