//! What a KMS answers.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use uuid::Uuid;
use uuid::fmt::Hyphenated;

use super::{Ciphertext, KeyId, KeyState, KeyVersion};
use crate::secret::Secret;

/// What `Decrypt` returned.
#[derive(Debug, PartialEq, Eq)]
pub struct Decrypted {
    /// The data key.
    pub plaintext: Secret,
    /// The key that unwrapped it.
    pub key: KeyId,
    /// The version of that key.
    pub version: KeyVersion,
}

/// What `Encrypt` returned.
#[derive(Debug, PartialEq, Eq)]
pub struct Encrypted {
    /// The wrapped plaintext.
    pub ciphertext: Ciphertext,
    /// The key that wrapped it.
    pub key: KeyId,
    /// The version of that key.
    pub version: KeyVersion,
}

/// What `GenerateDataKey…` returned.
#[derive(Debug, PartialEq, Eq)]
pub struct DataKey {
    /// The data key in clear, where it was asked for.
    pub plaintext: Option<Secret>,
    /// The data key wrapped.
    pub ciphertext: Ciphertext,
    /// The key that wrapped it.
    pub key: KeyId,
    /// The version of that key.
    pub version: KeyVersion,
}

/// What a read returned: the JSON members of the answer without its `RequestId`, and of it the two facts we act on.
#[derive(Debug, PartialEq, Eq)]
pub struct Document {
    /// The members as the KMS wrote them.
    pub members: serde_json::Map<String, serde_json::Value>,
    /// For `DescribeKey`: which key, in which state. A clouded answer (200 for a disabled key) may shorten a lease,
    /// never lengthen it.
    pub described: Option<(KeyId, KeyState)>,
}

/// One answer of a KMS.
#[derive(Debug, PartialEq, Eq)]
pub enum Reply {
    /// To `GenerateDataKey…`.
    DataKey(DataKey),
    /// To `Decrypt`.
    Decrypted(Decrypted),
    /// To a read.
    Document(Document),
    /// To `Encrypt`.
    Encrypted(Encrypted),
}

/// The KMS's own name for one request (or ours, for an answer from the cache): what support asks for.
#[derive(Clone, Debug)]
pub struct RequestId(Id);

#[derive(Clone, Debug)]
enum Id {
    /// In place: each hit has one of its own.
    Ours([u8; Hyphenated::LENGTH]),
    Theirs(Arc<str>),
}

impl RequestId {
    /// Takes the id that a KMS gave.
    #[must_use]
    pub fn new(id: &str) -> Self {
        Self(Id::Theirs(id.into()))
    }

    /// A new random id, in the upper-case UUID form of Alibaba Cloud.
    #[must_use]
    pub fn random() -> Self {
        Self::of(Uuid::new_v4(), true)
    }

    /// A UUID, in upper or lower case.
    #[must_use]
    pub fn of(uuid: Uuid, upper: bool) -> Self {
        let mut text = [0; Hyphenated::LENGTH];
        let uuid = uuid.hyphenated();
        if upper {
            uuid.encode_upper(&mut text)
        } else {
            uuid.encode_lower(&mut text)
        };
        Self(Id::Ours(text))
    }

    /// As [`RequestId::new`], of what is kept elsewhere as well.
    #[must_use]
    pub fn shared(id: &Arc<str>) -> Self {
        Self(Id::Theirs(Arc::clone(id)))
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match &self.0 {
            // Never fails: a UUID is ASCII.
            Id::Ours(text) => str::from_utf8(text).unwrap_or_default(),
            Id::Theirs(text) => text,
        }
    }
}

impl PartialEq for RequestId {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for RequestId {}

impl Hash for RequestId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

/// A reply and the request that fetched it.
#[derive(Debug)]
pub struct Answer {
    /// What was answered.
    pub reply: Reply,
    /// By which request.
    pub request_id: RequestId,
}
