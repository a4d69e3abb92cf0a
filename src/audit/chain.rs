//! The chain: each line carries the hash of the line before, and its own.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

use crate::secret::Secret;

/// What hashes lines and ciphertexts. With a secret both are HMACs under keys derived from it; without, lines are hashed
/// plainly, which anybody can do, and ciphertexts under a random key that dies with the process.
#[derive(Clone)]
pub struct Keys {
    lines: Option<Hmac<Sha256>>,
    ciphertexts: Hmac<Sha256>,
}

impl Keys {
    /// Of `secret`, where there is one.
    ///
    /// # Errors
    /// Where the system has no randomness to give.
    pub fn of(secret: Option<&Secret>) -> Result<Self, getrandom::Error> {
        if let Some(secret) = secret {
            return Ok(Self { lines: Some(derived(secret, LINES)), ciphertexts: derived(secret, CIPHERTEXTS) });
        }
        let mut random = [0; HASH_BYTES];
        getrandom::fill(&mut random)?;
        Ok(Self { lines: None, ciphertexts: keyed(&random) })
    }

    /// Whether lines are hashed under a secret.
    #[must_use]
    pub const fn keyed(&self) -> bool {
        self.lines.is_some()
    }

    /// The digest by which a ciphertext is recorded.
    #[must_use]
    pub fn digest(&self, ciphertext: &[u8]) -> Hash {
        Hash(self.ciphertexts.clone().chain_update(ciphertext).finalize().into_bytes().into())
    }

    /// The hash of a line whose part before its own hash is `body`.
    pub(super) fn hash(&self, body: &[u8]) -> Hash {
        Hash(match &self.lines {
            Some(mac) => mac.clone().chain_update(body).finalize().into_bytes().into(),
            None => Sha256::digest(body).into(),
        })
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.keyed() { "Keys(secret)" } else { "Keys(random)" })
    }
}

/// The hash of one line, or the digest of a ciphertext. Shown in hex.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hash([u8; HASH_BYTES]);

impl Hash {
    /// What the first record of a chain has before it.
    pub const NONE: Self = Self([0; HASH_BYTES]);

    pub(super) const BYTES: usize = HASH_BYTES;

    pub(super) const fn of(bytes: [u8; HASH_BYTES]) -> Self {
        Self(bytes)
    }

    pub(super) const fn bytes(&self) -> &[u8; HASH_BYTES] {
        &self.0
    }

    /// Reads 64 lower-case hex digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Some(byte - b'0'),
            b'a'..=b'f' => Some(byte - b'a' + 10),
            _ => None,
        };
        let pairs: &[[u8; 2]; HASH_BYTES] = text.as_bytes().as_chunks::<2>().0.try_into().ok()?;
        let mut hash = [0; HASH_BYTES];
        for (byte, [high, low]) in hash.iter_mut().zip(pairs) {
            *byte = (digit(*high)? << 4) | digit(*low)?;
        }
        (text.len() == 2 * HASH_BYTES).then_some(Self(hash))
    }

    /// In hex, as [`Hash::parse`] reads it.
    pub(super) fn hex(&self) -> [u8; 2 * HASH_BYTES] {
        let digit = |half: u8| half + if half < 10 { b'0' } else { b'a' - 10 };
        let mut text = [0; 2 * HASH_BYTES];
        for (digits, byte) in text.as_chunks_mut::<2>().0.iter_mut().zip(self.0) {
            *digits = [digit(byte >> 4), digit(byte & 15)];
        }
        text
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(str::from_utf8(&self.hex()).map_err(|_| fmt::Error)?)
    }
}

/// The last record of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Its number; 0 before the first.
    pub seq: u64,
    /// Its hash.
    pub hash: Hash,
}

impl Head {
    /// Before the first record.
    pub const NONE: Self = Self { seq: 0, hash: Hash::NONE };

    /// Reads what `Display` writes: `SEQ:HASH`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (seq, hash) = text.split_once(':')?;
        Some(Self { seq: seq.parse().ok()?, hash: Hash::parse(hash)? })
    }
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.seq, self.hash)
    }
}

/// Where the next record is forged on.
#[derive(Debug)]
pub struct Chain {
    keys: Keys,
    head: Head,
}

impl Chain {
    /// Goes on after `head`.
    #[must_use]
    pub const fn new(keys: Keys, head: Head) -> Self {
        Self { keys, head }
    }

    pub(super) const fn is_keyed(&self) -> bool {
        self.keys.keyed()
    }

    pub(super) const fn head(&self) -> Head {
        self.head
    }

    /// Appends the next record to `lines`:
    /// `{"seq":…,"prev":"…"`, what `members` appends (each after a comma), `,"hash":"…"}` and a line feed.
    pub fn append(&mut self, lines: &mut Vec<u8>, members: impl FnOnce(&Keys, &mut Vec<u8>)) {
        let start = lines.len();
        let seq = self.head.seq + 1;
        lines.extend_from_slice(br#"{"seq":"#);
        // Writing a number to memory cannot fail.
        let _ = serde_json::to_writer(&mut *lines, &seq);
        lines.extend_from_slice(br#","prev":""#);
        lines.extend_from_slice(&self.head.hash.hex());
        lines.push(b'"');
        members(&self.keys, lines);
        let hash = self.keys.hash(&lines[start..]);
        lines.extend_from_slice(HASH_OPENS.as_bytes());
        lines.extend_from_slice(&hash.hex());
        lines.extend_from_slice(HASH_CLOSES.as_bytes());
        lines.push(b'\n');
        self.head = Head { seq, hash };
    }
}

/// Takes a line apart into what is hashed and the hash that it claims.
pub(super) fn part(line: &[u8]) -> Option<(&[u8], Hash)> {
    let body = line.len().checked_sub(HASH_OPENS.len() + 2 * HASH_BYTES + HASH_CLOSES.len())?;
    let (body, tail) = line.split_at(body);
    let hash = str::from_utf8(tail).ok()?.strip_prefix(HASH_OPENS)?.strip_suffix(HASH_CLOSES)?;
    Some((body, Hash::parse(hash)?))
}

fn derived(secret: &Secret, purpose: &[u8]) -> Hmac<Sha256> {
    keyed(&keyed(secret.expose()).chain_update(purpose).finalize().into_bytes())
}

fn keyed(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("HMAC takes a key of any length")
}

const LINES: &[u8] = b"kmsproxy audit, lines, 1";
const CIPHERTEXTS: &[u8] = b"kmsproxy audit, ciphertexts, 1";
const HASH_OPENS: &str = r#","hash":""#;
const HASH_CLOSES: &str = r#""}"#;
const HASH_BYTES: usize = 32;
