//! What happens without any request: probes renew or end leases, old entries are asked about again, what has expired
//! is dropped, and jumps of the clock or of our identity close the door.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::select;
use tokio::sync::Semaphore;
use tokio::task::yield_now;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use crate::cache::Cache;
use crate::clock::{Clock, Moment};
use crate::engine::Engine;
use crate::fault::Fault;
use crate::metrics;

mod published;

use published::Published;
pub use published::rank;

/// The upkeep of one upstream.
#[derive(Debug)]
pub struct Watch {
    engine: Arc<Engine>,
    tasks: TaskTracker,
    probing: Arc<Semaphore>,
    identity: Mutex<(u64, Arc<str>)>,
    published: Mutex<Published>,
}

impl Watch {
    /// Watches `engine`; probes run in `tasks`.
    #[must_use]
    pub fn new(engine: Arc<Engine>, tasks: TaskTracker) -> Self {
        let identity = Mutex::new((engine.exchanges(), engine.identity()));
        Self { engine, tasks, probing: Arc::new(Semaphore::new(PROBES_AT_ONCE)), identity, published: Mutex::default() }
    }

    /// Takes turns until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let mut ticks = interval(TURN);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut wipes = self.engine.ledger().wipes();
        let refresher = self.tasks.spawn(refresh(Arc::clone(&self.engine), stop.clone()));
        loop {
            select! {
                biased;
                () = stop.cancelled() => break,
                () = self.engine.ledger().hurried() => {}
                // The ledger outlives us: this ends with a change only.
                Ok(()) = wipes.changed() => self.engine.recycle(),
                _ = ticks.tick() => {}
            }
            self.turn(self.engine.clock().now());
        }
        refresher.abort();
        self.withdraw();
    }

    /// Nobody looks after these keys any more: no lease of theirs stands in the metrics.
    fn withdraw(&self) {
        self.published.lock().unwrap_or_else(PoisonError::into_inner).withdraw(self.engine.ledger().upstream());
    }

    /// One turn: checks the clocks and our identity, and launches the probes that are due at `now`.
    pub fn turn(&self, now: Moment) {
        self.engine.check_drift(now);
        self.check_identity();
        for probe in self.engine.ledger().due(now) {
            let (engine, probing) = (Arc::clone(&self.engine), Arc::clone(&self.probing));
            self.tasks.spawn(async move {
                let Ok(_place) = probing.acquire().await else { return };
                note(engine.ledger().upstream(), probe.scope().key().as_str(), engine.probe(&probe).await);
            });
        }
        for turn in self.engine.turns_due(now) {
            let (upstream, probing) = (self.engine.ledger().upstream().to_owned(), Arc::clone(&self.probing));
            self.tasks.spawn(async move {
                let Ok(_place) = probing.acquire().await else { return };
                let key = turn.name().as_str().to_owned();
                note(&upstream, &key, turn.take().await);
            });
        }
        self.tidy(now);
    }

    fn check_identity(&self) {
        let current = (self.engine.exchanges(), self.engine.identity());
        let mut known = self.identity.lock().unwrap_or_else(PoisonError::into_inner);
        if *known == current {
            return;
        }
        // Where another upstream has taken the place of the one before, everything has ended already.
        let had_one = !known.1.is_empty() && known.0 == current.0;
        *known = current;
        drop(known);
        if had_one {
            self.engine.ledger().forget_all("our identity at the KMS has changed");
        }
    }

    /// What is done once a second.
    fn tidy(&self, now: Moment) {
        let mut published = self.published.lock().unwrap_or_else(PoisonError::into_inner);
        if published.is_older_than(TIDY, now) {
            self.engine.ledger().reap();
            published.renew(self.engine.ledger(), now);
        }
    }
}

fn note(upstream: &str, key: &str, outcome: Result<(), Fault>) {
    let label = outcome.as_ref().err().map_or(metrics::OK, |fault| fault.kind().label());
    ::metrics::counter!(metrics::PROBES, "upstream" => upstream.to_owned(), "outcome" => label).increment(1);
    match outcome {
        Ok(()) => debug!(key, "probe: the KMS consents"),
        Err(fault) => warn!(key, %fault, "probe failed"),
    }
}

/// Drops what has expired from `cache`, until `stop`: every second it has looked at 65,536 entries, so that of a million it has
/// seen all after sixteen seconds, in steps between which others have the thread.
pub async fn sweep(cache: Arc<Cache>, clock: Arc<dyn Clock>, stop: CancellationToken) {
    let mut ticks = interval(SWEEP);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let entries = ::metrics::gauge!(metrics::ENTRIES);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        let count = cache.count();
        // Exact up to 2^53 entries.
        #[allow(clippy::cast_precision_loss)]
        entries.set(count as f64);
        let mut left = count.min(LOOKED_AT);
        // Once where there is nothing: what moka puts off is done then, too.
        loop {
            let looked = cache.sweep(clock.now()) as u64;
            left = left.saturating_sub(looked);
            if left == 0 || looked == 0 {
                break;
            }
            yield_now().await;
        }
    }
}

async fn refresh(engine: Arc<Engine>, stop: CancellationToken) {
    // Looking for what is due goes through the whole cache, so not too often; and often enough to spread the load. Each round sees
    // every entry, so none is asked about later than nine tenths of its age and one tick, and what the round itself takes.
    let mut ticks = interval((engine.max_age() / 200).clamp(REFRESH_MIN, REFRESH_MAX));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        engine.refresh(REFRESHES_MAX).await;
    }
}

const TURN: Duration = Duration::from_millis(200);
const TIDY: Duration = Duration::from_secs(1);
const SWEEP: Duration = Duration::from_secs(1);
const LOOKED_AT: u64 = 65_536;
const REFRESH_MIN: Duration = Duration::from_secs(1);
const REFRESH_MAX: Duration = Duration::from_secs(60);
const PROBES_AT_ONCE: usize = 16;
/// In one walk. They are asked one after the other, so refreshing never takes more than one place upstream.
const REFRESHES_MAX: usize = 16_384;
