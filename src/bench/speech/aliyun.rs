//! The Alibaba Cloud KMS OpenAPI, as its SDKs speak it: V1 in the query, V3 and unsigned in the form.

use std::borrow::Cow;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, StatusCode};
use jiff::Timestamp;
use serde::Deserialize;

use super::{Signer, Terms, Verdict};
use crate::bench::face::Face;
use crate::clock::{Clock as _, System};
use crate::kms::{Action, Reply};
use crate::wire::aliyun::escape::{Layer, escape};
use crate::wire::aliyun::signature::{AccessKey, V3, v1, v3_headers};
use crate::wire::aliyun::{answer, request};

/// Writes and signs requests. Each has a nonce of its own.
pub(crate) struct Speaker {
    face: Face,
    host: String,
    key: String,
    signer: Option<Arc<Signer>>,
    nonce: String,
    count: u64,
    second: i64,
    date: String,
    form: Vec<u8>,
    out: Vec<u8>,
    ahead: Ahead,
}

/// Requests that were signed before they are due: a signature costs the client as much as all the rest, and on few
/// processors the client would be what is measured.
#[derive(Default)]
struct Ahead {
    bytes: Vec<u8>,
    /// Which DEK, and where its request ends.
    requests: Vec<(u32, usize)>,
    taken: usize,
}

impl Speaker {
    pub(super) fn new(terms: &Terms) -> Self {
        Self {
            face: terms.face,
            host: terms.host.clone(),
            key: terms.key.clone(),
            signer: terms.signer.clone(),
            nonce: uuid::Uuid::new_v4().simple().to_string()[..16].to_owned(),
            count: 0,
            second: i64::MIN,
            date: String::new(),
            form: Vec::new(),
            out: Vec::new(),
            ahead: Ahead::default(),
        }
    }

    pub(super) const fn is_signed(&self) -> bool {
        self.face.is_signed()
    }

    pub(super) fn write_ahead(&mut self, index: u32, wire: &[u8]) {
        let text = std::str::from_utf8(wire).expect("base64 is ASCII");
        self.request("Decrypt", &[("CiphertextBlob", text)]);
        self.ahead.bytes.extend_from_slice(&self.out);
        self.ahead.requests.push((index, self.ahead.bytes.len()));
    }

    /// `wire` is the ciphertext in base64.
    pub(super) fn decrypt(&mut self, index: u32, wire: &[u8]) -> &[u8] {
        if let Some(&(_, end)) = self.ahead.requests.get(self.ahead.taken).filter(|(written, _)| *written == index) {
            let from = self.ahead.taken.checked_sub(1).map_or(0, |before| self.ahead.requests[before].1);
            self.ahead.taken += 1;
            return &self.ahead.bytes[from..end];
        }
        let text = std::str::from_utf8(wire).expect("base64 is ASCII");
        self.request("Decrypt", &[("CiphertextBlob", text)])
    }

    pub(super) fn encrypt(&mut self, plain: &[u8]) -> &[u8] {
        let (key, text) = (self.key.clone(), STANDARD.encode(plain));
        self.request("Encrypt", &[("KeyId", &key), ("Plaintext", &text)])
    }

    fn request(&mut self, action: &str, parameters: &[(&str, &str)]) -> &[u8] {
        self.out.clear();
        self.form.clear();
        match (self.face, self.signer.clone()) {
            (Face::AliyunV1, Some(signer)) => self.v1(action, parameters, &signer),
            (Face::AliyunV3, Some(signer)) => self.v3(action, parameters, &signer),
            _ => {
                put_form(parameters, &mut self.form);
                let length = self.form.len();
                let head = format!(
                    "POST / HTTP/1.1\r\nhost: {}\r\ncontent-type: {FORM}\r\nx-acs-action: {action}\r\n\
                     x-acs-version: {}\r\ncontent-length: {length}\r\n\r\n",
                    self.host,
                    request::VERSION
                );
                self.out.extend_from_slice(head.as_bytes());
                self.out.extend_from_slice(&self.form);
            }
        }
        &self.out
    }

    fn v1(&mut self, action: &str, parameters: &[(&str, &str)], signer: &Signer) {
        self.tick();
        let nonce = self.nonce();
        let token = signer.token.as_ref().and_then(|token| std::str::from_utf8(token.expose()).ok());
        let mut pairs = vec![
            ("AccessKeyId", signer.id.as_str()),
            ("Action", action),
            ("Format", "JSON"),
            ("SignatureMethod", "HMAC-SHA1"),
            ("SignatureNonce", nonce.as_str()),
            ("SignatureVersion", "1.0"),
            ("Timestamp", self.date.as_str()),
            ("Version", request::VERSION),
        ];
        pairs.extend(token.map(|token| ("SecurityToken", token)));
        pairs.extend_from_slice(parameters);
        let signature = v1("POST", &pairs, &signer.secret);
        pairs.push(("Signature", signature.as_str()));
        self.out.extend_from_slice(b"POST /?");
        put_form(&pairs, &mut self.out);
        self.out.extend_from_slice(b" HTTP/1.1\r\nhost: ");
        self.out.extend_from_slice(self.host.as_bytes());
        self.out.extend_from_slice(b"\r\ncontent-length: 0\r\n\r\n");
    }

    fn v3(&mut self, action: &str, parameters: &[(&str, &str)], signer: &Signer) {
        put_form(parameters, &mut self.form);
        let nonce = self.nonce();
        let headers = v3_headers(&V3 {
            host: &self.host,
            action,
            version: request::VERSION,
            key: AccessKey { id: &signer.id, secret: &signer.secret, token: signer.token.as_ref() },
            at: System.wall(),
            nonce: &nonce,
            body: &self.form,
        });
        self.out.extend_from_slice(b"POST / HTTP/1.1\r\n");
        for (name, value) in &headers {
            self.out.extend_from_slice(name.as_str().as_bytes());
            self.out.extend_from_slice(b": ");
            self.out.extend_from_slice(value.as_bytes());
            self.out.extend_from_slice(b"\r\n");
        }
        self.out.extend_from_slice(format!("content-length: {}\r\n\r\n", self.form.len()).as_bytes());
        self.out.extend_from_slice(&self.form);
    }

    fn nonce(&mut self) -> String {
        self.count += 1;
        format!("{}{:016x}", self.nonce, self.count)
    }

    fn tick(&mut self) {
        let now: Timestamp = System.wall();
        if now.as_second() != self.second {
            self.second = now.as_second();
            self.date = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        }
    }
}

fn put_form(parameters: &[(&str, &str)], out: &mut Vec<u8>) {
    for (at, (name, value)) in parameters.iter().enumerate() {
        if at > 0 {
            out.push(b'&');
        }
        out.extend_from_slice(name.as_bytes());
        out.push(b'=');
        escape(value.as_bytes(), Layer::Once, out);
    }
}

/// Looks for the one member before it reads the whole: almost every answer is right.
pub(super) fn plaintext(body: &[u8], plain: &[u8]) -> Verdict {
    let mut wanted = [0; MEMBER.len() + WANTED_MAX];
    wanted[..MEMBER.len()].copy_from_slice(MEMBER);
    if let Ok(length) = STANDARD.encode_slice(plain, &mut wanted[MEMBER.len()..]) {
        let end = MEMBER.len() + length;
        wanted[end] = b'"';
        if memchr::memmem::find(body, &wanted[..=end]).is_some() {
            return Verdict::Right;
        }
    }
    match answer::decode(Action::Decrypt, StatusCode::OK, &HeaderMap::new(), body).map(|answer| answer.reply) {
        Ok(Reply::Decrypted(reply)) if reply.plaintext.expose() == plain => Verdict::Right,
        Ok(Reply::Decrypted(_)) => Verdict::Wrong,
        Ok(_) | Err(_) => Verdict::Failed("no plaintext".into()),
    }
}

/// The KMS's code.
pub(super) fn code(status: u16, body: &[u8]) -> Cow<'static, str> {
    #[derive(Deserialize)]
    struct Refusal {
        #[serde(rename = "Code")]
        code: String,
    }
    let known = |code: &str| code.len() <= CODE_MAX && code.bytes().all(|byte| byte.is_ascii_graphic());
    match serde_json::from_slice::<Refusal>(body) {
        Ok(refusal) if known(&refusal.code) => refusal.code.into(),
        _ => format!("HTTP {status}").into(),
    }
}

pub(super) fn wrapped(body: &[u8]) -> Option<Vec<u8>> {
    let answer = answer::decode(Action::Encrypt, StatusCode::OK, &HeaderMap::new(), body).ok()?;
    let Reply::Encrypted(reply) = answer.reply else { return None };
    Some(wire(reply.ciphertext.bytes()))
}

/// A ciphertext as requests carry it.
pub(super) fn wire(blob: &[u8]) -> Vec<u8> {
    STANDARD.encode(blob).into_bytes()
}

const FORM: &str = "application/x-www-form-urlencoded";
const MEMBER: &[u8] = b"\"Plaintext\":\"";
const WANTED_MAX: usize = 64;
const CODE_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn body(plain: &[u8]) -> Vec<u8> {
        let text = STANDARD.encode(plain);
        format!(r#"{{"KeyId":"k","KeyVersionId":"v","Plaintext":"{text}","RequestId":"r"}}"#).into_bytes()
    }

    #[test]
    fn what_was_signed_ahead_is_sent_once_and_in_its_order() {
        let signer = Signer { id: "id".to_owned(), secret: crate::secret::Secret::copied(b"secret"), token: None };
        let (host, key, signer) = ("localhost".to_owned(), String::new(), Some(Arc::new(signer)));
        let mut speaker = Speaker::new(&Terms { face: Face::AliyunV1, host, key, signer });
        speaker.write_ahead(1, b"b25l");
        speaker.write_ahead(2, b"dHdv");
        let sent = [(2, b"dHdv"), (1, b"b25l"), (2, b"dHdv"), (2, b"dHdv")].map(|(index, wire)| {
            let request = String::from_utf8(speaker.decrypt(index, wire).to_vec()).unwrap();
            assert!(request.contains(std::str::from_utf8(wire).unwrap()), "{request}");
            let nonce = request.split("SignatureNonce=").nth(1).unwrap()[16..32].to_owned();
            u64::from_str_radix(&nonce, 16).unwrap()
        });
        // Two were written ahead; the others when nothing, or something else, stood there.
        assert_eq!(sent, [3, 1, 2, 4]);
    }

    #[test]
    fn one_wrong_bit_is_wrong_and_a_spelling_is_not() {
        let (right, mut wrong) = ([7; 32], [7; 32]);
        wrong[31] ^= 1;
        assert_eq!(plaintext(&body(&right), &right), Verdict::Right);
        assert_eq!(plaintext(&body(&wrong), &right), Verdict::Wrong);
        let spaced = String::from_utf8(body(&right)).unwrap().replace("\":\"", "\" : \"");
        assert_eq!(plaintext(spaced.as_bytes(), &right), Verdict::Right);
        assert_eq!(plaintext(b"{}", &right), Verdict::Failed("no plaintext".into()));
        assert_eq!(code(409, br#"{"Code":"Rejected.Disabled"}"#), "Rejected.Disabled");
        assert_eq!(code(502, b"<html>"), "HTTP 502");
    }
}
