//! Bytes with one door.

use std::fmt;

use subtle::ConstantTimeEq;
use zeroize::zeroize_bytes;

/// Key material or a credential: wiped when dropped, readable only through [`Secret::expose`].
///
/// There is no `Clone`, no `Display` and no `Serialize`; `Debug` shows the length; `==` takes the same time whatever
/// the bytes are. It does not protect against copies that a caller of `expose` makes: `grep expose` is the audit.
#[derive(Default)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// Takes ownership of `bytes`, without copying them.
    #[must_use]
    pub const fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// Copies `bytes`; wiping the original is the caller's affair.
    #[must_use]
    pub fn copied(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }

    /// The bytes themselves.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// How many bytes there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        // What was cut off of it as well. By `Zeroize` it would be a byte at a time.
        self.0.resize(self.0.capacity(), 0);
        zeroize_bytes(&mut self.0);
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({} bytes)", self.0.len())
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Secret {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_only_the_length() {
        assert_eq!(format!("{:?}", Secret::copied(b"hunter2")), "Secret(7 bytes)");
    }

    #[test]
    fn equality_compares_every_byte_and_the_length() {
        assert_eq!(Secret::copied(b"abc"), Secret::copied(b"abc"));
        assert_ne!(Secret::copied(b"abc"), Secret::copied(b"abd"));
        assert_ne!(Secret::copied(b"abc"), Secret::copied(b"abcd"));
    }
}
