//! Signatures V1 (HMAC-SHA1 over the parameters) and V3 (ACS3-HMAC-SHA256 over the request). Verifying and signing
//! write the same canonical forms, by the same functions.
//!
//! Sources: "Signature" of the KMS API reference for V1; "V3 request structure and signature" and the official SDKs
//! for V3.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac};
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue};
use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::escape::{Batch, Layer, Sink, Text, hex};
use crate::claim::{hmac_v1, hmac_v3};
use crate::secret::Secret;
use crate::wire::fields::Fields;

/// What signs.
#[derive(Clone, Copy, Debug)]
pub struct AccessKey<'a> {
    /// The id, which travels in clear.
    pub id: &'a str,
    /// The secret, which does not travel.
    pub secret: &'a Secret,
    /// The STS token that belongs to a temporary key.
    pub token: Option<&'a Secret>,
}

/// One `POST /` with a form body, to be signed by V3. The form may hold a plaintext: there is no `Debug`.
#[derive(Clone, Copy)]
pub struct V3<'a> {
    /// `Host`, with the port where it is not the default one.
    pub host: &'a str,
    /// The API, such as `Decrypt`.
    pub action: &'a str,
    /// The API version.
    pub version: &'a str,
    /// Who signs.
    pub key: AccessKey<'a>,
    /// When.
    pub at: jiff::Timestamp,
    /// Random, for this request alone.
    pub nonce: &'a str,
    /// The form.
    pub body: &'a [u8],
}

/// Every header that the signed request needs: host, content type and `Authorization` among them.
///
/// An id, token or host that no header can carry becomes an empty header, and the KMS refuses the request.
#[must_use]
pub fn v3_headers(signing: &V3<'_>) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(HEADERS_MAX);
    let content_hash = hex(&Sha256::digest(signing.body));
    let date = signing.at.strftime(DATE_FORMAT).to_string();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(FORM));
    headers.insert(HOST, value(signing.host.as_bytes()));
    headers.insert(X_ACS_ACTION, value(signing.action.as_bytes()));
    headers.insert(X_ACS_CONTENT_SHA256, value(&content_hash));
    headers.insert(X_ACS_DATE, value(date.as_bytes()));
    headers.insert(X_ACS_SIGNATURE_NONCE, value(signing.nonce.as_bytes()));
    headers.insert(X_ACS_VERSION, value(signing.version.as_bytes()));
    if let Some(token) = signing.key.token {
        headers.insert(X_ACS_ACCESSKEY_ID, value(signing.key.id.as_bytes()));
        headers.insert(X_ACS_SECURITY_TOKEN, sensitive(token.expose()));
    }
    let mut names: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    let signed = names.join(";");
    let request =
        CanonicalRequest { method: "POST", headers: (&headers).into(), signed: &signed, content_hash: &content_hash };
    let mut mac = hmac_v3(signing.key.secret);
    sign_v3(&request.hash(std::iter::empty()), &mut mac);
    let signature = hex(&mac.finalize().into_bytes());
    let mut line = format!("{ACS3} Credential={},SignedHeaders={signed},Signature=", signing.key.id).into_bytes();
    line.extend_from_slice(&signature);
    headers.insert(AUTHORIZATION, sensitive(&line));
    headers
}

/// The `Signature` parameter of an RPC request with `parameters`, which need not be sorted and must not hold a
/// `Signature` already.
#[must_use]
pub fn v1(method: &str, parameters: &[(&str, &str)], secret: &Secret) -> String {
    let mut sorted = parameters.to_vec();
    sorted.sort_unstable();
    let pairs = sorted.into_iter().map(|(name, value)| (name, Text::Plain(value)));
    let mut mac = hmac_v1(secret);
    sign_v1(method, pairs, &mut mac);
    let text = v1_text(&mac.finalize().into_bytes().into());
    String::from_utf8(text.to_vec()).expect("base64 is ASCII")
}

/// Feeds `mac` with what V1 signs of `pairs`, which are sorted.
pub(super) fn sign_v1<'t>(method: &str, pairs: impl Iterator<Item = (&'t str, Text<'t>)>, mac: &mut Hmac<Sha1>) {
    let mut batch = Batch::new(mac);
    put_string_to_sign(method, pairs, &mut batch);
    batch.finish();
}

/// The text of a V1 signature.
pub(super) fn v1_text(mac: &[u8; 20]) -> [u8; 28] {
    let mut text = [0; 28];
    STANDARD.encode_slice(mac, &mut text).expect("20 bytes make 28 of base64");
    text
}

/// Feeds `mac` with what V3 signs of a canonical request whose hash is `hash`.
pub(super) fn sign_v3(hash: &[u8; 64], mac: &mut Hmac<Sha256>) {
    mac.update(ACS3.as_bytes());
    mac.update(b"\n");
    mac.update(hash);
}

/// Puts V1's string to sign; `pairs` are sorted.
pub(super) fn put_string_to_sign<'t>(
    method: &str,
    pairs: impl Iterator<Item = (&'t str, Text<'t>)>,
    sink: &mut impl Sink,
) {
    sink.put(method.as_bytes());
    sink.put(b"&%2F&");
    put_query(pairs, Layer::Twice, sink);
}

fn put_query<'t>(pairs: impl Iterator<Item = (&'t str, Text<'t>)>, layer: Layer, sink: &mut impl Sink) {
    let (and, is): (&[u8], &[u8]) = match layer {
        Layer::Once => (b"&", b"="),
        Layer::Twice => (b"%26", b"%3D"),
    };
    for (at, (name, value)) in pairs.enumerate() {
        if at > 0 {
            sink.put(and);
        }
        Text::Plain(name).put(layer, sink);
        sink.put(is);
        value.put(layer, sink);
    }
}

/// What V3 signs, but for the query.
pub(super) struct CanonicalRequest<'a> {
    /// The method, in upper case.
    pub(super) method: &'a str,
    /// Headers, among which each signed one occurs.
    pub(super) headers: Fields<'a>,
    /// The names of the signed ones, joined by `;`.
    pub(super) signed: &'a str,
    /// Hexadecimal SHA-256 of the body.
    pub(super) content_hash: &'a [u8; 64],
}

impl CanonicalRequest<'_> {
    /// The hexadecimal hash of this request with `query`, which is sorted.
    pub(super) fn hash<'t>(&self, query: impl Iterator<Item = (&'t str, Text<'t>)>) -> [u8; 64] {
        let mut digest = Sha256::new();
        let mut batch = Batch::new(&mut digest);
        self.put(query, &mut batch);
        batch.finish();
        hex(&digest.finalize())
    }

    fn put<'t>(&self, query: impl Iterator<Item = (&'t str, Text<'t>)>, sink: &mut impl Sink) {
        sink.put(self.method.as_bytes());
        sink.put(b"\n/\n");
        put_query(query, Layer::Once, sink);
        sink.put(b"\n");
        for name in self.signed.split(';') {
            sink.put(name.as_bytes());
            sink.put(b":");
            sink.put(self.headers.all(name).next().unwrap_or_default().trim_ascii());
            sink.put(b"\n");
        }
        sink.put(b"\n");
        sink.put(self.signed.as_bytes());
        sink.put(b"\n");
        sink.put(self.content_hash);
    }
}

fn value(bytes: &[u8]) -> HeaderValue {
    HeaderValue::from_bytes(bytes).unwrap_or_else(|_| HeaderValue::from_static(""))
}

fn sensitive(bytes: &[u8]) -> HeaderValue {
    let mut value = value(bytes);
    value.set_sensitive(true);
    value
}

/// The one algorithm of V3 that we speak.
pub(super) const ACS3: &str = "ACS3-HMAC-SHA256";
/// The content type of a form body.
pub(super) const FORM: &str = "application/x-www-form-urlencoded";
pub(super) const X_ACS_ACCESSKEY_ID: HeaderName = HeaderName::from_static("x-acs-accesskey-id");
pub(super) const X_ACS_ACTION: HeaderName = HeaderName::from_static("x-acs-action");
pub(super) const X_ACS_CONTENT_SHA256: HeaderName = HeaderName::from_static("x-acs-content-sha256");
pub(super) const X_ACS_DATE: HeaderName = HeaderName::from_static("x-acs-date");
pub(super) const X_ACS_SECURITY_TOKEN: HeaderName = HeaderName::from_static("x-acs-security-token");
pub(super) const X_ACS_SIGNATURE_NONCE: HeaderName = HeaderName::from_static("x-acs-signature-nonce");
pub(super) const X_ACS_VERSION: HeaderName = HeaderName::from_static("x-acs-version");
const DATE_FORMAT: &str = "%Y-%m-%dT%H:%M:%SZ";
const HEADERS_MAX: usize = 16;
