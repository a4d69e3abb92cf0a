//! What waits for a KMS.

use std::sync::Arc;

use crate::auth::CallerName;
use crate::clock::Clock;
use crate::governor::{Class, Governor, Limits, Tally};
use crate::metrics;

/// What the KMS counts together.
pub(super) struct Queue {
    pub(super) governor: Governor<CallerName>,
    limits: Limits,
    metrics: metrics::Queue<{ Class::ALL.len() }>,
}

impl Queue {
    pub(super) fn new(upstream: &str, quota: &'static str, limits: Limits, clock: &Arc<dyn Clock>) -> Self {
        let metrics = metrics::Queue::of(upstream, quota, Class::ALL.map(Class::label));
        let queue = Self { governor: Governor::new(limits, Arc::clone(clock)), limits, metrics };
        queue.publish();
        queue
    }

    /// Everything that changes there changes on the way of some call, and is told at its end.
    pub(super) fn publish(&self) {
        let Tally { limit, waiting, taken, turned } = self.governor.tally();
        self.metrics.record(limit, waiting, taken, turned);
    }

    /// This one, or the one before it where the limits are the same: so what was asked there counts on.
    pub(super) fn after(self: Arc<Self>, before: &Arc<Self>) -> Arc<Self> {
        if self.limits == before.limits { Arc::clone(before) } else { self }
    }
}
