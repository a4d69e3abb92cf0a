//! Memory like any other, in the place of `src/guard.rs`.

use std::ops::Deref;

#[derive(Debug)]
pub(crate) struct Guarded<T>(Box<T>);

impl<T> Guarded<T> {
    pub(crate) fn with(make: impl FnOnce() -> T) -> Result<Self, Full> {
        Ok(Self(Box::new(make())))
    }
}

impl<T> Deref for Guarded<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("guarded memory is full")]
pub(crate) struct Full;

pub(crate) const fn in_use() -> usize {
    0
}

pub(crate) const fn capacity() -> usize {
    1
}

pub(crate) fn without_trace<T>(work: impl FnOnce() -> T) -> T {
    work()
}
