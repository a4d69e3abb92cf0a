//! Answers: whole gRPC messages in their envelope, written into buffers of the right size.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::frame::{Frame, entry_len, field_len};
use super::key_id::{ANNOTATIONS_BYTES_MAX, PublicKeyId};
use super::request::VERSION;
use super::{V2Version, ciphertext};
use crate::fault::{Fault, Kind};
use crate::secret::Secret;

/// `v1beta1.VersionResponse`.
#[must_use]
pub fn version() -> Bytes {
    let fields = [VERSION, RUNTIME_NAME, RUNTIME_VERSION];
    let mut frame = Frame::with_room(fields.iter().map(|field| field_len(field.len())).sum());
    for (number, field) in (1..).zip(fields) {
        frame.field(number, field.as_bytes());
    }
    frame.close().into()
}

/// `v2.StatusResponse` of a provider in health. There is none for a sick one: kube-apiserver goes on writing under a
/// `key_id` that it is told, whatever `healthz` says (kubernetes#138950), so that a gRPC error must do.
#[must_use]
pub fn status(version: V2Version, key_id: &PublicKeyId) -> Bytes {
    let version = match version {
        V2Version::V2 => "v2",
        V2Version::V2beta1 => "v2beta1",
    };
    let fields = [version, "ok", key_id.as_str()];
    let mut frame = Frame::with_room(fields.iter().map(|field| field_len(field.len())).sum());
    for (number, field) in (1..).zip(fields) {
        frame.field(number, field.as_bytes());
    }
    frame.close().into()
}

/// `v1beta1.DecryptResponse` and `v2.DecryptResponse`, which are the same bytes.
#[must_use]
pub fn decrypted(plaintext: &Secret) -> Secret {
    let mut frame = Frame::with_room(field_len(plaintext.len()));
    frame.field(1, plaintext.expose());
    Secret::new(frame.close())
}

/// `v1beta1.EncryptResponse`.
///
/// # Errors
/// [`Kind::Garbled`] of the KMS for an empty ciphertext; [`Kind::TooLarge`], as ours, for one of more than 65,535 bytes,
/// which kube-apiserver would cut when it stores it.
pub fn encrypted_v1(cipher: &[u8]) -> Result<Bytes, Fault> {
    sized(cipher, ciphertext::V1_BYTES_MAX)?;
    let mut frame = Frame::with_room(field_len(cipher.len()));
    frame.field(1, cipher);
    Ok(frame.close().into())
}

/// `v2.EncryptResponse`.
///
/// # Errors
/// As for [`encrypted_v1`], at kube-apiserver's limits for v2: 1,024 bytes of ciphertext, 32,768 of annotations.
pub fn encrypted_v2(
    ciphertext: &[u8],
    key_id: &PublicKeyId,
    annotations: &BTreeMap<String, Vec<u8>>,
) -> Result<Bytes, Fault> {
    sized(ciphertext, ciphertext::V2_BYTES_MAX)?;
    let total: usize = annotations.iter().map(|(name, value)| name.len() + value.len()).sum();
    if total > ANNOTATIONS_BYTES_MAX {
        return Err(Fault::proxy(Kind::TooLarge));
    }
    let entries: usize = annotations.iter().map(|(name, value)| entry_len(name, value)).sum();
    let mut frame = Frame::with_room(field_len(ciphertext.len()) + field_len(key_id.as_str().len()) + entries);
    frame.field(1, ciphertext);
    frame.field(2, key_id.as_str().as_bytes());
    for (name, value) in annotations {
        frame.entry(3, name, value);
    }
    Ok(frame.close().into())
}

fn sized(ciphertext: &[u8], max: usize) -> Result<(), Fault> {
    match ciphertext.len() {
        0 => Err(Fault::kms(Kind::Garbled)),
        length if length > max => Err(Fault::proxy(Kind::TooLarge)),
        _ => Ok(()),
    }
}

const RUNTIME_NAME: &str = "kmsproxy";
const RUNTIME_VERSION: &str = env!("CARGO_PKG_VERSION");
