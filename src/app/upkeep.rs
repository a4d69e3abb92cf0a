//! What a daemon does without being asked.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::task::TaskTracker;
use tracing::warn;

use super::estate::{Estate, Standing};
use crate::cache::Cache;
use crate::clock::{Clock as _, Deadline, System};
use crate::metrics;
use crate::upstream::aliyun::Aliyun;
use crate::warm::Keeper;
use crate::watch::{self, Watch};
use crate::working_set;

/// Begins with what is done for one upstream, within the runtime, until its end: it is watched, and what was cached of it is
/// unwrapped again.
pub(super) fn begin(standing: &Standing, tasks: &TaskTracker, working_set: Option<&Arc<Keeper>>) {
    if let Some(engine) = standing.engine() {
        let watch = Watch::new(Arc::clone(engine), tasks.clone());
        tokio::spawn(watch.run(standing.stop.clone()));
    }
    resume(standing, working_set);
}

/// Has unwrapped what was cached of an upstream before it was asked as it is now, within the runtime; and its credentials
/// fetched ahead of that.
pub(super) fn resume(standing: &Standing, working_set: Option<&Arc<Keeper>>) {
    prime(standing);
    let Some(engine) = standing.engine() else { return };
    metrics::warm_up_left(engine.ledger().upstream(), 0);
    if let Some(keeper) = working_set {
        tokio::spawn(keeper.admit(engine).run(standing.stop.clone()));
    }
}

/// Has credentials fetched ahead of the first call, where there are any to be had.
fn prime(standing: &Standing) {
    if let Some(kms) = standing.aliyun.clone() {
        tokio::spawn(async move { fetch(&kms).await });
    }
}

/// Begins with what is done for all upstreams together.
pub(super) fn begin_all(estate: &Estate) {
    tokio::spawn(watch::sweep(Arc::clone(&estate.cache), Arc::clone(&estate.clock), estate.stop.clone()));
    if let Some(keeper) = &estate.working_set {
        tokio::spawn(Arc::clone(keeper).run(estate.stop.clone()));
    }
}

/// The working set, where there is to be one.
pub(super) fn keeper(config: working_set::Config, cache: &Arc<Cache>) -> Option<Arc<Keeper>> {
    Some(Keeper::open(config.file?, config.save, Arc::clone(cache)))
}

async fn fetch(kms: &Aliyun) {
    let deadline = Deadline::after(System.now(), PRIME);
    if let Err(lack) = kms.prime(deadline).await {
        warn!(%lack, "no credentials yet; asking again with the first call");
    }
}

const PRIME: Duration = Duration::from_secs(10);
