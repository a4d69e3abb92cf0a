//! What `ack-kms-plugin` lays into etcd through v2 (plugin/kms.go, plugin/server_v2.go, 2026): the base64 text of the blob,
//! beside it as `key_id` whatever its `--key-id` is, and three annotations. It reads neither back, and asks the KMS for
//! whatever it is handed; here they must be as it writes them.

use std::collections::BTreeMap;

use crate::fault::{Fault, Kind};
use crate::kms::Ciphertext;
use crate::wire::base64;

/// Whether these are the annotations that the plugin lays beside each ciphertext; others may lie with them.
#[must_use]
pub fn annotated(annotations: &BTreeMap<String, Vec<u8>>) -> bool {
    [KEY_VERSION, REGION, REQUEST].iter().all(|&name| annotations.contains_key(name))
}

/// The blob in what the plugin stored.
///
/// # Errors
/// [`Kind::InvalidCiphertext`], the caller's, where that is not base64, padded and of the standard alphabet, or is empty.
pub fn decode(stored: &[u8]) -> Result<Ciphertext, Fault> {
    let blob = base64::decode(stored).filter(|blob| !blob.is_empty());
    blob.map(Ciphertext::new).ok_or(Fault::caller(Kind::InvalidCiphertext))
}

const KEY_VERSION: &str = "x-acs-kms-key-version-id.ack.alibabacloud.com";
const REGION: &str = "x-acs-kms-region-id.ack.alibabacloud.com";
const REQUEST: &str = "x-acs-request-id.ack.alibabacloud.com";
