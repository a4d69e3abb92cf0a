//! gRPC requests: what protobuf says and the limits allow is what is decoded, and a body is one whole message.
#![no_main]

use std::collections::BTreeMap;

use kmsproxy::fault::{Fault, Kind, Origin};
use kmsproxy::secret::Secret;
use kmsproxy::wire::kubernetes::{Method, Request};
use libfuzzer_sys::fuzz_target;
use prost::Message;

fuzz_target!(|input: &[u8]| {
    let Some((&mode, bytes)) = input.split_first() else { return };
    let method = Method::ALL[usize::from(mode >> 1) % Method::ALL.len()];
    if mode & 1 == 0 {
        let length = u32::try_from(bytes.len()).expect("inputs are short").to_be_bytes();
        judged(method, &[&[0], &length[..], bytes].concat(), Some(bytes));
    } else {
        judged(method, bytes, framed(bytes));
    }
});

fn judged(method: Method, body: &[u8], message: Option<&[u8]>) {
    let decoded = Request::decode(method, body);
    if let Err(fault) = &decoded {
        assert_eq!(fault.origin(), Origin::Caller);
    }
    let decoded = decoded.map_err(|fault: Fault| fault.kind().clone());
    match message {
        Some(message) => assert_eq!(decoded.map_err(|kind| named(&kind)), expected(method, message)),
        None => assert!(matches!(decoded, Err(Kind::Malformed(_) | Kind::Unsupported | Kind::TooLarge)), "{decoded:?}"),
    }
}

fn framed(body: &[u8]) -> Option<&[u8]> {
    let (head, message) = body.split_at_checked(5)?;
    let length = head[1..].iter().fold(0, |length, byte| length * 256 + usize::from(*byte));
    (head[0] == 0 && length == message.len()).then_some(message)
}

/// The parameter that a refusal names; `.` where the message cannot be read.
fn named(kind: &Kind) -> String {
    match kind {
        Kind::MissingParameter(name) => format!("-{name}"),
        Kind::InvalidParameter(name) => format!("!{name}"),
        _ => ".".to_owned(),
    }
}

fn expected(method: Method, message: &[u8]) -> Result<Request, String> {
    let check = |good: bool, why: &str| if good { Ok(()) } else { Err(why.to_owned()) };
    fn read<M: Message + Default>(message: &[u8]) -> Result<M, String> {
        M::decode(message).map_err(|_| ".".to_owned())
    }
    Ok(match method {
        Method::V1Decrypt => {
            let Wrapped { version, bytes } = read(message)?;
            check(version == "v1beta1", "!version")?;
            check(!bytes.is_empty(), "-cipher")?;
            check(bytes.len() <= 65_535, "!cipher")?;
            Request::DecryptV1 { ciphertext: bytes }
        }
        Method::V1Encrypt => {
            let Wrapped { version, bytes } = read(message)?;
            check(version == "v1beta1", "!version")?;
            check(!bytes.is_empty(), "-plain")?;
            Request::EncryptV1 { plaintext: Secret::new(bytes) }
        }
        Method::V1Version => {
            let Version { version } = read(message)?;
            check(version == "v1beta1", "!version")?;
            Request::Version
        }
        Method::V2Decrypt => {
            let Annotated { ciphertext, uid, key_id, annotations } = read(message)?;
            check(!ciphertext.is_empty(), "-ciphertext")?;
            check(ciphertext.len() <= 1024, "!ciphertext")?;
            check(!key_id.is_empty(), "-key_id")?;
            check(key_id.len() <= 1024, "!key_id")?;
            check(uid.len() <= 1024, "!uid")?;
            let total: usize = annotations.iter().map(|(name, value)| name.len() + value.len()).sum();
            check(total <= 32_768, "!annotations")?;
            Request::DecryptV2 { ciphertext, uid, key_id, annotations }
        }
        Method::V2Encrypt => {
            let Plain { plaintext, uid } = read(message)?;
            check(!plaintext.is_empty(), "-plaintext")?;
            check(uid.len() <= 1024, "!uid")?;
            Request::EncryptV2 { plaintext: Secret::new(plaintext), uid }
        }
        Method::V2Status => {
            let Nothing {} = read(message)?;
            Request::Status
        }
    })
}

// As `k8s.io/kms/apis/{v1beta1,v2}/api.proto` have them, written down a second time.

#[derive(Message)]
struct Version {
    #[prost(string, tag = "1")]
    version: String,
}

#[derive(Message)]
struct Wrapped {
    #[prost(string, tag = "1")]
    version: String,
    #[prost(bytes = "vec", tag = "2")]
    bytes: Vec<u8>,
}

#[derive(Message)]
struct Annotated {
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
struct Plain {
    #[prost(bytes = "vec", tag = "1")]
    plaintext: Vec<u8>,
    #[prost(string, tag = "2")]
    uid: String,
}

#[derive(Message)]
struct Nothing {}
