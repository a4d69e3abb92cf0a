//! What v1 keeps in etcd for each object: ours, `0x01 ‖ length of the key id ‖ key id ‖ blob`, or the base64 text of the
//! blob, as `ack-kms-plugin` writes it (plugin/server.go: `[]byte(response.CiphertextBlob)`). No base64 text begins with
//! 0x01, so that each is known by its first byte. v2 keeps the blob itself.

use super::V1Ciphertext;
use crate::fault::{Fault, Kind};
use crate::kms::{Ciphertext, KeyId, KeyName};
use crate::wire::base64;

/// The longest ciphertext of v1: etcd's value has two bytes for its length (envelope/envelope.go).
pub const V1_BYTES_MAX: usize = 65_535;
/// The longest ciphertext of v2 (envelope/kmsv2/envelope.go).
pub const V2_BYTES_MAX: usize = 1024;

/// What v1 stores for `blob`, which `key` made.
///
/// # Errors
/// [`Kind::Garbled`] of the KMS where its key id is not one that [`v1_decode`] would take back: empty, longer than 255
/// bytes, or with a `/` or a `:` as aliases and ARNs have.
pub fn v1_encode(form: V1Ciphertext, key: &KeyId, blob: &Ciphertext) -> Result<Vec<u8>, Fault> {
    match form {
        V1Ciphertext::AckKmsPlugin => {
            let mut text = Vec::with_capacity(base64::encoded_len(blob.bytes()));
            base64::put(blob.bytes(), &mut text);
            Ok(text)
        }
        V1Ciphertext::Kmsproxy => {
            let id = key.as_str();
            let length = u8::try_from(id.len()).ok().filter(|_| named(id).is_some());
            let length = length.ok_or(Fault::kms(Kind::Garbled))?;
            let mut bytes = Vec::with_capacity(2 + id.len() + blob.bytes().len());
            bytes.extend_from_slice(&[OURS, length]);
            bytes.extend_from_slice(id.as_bytes());
            bytes.extend_from_slice(blob.bytes());
            Ok(bytes)
        }
    }
}

/// The blob in what v1 stored, in either form, and the key that made it where that was written down.
///
/// # Errors
/// [`Kind::InvalidCiphertext`], the caller's, for everything else.
pub fn v1_decode(stored: &[u8]) -> Result<(Option<KeyName>, Ciphertext), Fault> {
    let decoded = match stored.split_first() {
        Some((&OURS, rest)) => ours(rest),
        Some(_) => base64::decode(stored).map(|blob| (None, Ciphertext::new(blob))),
        None => None,
    };
    decoded.ok_or(Fault::caller(Kind::InvalidCiphertext))
}

fn ours(rest: &[u8]) -> Option<(Option<KeyName>, Ciphertext)> {
    let (&length, rest) = rest.split_first()?;
    let (id, blob) = rest.split_at_checked(length.into())?;
    let name = named(str::from_utf8(id).ok()?)?;
    (!blob.is_empty()).then(|| (Some(name), Ciphertext::new(blob.to_vec())))
}

/// `id` as the name of a key; none where it is a name of another kind, for what a caller hands in must not choose an
/// alias to be judged by.
fn named(id: &str) -> Option<KeyName> {
    Some(KeyName::new(id)).filter(|name| !id.is_empty() && name.is_id())
}

/// The first byte of our form: its version.
const OURS: u8 = 0x01;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_id_that_would_not_be_read_back_is_not_written() {
        let long = "k".repeat(256);
        for id in ["", "alias/a", "acs:kms:r:1:key/key-a", &long] {
            let encoded = v1_encode(V1Ciphertext::Kmsproxy, &KeyId::new(id), &Ciphertext::new(vec![7]));
            assert_eq!(encoded, Err(Fault::kms(Kind::Garbled)), "{id}");
        }
    }
}
