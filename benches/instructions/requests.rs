//! Requests, as clients send them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{CONTENT_TYPE, HOST};
use http::{HeaderMap, Method};
use kmsproxy::kms::{Call, KeyId, KeyVersion};
use kmsproxy::wire::aliyun::escape::{Layer, escape};
use kmsproxy::wire::aliyun::request;
use kmsproxy::wire::aliyun::signature::{AccessKey, V3, v1, v3_headers};
use kmsproxy::wire::kubernetes::key_id::{PublicKeyId, annotations};
use kmsproxy::wire::kubernetes::{V1Ciphertext, ciphertext};
use prost::Message;

use crate::kms::{KEY, VERSION};
use crate::world::{ACCESS_KEY, NOW, blob, decrypt, secret};

/// How a request says whose it is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    V1,
    V3,
    Unsigned,
}

/// One request, taken apart.
pub(crate) struct Parts {
    pub(crate) query: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Parts {
    /// A Decrypt of blob `number`; no two with the same `nonce`.
    pub(crate) fn new(form: Form, number: usize, nonce: usize) -> Self {
        let nonce = format!("0123456789abcdef{nonce:016x}");
        let form_body = request::encode(&Call::Decrypt(decrypt(number, None))).expose().to_vec();
        match form {
            Form::V1 => v1_request(number, &nonce),
            Form::V3 => {
                let (secret, body) = (secret(), form_body);
                let key = AccessKey { id: ACCESS_KEY, secret: &secret, token: None };
                let (action, version, at) = ("Decrypt", request::VERSION, NOW.parse().unwrap());
                let signing = V3 { host: "localhost", action, version, key, at, nonce: &nonce, body: &body };
                Self { query: String::new(), headers: v3_headers(&signing), body }
            }
            Form::Unsigned => {
                let mut headers = HeaderMap::new();
                headers.insert(HOST, "localhost".parse().unwrap());
                headers.insert(CONTENT_TYPE, "application/x-www-form-urlencoded".parse().unwrap());
                headers.insert("x-acs-action", "Decrypt".parse().unwrap());
                headers.insert("x-acs-version", request::VERSION.parse().unwrap());
                Self { query: String::new(), headers, body: form_body }
            }
        }
    }

    pub(crate) fn parse(&self) -> request::Request<'_> {
        request::Request::parse(&Method::POST, &self.query, &self.headers, &self.body).unwrap()
    }

    /// As it is on the wire.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let uri = if self.query.is_empty() { "/".to_owned() } else { format!("/?{}", self.query) };
        let mut bytes = format!("POST {uri} HTTP/1.1\r\n").into_bytes();
        for (name, value) in &self.headers {
            bytes.extend_from_slice(format!("{name}: ").as_bytes());
            bytes.extend_from_slice(value.as_bytes());
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(format!("content-length: {}\r\n\r\n", self.body.len()).as_bytes());
        bytes.extend_from_slice(&self.body);
        bytes
    }
}

fn v1_request(number: usize, nonce: &str) -> Parts {
    let text = STANDARD.encode(blob(number).bytes());
    let mut pairs = vec![
        ("AccessKeyId", ACCESS_KEY),
        ("Action", "Decrypt"),
        ("CiphertextBlob", &text),
        ("Format", "JSON"),
        ("SignatureMethod", "HMAC-SHA1"),
        ("SignatureNonce", nonce),
        ("SignatureVersion", "1.0"),
        ("Timestamp", NOW),
        ("Version", request::VERSION),
    ];
    let signature = v1("POST", &pairs, &secret());
    pairs.push(("Signature", &signature));
    let mut query = Vec::new();
    for (at, (name, value)) in pairs.into_iter().enumerate() {
        query.extend_from_slice(if at == 0 { b"" } else { b"&" });
        query.extend_from_slice(name.as_bytes());
        query.push(b'=');
        escape(value.as_bytes(), Layer::Once, &mut query);
    }
    let headers = HeaderMap::from_iter([(HOST, "localhost".parse().unwrap())]);
    Parts { query: String::from_utf8(query).unwrap(), headers, body: Vec::new() }
}

/// A v1 message for blob `number`, in gRPC's envelope.
pub(crate) fn kubernetes_v1(number: usize) -> Vec<u8> {
    let cipher = ciphertext::v1_encode(V1Ciphertext::default(), &KeyId::new(KEY), &blob(number)).unwrap();
    framed(&DecryptV1 { version: "v1beta1".to_owned(), cipher })
}

/// The same for v2.
pub(crate) fn kubernetes_v2(number: usize) -> Vec<u8> {
    let (key, version) = (KeyId::new(KEY), KeyVersion::new(VERSION));
    let uid = format!("{number:08}-7072-4bbc-a582-584b5bd8b1a4");
    let (key_id, annotations) = (PublicKeyId::of(&key, &version, "").to_string(), annotations(&key, &version, ""));
    framed(&DecryptV2 { ciphertext: blob(number).bytes().to_vec(), uid, key_id, annotations })
}

fn framed(message: &impl Message) -> Vec<u8> {
    let mut frame = vec![0];
    frame.extend_from_slice(&u32::try_from(message.encoded_len()).unwrap().to_be_bytes());
    message.encode(&mut frame).unwrap();
    frame
}

#[derive(Message)]
struct DecryptV1 {
    #[prost(string, tag = "1")]
    version: String,
    #[prost(bytes = "vec", tag = "2")]
    cipher: Vec<u8>,
}

#[derive(Message)]
struct DecryptV2 {
    #[prost(bytes = "vec", tag = "1")]
    ciphertext: Vec<u8>,
    #[prost(string, tag = "2")]
    uid: String,
    #[prost(string, tag = "3")]
    key_id: String,
    #[prost(btree_map = "string, bytes", tag = "4")]
    annotations: std::collections::BTreeMap<String, Vec<u8>>,
}
