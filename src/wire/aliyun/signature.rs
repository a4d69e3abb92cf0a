//! Signatures (stub).
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue};
use sha2::{Digest, Sha256};

use crate::secret::Secret;

/// A key.
pub struct AccessKey<'a> {
    /// Id.
    pub id: &'a str,
    /// Secret.
    pub secret: &'a Secret,
    /// Session token.
    pub token: Option<&'a Secret>,
}

/// What is signed.
pub struct V3<'a> {
    /// Host.
    pub host: &'a str,
    /// Action.
    pub action: &'a str,
    /// Version.
    pub version: &'a str,
    /// Key.
    pub key: AccessKey<'a>,
    /// When.
    pub at: jiff::Timestamp,
    /// Nonce.
    pub nonce: &'a str,
    /// Body.
    pub body: &'a [u8],
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// All headers.
pub fn v3_headers(signing: &V3<'_>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let mut put = |name: &'static str, value: &str| {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_str(value).expect("a header value"));
    };
    put("host", signing.host);
    put("content-type", "application/x-www-form-urlencoded");
    put("x-acs-action", signing.action);
    put("x-acs-version", signing.version);
    put("x-acs-date", &signing.at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
    put("x-acs-signature-nonce", signing.nonce);
    put("x-acs-content-sha256", &hex(&Sha256::digest(signing.body)));
    if let Some(token) = signing.key.token {
        put("x-acs-security-token", std::str::from_utf8(token.expose()).expect("a text token"));
    }
    let mut names: Vec<String> = headers.keys().map(ToString::to_string).collect();
    names.sort_unstable();
    let mut canonical = String::from("POST\n/\n\n");
    for name in &names {
        canonical.push_str(&format!("{name}:{}\n", headers[name.as_str()].to_str().expect("ascii")));
    }
    canonical.push_str(&format!("\n{}\n{}", names.join(";"), hex(&Sha256::digest(signing.body))));
    let to_sign = format!("ACS3-HMAC-SHA256\n{}", hex(&Sha256::digest(canonical.as_bytes())));
    let mut mac = Hmac::<Sha256>::new_from_slice(signing.key.secret.expose()).expect("any length");
    mac.update(to_sign.as_bytes());
    let authorization = format!(
        "ACS3-HMAC-SHA256 Credential={},SignedHeaders={},Signature={}",
        signing.key.id,
        names.join(";"),
        hex(&mac.finalize().into_bytes())
    );
    headers.insert(AUTHORIZATION, HeaderValue::from_str(&authorization).expect("a header value"));
    let _ = (HOST, CONTENT_TYPE);
    headers
}

fn encode(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// V1.
pub fn v1(method: &str, parameters: &[(&str, &str)], secret: &Secret) -> String {
    let mut sorted = parameters.to_vec();
    sorted.sort_unstable();
    let canonical: Vec<String> = sorted.iter().map(|(k, v)| format!("{}={}", encode(k), encode(v))).collect();
    let to_sign = format!("{method}&%2F&{}", encode(&canonical.join("&")));
    let mut key = secret.expose().to_vec();
    key.push(b'&');
    let mut mac = Hmac::<sha1::Sha1>::new_from_slice(&key).expect("any length");
    mac.update(to_sign.as_bytes());
    STANDARD.encode(mac.finalize().into_bytes())
}
