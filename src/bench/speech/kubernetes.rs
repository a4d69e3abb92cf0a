//! The Kubernetes KMS provider API, as kube-apiserver speaks it.

use std::collections::BTreeMap;

use prost::Message;

use super::Verdict;
use crate::bench::line::Request;
use crate::wire::kubernetes::{Api, Method};

/// Writes requests.
pub(crate) struct Speaker {
    api: Api,
    out: Vec<u8>,
}

impl Speaker {
    pub(super) const fn new(api: Api) -> Self {
        Self { api, out: Vec::new() }
    }

    pub(super) const fn decrypt_path(&self) -> &'static str {
        match self.api {
            Api::V1beta1 => Method::V1Decrypt.path(),
            Api::V2 => Method::V2Decrypt.path(),
        }
    }

    pub(super) fn encrypt(&mut self, plain: &[u8]) -> Request<'_> {
        let plain = plain.to_vec();
        let (path, message) = match self.api {
            Api::V1beta1 => (Method::V1Encrypt.path(), framed(&V1Encrypt { version: "v1beta1".to_owned(), plain })),
            Api::V2 => (Method::V2Encrypt.path(), framed(&V2Encrypt { plaintext: plain, uid: uid() })),
        };
        self.out = message;
        Request::Grpc(path, &self.out)
    }

    pub(super) fn greet(&mut self) -> Request<'_> {
        let (path, message) = match self.api {
            Api::V1beta1 => (Method::V1Version.path(), framed(&V1Version { version: "v1beta1".to_owned() })),
            Api::V2 => (Method::V2Status.path(), framed(&V2Status {})),
        };
        self.out = message;
        Request::Grpc(path, &self.out)
    }
}

pub(super) fn plaintext(message: &[u8], plain: &[u8]) -> Verdict {
    match unframed::<Decrypted>(message) {
        Some(answer) if answer.plain == plain => Verdict::Right,
        Some(_) => Verdict::Wrong,
        None => Verdict::Failed("no plaintext".into()),
    }
}

pub(super) fn wrapped(api: Api, message: &[u8]) -> Option<Vec<u8>> {
    match api {
        Api::V1beta1 => unframed::<V1Encrypted>(message).map(|answer| v1_decrypt(answer.cipher)),
        Api::V2 => unframed::<V2Encrypted>(message).map(v2_decrypt),
    }
}

/// The request for a ciphertext that nobody looks at.
pub(super) fn made_up(api: Api, blob: &[u8]) -> Vec<u8> {
    match api {
        Api::V1beta1 => v1_decrypt(blob.to_vec()),
        Api::V2 => {
            v2_decrypt(V2Encrypted { ciphertext: blob.to_vec(), key_id: KEY_ID.to_owned(), ..Default::default() })
        }
    }
}

/// gRPC's name of a code.
pub(super) fn code(code: u8) -> &'static str {
    CODES.get(usize::from(code)).copied().unwrap_or("no gRPC code")
}

fn v1_decrypt(cipher: Vec<u8>) -> Vec<u8> {
    framed(&V1Decrypt { version: "v1beta1".to_owned(), cipher })
}

fn v2_decrypt(answer: V2Encrypted) -> Vec<u8> {
    let V2Encrypted { ciphertext, key_id, annotations } = answer;
    framed(&V2Decrypt { ciphertext, uid: uid(), key_id, annotations })
}

fn uid() -> String {
    uuid::Uuid::new_v4().to_string()
}

/// `message` in gRPC's envelope.
fn framed(message: &impl Message) -> Vec<u8> {
    let length = message.encoded_len();
    let mut frame = vec![0];
    frame.extend_from_slice(&u32::try_from(length).expect("no message is as long as 4 GiB").to_be_bytes());
    message.encode(&mut frame).expect("a vector grows");
    frame
}

fn unframed<M: Message + Default>(frame: &[u8]) -> Option<M> {
    let (head, message) = frame.split_first_chunk::<5>()?;
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
    (head[0] == 0 && length == message.len()).then(|| M::decode(message).ok())?
}

#[derive(Message)]
struct V1Version {
    #[prost(string, tag = "1")]
    version: String,
}

#[derive(Message)]
struct V1Decrypt {
    #[prost(string, tag = "1")]
    version: String,
    #[prost(bytes = "vec", tag = "2")]
    cipher: Vec<u8>,
}

/// Of both versions.
#[derive(Message)]
struct Decrypted {
    #[prost(bytes = "vec", tag = "1")]
    plain: Vec<u8>,
}

#[derive(Message)]
struct V1Encrypt {
    #[prost(string, tag = "1")]
    version: String,
    #[prost(bytes = "vec", tag = "2")]
    plain: Vec<u8>,
}

#[derive(Message)]
struct V1Encrypted {
    #[prost(bytes = "vec", tag = "1")]
    cipher: Vec<u8>,
}

#[derive(Message)]
struct V2Status {}

#[derive(Message)]
struct V2Decrypt {
    #[prost(bytes = "vec", tag = "1")]
    ciphertext: Vec<u8>,
    #[prost(string, tag = "2")]
    uid: String,
    #[prost(string, tag = "3")]
    key_id: String,
    #[prost(btree_map = "string, bytes", tag = "4")]
    annotations: BTreeMap<String, Vec<u8>>,
}

#[derive(Message)]
struct V2Encrypt {
    #[prost(bytes = "vec", tag = "1")]
    plaintext: Vec<u8>,
    #[prost(string, tag = "2")]
    uid: String,
}

#[derive(Message)]
struct V2Encrypted {
    #[prost(bytes = "vec", tag = "1")]
    ciphertext: Vec<u8>,
    #[prost(string, tag = "2")]
    key_id: String,
    #[prost(btree_map = "string, bytes", tag = "3")]
    annotations: BTreeMap<String, Vec<u8>>,
}

/// As long as those of kmsproxy.
const KEY_ID: &str = "bench-0000000000000000000000000000000000000000000000000000000000000000";
const CODES: [&str; 17] = [
    "OK",
    "Cancelled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];
