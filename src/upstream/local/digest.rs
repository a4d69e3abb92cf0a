//! What stands in a record for bytes that must not: the same for the same bytes, and nothing else.

use std::fmt;

use serde::{Serialize, Serializer};
use sha2::{Digest as _, Sha256};

use crate::kms::Context;

/// The first half of SHA-256, in hex where it is shown. Not keyed: of what is guessed easily it hides nothing, so it is for
/// the random keys of tests.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Digest([u8; BYTES]);

impl Digest {
    /// The digest of some bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self::cut(Sha256::new().chain_update(bytes))
    }

    /// The digest of a context in canonical form: each name and each value, sorted by name, its length (64 bits, big
    /// endian) before it.
    #[must_use]
    pub fn of_context(context: &Context) -> Self {
        let mut whole = Sha256::new();
        for (name, value) in context.pairs() {
            for text in [name, value] {
                whole.update((text.len() as u64).to_be_bytes());
                whole.update(text.as_bytes());
            }
        }
        Self::cut(whole)
    }

    fn cut(whole: Sha256) -> Self {
        let whole: [u8; 2 * BYTES] = whole.finalize().into();
        Self(std::array::from_fn(|at| whole[at]))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

const BYTES: usize = 16;
