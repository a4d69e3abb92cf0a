//! The headers that mean something in this dialect, found in one pass: to look each up by its name would cost as much as
//! all else that is done with a request.

use http::header::{HeaderMap, HeaderName, HeaderValue};

/// A header that means something here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    Action,
    Authorization,
    BearerToken,
    ContentHash,
    ContentType,
    Date,
    Nonce,
    Version,
}

/// The headers of one request.
#[derive(Clone, Copy)]
pub(super) struct Head<'r> {
    all: &'r HeaderMap,
    known: [Found<'r>; KNOWN],
}

#[derive(Clone, Copy)]
enum Found<'r> {
    Never,
    Once(&'r HeaderValue),
    Often,
}

impl<'r> Head<'r> {
    pub(super) fn of(all: &'r HeaderMap) -> Self {
        let mut known = [Found::Never; KNOWN];
        for (name, value) in all {
            let Some(name) = Known::of(name) else { continue };
            let found = &mut known[name as usize];
            *found = if matches!(found, Found::Never) { Found::Once(value) } else { Found::Often };
        }
        Self { all, known }
    }

    /// All of them.
    pub(super) const fn all(&self) -> &'r HeaderMap {
        self.all
    }

    /// The value of a header that occurs once and is visible ASCII.
    pub(super) fn single(&self, name: Known) -> Option<&'r str> {
        match self.known[name as usize] {
            Found::Once(value) => value.to_str().ok().map(str::trim_ascii),
            Found::Never | Found::Often => None,
        }
    }

    /// Whether it occurs at all.
    pub(super) const fn has(&self, name: Known) -> bool {
        !matches!(self.known[name as usize], Found::Never)
    }
}

impl Known {
    fn of(name: &HeaderName) -> Option<Self> {
        Some(match name.as_str() {
            "authorization" => Self::Authorization,
            "content-type" => Self::ContentType,
            "x-acs-action" => Self::Action,
            "x-acs-bearer-token" => Self::BearerToken,
            "x-acs-content-sha256" => Self::ContentHash,
            "x-acs-date" => Self::Date,
            "x-acs-signature-nonce" => Self::Nonce,
            "x-acs-version" => Self::Version,
            _ => return None,
        })
    }
}

const KNOWN: usize = 8;

#[cfg(test)]
mod tests {
    use http::header::{AUTHORIZATION, CONTENT_TYPE};

    use super::*;
    use crate::wire::aliyun::signature::{
        X_ACS_ACTION, X_ACS_CONTENT_SHA256, X_ACS_DATE, X_ACS_SIGNATURE_NONCE, X_ACS_VERSION,
    };

    #[test]
    fn each_is_found_by_its_name_and_no_other_is() {
        let names = [
            (AUTHORIZATION, Known::Authorization),
            (CONTENT_TYPE, Known::ContentType),
            (X_ACS_ACTION, Known::Action),
            (HeaderName::from_static("x-acs-bearer-token"), Known::BearerToken),
            (X_ACS_CONTENT_SHA256, Known::ContentHash),
            (X_ACS_DATE, Known::Date),
            (X_ACS_SIGNATURE_NONCE, Known::Nonce),
            (X_ACS_VERSION, Known::Version),
        ];
        assert_eq!(names.len(), KNOWN);
        for (name, known) in &names {
            let headers = HeaderMap::from_iter([(name.clone(), HeaderValue::from_static(" said "))]);
            let head = Head::of(&headers);
            for (_, other) in &names {
                let expected = (other == known).then_some("said");
                assert_eq!((head.single(*other), head.has(*other)), (expected, other == known), "{name} {other:?}");
            }
        }
    }

    #[test]
    fn what_occurs_twice_or_is_no_text_is_there_and_has_no_value() {
        let mut headers = HeaderMap::new();
        headers.append(X_ACS_DATE, HeaderValue::from_static("1"));
        headers.append(X_ACS_DATE, HeaderValue::from_static("2"));
        headers.append(X_ACS_VERSION, HeaderValue::from_bytes(b"\xff").unwrap());
        let head = Head::of(&headers);
        for name in [Known::Date, Known::Version] {
            assert_eq!((head.single(name), head.has(name)), (None, true));
        }
    }
}
