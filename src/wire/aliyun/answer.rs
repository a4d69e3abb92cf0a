//! Answers (stub).
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::fault::{Fault, Kind, Verbatim};
use crate::kms::{
    Action, Answer, Ciphertext, DataKey, Decrypted, Document, Encrypted, KeyId, KeyState, KeyVersion, Reply, RequestId,
};
use crate::secret::Secret;

/// Decodes.
pub fn decode(
    action: Action,
    status: http::StatusCode,
    headers: &http::HeaderMap,
    body: &[u8],
) -> Result<Answer, Fault> {
    let garbled = || Fault::kms(Kind::Garbled);
    let json: Value = serde_json::from_slice(body).map_err(|_| garbled())?;
    let text = |name: &str| json.get(name).and_then(Value::as_str).ok_or_else(garbled);
    let request_id = RequestId::new(text("RequestId")?);
    if status != http::StatusCode::OK {
        let code = text("Code")?;
        let after = headers.get("x-acs-retry-after").and_then(|v| v.to_str().ok()).and_then(|v| v.parse().ok());
        let kind = match (status.as_u16(), code) {
            (429, _) | (_, "Throttling") => Kind::Throttled(after.map(Duration::from_millis)),
            (_, "Rejected.Disabled") => Kind::KeyDisabled,
            (_, "InvalidSecurityToken.Expired" | "InvalidAccessKeyId.NotFound") => Kind::Credentials,
            (500.., _) => Kind::KmsFailure,
            _ => Kind::Other,
        };
        return Err(Fault::said(
            kind,
            Verbatim {
                status: status.as_u16(),
                code: code.to_owned(),
                message: text("Message").unwrap_or("").to_owned(),
                request_id,
                host_id: None,
                recommend: None,
            },
        ));
    }
    let blob = |name: &str| STANDARD.decode(text(name)?).map_err(|_| garbled());
    let key = || Ok::<_, Fault>(KeyId::new(text("KeyId")?));
    let version = || Ok::<_, Fault>(KeyVersion::new(text("KeyVersionId")?));
    let reply = match action {
        Action::Decrypt => {
            Reply::Decrypted(Decrypted { plaintext: Secret::new(blob("Plaintext")?), key: key()?, version: version()? })
        }
        Action::Encrypt => Reply::Encrypted(Encrypted {
            ciphertext: Ciphertext::new(blob("CiphertextBlob")?),
            key: key()?,
            version: version()?,
        }),
        Action::GenerateDataKey | Action::GenerateDataKeyWithoutPlaintext => Reply::DataKey(DataKey {
            plaintext: blob("Plaintext").ok().map(Secret::new),
            ciphertext: Ciphertext::new(blob("CiphertextBlob")?),
            key: key()?,
            version: version()?,
        }),
        _ => Reply::Document(Document {
            members: json.as_object().cloned().unwrap_or_default(),
            described: json["KeyMetadata"]["KeyId"].as_str().map(|id| (KeyId::new(id), KeyState::Enabled)),
        }),
    };
    Ok(Answer { reply, request_id })
}
