//! What the targets share: how an input is cut into parts, and naive references that share no code with kmsproxy.

pub mod hpack;
pub mod reference;
pub mod server;

/// An input, cut at each 0xFF. No UTF-8 has one, so that a seed is its parts as they stand, and what the fuzzer learns
/// of one part stays whole when another grows.
pub struct Parts<'d>(std::slice::Split<'d, u8, fn(&u8) -> bool>);

impl<'d> Parts<'d> {
    pub fn of(input: &'d [u8]) -> Self {
        Self(input.split(is_cut as fn(&u8) -> bool))
    }

    /// The next part, or nothing where there is none.
    pub fn bytes(&mut self) -> &'d [u8] {
        self.0.next().unwrap_or_default()
    }

    /// The next part as far as it is text.
    pub fn text(&mut self) -> &'d str {
        text(self.bytes())
    }

    /// The next part, where there is one.
    pub fn optional(&mut self) -> Option<&'d str> {
        self.0.next().map(text)
    }

    /// Names and values, as long as there are any.
    pub fn pairs(&mut self) -> Vec<(&'d str, &'d str)> {
        std::iter::from_fn(|| Some((self.optional()?, self.text()))).collect()
    }
}

fn is_cut(byte: &u8) -> bool {
    *byte == 0xFF
}

/// `bytes` up to the first that is no text.
pub fn text(bytes: &[u8]) -> &str {
    bytes.utf8_chunks().next().map_or("", |chunk| chunk.valid())
}

/// Choices that are taken from a few bytes over and over; always the first where there are none.
pub struct Choices<'d>(std::iter::Cycle<std::slice::Iter<'d, u8>>);

impl<'d> Choices<'d> {
    pub fn of(bytes: &'d [u8]) -> Self {
        Self(bytes.iter().cycle())
    }

    pub fn one_of(&mut self, count: usize) -> usize {
        self.0.next().map_or(0, |byte| usize::from(*byte) % count.max(1))
    }
}
