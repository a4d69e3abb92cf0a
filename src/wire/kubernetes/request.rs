//! What a method's message says.

use std::collections::BTreeMap;
use std::fmt;

use prost::Message;

use super::key_id::ANNOTATIONS_BYTES_MAX;
use super::{Method, ciphertext, frame, messages};
use crate::fault::{Fault, Kind};
use crate::secret::Secret;

/// One request, decoded and within its limits. `Debug` shows lengths, never material.
#[derive(PartialEq, Eq)]
pub enum Request {
    /// v1: unwrap.
    DecryptV1 {
        /// In either form of [`ciphertext`], 1 to 65,535 bytes, not looked into yet.
        ciphertext: Vec<u8>,
    },
    /// v2: unwrap.
    DecryptV2 {
        /// The KMS's own blob, 1 to 1,024 bytes.
        ciphertext: Vec<u8>,
        /// kube-apiserver's name for the operation, for logs alone; at most 1,024 bytes, and may be empty.
        uid: String,
        /// As `Encrypt` answered it, or so says the caller: 1 to 1,024 bytes.
        key_id: String,
        /// As `Encrypt` answered them, or so says the caller: 32,768 bytes at most, names and values together.
        annotations: BTreeMap<String, Vec<u8>>,
    },
    /// v1: wrap.
    EncryptV1 {
        /// Not empty.
        plaintext: Secret,
    },
    /// v2: wrap.
    EncryptV2 {
        /// Not empty.
        plaintext: Secret,
        /// As for [`Request::DecryptV2`].
        uid: String,
    },
    /// v2: whether the key can be used, and which it is.
    Status,
    /// v1: which version is spoken.
    Version,
}

impl Request {
    /// Reads `body`, the whole body of a request for `method`: one message in gRPC's envelope.
    ///
    /// A plaintext is copied once, out of `body` into its [`Secret`]. Fields that the API does not have are let be, as
    /// protobuf has it.
    ///
    /// # Errors
    /// All are the caller's: [`Kind::Unsupported`] where the message is compressed, [`Kind::TooLarge`] where it says to
    /// be longer than any request, [`Kind::Malformed`] where the body is not exactly one message or that not protobuf,
    /// [`Kind::MissingParameter`] for an empty plaintext, ciphertext or `key_id`, [`Kind::InvalidParameter`] for a field
    /// over its limit and for a `version` other than `v1beta1`; names as in the `.proto`.
    pub fn decode(method: Method, body: &[u8]) -> Result<Self, Fault> {
        let message = frame::message(body)?;
        match method {
            Method::V1Decrypt => decrypt_v1(read(message)?),
            Method::V1Encrypt => encrypt_v1(read(message)?),
            Method::V1Version => {
                let message: messages::VersionV1 = read(message)?;
                spoken(&message.version)?;
                Ok(Self::Version)
            }
            Method::V2Decrypt => decrypt_v2(read(message)?),
            Method::V2Encrypt => encrypt_v2(read(message)?),
            Method::V2Status => {
                let messages::StatusV2 {} = read(message)?;
                Ok(Self::Status)
            }
        }
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DecryptV1 { ciphertext } => write!(f, "DecryptV1({} bytes)", ciphertext.len()),
            Self::DecryptV2 { ciphertext, uid, key_id, annotations } => {
                let (bytes, count) = (ciphertext.len(), annotations.len());
                write!(f, "DecryptV2({bytes} bytes, uid {uid:?}, key_id {key_id:?}, {count} annotations)")
            }
            Self::EncryptV1 { plaintext } => write!(f, "EncryptV1({plaintext:?})"),
            Self::EncryptV2 { plaintext, uid } => write!(f, "EncryptV2({plaintext:?}, uid {uid:?})"),
            Self::Status => f.write_str("Status"),
            Self::Version => f.write_str("Version"),
        }
    }
}

fn read<M: Message + Default>(message: &[u8]) -> Result<M, Fault> {
    M::decode(message).map_err(|_| Fault::caller(Kind::Malformed("the message is not the protobuf of this method")))
}

fn decrypt_v1(message: messages::DecryptV1) -> Result<Request, Fault> {
    spoken(&message.version)?;
    sized("cipher", message.cipher.len(), ciphertext::V1_BYTES_MAX)?;
    Ok(Request::DecryptV1 { ciphertext: message.cipher })
}

fn encrypt_v1(message: messages::EncryptV1) -> Result<Request, Fault> {
    let plaintext = Secret::new(message.plain);
    spoken(&message.version)?;
    present("plain", plaintext.len())?;
    Ok(Request::EncryptV1 { plaintext })
}

fn decrypt_v2(message: messages::DecryptV2) -> Result<Request, Fault> {
    let messages::DecryptV2 { ciphertext, uid, key_id, annotations } = message;
    sized("ciphertext", ciphertext.len(), ciphertext::V2_BYTES_MAX)?;
    sized("key_id", key_id.len(), KEY_ID_BYTES_MAX)?;
    within("uid", uid.len(), UID_BYTES_MAX)?;
    let total = annotations.iter().map(|(name, value)| name.len() + value.len()).sum();
    within("annotations", total, ANNOTATIONS_BYTES_MAX)?;
    Ok(Request::DecryptV2 { ciphertext, uid, key_id, annotations })
}

fn encrypt_v2(message: messages::EncryptV2) -> Result<Request, Fault> {
    let plaintext = Secret::new(message.plaintext);
    present("plaintext", plaintext.len())?;
    within("uid", message.uid.len(), UID_BYTES_MAX)?;
    Ok(Request::EncryptV2 { plaintext, uid: message.uid })
}

/// Whether the caller of v1 means the version that is served; every message says it.
fn spoken(version: &str) -> Result<(), Fault> {
    if version == VERSION { Ok(()) } else { Err(Fault::caller(Kind::InvalidParameter("version".into()))) }
}

fn sized(name: &str, length: usize, max: usize) -> Result<(), Fault> {
    present(name, length)?;
    within(name, length, max)
}

fn present(name: &str, length: usize) -> Result<(), Fault> {
    if length > 0 { Ok(()) } else { Err(Fault::caller(Kind::MissingParameter(name.into()))) }
}

fn within(name: &str, length: usize, max: usize) -> Result<(), Fault> {
    if length <= max { Ok(()) } else { Err(Fault::caller(Kind::InvalidParameter(name.into()))) }
}

/// What v1 calls itself, in every message.
pub(super) const VERSION: &str = "v1beta1";
/// As kube-apiserver has it, envelope/kmsv2/envelope.go.
const KEY_ID_BYTES_MAX: usize = 1024;
/// kube-apiserver sends the 36 of a UUID.
const UID_BYTES_MAX: usize = 1024;
