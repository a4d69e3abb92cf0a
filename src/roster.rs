//! A list of what there is now, which a reload exchanges whole while others look at it.

use std::sync::Arc;

use arc_swap::ArcSwap;

/// What there is now, for those who look at all of it.
#[derive(Debug)]
pub struct Roster<T>(ArcSwap<Vec<T>>);

impl<T> Roster<T> {
    /// All of now.
    #[must_use]
    pub fn all(&self) -> Arc<Vec<T>> {
        self.0.load_full()
    }

    /// Puts others in their place.
    pub fn replace(&self, others: Vec<T>) {
        self.0.store(Arc::new(others));
    }
}

impl<T> Default for Roster<T> {
    fn default() -> Self {
        Self(ArcSwap::from_pointee(Vec::new()))
    }
}
