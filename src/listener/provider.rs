//! What a listener with the face `kubernetes` serves.

use crate::kms::KeyName;
use crate::wire::kubernetes::{Api, V1Ciphertext, V2Version};

/// The settings of one Kubernetes KMS provider, checked, with the defaults filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provider {
    /// The key that encrypts; never empty.
    pub key: KeyName,
    /// The services to serve: at least one, none twice.
    pub api: Vec<Api>,
    /// What `Status` calls the API of v2.
    pub v2_version: V2Version,
    /// Mixed into every `key_id`; empty unless written.
    pub key_id_suffix: String,
    /// The form of what v1 encrypts.
    pub v1_ciphertext: V1Ciphertext,
}
