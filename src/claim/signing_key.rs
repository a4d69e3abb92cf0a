//! An access key, ready to verify with.

use std::fmt;

use hmac::digest::CtOutput;
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use sha2::Sha256;
use subtle::ConstantTimeEq;

use crate::guard::{Full, Guarded, without_trace};
use crate::secret::Secret;

/// What HMAC makes of an access key's secret before the first byte of a request, which is all that it takes to verify one. It
/// lies in guarded memory, and the secret nowhere: no request brings it into other memory again.
pub struct SigningKey(Guarded<States>);

struct States {
    v1: Hmac<Sha1>,
    v3: Hmac<Sha256>,
}

impl SigningKey {
    /// That of `secret`, which is the caller's to drop.
    ///
    /// # Errors
    /// [`Full`] if guarded memory has no room.
    pub fn new(secret: &Secret) -> Result<Self, Full> {
        Guarded::with(|| States { v1: hmac_v1(secret), v3: hmac_v3(secret) }).map(Self)
    }

    /// The MAC of Signature V1 over what `feed` gives it.
    pub fn v1(&self, feed: impl FnOnce(&mut Hmac<Sha1>)) -> [u8; 20] {
        without_trace::<STACK, _>(|| mac(&self.0.v1, feed)).into_bytes().into()
    }

    /// The MAC of Signature V3 over what `feed` gives it.
    pub fn v3(&self, feed: impl FnOnce(&mut Hmac<Sha256>)) -> [u8; 32] {
        without_trace::<STACK, _>(|| mac(&self.0.v3, feed)).into_bytes().into()
    }

    /// Whether `secret` verifies the same.
    #[must_use]
    pub fn is_of(&self, secret: &Secret) -> bool {
        let theirs = without_trace::<STACK, _>(|| hmac_v3(secret).finalize().into_bytes());
        self.v3(|_| ()).ct_eq(&theirs).into()
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey")
    }
}

fn mac<M: Mac + Clone>(state: &M, feed: impl FnOnce(&mut M)) -> CtOutput<M> {
    let mut mac = state.clone();
    feed(&mut mac);
    mac.finalize()
}

/// HMAC-SHA1 under `secret` and an `&`, as Signature V1 has it.
#[must_use]
pub fn hmac_v1(secret: &Secret) -> Hmac<Sha1> {
    let mut key = Vec::with_capacity(secret.len() + 1);
    key.extend_from_slice(secret.expose());
    key.push(b'&');
    keyed(&Secret::new(key))
}

/// HMAC-SHA256 under `secret`, as Signature V3 has it.
#[must_use]
pub fn hmac_v3(secret: &Secret) -> Hmac<Sha256> {
    keyed(secret)
}

fn keyed<M: KeyInit>(key: &Secret) -> M {
    M::new_from_slice(key.expose()).expect("HMAC takes a key of any length")
}

/// More than HMAC takes of the stack.
const STACK: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::depth;

    #[test]
    fn what_hmac_takes_of_the_stack_is_less_than_is_wiped() {
        let secret = Secret::copied(&[1; 100]);
        let key = SigningKey::new(&secret).unwrap();
        for text in [&[2; 20][..], &[2; 4096]] {
            let depths = [
                depth(|| mac(&key.0.v1, |mac| mac.update(text))),
                depth(|| mac(&key.0.v3, |mac| mac.update(text))),
                depth(|| hmac_v3(&secret).finalize()),
            ];
            assert!(depths.iter().all(|depth| depth + 256 < STACK), "{depths:?}");
        }
    }

    #[test]
    fn it_makes_the_same_macs_again_and_again_and_no_other_secret_does() {
        let secret = Secret::copied(b"secret");
        let (key, other) = (SigningKey::new(&secret).unwrap(), SigningKey::new(&Secret::copied(b"Secret")).unwrap());
        for text in [&b"one"[..], b"another"] {
            let v1: [u8; 20] = hmac_v1(&secret).chain_update(text).finalize().into_bytes().into();
            let v3: [u8; 32] = hmac_v3(&secret).chain_update(text).finalize().into_bytes().into();
            assert_eq!((key.v1(|mac| mac.update(text)), key.v3(|mac| mac.update(text))), (v1, v3));
            assert_ne!(other.v1(|mac| mac.update(text)), v1);
            assert_ne!(other.v3(|mac| mac.update(text)), v3);
        }
        assert_eq!((key.is_of(&secret), other.is_of(&secret)), (true, false));
    }
}
