//! Which signature a request carries, and the proof it makes.

use std::borrow::Cow;

use http::Method;
use http::header::{CONTENT_TYPE, HOST, HeaderName};
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::Offset;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::escape::hex;
use super::head::{Head, Known};
use super::parameters::{Parameter, Parameters};
use super::signature::{
    ACS3, CanonicalRequest, X_ACS_ACTION, X_ACS_CONTENT_SHA256, X_ACS_DATE, X_ACS_SIGNATURE_NONCE, X_ACS_VERSION,
    put_string_to_sign, sign_v1, sign_v3, v1_text,
};
use crate::claim::{Claim, Proof, Signed, SigningKey};
use crate::fault::{Fault, Kind};
use crate::wire::fields::Fields;

/// How a request is signed. `Authorization` decides for V3 and the `Signature` parameter for V1; `x-acs-action` says
/// nothing, because V1 clients send it too.
pub(super) enum Signing<'r> {
    /// Not at all.
    None,
    /// HMAC-SHA1 over all parameters.
    V1(V1<'r>),
    /// ACS3-HMAC-SHA256 over query, chosen headers and body.
    V3(V3<'r>),
}

impl<'r> Signing<'r> {
    /// Finds the signature.
    ///
    /// # Errors
    /// [`Kind::Malformed`] for two signatures, for algorithms that we do not speak (ACS4, SM3, RSA, bearer tokens)
    /// and for an `Authorization` that is not whole; [`Kind::MissingParameter`] and [`Kind::InvalidParameter`] for
    /// what V1 needs.
    pub(super) fn find(head: &Head<'r>, parameters: &Parameters<'r>) -> Result<Self, Fault> {
        if head.has(Known::BearerToken) || parameters.position("BearerToken").is_some() {
            return Err(malformed(ALGORITHMS));
        }
        match (head.has(Known::Authorization), parameters.get("Signature")) {
            (true, Some(_)) => Err(malformed("it carries two signatures")),
            (true, None) => V3::read(head).map(Self::V3),
            (false, Some(signature)) => V1::read(signature, parameters).map(Self::V1),
            (false, None) => Ok(Self::None),
        }
    }

    /// The claim that the signature makes.
    ///
    /// # Errors
    /// [`Kind::StaleTimestamp`] where the time of signing is no time; [`Kind::BadSignature`] where something that must
    /// be signed is not, or the body is not the one that was hashed.
    pub(super) fn claim<'c>(&'c self, request: Unsigned<'c, 'r>) -> Result<Claim<'c>, Fault> {
        match self {
            Self::None => Ok(Claim::Anonymous),
            Self::V1(signing) => signing.claim(request),
            Self::V3(signing) => signing.claim(request),
        }
    }
}

/// The request around the signature.
#[derive(Clone, Copy)]
pub(super) struct Unsigned<'c, 'r> {
    pub(super) method: &'c Method,
    pub(super) parameters: &'c Parameters<'r>,
    pub(super) head: &'c Head<'r>,
    pub(super) body: &'c [u8],
}

/// The parameters that make a V1 signature.
pub(super) struct V1<'r> {
    access_key_id: Cow<'r, str>,
    nonce: Option<Cow<'r, str>>,
    timestamp: Cow<'r, str>,
    signature: Cow<'r, str>,
}

impl<'r> V1<'r> {
    fn read(signature: Cow<'r, str>, parameters: &Parameters<'r>) -> Result<Self, Fault> {
        if parameters.get("SignatureType").is_some_and(|value| !value.is_empty()) {
            return Err(malformed(ALGORITHMS));
        }
        let required = |name: &str| {
            let value = parameters.get(name).filter(|value| !value.is_empty());
            value.ok_or_else(|| Fault::caller(Kind::MissingParameter(name.into())))
        };
        for (name, only) in [("SignatureMethod", "HMAC-SHA1"), ("SignatureVersion", "1.0")] {
            if required(name)? != only {
                return Err(Fault::caller(Kind::InvalidParameter(name.into())));
            }
        }
        let access_key_id = required("AccessKeyId")?;
        let nonce = parameters.get("SignatureNonce").filter(|nonce| !nonce.is_empty());
        Ok(Self { access_key_id, nonce, timestamp: required("Timestamp")?, signature })
    }

    fn claim<'c>(&'c self, request: Unsigned<'c, 'r>) -> Result<Claim<'c>, Fault> {
        Ok(Claim::Signed(Signed {
            access_key_id: &self.access_key_id,
            signed_at: timestamp(&self.timestamp)?,
            nonce: self.nonce.as_deref(),
            proof: Box::new(V1Proof { request, signature: &self.signature }),
        }))
    }
}

struct V1Proof<'c, 'r> {
    request: Unsigned<'c, 'r>,
    signature: &'c str,
}

impl V1Proof<'_, '_> {
    fn signed(&self) -> impl Iterator<Item = &Parameter<'_>> {
        self.request.parameters.iter().filter(|parameter| parameter.name() != "Signature")
    }
}

impl Proof for V1Proof<'_, '_> {
    fn verify(&self, key: &SigningKey) -> bool {
        let pairs = self.signed().map(Parameter::pair);
        let mac = key.v1(|mac| sign_v1(self.request.method.as_str(), pairs, mac));
        v1_text(&mac).ct_eq(self.signature.as_bytes()).into()
    }

    /// `None` where the request carries a plaintext, a ciphertext or a token: clients write error messages to their
    /// logs, and no client needs the text (`IncompleteSignature` without it is answered instead).
    fn string_to_sign(&self) -> Option<String> {
        if CONFIDENTIAL.iter().any(|name| self.request.parameters.position(name).is_some()) {
            return None;
        }
        let mut text = Vec::new();
        put_string_to_sign(self.request.method.as_str(), self.signed().map(Parameter::pair), &mut text);
        String::from_utf8(text).ok()
    }

    /// The text: [`V1Proof::verify`] accepts one spelling only.
    fn tag(&self) -> &[u8] {
        self.signature.as_bytes()
    }
}

/// The parts of an `Authorization: ACS3-HMAC-SHA256 …`, and the headers that belong to it.
pub(super) struct V3<'r> {
    access_key_id: &'r str,
    nonce: Option<&'r str>,
    signed: &'r str,
    signature: &'r str,
}

impl<'r> V3<'r> {
    fn read(head: &Head<'r>) -> Result<Self, Fault> {
        let line = head.single(Known::Authorization).ok_or_else(|| malformed(BROKEN))?;
        let (algorithm, fields) = line.split_once(' ').ok_or_else(|| malformed(ALGORITHMS))?;
        if algorithm != ACS3 {
            return Err(malformed(ALGORITHMS));
        }
        let mut fields = fields.split(',').map(str::trim_ascii_start);
        let mut field = |name: &str| {
            let field = fields.next()?.strip_prefix(name)?.strip_prefix('=')?;
            (!field.is_empty()).then_some(field)
        };
        let parts = (field("Credential"), field("SignedHeaders"), field("Signature"));
        let (Some(access_key_id), Some(signed), Some(signature)) = parts else { return Err(malformed(BROKEN)) };
        if fields.next().is_some() {
            return Err(malformed(BROKEN));
        }
        let nonce = head.single(Known::Nonce).filter(|nonce| !nonce.is_empty());
        Ok(Self { access_key_id, nonce, signed, signature })
    }

    fn claim<'c>(&'c self, request: Unsigned<'c, 'r>) -> Result<Claim<'c>, Fault> {
        let content_hash = hex(&Sha256::digest(request.body));
        let declared = request.head.single(Known::ContentHash).map(str::as_bytes);
        if !self.covers_what_it_must(&request) || declared != Some(&content_hash) {
            return Err(Fault::caller(Kind::BadSignature(None)));
        }
        let signed_at = timestamp(request.head.single(Known::Date).unwrap_or(""))?;
        let proof = Box::new(V3Proof { request, signing: self, content_hash });
        Ok(Claim::Signed(Signed { access_key_id: self.access_key_id, signed_at, nonce: self.nonce, proof }))
    }

    /// Whether every signed header is there once, the names are sorted, lower case and distinct, and everything that
    /// has a meaning to us is among them. A nonce or a form type that is not signed could be changed by anybody.
    fn covers_what_it_must(&self, request: &Unsigned<'_, '_>) -> bool {
        let names = || self.signed.split(';');
        let sorted = names().zip(names().skip(1)).all(|(one, next)| one < next);
        let there = names().all(|name| is_lower(name) && once(request.head.all(), name));
        let covered = |name: HeaderName| names().any(|signed| signed == name.as_str());
        let nonce = !request.head.has(Known::Nonce) || covered(X_ACS_SIGNATURE_NONCE);
        let content_type = request.body.is_empty() || covered(CONTENT_TYPE);
        sorted && there && nonce && content_type && ALWAYS_SIGNED.into_iter().all(covered)
    }
}

struct V3Proof<'c, 'r> {
    request: Unsigned<'c, 'r>,
    signing: &'c V3<'r>,
    content_hash: [u8; 64],
}

impl Proof for V3Proof<'_, '_> {
    fn verify(&self, key: &SigningKey) -> bool {
        let canonical = CanonicalRequest {
            method: self.request.method.as_str(),
            headers: self.request.head.all(),
            signed: self.signing.signed,
            content_hash: &self.content_hash,
        };
        let query = self.request.parameters.iter().filter(|parameter| parameter.in_query()).map(Parameter::pair);
        let hash = canonical.hash(query);
        hex(&key.v3(|mac| sign_v3(&hash, mac))).ct_eq(self.signing.signature.as_bytes()).into()
    }

    /// V3 clients do not look at it.
    fn string_to_sign(&self) -> Option<String> {
        None
    }

    /// The text: [`V3Proof::verify`] accepts one spelling only.
    fn tag(&self) -> &[u8] {
        self.signing.signature.as_bytes()
    }
}

fn once(headers: Fields<'_>, name: &str) -> bool {
    headers.all(name).take(2).count() == 1
}

fn is_lower(name: &str) -> bool {
    !name.bytes().any(|byte| byte.is_ascii_uppercase())
}

/// Reads `yyyy-MM-ddTHH:mm:ssZ` and nothing else.
fn timestamp(text: &str) -> Result<Timestamp, Fault> {
    let parsed = || {
        let [y0, y1, y2, y3, b'-', m0, m1, b'-', d0, d1, b'T', h0, h1, b':', n0, n1, b':', s0, s1, b'Z'] =
            *text.as_bytes()
        else {
            return None;
        };
        let two = |high: u8, low: u8| {
            (high.is_ascii_digit() && low.is_ascii_digit()).then(|| (high - b'0') * 10 + low - b'0')
        };
        let part = |high, low| two(high, low).and_then(|part| i8::try_from(part).ok());
        let year = i16::from(two(y0, y1)?) * 100 + i16::from(two(y2, y3)?);
        let (month, day, hour, minute, second) =
            (part(m0, m1)?, part(d0, d1)?, part(h0, h1)?, part(n0, n1)?, part(s0, s1)?);
        let utc = DateTime::new(year, month, day, hour, minute, second, 0).ok()?;
        Offset::UTC.to_timestamp(utc).ok()
    };
    parsed().ok_or_else(|| Fault::caller(Kind::StaleTimestamp))
}

const fn malformed(why: &'static str) -> Fault {
    Fault::caller(Kind::Malformed(why))
}

const ALGORITHMS: &str = "only HMAC-SHA1 (V1) and ACS3-HMAC-SHA256 (V3) signatures are supported";
const ALWAYS_SIGNED: [HeaderName; 5] = [HOST, X_ACS_ACTION, X_ACS_CONTENT_SHA256, X_ACS_DATE, X_ACS_VERSION];
const BROKEN: &str = "its Authorization is not Credential, SignedHeaders and Signature";
const CONFIDENTIAL: [&str; 5] = ["BearerToken", "CiphertextBlob", "Plaintext", "STSToken", "SecurityToken"];
