//! Both signatures, written a second time from the description of the API, so that a mistake of the library's own
//! signer cannot hide in its verifier.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use jiff::Timestamp;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::http::Raw;

pub(crate) type Pairs<'a> = &'a [(&'a str, &'a str)];

/// Who signs, when, and what is left out or said in place of the usual.
#[derive(Clone)]
pub(crate) struct Signer {
    pub(crate) id: &'static str,
    pub(crate) secret: &'static str,
    pub(crate) at: Timestamp,
    pub(crate) nonce: Option<String>,
    /// V1 parameters or V3 headers that are not sent.
    pub(crate) without: Vec<&'static str>,
}

impl Signer {
    pub(crate) fn new(id: &'static str, secret: &'static str) -> Self {
        let nonce = Some(uuid::Uuid::new_v4().to_string());
        Self { id, secret, at: Timestamp::now(), nonce, without: Vec::new() }
    }

    pub(crate) fn at(self, at: Timestamp) -> Self {
        Self { at, ..self }
    }

    pub(crate) fn nonce(self, nonce: &str) -> Self {
        Self { nonce: Some(nonce.to_owned()), ..self }
    }

    pub(crate) fn without(mut self, name: &'static str) -> Self {
        self.without.push(name);
        self
    }

    /// HMAC-SHA1. The common parameters go where the query is not empty or the method is GET, else into the form.
    pub(crate) fn v1(&self, method: &str, query: Pairs<'_>, form: Pairs<'_>) -> Raw {
        let at = self.stamp();
        let mut common = vec![
            ("AccessKeyId", self.id),
            ("Format", "JSON"),
            ("RegionId", "cn-hangzhou"),
            ("SignatureMethod", "HMAC-SHA1"),
            ("SignatureType", ""),
            ("SignatureVersion", "1.0"),
            ("Timestamp", &at),
            ("Version", "2016-01-20"),
        ];
        common.extend(self.nonce.as_deref().map(|nonce| ("SignatureNonce", nonce)));
        common.retain(|(name, _)| !self.without.contains(name));
        let mut all: Vec<_> = [query, form, &common].concat();
        all.sort_by(|one, other| one.0.cmp(other.0));
        let canonical = joined(&all);
        let text = format!("{method}&%2F&{}", encoded(&canonical));
        let mut mac = Hmac::<Sha1>::new_from_slice(format!("{}&", self.secret).as_bytes()).unwrap();
        mac.update(text.as_bytes());
        let signature = STANDARD.encode(mac.finalize().into_bytes());
        common.push(("Signature", &signature));
        let in_query = method == "GET" || !query.is_empty();
        let (query, form) = match in_query {
            true => ([query, &common].concat(), form.to_vec()),
            false => (query.to_vec(), [form, &common].concat()),
        };
        Raw::new(method, &target(&joined(&query)), &joined(&form))
    }

    /// ACS3-HMAC-SHA256. Signs all headers that it sends.
    pub(crate) fn v3(&self, method: &str, action: &str, query: Pairs<'_>, form: Pairs<'_>) -> Raw {
        let body = joined(form);
        let mut query = query.to_vec();
        query.sort_by(|one, other| one.0.cmp(other.0));
        let hash = hex(&Sha256::digest(&body));
        let mut headers = vec![
            ("host", HOST.to_owned()),
            ("x-acs-action", action.to_owned()),
            ("x-acs-content-sha256", hash.clone()),
            ("x-acs-date", self.stamp()),
            ("x-acs-version", "2016-01-20".to_owned()),
        ];
        headers.extend(self.nonce.clone().map(|nonce| ("x-acs-signature-nonce", nonce)));
        if !body.is_empty() {
            headers.push(("content-type", FORM.to_owned()));
        }
        headers.retain(|(name, _)| !self.without.contains(name));
        headers.sort();
        let lines: String = headers.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
        let names = headers.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";");
        let canonical = format!("{method}\n/\n{}\n{lines}\n{names}\n{hash}", joined(&query));
        let text = format!("ACS3-HMAC-SHA256\n{}", hex(&Sha256::digest(&canonical)));
        let mut mac = Hmac::<Sha256>::new_from_slice(self.secret.as_bytes()).unwrap();
        mac.update(text.as_bytes());
        let signature = hex(&mac.finalize().into_bytes());
        let line = format!("ACS3-HMAC-SHA256 Credential={},SignedHeaders={names},Signature={signature}", self.id);
        let mut raw = Raw::new(method, &target(&joined(&query)), &body);
        raw.headers = headers.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        raw.with("authorization", &line)
    }

    fn stamp(&self) -> String {
        self.at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
    }
}

pub(crate) fn encoded(text: &str) -> String {
    utf8_percent_encode(text, RESERVED).to_string()
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn joined(pairs: Pairs<'_>) -> String {
    pairs.iter().map(|(name, value)| format!("{}={}", encoded(name), encoded(value))).collect::<Vec<_>>().join("&")
}

fn target(query: &str) -> String {
    if query.is_empty() { "/".to_owned() } else { format!("/?{query}") }
}

pub(crate) const FORM: &str = "application/x-www-form-urlencoded";
pub(crate) const HOST: &str = "127.0.0.1:8443";
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// The vector of the description of the API (computed by the official SDKs): the signer above is what they are.
#[test]
fn the_signer_of_these_tests_signs_as_the_official_clients_do() {
    let signer = Signer {
        id: "testAccessKeyId",
        secret: "testAccessKeySecret",
        at: "2026-01-02T03:04:05Z".parse().unwrap(),
        nonce: Some("9f1c2b3a4d5e6f708192a3b4c5d6e7f8".to_owned()),
        without: Vec::new(),
    };
    let business = [("CiphertextBlob", "AbC+/d3JsZA=="), ("EncryptionContext", r#"{"app":"k8s *~","ns":"默认"}"#)];
    let query = [&business[..], &[("Action", "Decrypt"), ("SecurityToken", "CAIS+token/==")]].concat();
    let post = signer.v1("POST", &query, &[]).target;
    assert!(post.ends_with("&Signature=4kREfP%2BqlI4MX%2FVgebVtZSri2mU%3D"), "{post}");
    let get = signer.v1("GET", &query, &[]).target;
    assert!(get.ends_with("&Signature=ART2Z02Eiv7vewLYCwVR9dtciQs%3D"), "{get}");
}
