//! Percent-encoding: reading what forms and queries carry, and writing the one canonical spelling (RFC 3986, upper
//! case) that both signature versions sign. Canonical forms are streamed into a [`Sink`], never built.

use std::borrow::Cow;

use hmac::digest::Update;
use zeroize::zeroize_bytes;

/// Where a canonical form goes: a digest, a buffer, or a count.
pub trait Sink {
    /// Takes the next bytes.
    fn put(&mut self, bytes: &[u8]);

    /// Takes what `text` begins with and stands for itself everywhere, or some of it; says how much.
    fn put_unreserved(&mut self, text: &[u8]) -> usize {
        let run = text.iter().position(|&byte| !UNRESERVED[usize::from(byte)]).unwrap_or(text.len());
        self.put(&text[..run]);
        run
    }
}

impl Sink for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// Counts what it is given, to size a buffer before it is filled.
#[derive(Default)]
pub(super) struct Length(pub(super) usize);

impl Sink for Length {
    fn put(&mut self, bytes: &[u8]) {
        self.0 += bytes.len();
    }
}

/// Feeds a digest in larger pieces than it is given, which is what digests are fast at.
pub(super) struct Batch<'d, D> {
    digest: &'d mut D,
    bytes: [u8; BATCH_BYTES],
    filled: usize,
}

impl<'d, D: Update> Batch<'d, D> {
    pub(super) const fn new(digest: &'d mut D) -> Self {
        Self { digest, bytes: [0; BATCH_BYTES], filled: 0 }
    }

    /// Feeds the digest with the last of it. The batch is wiped, because plaintexts go through it: where it lies, for to move it
    /// would leave a copy.
    pub(super) fn finish(&mut self) {
        self.flush();
        zeroize_bytes(&mut self.bytes);
    }

    fn flush(&mut self) {
        self.digest.update(&self.bytes[..self.filled]);
        self.filled = 0;
    }
}

impl<D: Update> Sink for Batch<'_, D> {
    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        if bytes.len() > BATCH_BYTES - self.filled {
            self.flush();
        }
        if bytes.len() > BATCH_BYTES {
            self.digest.update(bytes);
            return;
        }
        self.bytes[self.filled..self.filled + bytes.len()].copy_from_slice(bytes);
        self.filled += bytes.len();
    }

    /// Copied while it is looked at: such runs are short.
    fn put_unreserved(&mut self, text: &[u8]) -> usize {
        let mut taken = 0;
        for (place, &byte) in self.bytes[self.filled..].iter_mut().zip(text) {
            if !UNRESERVED[usize::from(byte)] {
                break;
            }
            *place = byte;
            taken += 1;
        }
        self.filled += taken;
        taken
    }
}

/// How often a text is encoded: V1 signs a query that is encoded once more as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    /// As it stands in a query.
    Once,
    /// As it stands in V1's string to sign.
    Twice,
}

/// A text in one of the two shapes in which signers and verifiers hold it.
#[derive(Clone, Copy, Debug)]
pub enum Text<'t> {
    /// As meant.
    Plain(&'t str),
    /// As it came in a query or form, already checked by [`check`].
    Form(&'t str),
}

impl Text<'_> {
    /// Puts the canonical spelling.
    pub fn put(self, layer: Layer, sink: &mut impl Sink) {
        match self {
            Text::Plain(text) => escape(text.as_bytes(), layer, sink),
            Text::Form(raw) => respell(raw.as_bytes(), layer, sink),
        }
    }
}

/// Puts the canonical spelling of `text`.
pub fn escape(mut text: &[u8], layer: Layer, sink: &mut impl Sink) {
    loop {
        text = &text[sink.put_unreserved(text)..];
        let Some((&byte, after)) = text.split_first() else { return };
        put_byte(byte, layer, sink);
        text = after;
    }
}

fn respell(mut raw: &[u8], layer: Layer, sink: &mut impl Sink) {
    loop {
        raw = &raw[sink.put_unreserved(raw)..];
        let Some(&first) = raw.first() else { return };
        let (byte, width) = meant(first, raw);
        put_byte(byte, layer, sink);
        raw = &raw[width..];
    }
}

fn meant(first: u8, rest: &[u8]) -> (u8, usize) {
    match first {
        b'+' => (b' ', 1),
        b'%' => escaped(rest).map_or((first, 1), |byte| (byte, 3)),
        other => (other, 1),
    }
}

fn escaped(rest: &[u8]) -> Option<u8> {
    let [b'%', high, low, ..] = *rest else { return None };
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    Some(digit(high)? << 4 | digit(low)?)
}

fn put_byte(byte: u8, layer: Layer, sink: &mut impl Sink) {
    if UNRESERVED[usize::from(byte)] {
        return sink.put(&[byte]);
    }
    let (high, low) = (HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]);
    match layer {
        Layer::Once => sink.put(&[b'%', high, low]),
        Layer::Twice => sink.put(&[b'%', b'2', b'5', high, low]),
    }
}

/// What is known of a text in a query or form once each of its escapes was looked at; of a longer text, the greatest of its
/// parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Spelling {
    /// It means what stands there.
    Literal,
    /// Its escapes mean ASCII.
    Ascii,
    /// They mean other bytes, which may be UTF-8 together.
    Bytes,
    /// One of them is none.
    Broken,
}

impl Spelling {
    /// That of the byte or the escape that `rest` begins with.
    pub(super) fn first_of(rest: &[u8]) -> Self {
        match rest {
            [b'%', ..] => match escaped(rest) {
                Some(byte) if byte.is_ascii() => Self::Ascii,
                Some(_) => Self::Bytes,
                None => Self::Broken,
            },
            [b'+', ..] => Self::Ascii,
            _ => Self::Literal,
        }
    }

    fn of(raw: &str) -> Self {
        let escapes = memchr::memchr2_iter(b'%', b'+', raw.as_bytes());
        escapes.map(|at| Self::first_of(&raw.as_bytes()[at..])).max().unwrap_or(Self::Literal)
    }

    /// What `raw`, whose spelling it is, means.
    pub(super) fn read(self, raw: &str) -> Option<Cow<'_, str>> {
        match self {
            Self::Literal => Some(Cow::Borrowed(raw)),
            Self::Ascii | Self::Bytes => String::from_utf8(decoded(raw)).ok().map(Cow::Owned),
            Self::Broken => None,
        }
    }

    /// Whether it means anything.
    pub(super) fn holds(self, raw: &str) -> bool {
        match self {
            Self::Literal | Self::Ascii => true,
            Self::Bytes => String::from_utf8(decoded(raw)).is_ok(),
            Self::Broken => false,
        }
    }
}

/// Whether every escape in `raw` is whole and what it means is UTF-8.
#[must_use]
pub fn check(raw: &str) -> bool {
    Spelling::of(raw).holds(raw)
}

/// What `raw` means; borrowed where it means itself. `None` where [`check`] would say no.
#[must_use]
pub fn unescape(raw: &str) -> Option<Cow<'_, str>> {
    Spelling::of(raw).read(raw)
}

fn decoded(raw: &str) -> Vec<u8> {
    let mut rest = raw.as_bytes();
    let mut bytes = Vec::with_capacity(rest.len());
    while let Some(at) = memchr::memchr2(b'%', b'+', rest) {
        let (byte, width) = meant(rest[at], &rest[at..]);
        bytes.extend_from_slice(&rest[..at]);
        bytes.push(byte);
        rest = &rest[at + width..];
    }
    bytes.extend_from_slice(rest);
    bytes
}

/// Lower-case hexadecimal, as V3 writes its hashes.
pub(super) fn hex(bytes: &[u8]) -> [u8; 64] {
    let mut text = [b'0'; 64];
    for (pair, byte) in text.chunks_exact_mut(2).zip(bytes) {
        pair[0] = HEX[usize::from(byte >> 4)].to_ascii_lowercase();
        pair[1] = HEX[usize::from(byte & 15)].to_ascii_lowercase();
    }
    text
}

const BATCH_BYTES: usize = 512;
const HEX: &[u8; 16] = b"0123456789ABCDEF";
const UNRESERVED: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0_u8;
    while byte < 128 {
        table[byte as usize] = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~');
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn spelled(text: Text<'_>, layer: Layer) -> String {
        let mut out = Vec::new();
        text.put(layer, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_canonical_spelling_is_that_of_rfc_3986_in_upper_case() {
        assert_eq!(spelled(Text::Plain("k8s *~+/=默"), Layer::Once), "k8s%20%2A~%2B%2F%3D%E9%BB%98");
        assert_eq!(spelled(Text::Form("k8s+%2a%7E%2B/="), Layer::Once), "k8s%20%2A~%2B%2F%3D");
        assert_eq!(spelled(Text::Form("a+%2b"), Layer::Twice), "a%2520%252B");
    }

    #[test]
    fn what_needs_no_decoding_is_borrowed() {
        assert!(matches!(unescape("AES_256"), Some(Cow::Borrowed("AES_256"))));
        assert_eq!(unescape("a+b%3D"), Some(Cow::Owned("a b=".to_owned())));
    }

    #[test]
    fn broken_escapes_and_what_is_not_utf_8_are_refused() {
        for raw in ["%", "%4", "a%zz", "%+1", "%ff", "%E9%BB", "%ed%a0%80"] {
            assert_eq!((check(raw), unescape(raw)), (false, None), "{raw}");
        }
    }

    #[test]
    fn a_batch_gives_the_digest_every_byte_in_order() {
        use sha2::{Digest, Sha256};
        let bytes: Vec<u8> = (0..5000_u32).map(|n| n.to_le_bytes()[0]).collect();
        let mut digest = Sha256::new();
        let mut batch = Batch::new(&mut digest);
        let mut rest = &bytes[..];
        for length in (0..).map(|n| n * n).take_while(|&n| n < 900) {
            let (piece, after) = rest.split_at(rest.len().min(length));
            batch.put(piece);
            rest = after;
        }
        batch.put(rest);
        batch.finish();
        assert_eq!(batch.bytes, [0; BATCH_BYTES]);
        assert_eq!(digest.finalize(), Sha256::digest(&bytes));
    }

    proptest! {
        #[test]
        fn a_batch_is_given_what_a_buffer_is(pieces in prop::collection::vec("[A-Za-z~]{0,300}|[ +%\u{e9}]{0,40}", 0..8), twice: bool) {
            use sha2::{Digest, Sha256};
            let layer = if twice { Layer::Twice } else { Layer::Once };
            let (mut digest, mut buffer) = (Sha256::new(), Vec::new());
            let mut batch = Batch::new(&mut digest);
            for piece in &pieces {
                Text::Plain(piece).put(layer, &mut batch);
                Text::Plain(piece).put(layer, &mut buffer);
            }
            batch.finish();
            prop_assert_eq!(digest.finalize(), Sha256::digest(&buffer));
        }

        #[test]
        fn a_form_text_is_spelled_as_what_it_means(text in "\\PC{0,40}", twice: bool) {
            let layer = if twice { Layer::Twice } else { Layer::Once };
            let form = spelled(Text::Plain(&text), Layer::Once).replace("%20", "+");
            prop_assert!(check(&form));
            prop_assert_eq!(unescape(&form).unwrap(), text.as_str());
            prop_assert_eq!(spelled(Text::Form(&form), layer), spelled(Text::Plain(&text), layer));
        }
    }
}
