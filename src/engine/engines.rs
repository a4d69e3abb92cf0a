//! All engines of a daemon.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::Engine;

/// The engines that a daemon has now: a reload may add and remove some. For those who look at all of them.
#[derive(Debug, Default)]
pub struct Engines(ArcSwap<Vec<Arc<Engine>>>);

impl Engines {
    /// Those of now.
    #[must_use]
    pub fn all(&self) -> Arc<Vec<Arc<Engine>>> {
        self.0.load_full()
    }

    /// Puts others in their place.
    pub fn replace(&self, engines: Vec<Arc<Engine>>) {
        self.0.store(Arc::new(engines));
    }
}
