//! Request ids in few bytes.

use std::sync::Arc;

use uuid::Uuid;

use crate::kms::RequestId;

/// What a KMS calls a request: mostly a UUID.
#[derive(Clone, Debug)]
pub(super) enum Source {
    Lower([u8; 16]),
    Other(Arc<str>),
    Upper([u8; 16]),
}

impl Source {
    pub(super) fn of(id: &RequestId) -> Self {
        let mut space = Uuid::encode_buffer();
        if let Ok(uuid) = Uuid::try_parse(id.as_str()) {
            if uuid.hyphenated().encode_lower(&mut space) == id.as_str() {
                return Self::Lower(uuid.into_bytes());
            }
            if uuid.hyphenated().encode_upper(&mut space) == id.as_str() {
                return Self::Upper(uuid.into_bytes());
            }
        }
        Self::Other(id.as_str().into())
    }

    /// As it was.
    pub(super) fn id(&self) -> RequestId {
        match self {
            Self::Lower(bytes) => RequestId::of(Uuid::from_bytes(*bytes), false),
            Self::Other(text) => RequestId::shared(text),
            Self::Upper(bytes) => RequestId::of(Uuid::from_bytes(*bytes), true),
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
        let back = ids.map(|id| Source::of(&RequestId::new(id)).id());
        assert_eq!(back.each_ref().map(RequestId::as_str), ids);
        assert!(size_of::<Source>() <= 24);
    }
}
