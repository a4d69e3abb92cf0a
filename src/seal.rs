//! Sealing: DEKs under a key that lives as long as one lease epoch, credentials under one that lives as long as we do.

use std::fmt;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::{Aes256Gcm, Nonce, Tag};
use zeroize::Zeroizing;

use crate::guard::{Full, Guarded, without_trace};
use crate::secret::Secret;

/// An AES-256-GCM key, born at random in guarded memory and nowhere else in clear.
///
/// Dropping it wipes it, and with that everything sealed under it is beyond recovery: one wipe, however much there is.
pub struct EpochKey {
    cipher: Guarded<Aes256Gcm>,
    next: AtomicU64,
}

impl EpochKey {
    /// A new key from the kernel's random source.
    ///
    /// # Errors
    /// [`Full`] if guarded memory has no room; then nothing can be sealed and nothing may be kept.
    pub fn generate() -> Result<Self, Full> {
        let cipher = Guarded::with(|| {
            let mut raw = Zeroizing::new([0; KEY_BYTES]);
            getrandom::fill(raw.as_mut_slice()).expect("the kernel's random source does not fail once it is seeded");
            Aes256Gcm::new((&*raw).into())
        })?;
        Ok(Self { cipher, next: AtomicU64::new(0) })
    }

    /// Encrypts `plaintext` so that only [`open`](Self::open) of this key with the same `aad` gives it back.
    ///
    /// `None` once the key was used 2³² times (a new epoch has a new key), or if `plaintext` is 64 GiB or more.
    #[must_use]
    pub fn seal(&self, aad: &[u8], plaintext: &[u8]) -> Option<Sealed> {
        // A counter cannot repeat under one key, which random nonces can. Past the limit it still counts, and would
        // need centuries to wrap.
        let nonce = self.next.fetch_add(1, Ordering::Relaxed);
        if nonce >= SEALS_MAX {
            return None;
        }
        // Copied where it is then enciphered, so that no copy stays behind.
        let mut sealed = Sealed::empty(u32::try_from(nonce).ok()?, plaintext.len() + TAG_BYTES);
        sealed.bytes_mut()[..plaintext.len()].copy_from_slice(plaintext);
        let (bytes, tag) = sealed.bytes_mut().split_last_chunk_mut::<TAG_BYTES>()?;
        *tag =
            without_trace::<STACK, _>(|| self.cipher.encrypt_inout_detached(&spread(nonce), aad, bytes.into()).ok())?
                .into();
        Some(sealed)
    }

    /// The plaintext, if `sealed` was sealed by this key with this `aad` and nobody changed a bit of it since.
    #[must_use]
    pub fn open(&self, aad: &[u8], sealed: &Sealed) -> Option<Secret> {
        let (ciphertext, tag) = sealed.bytes().split_last_chunk::<TAG_BYTES>()?;
        let mut buffer = ciphertext.to_vec();
        // Nothing is decrypted unless the tag is right: what is dropped on failure is still ciphertext.
        let (nonce, tag) = (spread(sealed.nonce()), Tag::from(*tag));
        let decrypted = without_trace::<STACK, _>(|| {
            self.cipher.decrypt_inout_detached(&nonce, aad, buffer.as_mut_slice().into(), &tag)
        });
        let secret = Secret::new(buffer);
        decrypted.ok().map(|()| secret)
    }
}

impl fmt::Debug for EpochKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EpochKey(used {} times)", self.next.load(Ordering::Relaxed))
    }
}

/// Ciphertext and tag under an [`EpochKey`]. Worth nothing without it: needs no wiping, may be swapped or dumped.
#[derive(Clone, PartialEq, Eq)]
pub struct Sealed(Body);

#[derive(Clone, PartialEq, Eq)]
enum Body {
    /// In place, so that a hit finds it where it found the entry: a DEK of 32 bytes, as nearly all are, or a shorter one.
    Short {
        length: u8,
        nonce: u32,
        bytes: [u8; SHORT_BYTES],
    },
    Long {
        nonce: u32,
        bytes: Box<[u8]>,
    },
}

impl Sealed {
    fn empty(nonce: u32, length: usize) -> Self {
        Self(match u8::try_from(length) {
            Ok(short) if length <= SHORT_BYTES => Body::Short { length: short, nonce, bytes: [0; SHORT_BYTES] },
            _ => Body::Long { nonce, bytes: vec![0; length].into() },
        })
    }

    /// The plaintext's length and 16.
    #[must_use]
    pub fn size(&self) -> usize {
        self.bytes().len()
    }

    fn nonce(&self) -> u64 {
        match self.0 {
            Body::Short { nonce, .. } | Body::Long { nonce, .. } => nonce.into(),
        }
    }

    fn bytes(&self) -> &[u8] {
        match &self.0 {
            Body::Short { length, bytes, .. } => bytes.get(..usize::from(*length)).unwrap_or_default(),
            Body::Long { bytes, .. } => bytes,
        }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        match &mut self.0 {
            Body::Short { length, bytes, .. } => bytes.get_mut(..usize::from(*length)).unwrap_or_default(),
            Body::Long { bytes, .. } => bytes,
        }
    }
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealed({} bytes)", self.size())
    }
}

/// A credential that is kept for as long as the process lives: sealed, and in clear only for the time of one use.
///
/// Its key is the process's own and lies in guarded memory, so that a dump gives nothing away. Root in this machine can
/// still have the process itself open it.
pub struct AtRest(Sealed);

impl AtRest {
    /// Seals a copy of `secret`, which is the caller's to drop.
    ///
    /// # Errors
    /// [`Full`] if there is no guarded memory for the process's own key, or if that was used 2³² times.
    pub fn new(secret: &Secret) -> Result<Self, Full> {
        let key = OWN.as_ref().map_err(|&full| full)?;
        key.seal(b"", secret.expose()).map(Self).ok_or(Full)
    }

    /// The secret, for one use.
    #[must_use]
    pub fn open(&self) -> Secret {
        let opened = OWN.as_ref().ok().and_then(|key| key.open(b"", &self.0));
        opened.expect("was sealed by this key, which is never replaced, and nobody else can change it")
    }
}

impl fmt::Debug for AtRest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AtRest({} bytes)", self.0.size() - TAG_BYTES)
    }
}

/// The process's own key.
static OWN: LazyLock<Result<EpochKey, Full>> = LazyLock::new(EpochKey::generate);

fn spread(counter: u64) -> Nonce<aes_gcm::aead::consts::U12> {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&counter.to_be_bytes());
    nonce.into()
}

const KEY_BYTES: usize = 32;
const TAG_BYTES: usize = 16;
const SHORT_BYTES: usize = 32 + TAG_BYTES;
/// More than AES-GCM takes of the stack: 9.2 KiB with the instructions of AVX-512, 4.5 on ARM64, 3.3 with AES-NI; and without
/// optimisation 26.
const STACK: usize = if cfg!(debug_assertions) { 32 << 10 } else { 12 << 10 };
/// Seals per key.
const SEALS_MAX: u64 = 1 << 32;

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::Arc;
    use std::thread;

    use proptest::prelude::*;

    use super::*;
    use crate::guard::{STACK_BYTES, depth};

    const SPARE: usize = 1 << 10;

    fn key() -> EpochKey {
        EpochKey::generate().unwrap()
    }

    #[test]
    fn only_the_same_key_and_associated_data_open() {
        let (ours, other) = (key(), key());
        let sealed = ours.seal(b"fingerprint", b"a data key").unwrap();
        assert_eq!(ours.open(b"fingerprint", &sealed), Some(Secret::copied(b"a data key")));
        assert_eq!(ours.open(b"fingerprinT", &sealed), None);
        assert_eq!(ours.open(b"", &sealed), None);
        assert_eq!(other.open(b"fingerprint", &sealed), None);
    }

    #[test]
    fn what_is_shorter_than_a_tag_does_not_open() {
        let sealed = Sealed(Body::Long { nonce: 0, bytes: Box::from([0; TAG_BYTES - 1]) });
        assert_eq!(key().open(b"", &sealed), None);
    }

    #[test]
    fn what_aes_gcm_takes_of_the_stack_is_less_than_is_wiped() {
        let making = depth(|| Aes256Gcm::new(&[1; 32].into()));
        assert!(making + SPARE < STACK_BYTES, "{making}");
        for length in [0, 16, 32, 48, 1024, 1025, 6144] {
            let (cipher, nonce, mut bytes) = (Aes256Gcm::new(&[1; 32].into()), spread(7), vec![1; length]);
            let mut tag = Tag::default();
            let sealing =
                depth(|| tag = cipher.encrypt_inout_detached(&nonce, b"", bytes.as_mut_slice().into()).unwrap());
            let opening =
                depth(|| cipher.decrypt_inout_detached(&nonce, b"", bytes.as_mut_slice().into(), &tag).unwrap());
            assert!(sealing.max(opening) + SPARE < STACK, "{length}: {sealing}, {opening}");
        }
    }

    #[test]
    fn another_nonce_does_not_open() {
        let key = key();
        let mut sealed = key.seal(b"", b"a data key").unwrap();
        match &mut sealed.0 {
            Body::Short { nonce, .. } | Body::Long { nonce, .. } => *nonce += 1,
        }
        assert_eq!(key.open(b"", &sealed), None);
    }

    #[test]
    fn no_nonce_is_used_twice_by_any_number_of_threads() {
        let key = Arc::new(key());
        let workers: Vec<_> = (0..4)
            .map(|_| {
                let key = Arc::clone(&key);
                thread::spawn(move || (0..500).map(|_| key.seal(b"", b"").unwrap().nonce()).collect::<Vec<_>>())
            })
            .collect();
        let nonces: HashSet<_> = workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect();
        assert_eq!(nonces, (0..2_000).collect());
    }

    #[test]
    fn equal_plaintexts_do_not_look_equal() {
        let key = key();
        assert_ne!(key.seal(b"", b"a data key").unwrap().bytes(), key.seal(b"", b"a data key").unwrap().bytes());
    }

    #[test]
    fn a_key_at_its_limit_refuses_and_still_opens() {
        let key = key();
        key.next.store(SEALS_MAX - 1, Ordering::Relaxed);
        let last = key.seal(b"", b"last").unwrap();
        assert_eq!(key.seal(b"", b"one more"), None);
        assert_eq!(key.seal(b"", b"and more"), None);
        assert_eq!(key.open(b"", &last), Some(Secret::copied(b"last")));
    }

    #[test]
    fn what_is_at_rest_is_opened_for_use_and_looks_like_nothing() {
        let one = AtRest::new(&Secret::copied(b"hunter2")).unwrap();
        let other = AtRest::new(&Secret::copied(b"hunter2")).unwrap();
        assert_eq!((one.open(), other.open()), (Secret::copied(b"hunter2"), Secret::copied(b"hunter2")));
        assert_ne!(one.0.bytes(), other.0.bytes());
        assert_eq!(format!("{one:?}"), "AtRest(7 bytes)");
    }

    #[test]
    fn debug_shows_no_bytes() {
        let key = key();
        assert_eq!(format!("{:?}", key.seal(b"", b"four").unwrap()), "Sealed(20 bytes)");
        assert_eq!(format!("{key:?}"), "EpochKey(used 1 times)");
    }

    proptest! {
        #[test]
        fn what_was_sealed_opens_and_one_changed_bit_closes_it(
            aad in proptest::collection::vec(any::<u8>(), 0..80),
            plaintext in proptest::collection::vec(any::<u8>(), 0..300),
            bit in any::<prop::sample::Index>(),
        ) {
            let key = key();
            let mut sealed = key.seal(&aad, &plaintext).unwrap();
            prop_assert_eq!(sealed.size(), plaintext.len() + TAG_BYTES);
            prop_assert_eq!(key.open(&aad, &sealed), Some(Secret::copied(&plaintext)));
            let bit = bit.index(sealed.size() * 8);
            sealed.bytes_mut()[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(key.open(&aad, &sealed), None);
        }
    }
}
