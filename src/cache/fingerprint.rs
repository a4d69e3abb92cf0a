//! What a call and its answer are filed under.

use std::fmt;

use hmac::{Hmac, Mac};
use sha2::Sha256;

use crate::kms::Context;

/// A keyed hash over everything an answer depends on. The key is random and dies with the process, so a fingerprint
/// names nothing outside it.
///
/// 128 bits of it. Whoever would find two calls of one fingerprint has nothing to search by without the key, and by chance
/// two of a million calls have the same with a probability of one in 10²⁶.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint {
    pub(super) hash: [u8; 16],
}

/// A part of a fingerprint that is as good as a hash of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Slip(pub(super) u64);

impl Fingerprint {
    pub(super) fn slip(&self) -> Slip {
        let [a, b, c, d, e, f, g, h, ..] = self.hash;
        Slip(u64::from_ne_bytes([a, b, c, d, e, f, g, h]))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fingerprint")
    }
}

/// Feeds one part, told apart from the next by its length.
pub(super) fn absorb(mac: &mut Hmac<Sha256>, part: &[u8]) {
    mac.update(&(part.len() as u64).to_be_bytes());
    mac.update(part);
}

pub(super) fn absorb_context(mac: &mut Hmac<Sha256>, context: &Context) {
    mac.update(&[1]);
    // As it was spelled, too: some KMS editions bind the spelling, and would refuse what another one is answered.
    absorb(mac, context.text().as_bytes());
    mac.update(&(context.pairs().len() as u64).to_be_bytes());
    for (name, value) in context.pairs() {
        absorb(mac, name.as_bytes());
        absorb(mac, value.as_bytes());
    }
}
