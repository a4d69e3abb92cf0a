//! What is asked of a KMS and what it answers, in no dialect.

use std::fmt;
use std::sync::Arc;

mod action;
mod call;
mod context;
mod key;
mod reply;
mod request_id;

pub use action::Action;
pub use call::{Call, DataKeySize, Decrypt, Encrypt, Extra, GenerateDataKey, Read};
pub use context::{Context, ContextForm};
pub use key::{KeyId, KeyName, KeyState, KeyVersion, bare};
pub use reply::{Answer, DataKey, Decrypted, Document, Encrypted, Reply};
pub use request_id::{RequestId, Text as RequestIdText};

/// A ciphertext blob: what `Encrypt` returned, as bytes. `Debug` shows its length only; its bytes tell a reader of
/// logs which Secret was used when.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Ciphertext(Arc<[u8]>);

impl Ciphertext {
    /// Wraps the decoded blob.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(bytes.into())
    }

    /// The blob.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Ciphertext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ciphertext({} bytes)", self.0.len())
    }
}
