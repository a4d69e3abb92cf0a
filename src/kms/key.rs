//! Keys and their versions.

use std::fmt;
use std::sync::Arc;

/// The identifier that the KMS itself gave the key (KEK) in an answer: never an alias, never an ARN.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(Arc<str>);

impl KeyId {
    /// Wraps the identifier found in an answer.
    #[must_use]
    pub fn new(id: &str) -> Self {
        Self(id.into())
    }

    /// The identifier as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A key as a caller named it: an id, an alias (`alias/…`) or an ARN (`acs:kms:REGION:ACCOUNT:key/ID`), unresolved.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KeyName(Box<str>);

impl KeyName {
    /// Takes the name exactly as sent.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self(name.into())
    }

    /// The name exactly as sent.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name without the ARN around it: `key-…`. Two names that are bare-equal name the same key; an alias and the id
    /// behind it are not bare-equal.
    #[must_use]
    pub fn bare(&self) -> &str {
        bare(&self.0)
    }

    /// The key id that it names, in an ARN or not; none for aliases, whose meaning only the KMS knows.
    #[must_use]
    pub fn id(&self) -> Option<&str> {
        Some(self.bare()).filter(|bare| !bare.contains(['/', ':']))
    }

    /// Whether it is a key id and nothing around it.
    #[must_use]
    pub fn is_id(&self) -> bool {
        self.id() == Some(&*self.0)
    }
}

/// `name` without the ARN around it, as for [`KeyName::bare`]. An ARN has exactly five parts, and only that of a key is
/// unwrapped, since key ids are unique: an alias belongs to the account and region that its ARN names. Whatever else
/// begins like an ARN is a name of its own.
#[must_use]
pub fn bare(name: &str) -> &str {
    let mut parts = name.splitn(5, ':');
    match (parts.next(), parts.next(), parts.nth(2)) {
        (Some("acs"), Some("kms"), Some(resource)) if !resource.contains(':') => {
            resource.strip_prefix("key/").unwrap_or(name)
        }
        _ => name,
    }
}

/// The version of a key that made a ciphertext blob; opaque.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KeyVersion(Arc<str>);

impl KeyVersion {
    /// Wraps the version found in an answer.
    #[must_use]
    pub fn new(version: &str) -> Self {
        Self(version.into())
    }

    /// The version as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The life of a key as the KMS tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Deserialize, serde::Serialize)]
pub enum KeyState {
    /// Usable.
    Enabled,
    /// Switched off; may be switched on again.
    Disabled,
    /// Waiting to be destroyed.
    PendingDeletion,
    /// Its material has not been imported yet.
    PendingImport,
    /// Any other state: not usable as far as we know.
    Unavailable,
}
