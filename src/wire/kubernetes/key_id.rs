//! `key_id` of v2, and the annotations that say what it stands for. Both lie in etcd in clear.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::kms::{KeyId, KeyName, KeyVersion};

/// The most that annotations may hold, names and values together (envelope/kmsv2/envelope.go).
pub const ANNOTATIONS_BYTES_MAX: usize = 32 * 1024;

/// What kube-apiserver calls a version of a key: 64 lower-case hexadecimal digits of a SHA-256 over the key's id, its
/// version and the configured suffix. The same wherever these are, and different wherever one of them is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PublicKeyId(Arc<str>);

impl PublicKeyId {
    /// The `key_id` of `version` of `key`.
    #[must_use]
    pub fn of(key: &KeyId, version: &KeyVersion, suffix: &str) -> Self {
        let digits = digits(key.as_str(), version.as_str(), suffix);
        Self(str::from_utf8(&digits).expect("digits are ASCII").into())
    }

    /// The digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn digits(key: &str, version: &str, suffix: &str) -> [u8; 64] {
    let mut hash = Sha256::new();
    // Each part after its length: no two triples spell the same.
    for part in [DOMAIN, key, version, suffix] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    let mut digits = [0; 64];
    for (two, byte) in digits.chunks_exact_mut(2).zip(hash.finalize()) {
        two.copy_from_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 0xF)]]);
    }
    digits
}

impl fmt::Display for PublicKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What `Encrypt` lays beside a ciphertext so that `Decrypt` finds its key again: id, version and, where there is one,
/// the suffix as it is now. The suffix must be kept, for what was written before it changed is to be read after. Names
/// are bare domain names: kube-apiserver takes no others.
#[must_use]
pub fn annotations(key: &KeyId, version: &KeyVersion, suffix: &str) -> BTreeMap<String, Vec<u8>> {
    let given = Some(suffix).filter(|suffix| !suffix.is_empty());
    let all = [(KEY, Some(key.as_str())), (VERSION, Some(version.as_str())), (SUFFIX, given)];
    all.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?.as_bytes().to_vec()))).collect()
}

/// Why a `key_id` and its annotations are not what [`annotations`] and [`PublicKeyId::of`] made together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Foreign {
    /// The annotations are there and stand for another `key_id`, or for none.
    Altered,
    /// An annotation that we always write is not there.
    Missing,
}

/// The key and version that `key_id` stands for, by what the annotations say. Annotations that are not ours are let be.
///
/// # Errors
/// [`Foreign`] where the annotations do not lead to this very `key_id`.
pub fn read(key_id: &str, annotations: &BTreeMap<String, Vec<u8>>) -> Result<(KeyId, KeyVersion), Foreign> {
    let bytes = |name| annotations.get(name).map(Vec::as_slice);
    let text = |bytes| str::from_utf8(bytes).map_err(|_| Foreign::Altered);
    let key = text(bytes(KEY).ok_or(Foreign::Missing)?)?;
    let version = text(bytes(VERSION).ok_or(Foreign::Missing)?)?;
    let suffix = text(bytes(SUFFIX).unwrap_or_default())?;
    // Anyone can make a key_id for any text: an alias must not get in by it.
    let is_id = !key.is_empty() && KeyName::new(key).is_id();
    let same = digits(key, version, suffix) == key_id.as_bytes();
    if is_id && same { Ok((KeyId::new(key), KeyVersion::new(version))) } else { Err(Foreign::Altered) }
}

const KEY: &str = "key.kmsproxy.internal";
const VERSION: &str = "version.kmsproxy.internal";
const SUFFIX: &str = "suffix.kmsproxy.internal";
const DOMAIN: &str = "kmsproxy key_id v1";
const HEX: [u8; 16] = *b"0123456789abcdef";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn made(key: &str, version: &str, suffix: &str) -> (PublicKeyId, BTreeMap<String, Vec<u8>>) {
        let (key, version) = (KeyId::new(key), KeyVersion::new(version));
        (PublicKeyId::of(&key, &version, suffix), annotations(&key, &version, suffix))
    }

    #[test]
    fn an_annotation_that_is_lost_or_altered_is_told() {
        let (id, whole) = made("key-1", "v1", "s");
        for (name, lost) in [(KEY, Foreign::Missing), (VERSION, Foreign::Missing), (SUFFIX, Foreign::Altered)] {
            let mut annotations = whole.clone();
            annotations.insert(name.to_owned(), b"other".to_vec());
            assert_eq!(read(id.as_str(), &annotations), Err(Foreign::Altered), "{name}");
            annotations.insert(name.to_owned(), vec![0xFF]);
            assert_eq!(read(id.as_str(), &annotations), Err(Foreign::Altered), "{name}");
            annotations.remove(name);
            assert_eq!(read(id.as_str(), &annotations), Err(lost), "{name}");
        }
        let mut more = whole;
        more.insert("another.example.com".to_owned(), vec![0xFF]);
        assert_eq!(read(id.as_str(), &more), Ok((KeyId::new("key-1"), KeyVersion::new("v1"))));
        assert_eq!(read(&id.as_str().to_uppercase(), &more), Err(Foreign::Altered));
    }

    #[test]
    fn a_key_id_made_for_an_alias_or_an_arn_is_foreign() {
        for name in ["", "alias/k8s", "acs:kms:r:1:key/key-1"] {
            let (id, annotations) = made(name, "v1", "");
            assert_eq!(read(id.as_str(), &annotations), Err(Foreign::Altered), "{name}");
        }
    }

    #[test]
    fn what_was_written_under_another_suffix_is_still_read() {
        let (before, after) = (made("key-1", "v1", ""), made("key-1", "v1", "2"));
        assert_ne!(before.0, after.0);
        for (id, annotations) in [before, after] {
            assert!(read(id.as_str(), &annotations).is_ok());
        }
    }

    /// As `IsFullyQualifiedDomainName` of Kubernetes has it: two labels or more of `[a-z0-9]([-a-z0-9]*[a-z0-9])?`.
    #[test]
    fn the_names_are_domain_names() {
        for name in [KEY, VERSION, SUFFIX] {
            let labels: Vec<_> = name.split('.').collect();
            assert!(labels.len() >= 2, "{name}");
            for label in labels {
                assert!(!label.is_empty() && label.bytes().all(|byte| byte.is_ascii_lowercase()), "{name}");
            }
        }
    }

    proptest! {
        #[test]
        fn two_triples_with_the_same_text_have_two_key_ids(text in "[ab]{3,9}", a in 0..9_usize, b in 0..9_usize,
            c in 0..9_usize, d in 0..9_usize)
        {
            let split = |first: usize, second: usize| {
                let (first, second) = (first.min(second).min(text.len()), first.max(second).min(text.len()));
                (&text[..first], &text[first..second], &text[second..])
            };
            let (one, other) = (split(a, b), split(c, d));
            let ids = [one, other].map(|(key, version, suffix)| made(key, version, suffix).0);
            prop_assert_eq!(ids[0] == ids[1], one == other);
            prop_assert_eq!(ids[0].as_str().len(), 64);
        }
    }
}
