//! What happens without any request: probes renew or end leases, old entries are asked about again, what has expired
//! is dropped, and jumps of the clock or of our identity close the door.

use std::collections::BTreeMap;
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
use crate::fault::Fault;
use crate::kms::KeyId;
use crate::ledger::word;
use crate::metrics;

/// The upkeep of one upstream.
#[derive(Debug)]
pub struct Watch {
    engine: Arc<Engine>,
    tasks: TaskTracker,
    probing: Arc<Semaphore>,
    identity: Mutex<Arc<str>>,
    published: Mutex<Published>,
}

impl Watch {
    /// Watches `engine`; probes run in `tasks`.
    #[must_use]
    pub fn new(engine: Arc<Engine>, tasks: TaskTracker) -> Self {
        let identity = Mutex::new(engine.identity());
        Self {
            engine,
            tasks,
            probing: Arc::new(Semaphore::new(PROBES_AT_ONCE)),
            identity,
            published: Mutex::new(Published { at: Moment::BOOT, states: BTreeMap::new() }),
        }
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
        let current = self.engine.identity();
        let mut known = self.identity.lock().unwrap_or_else(PoisonError::into_inner);
        if **known == *current {
            return;
        }
        let had_one = !known.is_empty();
        *known = current;
        drop(known);
        if had_one {
            self.engine.ledger().forget_all("our identity at the KMS has changed");
        }
    }

    /// What is done once a second.
    fn tidy(&self, now: Moment) {
        let mut published = self.published.lock().unwrap_or_else(PoisonError::into_inner);
        if now.since(published.at) >= TIDY {
            self.engine.ledger().reap();
            self.publish(now, &mut published);
        }
    }

    /// One series for each key (of its scopes, the state that stands highest in [`STATES`]), and a line in the log where
    /// time alone has changed it; other changes are logged as they are made.
    fn publish(&self, now: Moment, published: &mut Published) {
        let upstream = self.engine.ledger().upstream();
        let mut keys = BTreeMap::new();
        for report in self.engine.ledger().report(now) {
            let state = rank(word(&report.standing));
            keys.entry(report.key).and_modify(|worst| *worst = state.min(*worst)).or_insert(state);
        }
        for (key, &worst) in keys.iter().take(metrics::KEYS_MAX) {
            for (at, state) in STATES.into_iter().enumerate() {
                metrics::lease(upstream, key.as_str(), state).set(if at == worst { 1.0 } else { 0.0 });
            }
            if published.states.get(key) != Some(&worst) && BY_TIME.contains(&STATES[worst]) {
                warn!(upstream, %key, state = STATES[worst], "the KMS has not renewed the lease");
            }
        }
        *published = Published { at: now, states: keys };
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

/// What was last told of leases.
#[derive(Debug)]
struct Published {
    at: Moment,
    states: BTreeMap<KeyId, usize>,
}

/// Where the word of a lease's state stands, from what an operator must see to what is as it should be.
#[must_use]
pub fn rank(state: &str) -> usize {
    STATES.iter().position(|&other| other == state).unwrap_or(STATES.len() - 1)
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
    // Looking for what is due walks the whole cache, so not too often; and often enough to spread the load.
    let mut ticks = interval((engine.max_age() / 200).clamp(REFRESH_MIN, REFRESH_MAX));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        engine.refresh(REFRESHES_MAX).await;
    }
}

const TURN: Duration = Duration::from_millis(200);
const TIDY: Duration = Duration::from_secs(1);
const SWEEP: Duration = Duration::from_secs(1);
const REFRESH_MIN: Duration = Duration::from_secs(1);
const REFRESH_MAX: Duration = Duration::from_secs(60);
const PROBES_AT_ONCE: usize = 16;
/// In one walk. They are asked one after the other, so refreshing never takes more than one place upstream.
const REFRESHES_MAX: usize = 16_384;
/// From what an operator must see to what is as it should be.
const STATES: [&str; 6] = ["refused", "suspended", "lapsed", "serving_by_grace", "serving", "unknown"];
/// Those that come by the clock and not by an answer.
const BY_TIME: [&str; 2] = ["lapsed", "serving_by_grace"];
