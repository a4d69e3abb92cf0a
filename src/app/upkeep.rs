//! What a daemon does without being asked.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::task::TaskTracker;
use tracing::warn;

use super::estate::{Estate, Standing};
use crate::cache::Cache;
use crate::clock::{Clock as _, Deadline, System};
use crate::engine::Engine;
use crate::metrics;
use crate::upstream::aliyun::Aliyun;
use crate::warm::Keeper;
use crate::watch::{self, Watch};
use crate::working_set;

/// Begins with what is done for one upstream, within the runtime, until its end.
pub(super) fn begin(standing: &Standing, tasks: &TaskTracker) {
    if let Some(engine) = standing.engine() {
        let watch = Watch::new(Arc::clone(engine), tasks.clone());
        tokio::spawn(watch.run(standing.stop.clone()));
    }
    prime(standing);
}

/// Has credentials fetched ahead of the first call, where there are any to be had.
pub(super) fn prime(standing: &Standing) {
    if let Some(kms) = standing.aliyun.clone() {
        tokio::spawn(async move { fetch(&kms).await });
    }
}

/// Begins with what is done for all upstreams together, and with the working set, which is that of the start.
pub(super) fn begin_all(estate: &Estate, working_set: Option<&Arc<Keeper>>) {
    tokio::spawn(watch::sweep(Arc::clone(&estate.cache), Arc::clone(&estate.clock), estate.stop.clone()));
    let Some(keeper) = working_set else { return };
    for warm_up in keeper.warm_ups() {
        if let Some(standing) = estate.upstreams.get(warm_up.upstream()) {
            tokio::spawn(Arc::clone(warm_up).run(standing.stop.clone()));
        }
    }
    tokio::spawn(Arc::clone(keeper).run(estate.stop.clone()));
}

/// The working set, where there is to be one.
pub(super) fn keeper(config: working_set::Config, cache: &Arc<Cache>, engines: &[Arc<Engine>]) -> Option<Arc<Keeper>> {
    for engine in engines {
        metrics::warm_up_left(engine.ledger().upstream(), 0);
    }
    Some(Keeper::open(config.file?, config.save, Arc::clone(cache), engines))
}

async fn fetch(kms: &Aliyun) {
    let deadline = Deadline::after(System.now(), PRIME);
    if let Err(lack) = kms.prime(deadline).await {
        warn!(%lack, "no credentials yet; asking again with the first call");
    }
}

const PRIME: Duration = Duration::from_secs(10);
