//! Loom's locks in the place of `src/sync.rs`.

pub(crate) use std::sync::{LockResult, PoisonError};

pub(crate) use loom::sync::{Mutex, RwLockReadGuard, RwLockWriteGuard};

/// Loom's, which know no poison: a panic ends the exploration.
#[derive(Debug, Default)]
pub(crate) struct RwLock<T>(loom::sync::RwLock<T>);

impl<T> RwLock<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(loom::sync::RwLock::new(value))
    }

    pub(crate) fn read(&self) -> LockResult<RwLockReadGuard<'_, T>> {
        self.0.read()
    }

    pub(crate) fn write(&self) -> LockResult<RwLockWriteGuard<'_, T>> {
        self.0.write()
    }

    pub(crate) fn clear_poison(&self) {}
}
