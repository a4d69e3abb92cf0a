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
    /// How many were let through, and turned away, by those before it: what is counted since the start goes on.
    before: [[u64; CLASSES]; 2],
    metrics: metrics::Queue<CLASSES>,
}

impl Queue {
    pub(super) fn new(upstream: &str, quota: &'static str, limits: Limits, clock: &Arc<dyn Clock>) -> Self {
        let metrics = metrics::Queue::of(upstream, quota, Class::ALL.map(Class::label));
        let queue =
            Self { governor: Governor::new(limits, Arc::clone(clock)), limits, before: [[0; CLASSES]; 2], metrics };
        queue.publish();
        queue
    }

    /// Everything that changes there changes on the way of some call, and is told at its end.
    pub(super) fn publish(&self) {
        let Tally { limit, waiting, .. } = self.governor.tally();
        let [taken, turned] = self.counted();
        self.metrics.record(limit, waiting, taken, turned);
    }

    /// This one, or the one before it where the limits are the same: so what was asked there counts on.
    pub(super) fn follow(this: &mut Arc<Self>, before: &Arc<Self>) {
        match Arc::get_mut(this) {
            Some(queue) if queue.limits != before.limits => queue.before = before.counted(),
            _ => *this = Arc::clone(before),
        }
        this.publish();
    }

    fn counted(&self) -> [[u64; CLASSES]; 2] {
        let Tally { taken, turned, .. } = self.governor.tally();
        let [mut all_taken, mut all_turned] = self.before;
        for class in 0..CLASSES {
            all_taken[class] += taken[class];
            all_turned[class] += turned[class];
        }
        [all_taken, all_turned]
    }
}

const CLASSES: usize = Class::ALL.len();
