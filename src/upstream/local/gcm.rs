//! AES-256-GCM as this KMS uses it, for blobs and for its own file: `head ‖ 12-byte IV ‖ ciphertext ‖ 16-byte tag`.

use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::{Aes256Gcm, Nonce, Tag};
use zeroize::Zeroizing;

use crate::secret::Secret;

/// Puts `plaintext` under a 32-byte `key` with a random IV, after `head`, which is bound only by being in
/// `associated`. Random IVs are good for 2³² calls with one key.
pub(super) fn seal(key: &Secret, head: &[u8], associated: &[u8], plaintext: &Secret) -> Vec<u8> {
    let mut iv = [0; IV_BYTES];
    getrandom::fill(&mut iv).expect("the kernel's generator never fails once the machine is up");
    // Sized before it is filled: the plaintext is in it until it is encrypted in place.
    let mut sealed = Vec::with_capacity(head.len() + OVERHEAD_BYTES + plaintext.len());
    sealed.extend_from_slice(head);
    sealed.extend_from_slice(&iv);
    sealed.extend_from_slice(plaintext.expose());
    let body = &mut sealed[head.len() + IV_BYTES..];
    let tag = cipher(key)
        .encrypt_inout_detached(&Nonce::from(iv), associated, body.into())
        .expect("some MiB are within what GCM can take");
    sealed.extend_from_slice(&tag);
    sealed
}

/// Takes apart what [`seal`] made after a head of `head_bytes`; `None` where a bit, the key or `associated` is another.
pub(super) fn open(key: &Secret, head_bytes: usize, associated: &[u8], sealed: &[u8]) -> Option<Secret> {
    let (iv, rest) = sealed.get(head_bytes..)?.split_first_chunk::<IV_BYTES>()?;
    let (body, tag) = rest.split_last_chunk::<TAG_BYTES>()?;
    let mut plaintext = Zeroizing::new(body.to_vec());
    cipher(key)
        .decrypt_inout_detached(&Nonce::from(*iv), associated, plaintext.as_mut_slice().into(), &Tag::from(*tag))
        .ok()?;
    Some(Secret::new(std::mem::take(&mut *plaintext)))
}

fn cipher(key: &Secret) -> Aes256Gcm {
    Aes256Gcm::new_from_slice(key.expose()).expect("every key here has 32 bytes")
}

/// What is added to a plaintext, besides the head.
pub(super) const OVERHEAD_BYTES: usize = IV_BYTES + TAG_BYTES;
/// Of every key here.
pub(super) const KEY_BYTES: usize = 32;
const IV_BYTES: usize = 12;
const TAG_BYTES: usize = 16;
