//! The header fields of a request, whoever has read them.

use std::slice;

use http::header::{self, HeaderMap};
use httparse::Header;

/// Header fields, borrowed. What is asked of them is asked by going through them: they are few, and to hash a name costs
/// more.
#[derive(Clone, Copy)]
pub enum Fields<'r> {
    /// As they stood in the request, their names in any case.
    Lines(&'r [Header<'r>]),
    /// As hyper hands them on.
    Map(&'r HeaderMap),
}

impl<'r> Fields<'r> {
    /// Each name and value. Names come in any case.
    #[must_use]
    pub fn iter(self) -> Iter<'r> {
        match self {
            Self::Lines(lines) => Iter::Lines(lines.iter()),
            Self::Map(map) => Iter::Map(map.iter()),
        }
    }

    /// The values of `name`.
    pub fn all(self, name: &str) -> impl Iterator<Item = &'r [u8]> {
        self.iter().filter(move |(said, _)| said.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

impl<'r> From<&'r HeaderMap> for Fields<'r> {
    fn from(map: &'r HeaderMap) -> Self {
        Self::Map(map)
    }
}

impl<'r> IntoIterator for Fields<'r> {
    type Item = (&'r str, &'r [u8]);
    type IntoIter = Iter<'r>;

    fn into_iter(self) -> Iter<'r> {
        self.iter()
    }
}

/// See [`Fields::iter`].
pub enum Iter<'r> {
    /// Of lines.
    Lines(slice::Iter<'r, Header<'r>>),
    /// Of a map.
    Map(header::Iter<'r, header::HeaderValue>),
}

impl<'r> Iterator for Iter<'r> {
    type Item = (&'r str, &'r [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::Lines(lines) => lines.next().map(|line| (line.name, line.value)),
            Self::Map(map) => map.next().map(|(name, value)| (name.as_str(), value.as_bytes())),
        }
    }
}

/// A value as text, where it is visible ASCII (and tabs), as `HeaderValue::to_str` has it.
#[must_use]
pub fn text(value: &[u8]) -> Option<&str> {
    let visible = |byte: u8| matches!(byte, b' '..=b'~') | (byte == b'\t');
    if value.iter().fold(true, |all, &byte| all & visible(byte)) { str::from_utf8(value).ok() } else { None }
}

/// Whether a field can have this value, as `HeaderValue::from_bytes` has it.
#[must_use]
pub fn is_value(value: &[u8]) -> bool {
    value.iter().fold(true, |all, &byte| all & ((byte >= b' ') & (byte != 0x7F) | (byte == b'\t')))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn both_kinds_say_the_same() {
        let map =
            HeaderMap::from_iter([(header::HOST, HeaderValue::from_static("a")), (header::VIA, "b".parse().unwrap())]);
        let lines = [Header { name: "HOST", value: b"a" }, Header { name: "Via", value: b"b" }];
        for fields in [Fields::from(&map), Fields::Lines(&lines)] {
            assert_eq!(fields.iter().count(), 2);
            assert_eq!(fields.all("host").collect::<Vec<_>>(), [b"a"]);
            assert_eq!(fields.all("hos").next(), None);
        }
    }

    #[test]
    fn a_value_is_text_as_http_has_it() {
        for byte in 0..=u8::MAX {
            let value = [b'a', byte];
            let theirs = HeaderValue::from_bytes(&value).ok();
            assert_eq!(is_value(&value), theirs.is_some(), "{byte}");
            let theirs = theirs.as_ref().and_then(|value| value.to_str().ok());
            assert_eq!(text(&value), theirs, "{byte}");
        }
    }
}
