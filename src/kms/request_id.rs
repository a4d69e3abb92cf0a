//! What a KMS calls one request.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use uuid::Uuid;
use uuid::fmt::Hyphenated;

/// The KMS's own name for one request (or ours, for an answer from the cache): what support asks for. Nearly always a UUID,
/// which is kept as its bytes, for each cached DEK has one, and each hit makes another.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct RequestId(Id);

#[derive(Clone, PartialEq, Eq, Hash)]
enum Id {
    Lower([u8; 16]),
    /// None that the others could be.
    Other(Arc<str>),
    Upper([u8; 16]),
}

impl RequestId {
    /// Takes the id that a KMS gave.
    #[must_use]
    pub fn new(id: &str) -> Self {
        let mut space = Uuid::encode_buffer();
        if let Ok(uuid) = Uuid::try_parse(id) {
            if uuid.hyphenated().encode_lower(&mut space) == id {
                return Self(Id::Lower(uuid.into_bytes()));
            }
            if uuid.hyphenated().encode_upper(&mut space) == id {
                return Self(Id::Upper(uuid.into_bytes()));
            }
        }
        Self(Id::Other(id.into()))
    }

    /// A new random id, in the upper-case UUID form of Alibaba Cloud.
    #[must_use]
    pub fn random() -> Self {
        Self(Id::Upper(Uuid::new_v4().into_bytes()))
    }

    /// The id as text.
    #[must_use]
    pub fn text(&self) -> Text<'_> {
        let mut text = [0; Hyphenated::LENGTH];
        match &self.0 {
            Id::Lower(bytes) => {
                Uuid::from_bytes_ref(bytes).hyphenated().encode_lower(&mut text);
                Text::Uuid(text)
            }
            Id::Other(text) => Text::Other(text),
            Id::Upper(bytes) => {
                Uuid::from_bytes_ref(bytes).hyphenated().encode_upper(&mut text);
                Text::Uuid(text)
            }
        }
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RequestId").field(&&*self.text()).finish()
    }
}

/// A request id as text.
pub enum Text<'a> {
    /// As it was given.
    Other(&'a str),
    /// A UUID, with hyphens.
    Uuid([u8; Hyphenated::LENGTH]),
}

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Self::Other(text) => text,
            // Never fails: a UUID is ASCII.
            Self::Uuid(text) => str::from_utf8(text).unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_id_comes_back_as_it_was() {
        let ids = [
            "475f1620-b9d3-4d35-b5c6-3fbdd941423d",
            "475F1620-B9D3-4D35-B5C6-3FBDD941423D",
            "475f1620-B9D3-4d35-b5c6-3fbdd941423d",
            "475f1620b9d34d35b5c63fbdd941423d",
            "{475f1620-b9d3-4d35-b5c6-3fbdd941423d}",
            "r-1",
            "",
        ];
        for (at, id) in ids.iter().enumerate() {
            assert_eq!(*RequestId::new(id).text(), **id);
            let equal: Vec<_> = ids.iter().map(|other| RequestId::new(id) == RequestId::new(other)).collect();
            assert_eq!(equal.iter().position(|&same| same), Some(at), "{id}");
            assert_eq!(equal.iter().filter(|same| **same).count(), 1, "{id}");
        }
        assert!(size_of::<RequestId>() <= 24);
    }

    #[test]
    fn a_random_id_is_of_the_form_that_alibaba_cloud_has() {
        let (one, other) = (RequestId::random(), RequestId::random());
        assert_ne!(one, other);
        assert_eq!(*one.text(), *one.text().to_uppercase());
        assert_eq!(RequestId::new(&one.text()), one);
    }
}
