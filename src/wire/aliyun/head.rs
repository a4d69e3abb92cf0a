//! The headers that mean something in this dialect, found in one pass: to look each up by its name would cost as much as
//! all else that is done with a request.

use crate::wire::fields::{Fields, text};

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
    all: Fields<'r>,
    known: [Found<'r>; KNOWN],
}

#[derive(Clone, Copy)]
enum Found<'r> {
    Never,
    Once(&'r [u8]),
    Often,
}

impl<'r> Head<'r> {
    pub(super) fn of(all: Fields<'r>) -> Self {
        let mut known = [Found::Never; KNOWN];
        for (name, value) in all.iter() {
            let Some(name) = Known::of(name) else { continue };
            let found = &mut known[name as usize];
            *found = if matches!(found, Found::Never) { Found::Once(value) } else { Found::Often };
        }
        Self { all, known }
    }

    /// All of them.
    pub(super) const fn all(&self) -> Fields<'r> {
        self.all
    }

    /// The value of a header that occurs once and is visible ASCII.
    pub(super) fn single(&self, name: Known) -> Option<&'r str> {
        match self.known[name as usize] {
            Found::Once(value) => text(value).map(str::trim_ascii),
            Found::Never | Found::Often => None,
        }
    }

    /// Whether it occurs at all.
    pub(super) const fn has(&self, name: Known) -> bool {
        !matches!(self.known[name as usize], Found::Never)
    }
}

impl Known {
    fn of(name: &str) -> Option<Self> {
        NAMES.iter().find(|(known, _)| name.eq_ignore_ascii_case(known)).map(|(_, known)| *known)
    }
}

const NAMES: [(&str, Known); KNOWN] = [
    ("authorization", Known::Authorization),
    ("content-type", Known::ContentType),
    ("x-acs-action", Known::Action),
    ("x-acs-bearer-token", Known::BearerToken),
    ("x-acs-content-sha256", Known::ContentHash),
    ("x-acs-date", Known::Date),
    ("x-acs-signature-nonce", Known::Nonce),
    ("x-acs-version", Known::Version),
];
const KNOWN: usize = 8;

#[cfg(test)]
mod tests {
    use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};

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
            let head = Head::of((&headers).into());
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
        let head = Head::of((&headers).into());
        for name in [Known::Date, Known::Version] {
            assert_eq!((head.single(name), head.has(name)), (None, true));
        }
    }
}
