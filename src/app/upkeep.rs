//! What a daemon does without being asked.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

use crate::cache::Cache;
use crate::clock::{Clock as _, Deadline, System};
use crate::engine::Engine;
use crate::metrics;
use crate::upstream::aliyun::Aliyun;
use crate::warm::Keeper;
use crate::watch::{self, Watch};
use crate::working_set;

/// Of whom there is to be taken care.
pub(super) struct Upkeep {
    pub(super) engines: Vec<Arc<Engine>>,
    pub(super) cache: Arc<Cache>,
    pub(super) kms: Vec<Arc<Aliyun>>,
    pub(super) working_set: Option<Arc<Keeper>>,
}

impl Upkeep {
    /// Begins with it, within the runtime, until `stop`.
    pub(super) fn start(self, tasks: &TaskTracker, stop: &CancellationToken) {
        for engine in self.engines {
            let watch = Watch::new(engine, tasks.clone());
            tokio::spawn(watch.run(stop.clone()));
        }
        tokio::spawn(watch::sweep(self.cache, stop.clone()));
        for kms in self.kms {
            tokio::spawn(async move { prime(&kms).await });
        }
        if let Some(keeper) = self.working_set {
            for warm_up in keeper.warm_ups() {
                tokio::spawn(Arc::clone(warm_up).run(stop.clone()));
            }
            tokio::spawn(keeper.run(stop.clone()));
        }
    }
}

/// The working set, where there is to be one.
pub(super) fn keeper(config: working_set::Config, cache: &Arc<Cache>, engines: &[Arc<Engine>]) -> Option<Arc<Keeper>> {
    for engine in engines {
        metrics::warm_up_left(engine.ledger().upstream(), 0);
    }
    Some(Keeper::open(config.file?, config.save, Arc::clone(cache), engines))
}

async fn prime(kms: &Aliyun) {
    let deadline = Deadline::after(System.now(), PRIME);
    if let Err(lack) = kms.prime(deadline).await {
        warn!(%lack, "no credentials yet; asking again with the first call");
    }
}

const PRIME: Duration = Duration::from_secs(10);
