//! What names a scope.

use sha2::{Digest, Sha256};

use crate::kms::{Context, KeyId};

/// A key in a context.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ScopeName {
    pub(super) key: KeyId,
    pub(super) context: ContextScope,
}

/// A context as far as leases tell one from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ContextScope {
    Absent,
    Digest([u8; 32]),
    /// Every context beyond the first [`super::CONTEXTS_PER_KEY`]: nobody probes these one by one.
    Overflow,
}

impl ContextScope {
    pub(super) fn of(context: Option<&Context>) -> Self {
        let Some(context) = context else { return Self::Absent };
        let mut digest = Sha256::new();
        for (name, value) in context.pairs() {
            for part in [name, value] {
                digest.update((part.len() as u64).to_be_bytes());
                digest.update(part.as_bytes());
            }
        }
        Self::Digest(digest.finalize().into())
    }
}
