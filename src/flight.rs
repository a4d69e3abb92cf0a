//! Single flight: of many equal questions at once, one is asked, and all get its answer or its failure.

use std::collections::HashMap;
use std::collections::hash_map::{Entry, RandomState};
use std::hash::{BuildHasher, Hash};
use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::broadcast;

use crate::sync::{Mutex, PoisonError, TaskTracker};

/// The flights under way, by what they ask.
///
/// A flight runs in a task of its own, so that whoever leaves strands nobody; it ends by its own deadline. Each waiter
/// bounds its own waiting, and all are woken in the order in which they came to wait. Nothing is remembered once a flight
/// has landed.
#[derive(Debug)]
pub struct Flights<K, V> {
    shards: [Mutex<HashMap<K, broadcast::Receiver<V>>>; SHARDS],
    hasher: RandomState,
    tasks: TaskTracker,
}

/// How one came to wait for a flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Its question is the one that was asked.
    Leader,
    /// An equal question was under way.
    Follower,
}

/// A flight that crashed: its task panicked or was cancelled with the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crashed;

impl<K, V> Flights<K, V>
where
    K: Clone + Eq + Hash + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// No flights; they will run in `tasks`.
    #[must_use]
    pub fn new(tasks: TaskTracker) -> Arc<Self> {
        Arc::new(Self { shards: std::array::from_fn(|_| Mutex::default()), hasher: RandomState::new(), tasks })
    }

    /// Waits for the flight of `key`, launching it where there is none. The caller bounds the wait.
    ///
    /// # Errors
    /// [`Crashed`] where the flight ended without an answer.
    pub async fn join<F>(self: &Arc<Self>, key: &K, launch: impl FnOnce() -> F) -> (Role, Result<V, Crashed>)
    where
        F: Future<Output = V> + Send + 'static,
    {
        let (role, mut landing) = self.board(key, launch);
        (role, landing.recv().await.map_err(|_| Crashed))
    }

    /// How many flights are under way.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner).len()).sum()
    }

    /// Whether no flight is under way.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn board<F>(self: &Arc<Self>, key: &K, launch: impl FnOnce() -> F) -> (Role, broadcast::Receiver<V>)
    where
        F: Future<Output = V> + Send + 'static,
    {
        let mut shard = self.shard(key).lock().unwrap_or_else(PoisonError::into_inner);
        let slot = match shard.entry(key.clone()) {
            // Before the landing, which is after the flight has left the board.
            Entry::Occupied(flight) => return (Role::Follower, flight.get().resubscribe()),
            Entry::Vacant(slot) => slot,
        };
        // Of the channels that tell many, the one that wakes them in order: tokio's `watch` draws lots.
        let (lander, landing) = broadcast::channel(1);
        slot.insert(landing.resubscribe());
        let berth = Berth { flights: Arc::clone(self), key: key.clone() };
        self.tasks.spawn(fly(Box::pin(launch()), berth, lander));
        (Role::Leader, landing)
    }

    fn shard(&self, key: &K) -> &Mutex<HashMap<K, broadcast::Receiver<V>>> {
        let hash = self.hasher.hash_one(key);
        &self.shards[usize::try_from(hash % SHARDS as u64).expect("less than SHARDS")]
    }
}

/// What the task of a flight does. It has the flight in a box: tokio aligns a task to 128 bytes, and for one of some KiB so
/// aligned glibc's `malloc` (before 2.38) looks for more room than the one before has left. Each flight then takes new
/// memory, of which what it fills the cache with is a part: 270 bytes more for each DEK, measured with 100,000.
async fn fly<K, V>(flight: Pin<Box<impl Future<Output = V>>>, berth: Berth<K, V>, lander: broadcast::Sender<V>)
where
    K: Clone + Eq + Hash + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    let answer = flight.await;
    // Off the board first: whoever comes after the landing asks anew.
    drop(berth);
    // An error where nobody waits any more.
    let _ = lander.send(answer);
}

/// Takes the flight off the board when dropped, also by a panic.
struct Berth<K, V>
where
    K: Clone + Eq + Hash + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    flights: Arc<Flights<K, V>>,
    key: K,
}

impl<K, V> Drop for Berth<K, V>
where
    K: Clone + Eq + Hash + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    fn drop(&mut self) {
        self.flights.shard(&self.key).lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

const SHARDS: usize = 16;

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::Notify;
    use tokio::task::yield_now;

    use super::*;

    type Board = Arc<Flights<u32, Result<u32, &'static str>>>;

    fn board() -> Board {
        Flights::new(TaskTracker::new())
    }

    #[tokio::test]
    async fn ten_thousand_equal_questions_are_asked_once_and_share_the_failure() {
        let (board, asked, gate) = (board(), Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let waiters: Vec<_> = (0..10_000)
            .map(|_| {
                let (board, asked, gate) = (Arc::clone(&board), Arc::clone(&asked), Arc::clone(&gate));
                tokio::spawn(async move {
                    let launch = || async move {
                        asked.fetch_add(1, Ordering::SeqCst);
                        gate.notified().await;
                        Err("refused")
                    };
                    board.join(&7, launch).await.1
                })
            })
            .collect();
        for _ in 0..3 {
            yield_now().await;
        }
        gate.notify_one();
        for waiter in waiters {
            assert_eq!(waiter.await.unwrap(), Ok(Err("refused")));
        }
        assert_eq!(asked.load(Ordering::SeqCst), 1);
        assert!(board.is_empty());
    }

    #[tokio::test]
    async fn a_leader_that_leaves_strands_nobody() {
        let (board, gate) = (board(), Arc::new(Notify::new()));
        let leader = {
            let (board, gate) = (Arc::clone(&board), Arc::clone(&gate));
            tokio::spawn(async move {
                board
                    .join(&1, || async move {
                        gate.notified().await;
                        Ok(42)
                    })
                    .await
            })
        };
        yield_now().await;
        let follower = {
            let board = Arc::clone(&board);
            tokio::spawn(async move { board.join(&1, || async { Err("asked twice") }).await })
        };
        yield_now().await;
        leader.abort();
        gate.notify_one();
        assert_eq!(follower.await.unwrap(), (Role::Follower, Ok(Ok(42))));
    }

    #[tokio::test]
    async fn a_crash_fails_its_waiters_and_the_next_question_is_asked_anew() {
        let board = board();
        let crashed = board.join(&1, || async { panic!("planted") }).await;
        assert_eq!(crashed, (Role::Leader, Err(Crashed)));
        assert_eq!(board.join(&1, || async { Ok(1) }).await, (Role::Leader, Ok(Ok(1))));
    }

    #[tokio::test]
    async fn nothing_is_remembered_after_the_landing() {
        let board = board();
        assert_eq!(board.join(&1, || async { Ok(1) }).await, (Role::Leader, Ok(Ok(1))));
        assert_eq!(board.join(&1, || async { Ok(2) }).await, (Role::Leader, Ok(Ok(2))));
    }
}
