//! Who is counted as an entry of a scope.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Scope;

/// What leads to a scope, always the same.
pub trait Scoped {
    /// The scope.
    fn scope(&self) -> &Arc<Scope>;
}

impl Scoped for Arc<Scope> {
    fn scope(&self) -> &Arc<Scope> {
        self
    }
}

/// Held by an entry for as long as it names a scope, by what leads there.
#[derive(Debug)]
pub struct Mark<S: Scoped>(S);

impl<S: Scoped> Mark<S> {
    /// Counts one more entry.
    #[must_use]
    pub fn of(scoped: S) -> Self {
        scoped.scope().entries.fetch_add(1, Ordering::Relaxed);
        Self(scoped)
    }

    /// What leads to the scope.
    #[must_use]
    pub const fn held(&self) -> &S {
        &self.0
    }

    /// The scope.
    #[must_use]
    pub fn scope(&self) -> &Arc<Scope> {
        self.0.scope()
    }
}

impl<S: Scoped> Drop for Mark<S> {
    fn drop(&mut self) {
        self.0.scope().entries.fetch_sub(1, Ordering::Relaxed);
    }
}
