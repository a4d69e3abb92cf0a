//! Requests (stub).
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::kms::Call;
use crate::secret::Secret;

/// Version.
pub const VERSION: &str = "2016-01-20";

/// Form.
pub fn encode(call: &Call) -> Secret {
    let text = match call {
        Call::Decrypt(call) => format!("CiphertextBlob={}", quote(call.ciphertext.bytes())),
        Call::Encrypt(call) => format!("KeyId={}&Plaintext={}", call.key.as_str(), quote(call.plaintext.expose())),
        Call::GenerateDataKey(call) => format!("KeyId={}", call.key.as_str()),
        Call::Read(read) => read.key.as_ref().map_or_else(String::new, |key| format!("KeyId={}", key.as_str())),
    };
    Secret::new(text.into_bytes())
}

fn quote(bytes: &[u8]) -> String {
    STANDARD.encode(bytes).replace('+', "%2B").replace('/', "%2F").replace('=', "%3D")
}
