//! All keys, aliases and the traces of destroyed versions: one value, replaced whole at every change.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use crate::fault::{Fault, Kind};
use crate::kms::{KeyId, KeyState, KeyVersion};
use crate::upstream::local::key::{self, Key, Life, NewKey, Version};

/// Everything this KMS knows.
#[derive(Clone, Debug, Default)]
pub struct Keyring {
    pub(super) keys: BTreeMap<KeyId, Arc<Key>>,
    pub(super) aliases: BTreeMap<String, KeyId>,
    /// Versions whose keys are destroyed: their ciphertexts are answered with "key not found", not with "invalid".
    pub(super) destroyed: BTreeSet<String>,
}

impl Keyring {
    /// The key of that id, alias or ARN, unless its deletion window has ended.
    pub(super) fn find(&self, name: &str, now: Timestamp) -> Result<&Arc<Key>, NotFound> {
        let bare = name.strip_prefix(&key::arn_prefix()).unwrap_or(name);
        let in_arn = bare.len() < name.len();
        let id = if bare.starts_with(ALIAS_PREFIX) {
            self.aliases.get(bare).ok_or(NotFound::Alias)?.as_str()
        } else {
            // Within an ARN an id has `key/` before it, and only there.
            match (in_arn, bare.strip_prefix("key/")) {
                (true, Some(id)) => id,
                (false, None) => bare,
                (true, None) | (false, Some(_)) => return Err(NotFound::Key),
            }
        };
        self.keys.get(&KeyId::new(id)).filter(|key| !key.gone(now)).ok_or(NotFound::Key)
    }

    /// The key that has this version, and the version; `None` where no key ever had it.
    pub(super) fn holder(&self, version: &str, now: Timestamp) -> Result<Option<Holder<'_>>, NotFound> {
        if self.destroyed.contains(version) {
            return Err(NotFound::Key);
        }
        let held = self.keys.values().find_map(|key| key.version(version).map(|version| (key, version)));
        if held.is_some_and(|(key, _)| key.gone(now)) { Err(NotFound::Key) } else { Ok(held) }
    }

    /// Every key that is still there, by id.
    pub(super) fn present(&self, now: Timestamp) -> impl Iterator<Item = &Arc<Key>> {
        self.keys.values().filter(move |key| !key.gone(now))
    }

    /// Destroys what has waited long enough, with its aliases.
    pub(super) fn bury(&mut self, now: Timestamp) {
        let gone: Vec<_> = self.keys.values().filter(|key| key.gone(now)).map(|key| key.id.clone()).collect();
        for id in gone {
            self.aliases.retain(|_, key| *key != id);
            let buried = self.keys.remove(&id).into_iter().flat_map(|key| key.versions.clone());
            self.destroyed.extend(buried.map(|version| version.id.as_str().to_owned()));
        }
    }

    pub(super) fn create(&mut self, wanted: &NewKey, now: Timestamp) -> Result<KeyId, ChangeError> {
        if self.keys.len() >= KEYS_MAX {
            return Err(ChangeError::LimitExceeded("keys", KEYS_MAX));
        }
        if wanted.description.len() > DESCRIPTION_BYTES_MAX {
            return Err(ChangeError::LimitExceeded("bytes of description", DESCRIPTION_BYTES_MAX));
        }
        self.room_for_a_version()?;
        let key = Key::new(wanted, now);
        let id = key.id.clone();
        self.keys.insert(id.clone(), Arc::new(key));
        if let Some(alias) = &wanted.alias {
            self.create_alias(alias, id.as_str(), now)?;
        }
        Ok(id)
    }

    pub(super) fn create_alias(&mut self, alias: &str, name: &str, now: Timestamp) -> Result<KeyId, ChangeError> {
        if !alias_is_valid(alias) {
            return Err(ChangeError::BadAlias);
        }
        let key = self.find(name, now)?;
        if matches!(key.life, Life::PendingDeletion { .. }) {
            return Err(ChangeError::StateModifiedFailed(key.state()));
        }
        let id = key.id.clone();
        if self.aliases.contains_key(alias) {
            return Err(ChangeError::AliasTaken);
        }
        if self.aliases.len() >= ALIASES_MAX {
            return Err(ChangeError::LimitExceeded("aliases", ALIASES_MAX));
        }
        self.aliases.insert(alias.to_owned(), id.clone());
        Ok(id)
    }

    pub(super) fn delete_alias(&mut self, alias: &str) -> Result<KeyId, ChangeError> {
        self.aliases.remove(alias).ok_or(ChangeError::NotFound(NotFound::Alias))
    }

    /// Makes a new primary version. The states that refuse are those that refuse `UpdateRotationPolicy`: all but
    /// Enabled.
    pub(super) fn rotate(&mut self, name: &str, now: Timestamp) -> Result<(KeyId, KeyVersion), ChangeError> {
        self.room_for_a_version()?;
        let version = Arc::new(Version::new(now));
        let made = version.id.clone();
        let id = self.alter(name, now, |key| {
            if key.life != Life::Enabled {
                return None;
            }
            key.versions.push(version);
            Some(())
        })?;
        Ok((id, made))
    }

    /// Moves a key along `edge`, where the state table (fact sheet, section 4) has it.
    pub(super) fn turn(&mut self, name: &str, edge: Edge, now: Timestamp) -> Result<KeyId, ChangeError> {
        let edge = edge.checked(now)?;
        self.alter(name, now, |key| {
            key.life = match (edge, key.life) {
                (Turn::Enable, Life::Enabled | Life::Disabled) => Life::Enabled,
                (Turn::Disable, Life::Enabled | Life::Disabled) => Life::Disabled,
                (Turn::Schedule(until), Life::Enabled | Life::Disabled | Life::PendingImport) => {
                    Life::PendingDeletion { until }
                }
                (Turn::Cancel, Life::PendingDeletion { .. }) => key.revived(),
                (Turn::Enable | Turn::Disable, Life::PendingDeletion { .. } | Life::PendingImport)
                | (Turn::Schedule(_), Life::PendingDeletion { .. })
                | (Turn::Cancel, Life::Enabled | Life::Disabled | Life::PendingImport) => return None,
            };
            Some(())
        })
    }

    /// Replaces one key by what `change` makes of it; `None` from `change` means that its state forbids it.
    fn alter(
        &mut self,
        name: &str,
        now: Timestamp,
        change: impl FnOnce(&mut Key) -> Option<()>,
    ) -> Result<KeyId, ChangeError> {
        let mut key = Key::clone(self.find(name, now)?);
        change(&mut key).ok_or(ChangeError::StateModifiedFailed(key.state()))?;
        let id = key.id.clone();
        self.keys.insert(id.clone(), Arc::new(key));
        Ok(id)
    }

    fn room_for_a_version(&self) -> Result<(), ChangeError> {
        let living: usize = self.keys.values().map(|key| key.versions.len()).sum();
        if living + self.destroyed.len() >= VERSIONS_MAX {
            return Err(ChangeError::LimitExceeded("key versions", VERSIONS_MAX));
        }
        Ok(())
    }
}

/// A key and one of its versions.
pub(super) type Holder<'k> = (&'k Arc<Key>, &'k Arc<Version>);

/// A change of state that is asked for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Edge {
    Enable,
    Disable,
    ScheduleDeletion { days: u16 },
    CancelDeletion,
}

impl Edge {
    fn checked(self, now: Timestamp) -> Result<Turn, ChangeError> {
        Ok(match self {
            Self::Enable => Turn::Enable,
            Self::Disable => Turn::Disable,
            Self::CancelDeletion => Turn::Cancel,
            Self::ScheduleDeletion { days } => {
                if !(DELETION_DAYS_MIN..=DELETION_DAYS_MAX).contains(&days) {
                    return Err(ChangeError::BadWindow);
                }
                let window = SignedDuration::from_hours(24 * i64::from(days));
                Turn::Schedule(now.saturating_add(window).unwrap_or(Timestamp::MAX))
            }
        })
    }
}

#[derive(Clone, Copy)]
enum Turn {
    Enable,
    Disable,
    Schedule(Timestamp),
    Cancel,
}

/// A name that names nothing here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotFound {
    /// No such key, or it is destroyed.
    #[error("the specified key is not found: name it by its id, its ARN or an alias/…")]
    Key,
    /// No such alias.
    #[error("the specified alias is not found: aliases begin with alias/")]
    Alias,
}

impl From<NotFound> for Fault {
    fn from(missing: NotFound) -> Self {
        Self::kms(match missing {
            NotFound::Key => Kind::KeyNotFound,
            NotFound::Alias => Kind::AliasNotFound,
        })
    }
}

/// Why a change was not made. Nothing of it was.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// The name names nothing.
    #[error(transparent)]
    NotFound(#[from] NotFound),
    /// The key's state forbids it: `Rejected.StateModifiedFailed` in the real KMS.
    #[error("the key state {0:?} does not allow this change")]
    StateModifiedFailed(KeyState),
    /// The alias names a key already.
    #[error("the alias exists already: delete it first")]
    AliasTaken,
    /// Not an alias.
    #[error("an alias is `alias/` and then letters, digits, `/`, `_` or `-`, 255 in all; `alias/acs…` is reserved")]
    BadAlias,
    /// Not a deletion window.
    #[error("a deletion window is {DELETION_DAYS_MIN} to {DELETION_DAYS_MAX} days")]
    BadWindow,
    /// More of them than an account may have.
    #[error("too many {0}: the limit is {1}")]
    LimitExceeded(&'static str, usize),
    /// It could not be written down: not in force, but perhaps found on disk at the next start.
    #[error("the change could not be saved: {0}")]
    Save(#[source] std::io::Error),
}

fn alias_is_valid(alias: &str) -> bool {
    let named = alias.strip_prefix(ALIAS_PREFIX).is_some_and(|name| !name.is_empty() && !name.starts_with("acs"));
    let spelled = alias.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/_-".contains(&byte));
    named && spelled && alias.len() <= ALIAS_BYTES_MAX
}

const ALIAS_PREFIX: &str = "alias/";
const ALIAS_BYTES_MAX: usize = 255;
const DESCRIPTION_BYTES_MAX: usize = 8192;
const DELETION_DAYS_MIN: u16 = 7;
const DELETION_DAYS_MAX: u16 = 366;
// Per account and region, by the real KMS's older documentation (fact sheet, section 5).
const KEYS_MAX: usize = 200;
const ALIASES_MAX: usize = 300;
const VERSIONS_MAX: usize = 10_000;
