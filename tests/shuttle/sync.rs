//! Shuttle's locks and tasks in the place of `src/sync.rs`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex as Plain};
use std::time::Duration;

pub(crate) use std::sync::{LockResult, PoisonError};

pub(crate) use shuttle::sync::{Mutex, MutexGuard, RwLockReadGuard, RwLockWriteGuard};

/// Shuttle's, which keeps its poison: a panic ends the schedule.
#[derive(Debug, Default)]
pub(crate) struct RwLock<T>(shuttle::sync::RwLock<T>);

impl<T> RwLock<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(shuttle::sync::RwLock::new(value))
    }

    pub(crate) fn read(&self) -> LockResult<RwLockReadGuard<'_, T>> {
        self.0.read()
    }

    pub(crate) fn write(&self) -> LockResult<RwLockWriteGuard<'_, T>> {
        self.0.write()
    }

    pub(crate) fn clear_poison(&self) {}
}

/// Time stands still while a schedule runs: no deadline passes.
pub(crate) async fn timeout<F: Future>(_: Duration, future: F) -> Result<F::Output, Elapsed> {
    Ok(future.await)
}

#[derive(Debug)]
pub(crate) struct Elapsed;

/// Where flights run: in tasks of their own. On a leash, a planted bug, they end with whoever launched them.
#[derive(Clone, Debug, Default)]
pub(crate) struct TaskTracker {
    leashed: Arc<AtomicBool>,
    flights: Arc<Plain<Vec<shuttle::future::AbortHandle>>>,
}

impl TaskTracker {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn leash(&self) {
        self.leashed.store(true, Ordering::SeqCst);
    }

    pub(crate) fn spawn<F>(&self, flight: F)
    where
        F: Future + Send + 'static,
        F::Output: Send,
    {
        let handle = shuttle::future::spawn(flight);
        self.flights.lock().unwrap().push(handle.abort_handle());
    }

    /// Whoever launched the flights has left.
    pub(crate) fn left(&self) {
        let flights = std::mem::take(&mut *self.flights.lock().unwrap());
        if self.leashed.load(Ordering::SeqCst) {
            flights.iter().for_each(shuttle::future::AbortHandle::abort);
        }
    }
}
