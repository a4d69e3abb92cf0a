//! One key: its versions, its life, and what each state allows.

use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::kms::{KeyId, KeyState, KeyVersion};
use crate::secret::Secret;
use crate::upstream::local::gcm::KEY_BYTES;

/// A key as it is at one moment; changes make another one. Versions are shared, never copied.
#[derive(Clone, Debug)]
pub(super) struct Key {
    pub(super) id: KeyId,
    pub(super) created: Timestamp,
    pub(super) description: String,
    pub(super) protection: ProtectionLevel,
    pub(super) origin: Origin,
    pub(super) life: Life,
    /// Oldest first; the last is the primary. Empty only for an external key, whose material nobody imported.
    pub(super) versions: Vec<Arc<Version>>,
}

impl Key {
    /// A new key of one random version; none where the material is to be imported.
    pub(super) fn new(wanted: &NewKey, now: Timestamp) -> Self {
        let (life, versions) = match wanted.origin {
            Origin::AliyunKms => (Life::Enabled, vec![Arc::new(Version::new(now))]),
            Origin::External => (Life::PendingImport, Vec::new()),
        };
        Self {
            id: new_id(),
            created: now,
            description: wanted.description.clone(),
            protection: wanted.protection_level,
            origin: wanted.origin,
            life,
            versions,
        }
    }

    /// The full name of the key, as the fact sheet (section 2) spells it.
    pub(super) fn arn(&self) -> String {
        format!("{}key/{}", arn_prefix(), self.id)
    }

    /// The version that encrypts.
    pub(super) fn primary(&self) -> Option<&Arc<Version>> {
        self.versions.last()
    }

    /// The version of that id.
    pub(super) fn version(&self, id: &str) -> Option<&Arc<Version>> {
        self.versions.iter().find(|version| version.id.as_str() == id)
    }

    /// The state that `DescribeKey` tells.
    pub(super) const fn state(&self) -> KeyState {
        match self.life {
            Life::Enabled => KeyState::Enabled,
            Life::Disabled => KeyState::Disabled,
            Life::PendingDeletion { .. } => KeyState::PendingDeletion,
            Life::PendingImport => KeyState::PendingImport,
        }
    }

    /// Whether its window has ended, so that to everybody it is not there.
    pub(super) fn gone(&self, now: Timestamp) -> bool {
        matches!(self.life, Life::PendingDeletion { until } if until <= now)
    }

    /// What it comes back to when its deletion is called off.
    pub(super) const fn revived(&self) -> Life {
        if self.versions.is_empty() { Life::PendingImport } else { Life::Enabled }
    }
}

/// 32 random bytes and the id that every ciphertext made with them begins with.
#[derive(Debug)]
pub(super) struct Version {
    pub(super) id: KeyVersion,
    pub(super) created: Timestamp,
    pub(super) material: Secret,
}

impl Version {
    pub(super) fn new(now: Timestamp) -> Self {
        let mut material = vec![0; KEY_BYTES];
        getrandom::fill(&mut material).expect("the kernel's generator never fails once the machine is up");
        let id = KeyVersion::new(&uuid::Uuid::new_v4().hyphenated().to_string());
        Self { id, created: now, material: Secret::new(material) }
    }
}

/// Where a key stands. The real KMS has also `Unavailable`, whose meaning is not documented; it is not modelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) enum Life {
    Enabled,
    Disabled,
    PendingDeletion {
        /// By the wall clock, as everything that the wire shows.
        until: Timestamp,
    },
    PendingImport,
}

/// A label that `DescribeKey` shows: both kinds live in this process's memory alike.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum ProtectionLevel {
    /// `SOFTWARE`.
    #[default]
    Software,
    /// `HSM`.
    Hsm,
}

impl ProtectionLevel {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Software => "SOFTWARE",
            Self::Hsm => "HSM",
        }
    }
}

/// Where a key's material comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Origin {
    /// `Aliyun_KMS`: made here.
    #[default]
    #[serde(rename = "Aliyun_KMS")]
    AliyunKms,
    /// `EXTERNAL`: to be imported, which this KMS cannot do. So such a key stays in `PendingImport`, which is what it
    /// is good for.
    #[serde(rename = "EXTERNAL")]
    External,
}

impl Origin {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::AliyunKms => "Aliyun_KMS",
            Self::External => "EXTERNAL",
        }
    }
}

/// What a new key shall be. Everything has a default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NewKey {
    /// `alias/…`, made with the key or not at all.
    pub alias: Option<String>,
    /// Free text, at most 8192 bytes.
    pub description: String,
    /// The label.
    pub protection_level: ProtectionLevel,
    /// Where the material comes from.
    pub origin: Origin,
}

/// What comes before `key/…` or `alias/…` in this KMS's ARNs.
pub(super) fn arn_prefix() -> String {
    format!("acs:kms:{REGION}:{ACCOUNT}:")
}

/// As long as a version id, and of the look of a KMS 3.0 key id.
fn new_id() -> KeyId {
    let random = uuid::Uuid::new_v4().simple().to_string();
    KeyId::new(&format!("{ID_PREFIX}{}", &random[..ID_BYTES - ID_PREFIX.len()]))
}

/// The region in ARNs.
pub(super) const REGION: &str = "cn-hangzhou";
/// The account in ARNs, and every key's creator.
pub(super) const ACCOUNT: &str = "1000000000000001";
/// Both of key ids and of version ids.
pub(super) const ID_BYTES: usize = 36;
const ID_PREFIX: &str = "key-hzz";
