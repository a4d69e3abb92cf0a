//! The ciphertext blob: `36-byte version id ‖ 12-byte IV ‖ ciphertext ‖ 16-byte tag`, AES-256-GCM. The layout is the
//! one that Alibaba's own SDK takes apart (`alibabacloud-kms-python-sdk`, `decrypt_transfer_handler.py`).

use crate::kms::{Ciphertext, Context};
use crate::secret::Secret;
use crate::upstream::local::gcm;
use crate::upstream::local::key::{ID_BYTES, Version};

/// Wraps `plaintext` under `version`, bound to `context`.
pub(super) fn seal(version: &Version, context: Option<&Context>, plaintext: &Secret) -> Ciphertext {
    let head = version.id.as_str().as_bytes();
    Ciphertext::new(gcm::seal(&version.material, head, &associated(version, context), plaintext))
}

/// Unwraps what [`seal`] made; `None` where version, context or a single bit is another.
pub(super) fn open(version: &Version, context: Option<&Context>, blob: &[u8]) -> Option<Secret> {
    gcm::open(&version.material, ID_BYTES, &associated(version, context), blob)
}

/// The version id that a blob begins with; `None` where it is too short to be one or the id is not text.
pub(super) fn version_id(blob: &[u8]) -> Option<&str> {
    if blob.len() < ID_BYTES + gcm::OVERHEAD_BYTES {
        return None;
    }
    std::str::from_utf8(&blob[..ID_BYTES]).ok()
}

/// Injective: the version id has a fixed length, each string its length before it. Absent and empty contexts differ;
/// whether they do in the real KMS is not documented.
fn associated(version: &Version, context: Option<&Context>) -> Vec<u8> {
    let mut bytes = version.id.as_str().as_bytes().to_vec();
    bytes.push(u8::from(context.is_some()));
    for (name, value) in context.map_or(&[][..], Context::pairs) {
        for text in [name, value] {
            bytes.extend_from_slice(&(text.len() as u64).to_be_bytes());
            bytes.extend_from_slice(text.as_bytes());
        }
    }
    bytes
}
