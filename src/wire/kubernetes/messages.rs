//! The requests as protobuf has them: `k8s.io/kms/apis/v1beta1/api.proto` and `k8s.io/kms/apis/v2/api.proto`. Answers
//! need no types: see `answer`. What has a plaintext or a ciphertext in it has no `Debug` that would show it.

use std::collections::BTreeMap;
use std::fmt;

use prost::Message;

/// `v1beta1.VersionRequest`.
#[derive(Message)]
pub(super) struct VersionV1 {
    #[prost(string, tag = "1")]
    pub(super) version: String,
}

/// `v1beta1.DecryptRequest`.
#[derive(Message)]
#[prost(skip_debug)]
pub(super) struct DecryptV1 {
    #[prost(string, tag = "1")]
    pub(super) version: String,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) cipher: Vec<u8>,
}

/// `v1beta1.EncryptRequest`.
#[derive(Message)]
#[prost(skip_debug)]
pub(super) struct EncryptV1 {
    #[prost(string, tag = "1")]
    pub(super) version: String,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) plain: Vec<u8>,
}

/// `v2.StatusRequest`.
#[derive(Message)]
pub(super) struct StatusV2 {}

/// `v2.DecryptRequest`.
#[derive(Message)]
#[prost(skip_debug)]
pub(super) struct DecryptV2 {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) ciphertext: Vec<u8>,
    #[prost(string, tag = "2")]
    pub(super) uid: String,
    #[prost(string, tag = "3")]
    pub(super) key_id: String,
    #[prost(btree_map = "string, bytes", tag = "4")]
    pub(super) annotations: BTreeMap<String, Vec<u8>>,
}

/// `v2.EncryptRequest`.
#[derive(Message)]
#[prost(skip_debug)]
pub(super) struct EncryptV2 {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) plaintext: Vec<u8>,
    #[prost(string, tag = "2")]
    pub(super) uid: String,
}

impl fmt::Debug for DecryptV1 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("v1beta1.DecryptRequest")
    }
}

impl fmt::Debug for EncryptV1 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("v1beta1.EncryptRequest")
    }
}

impl fmt::Debug for DecryptV2 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("v2.DecryptRequest")
    }
}

impl fmt::Debug for EncryptV2 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("v2.EncryptRequest")
    }
}
