//! What a KMS answers.

use super::{Ciphertext, KeyId, KeyState, KeyVersion, RequestId};
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

/// A reply and the request that fetched it.
#[derive(Debug)]
pub struct Answer {
    /// What was answered.
    pub reply: Reply,
    /// By which request.
    pub request_id: RequestId,
}
