//! What is asked for: ciphertexts, each with the plaintext that must come back.

/// Many DEKs in one piece of memory. They are made up here and protect nothing.
#[derive(Clone, Default)]
pub(super) struct Deks {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    plains: Vec<[u8; PLAIN_BYTES]>,
}

impl Deks {
    /// Adds one: `wire` is what the face's requests carry of it.
    pub(super) fn push(&mut self, wire: &[u8], plain: [u8; PLAIN_BYTES]) {
        self.bytes.extend_from_slice(wire);
        self.ends.push(self.bytes.len());
        self.plains.push(plain);
    }

    pub(super) const fn len(&self) -> usize {
        self.ends.len()
    }

    pub(super) fn wire(&self, index: u32) -> &[u8] {
        let index = index as usize;
        let from = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.bytes[from..self.ends[index]]
    }

    pub(super) fn plain(&self, index: u32) -> &[u8; PLAIN_BYTES] {
        &self.plains[index as usize]
    }

    /// The same requests, for who answers a constant.
    pub(super) fn echoed(mut self, plain: [u8; PLAIN_BYTES]) -> Self {
        self.plains.fill(plain);
        self
    }
}

/// A plaintext that no other index has, and no other run.
pub(super) fn plaintext(run: u64, index: u64) -> [u8; PLAIN_BYTES] {
    let mut plain = [0xA5; PLAIN_BYTES];
    plain[..8].copy_from_slice(&run.to_be_bytes());
    plain[8..16].copy_from_slice(&index.to_be_bytes());
    plain
}

/// A DEK of kube-apiserver.
pub(super) const PLAIN_BYTES: usize = 32;
