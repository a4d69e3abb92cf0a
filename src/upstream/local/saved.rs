//! The document inside `keys.sealed`: `8-byte length ‖ JSON of everything that is no secret ‖ material`, where the
//! material is the 32 bytes of each version, in the order in which the JSON lists the versions. So no key ever passes
//! through a JSON value.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::kms::{KeyId, KeyVersion};
use crate::secret::Secret;
use crate::upstream::local::gcm::KEY_BYTES;
use crate::upstream::local::key::{ID_BYTES, Key, Life, Origin, ProtectionLevel, Version};
use crate::upstream::local::keyring::Keyring;

/// Writes `keys` down, in one buffer of the right size.
#[must_use]
pub fn encode(keys: &Keyring) -> Secret {
    let json = serde_json::to_vec(&Saved::from(keys)).expect("strings, numbers and dates always have a JSON form");
    let versions = || keys.keys.values().flat_map(|key| &key.versions);
    let mut bytes = Vec::with_capacity(LENGTH_BYTES + json.len() + KEY_BYTES * versions().count());
    bytes.extend_from_slice(&(json.len() as u64).to_be_bytes());
    bytes.extend_from_slice(&json);
    for version in versions() {
        bytes.extend_from_slice(version.material.expose());
    }
    Secret::new(bytes)
}

/// Reads what [`encode`] wrote; `None` where it is anything else, or contradicts itself.
#[must_use]
pub fn decode(bytes: &[u8]) -> Option<Keyring> {
    let (length, rest) = bytes.split_first_chunk::<LENGTH_BYTES>()?;
    let (json, material) = rest.split_at_checked(usize::try_from(u64::from_be_bytes(*length)).ok()?)?;
    let saved: Saved = serde_json::from_slice(json).ok()?;
    let (material, odd) = material.as_chunks::<KEY_BYTES>();
    let versions = || saved.keys.iter().flat_map(|key| &key.versions).map(|version| &version.id);
    let distinct = versions().collect::<BTreeSet<_>>().len() == versions().count()
        && saved.keys.iter().map(|key| &key.id).collect::<BTreeSet<_>>().len() == saved.keys.len();
    if !odd.is_empty() || material.len() != versions().count() || !distinct {
        return None;
    }
    let mut material = material.iter();
    let keys: BTreeMap<_, _> = saved
        .keys
        .into_iter()
        .map(|key| key.with_material(&mut material))
        .map(|key| (key.id.clone(), Arc::new(key)))
        .collect();
    let aliases = saved.aliases.into_iter().map(|(alias, key)| (alias, KeyId::new(&key))).collect();
    Some(Keyring { keys, aliases, destroyed: saved.destroyed }).filter(is_sound)
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    keys: Vec<SavedKey>,
    aliases: BTreeMap<String, String>,
    destroyed: BTreeSet<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedKey {
    id: String,
    created: Timestamp,
    description: String,
    protection: ProtectionLevel,
    origin: Origin,
    life: Life,
    versions: Vec<SavedVersion>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedVersion {
    id: String,
    created: Timestamp,
}

impl From<&Keyring> for Saved {
    fn from(keys: &Keyring) -> Self {
        Self {
            keys: keys.keys.values().map(|key| SavedKey::from(&**key)).collect(),
            aliases: keys.aliases.iter().map(|(alias, key)| (alias.clone(), key.as_str().to_owned())).collect(),
            destroyed: keys.destroyed.clone(),
        }
    }
}

impl From<&Key> for SavedKey {
    fn from(key: &Key) -> Self {
        let versions = key.versions.iter();
        Self {
            id: key.id.as_str().to_owned(),
            created: key.created,
            description: key.description.clone(),
            protection: key.protection,
            origin: key.origin,
            life: key.life,
            versions: versions
                .map(|version| SavedVersion { id: version.id.as_str().to_owned(), created: version.created })
                .collect(),
        }
    }
}

impl SavedKey {
    /// The key, with the next chunks of `material`, of which there are enough.
    fn with_material<'m>(self, material: &mut impl Iterator<Item = &'m [u8; KEY_BYTES]>) -> Key {
        let versions = self.versions.into_iter().zip(material).map(|(version, material)| {
            let id = KeyVersion::new(&version.id);
            Arc::new(Version { id, created: version.created, material: Secret::copied(material) })
        });
        Key {
            versions: versions.collect(),
            id: KeyId::new(&self.id),
            created: self.created,
            description: self.description,
            protection: self.protection,
            origin: self.origin,
            life: self.life,
        }
    }
}

/// What every change keeps true: ids have their length, only a key to be imported lacks versions, aliases name keys.
fn is_sound(keys: &Keyring) -> bool {
    let keys_sound = keys.keys.values().all(|key| {
        let usable = matches!(key.life, Life::Enabled | Life::Disabled);
        key.versions.iter().all(|version| version.id.as_str().len() == ID_BYTES) && !(usable && key.versions.is_empty())
    });
    keys_sound && keys.aliases.values().all(|key| keys.keys.contains_key(key))
}

const LENGTH_BYTES: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::local::key::NewKey;

    #[test]
    fn a_document_that_contradicts_itself_is_none() {
        let mut keys = Keyring::default();
        let id = keys.create(&NewKey::default(), Timestamp::UNIX_EPOCH).unwrap();
        keys.create_alias("alias/one", id.as_str(), Timestamp::UNIX_EPOCH).unwrap();
        let whole = encode(&keys);
        assert!(decode(whole.expose()).is_some());
        assert!(decode(&whole.expose()[..whole.len() - 1]).is_none(), "a byte of material is missing");
        assert!(decode(&[whole.expose(), &[0; KEY_BYTES]].concat()).is_none(), "a version too few is listed");
        assert!(decode(&twice(whole.expose(), |_| {})).is_none(), "a key is listed twice");
        assert!(
            decode(&twice(whole.expose(), |key| key["id"] = "another".into())).is_none(),
            "a version is listed twice"
        );
        keys.keys.clear();
        assert!(decode(encode(&keys).expose()).is_none(), "an alias of no key");
    }

    /// `whole` with its one key listed a second time, altered.
    fn twice(whole: &[u8], alter: impl FnOnce(&mut serde_json::Value)) -> Vec<u8> {
        let (json, material) = whole[LENGTH_BYTES..].split_at(whole.len() - LENGTH_BYTES - KEY_BYTES);
        let mut document: serde_json::Value = serde_json::from_slice(json).unwrap();
        let mut again = document["keys"][0].clone();
        alter(&mut again);
        document["keys"].as_array_mut().unwrap().push(again);
        let json = serde_json::to_vec(&document).unwrap();
        [&(json.len() as u64).to_be_bytes()[..], &json, material, material].concat()
    }

    #[test]
    fn the_readable_part_holds_no_material() {
        let mut keys = Keyring::default();
        keys.create(&NewKey::default(), Timestamp::UNIX_EPOCH).unwrap();
        let whole = encode(&keys);
        let (json, material) = whole.expose().split_at(whole.len() - KEY_BYTES);
        let version = keys.keys.values().next().unwrap().primary().unwrap();
        assert_eq!(Secret::copied(material), Secret::copied(version.material.expose()));
        assert!(std::str::from_utf8(&json[LENGTH_BYTES..]).is_ok());
    }
}
