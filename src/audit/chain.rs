//! The chain: each line carries the hash of the line before, and its own.

use std::fmt;
use std::io::Write;

use hmac::{Hmac, KeyInit, Mac};
use serde::Serialize;
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

    /// The digest by which a ciphertext is recorded, in hex.
    #[must_use]
    pub fn digest(&self, ciphertext: &[u8]) -> String {
        let mac = self.ciphertexts.clone().chain_update(ciphertext);
        Hash(mac.finalize().into_bytes().into()).to_string()
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

/// The hash of one line. Shown in hex.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hash([u8; HASH_BYTES]);

impl Hash {
    /// What the first record of a chain has before it.
    pub const NONE: Self = Self([0; HASH_BYTES]);

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
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0; 2 * HASH_BYTES];
        for (digits, byte) in text.as_chunks_mut::<2>().0.iter_mut().zip(self.0) {
            *digits = [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]];
        }
        f.write_str(str::from_utf8(&text).map_err(|_| fmt::Error)?)
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
pub(super) struct Chain {
    keys: Keys,
    head: Head,
}

impl Chain {
    pub(super) const fn new(keys: Keys, head: Head) -> Self {
        Self { keys, head }
    }

    pub(super) const fn keys(&self) -> &Keys {
        &self.keys
    }

    pub(super) const fn head(&self) -> Head {
        self.head
    }

    /// Appends `event` to `lines` as the next record:
    /// `{"seq":…,"prev":"…",` the members of the event `,"hash":"…"}` and a line feed.
    pub(super) fn append(&mut self, lines: &mut Vec<u8>, event: &impl Serialize) {
        let start = lines.len();
        let seq = self.head.seq + 1;
        // Neither writing to memory nor the JSON form of texts and numbers can fail.
        let _ = write!(lines, r#"{{"seq":{seq},"prev":"{}","#, self.head.hash);
        let brace = lines.len();
        let _ = serde_json::to_writer(&mut *lines, event);
        lines.remove(brace);
        lines.pop();
        let hash = self.keys.hash(&lines[start..]);
        let _ = writeln!(lines, r#"{HASH_OPENS}{hash}{HASH_CLOSES}"#);
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
const DIGITS: &[u8; 16] = b"0123456789abcdef";
