//! Spans that have ended and wait to be sent.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use metrics::Counter;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::{Attribute, Context};

/// One that has ended.
#[derive(Debug)]
pub struct Ended {
    /// What others call it.
    pub context: Context,
    /// The span that it is a child of.
    pub parent: Option<[u8; 8]>,
    /// Whether that one is another process's.
    pub remote: bool,
    /// Whether it is of what was asked of us or of what we asked.
    pub kind: Kind,
    /// What was asked for.
    pub name: &'static str,
    /// When it began, by the wall clock.
    pub begun: Timestamp,
    /// How long it took.
    pub took: Duration,
    /// What was noted.
    pub attributes: Vec<Attribute>,
    /// What else it has to do with.
    pub links: Vec<Context>,
    /// Whether it failed.
    pub failed: bool,
}

/// On which side of a question a span is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// We asked.
    Client,
    /// We were asked.
    Server,
}

/// A list of bounded length: whoever ends a span puts it here and goes on. Where there is no room it is dropped, and counted.
pub struct Spans {
    ended: Mutex<VecDeque<Ended>>,
    capacity: usize,
    dropped: Counter,
    /// Told when there is enough for a batch.
    enough: Notify,
}

impl Spans {
    /// With room for `capacity`; those for which there is none are counted by `dropped`.
    #[must_use]
    pub fn new(capacity: usize, dropped: Counter) -> Arc<Self> {
        Arc::new(Self { ended: Mutex::default(), capacity, dropped, enough: Notify::new() })
    }

    /// Takes the first `most`.
    #[must_use]
    pub fn take(&self, most: usize) -> Vec<Ended> {
        let mut ended = self.lock();
        let count = ended.len().min(most);
        ended.drain(..count).collect()
    }

    /// Waits until there are [`BATCH`], `span` at most.
    pub async fn wait(&self, span: Duration) {
        if self.len() < BATCH {
            // That there are fewer is no reason not to send them.
            let _ = timeout(span, self.enough.notified()).await;
        }
    }

    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn put(&self, span: Ended) {
        let mut ended = self.lock();
        if ended.len() >= self.capacity {
            drop(ended);
            return self.dropped.increment(1);
        }
        ended.push_back(span);
        let enough = ended.len() == BATCH;
        drop(ended);
        if enough {
            self.enough.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Ended>> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Spans {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Spans({} of {})", self.len(), self.capacity)
    }
}

/// How many are sent at once.
pub const BATCH: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;

    fn span(name: &'static str) -> Ended {
        let context = Context { trace: [1; 16], span: [1; 8], state: None };
        let (begun, took) = (Timestamp::UNIX_EPOCH, Duration::ZERO);
        let (attributes, links) = (Vec::new(), Vec::new());
        Ended {
            context,
            parent: None,
            remote: false,
            kind: Kind::Server,
            name,
            begun,
            took,
            attributes,
            links,
            failed: false,
        }
    }

    #[test]
    fn the_first_come_are_kept_and_whoever_finds_no_room_is_dropped() {
        let spans = Spans::new(2, Counter::noop());
        ["a", "b", "c"].into_iter().for_each(|name| spans.put(span(name)));
        assert_eq!(spans.take(8).iter().map(|span| span.name).collect::<Vec<_>>(), ["a", "b"]);
        assert!(spans.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_is_not_waited_for_longer_than_wanted_and_a_full_one_not_at_all() {
        let spans = Spans::new(2 * BATCH, Counter::noop());
        let begun = tokio::time::Instant::now();
        spans.put(span("a"));
        spans.wait(Duration::from_secs(1)).await;
        assert_eq!(begun.elapsed(), Duration::from_secs(1));
        (0..BATCH).for_each(|_| spans.put(span("a")));
        spans.wait(Duration::from_secs(1)).await;
        assert_eq!((begun.elapsed(), spans.take(2).len()), (Duration::from_secs(1), 2));
    }
}
