//! What the path of a request locks, waits with and runs in.
//!
//! Named in one place, and imported from nowhere else by `ledger`, `flight` and `engine`, so that `tests/schedules` can
//! put a scheduler of its own here and compile the very same sources. What only counts or is counted (entries, metrics,
//! the drift of the clocks) stays with `std`.

pub use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockWriteGuard};

pub use tokio::time::timeout;
pub use tokio_util::task::TaskTracker;
