//! Answers: the JSON of a 200, written and read. Plaintexts are encoded in place and decoded straight out of the body.

use std::borrow::Cow;

use http::StatusCode;
use http::header::HeaderMap;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::{object, refusal};
use crate::fault::{Fault, Kind};
use crate::kms::{
    Action, Answer, Ciphertext, DataKey, Decrypted, Document, Encrypted, KeyId, KeyState, KeyVersion, Reply, RequestId,
};
use crate::secret::Secret;
use crate::wire::base64;

/// The JSON body of a 200.
#[must_use]
pub fn encode(answer: &Answer) -> Secret {
    let mut object = Object::with_room(&answer.reply);
    match &answer.reply {
        Reply::DataKey(reply) => {
            object.key(&reply.key, &reply.version);
            object.blob("CiphertextBlob", reply.ciphertext.bytes());
            if let Some(plaintext) = &reply.plaintext {
                object.blob("Plaintext", plaintext.expose());
            }
        }
        Reply::Decrypted(reply) => {
            object.key(&reply.key, &reply.version);
            object.blob("Plaintext", reply.plaintext.expose());
        }
        Reply::Document(reply) => reply.members.iter().for_each(|(name, value)| object.value(name, value)),
        Reply::Encrypted(reply) => {
            object.key(&reply.key, &reply.version);
            object.blob("CiphertextBlob", reply.ciphertext.bytes());
        }
    }
    object.member("RequestId", &answer.request_id.text());
    object.close()
}

/// Reads what a KMS answered to `action`.
///
/// # Errors
/// What [`refusal::decode`] makes of a 4xx or 5xx; [`Kind::Garbled`] for everything that is not in the schema: another
/// status, a body that is not JSON, a missing or doubled member, one of the wrong type, bad base64. Members that we do
/// not know are let be.
pub fn decode(action: Action, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Result<Answer, Fault> {
    if status.is_client_error() || status.is_server_error() {
        return Err(refusal::decode(action, status, headers, body));
    }
    let answer = if status == StatusCode::OK { read(action, body) } else { None };
    answer.ok_or_else(|| Fault::kms(Kind::Garbled))
}

fn read(action: Action, body: &[u8]) -> Option<Answer> {
    match action {
        Action::Decrypt => {
            let read: ReadDecrypted<'_> = object::read(body)?;
            let (key, version) = key(&read.key_id, &read.key_version_id)?;
            let plaintext = read.plaintext.secret()?;
            answer(&read.request_id, Reply::Decrypted(Decrypted { plaintext, key, version }))
        }
        Action::Encrypt => {
            let read: ReadEncrypted<'_> = object::read(body)?;
            let (key, version) = key(&read.key_id, &read.key_version_id)?;
            let ciphertext = ciphertext(&read.ciphertext_blob)?;
            answer(&read.request_id, Reply::Encrypted(Encrypted { ciphertext, key, version }))
        }
        Action::GenerateDataKey => {
            let read: ReadDataKey<'_> = object::read(body)?;
            let (key, version) = key(&read.key_id, &read.key_version_id)?;
            let (ciphertext, plaintext) = (ciphertext(&read.ciphertext_blob)?, Some(read.plaintext.secret()?));
            answer(&read.request_id, Reply::DataKey(DataKey { plaintext, ciphertext, key, version }))
        }
        Action::GenerateDataKeyWithoutPlaintext => {
            let read: ReadEncrypted<'_> = object::read(body)?;
            let (key, version) = key(&read.key_id, &read.key_version_id)?;
            let ciphertext = ciphertext(&read.ciphertext_blob)?;
            answer(&read.request_id, Reply::DataKey(DataKey { plaintext: None, ciphertext, key, version }))
        }
        Action::DescribeKey => document("KeyMetadata", body),
        Action::DescribeKeyVersion => document("KeyVersion", body),
        Action::ListAliases | Action::ListAliasesByKeyId => document("Aliases", body),
        Action::ListKeyVersions => document("KeyVersions", body),
        Action::ListKeys => document("Keys", body),
    }
}

fn document(subject: &str, body: &[u8]) -> Option<Answer> {
    // Read twice: of two equal members a map keeps the last, and what we act on must not be a matter of order.
    let ReadDocument { request_id, key_metadata } = object::read(body)?;
    let mut members: Map<String, Value> = object::read(body)?;
    members.remove("RequestId");
    members.get(subject)?.as_object()?;
    let described = if subject == "KeyMetadata" { Some(described(key_metadata?)?) } else { None };
    answer(&request_id, Reply::Document(Document { members, described }))
}

fn described(metadata: &RawValue) -> Option<(KeyId, KeyState)> {
    let ReadMetadata { key_id, key_state } = object::read(metadata.get().as_bytes())?;
    let state = match &*key_state {
        "" => return None,
        "Enabled" => KeyState::Enabled,
        "Disabled" => KeyState::Disabled,
        "PendingDeletion" => KeyState::PendingDeletion,
        "PendingImport" => KeyState::PendingImport,
        _ => KeyState::Unavailable,
    };
    (!key_id.is_empty()).then(|| (KeyId::new(&key_id), state))
}

fn key(id: &str, version: &str) -> Option<(KeyId, KeyVersion)> {
    (!id.is_empty()).then(|| (KeyId::new(id), KeyVersion::new(version)))
}

fn ciphertext(text: &str) -> Option<Ciphertext> {
    base64::decode(text.as_bytes()).filter(|bytes| !bytes.is_empty()).map(Ciphertext::new)
}

fn answer(request_id: &str, reply: Reply) -> Option<Answer> {
    (!request_id.is_empty()).then(|| Answer { reply, request_id: RequestId::new(request_id) })
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ReadDecrypted<'b> {
    #[serde(borrow)]
    plaintext: Confidential<'b>,
    #[serde(borrow)]
    key_id: Cow<'b, str>,
    #[serde(borrow)]
    key_version_id: Cow<'b, str>,
    #[serde(borrow)]
    request_id: Cow<'b, str>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ReadEncrypted<'b> {
    #[serde(borrow)]
    ciphertext_blob: Cow<'b, str>,
    #[serde(borrow)]
    key_id: Cow<'b, str>,
    #[serde(borrow)]
    key_version_id: Cow<'b, str>,
    #[serde(borrow)]
    request_id: Cow<'b, str>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ReadDataKey<'b> {
    #[serde(borrow)]
    plaintext: Confidential<'b>,
    #[serde(borrow)]
    ciphertext_blob: Cow<'b, str>,
    #[serde(borrow)]
    key_id: Cow<'b, str>,
    #[serde(borrow)]
    key_version_id: Cow<'b, str>,
    #[serde(borrow)]
    request_id: Cow<'b, str>,
}

/// What we act on in the answer to a read.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ReadDocument<'b> {
    #[serde(borrow)]
    request_id: Cow<'b, str>,
    #[serde(borrow)]
    key_metadata: Option<&'b RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ReadMetadata<'b> {
    #[serde(borrow)]
    key_id: Cow<'b, str>,
    #[serde(borrow)]
    key_state: Cow<'b, str>,
}

/// The base64 of a plaintext, as it lies in the body; a copy only where the JSON escapes it, and then a wiped one.
#[derive(Deserialize)]
struct Confidential<'b>(#[serde(borrow)] Cow<'b, str>);

impl Confidential<'_> {
    fn secret(self) -> Option<Secret> {
        let plaintext = base64::decode(self.0.as_bytes()).map(Secret::new);
        if let Cow::Owned(text) = self.0 {
            drop(Secret::new(text.into_bytes()));
        }
        plaintext.filter(|plaintext| !plaintext.is_empty())
    }
}

/// A JSON object under way, in a buffer that is large enough from the start: growing would leave copies behind.
struct Object(Vec<u8>);

impl Object {
    fn with_room(reply: &Reply) -> Self {
        let blobs = match reply {
            Reply::DataKey(reply) => {
                base64::encoded_len(reply.ciphertext.bytes())
                    + reply.plaintext.as_ref().map_or(0, |plaintext| base64::encoded_len(plaintext.expose()))
            }
            Reply::Decrypted(reply) => base64::encoded_len(reply.plaintext.expose()),
            Reply::Document(_) => DOCUMENT_BYTES,
            Reply::Encrypted(reply) => base64::encoded_len(reply.ciphertext.bytes()),
        };
        Self(Vec::with_capacity(blobs + REST_BYTES))
    }

    fn key(&mut self, key: &KeyId, version: &KeyVersion) {
        self.member("KeyId", key.as_str());
        self.member("KeyVersionId", version.as_str());
    }

    fn member(&mut self, name: &'static str, text: &str) {
        self.known(name);
        self.text(text);
    }

    fn value(&mut self, name: &str, value: &Value) {
        self.name(name);
        serde_json::to_writer(&mut self.0, value).expect("a JSON value always has a JSON form");
    }

    fn blob(&mut self, name: &'static str, bytes: &[u8]) {
        self.known(name);
        self.0.push(b'"');
        base64::put(bytes, &mut self.0);
        self.0.push(b'"');
    }

    fn name(&mut self, name: &str) {
        self.0.push(if self.0.is_empty() { b'{' } else { b',' });
        self.text(name);
        self.0.push(b':');
    }

    /// As [`Object::name`], for one that needs no look.
    fn known(&mut self, name: &'static str) {
        self.0.extend_from_slice(if self.0.is_empty() { b"{\"" } else { b",\"" });
        self.0.extend_from_slice(name.as_bytes());
        self.0.extend_from_slice(b"\":");
    }

    /// Nearly every text stands for itself; to look for one that does not costs less than to write each as if it did not.
    fn text(&mut self, text: &str) {
        let escaped = |byte: u8| (byte < b' ') | (byte == b'"') | (byte == b'\\');
        if text.bytes().fold(false, |any, byte| any | escaped(byte)) {
            return serde_json::to_writer(&mut self.0, text).expect("a text always has a JSON form");
        }
        self.0.push(b'"');
        self.0.extend_from_slice(text.as_bytes());
        self.0.push(b'"');
    }

    fn close(mut self) -> Secret {
        self.0.push(b'}');
        Secret::new(self.0)
    }
}

/// Where a metadata document usually ends; nothing in it is confidential.
const DOCUMENT_BYTES: usize = 2048;
/// Names, quotes, key id, version and request id, with as much again to spare.
const REST_BYTES: usize = 512;

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn decoded(action: Action, body: &str) -> Result<Reply, Kind> {
        let answer = decode(action, StatusCode::OK, &HeaderMap::new(), body.as_bytes());
        answer.map(|answer| answer.reply).map_err(|fault| fault.kind().clone())
    }

    const SAMPLE: &str =
        r#"{"KeyVersionId":"2ab1a983","KeyId":"202b9877","RequestId":"207596a2","Plaintext":"dGVzdA=="}"#;

    #[test]
    fn the_sample_of_the_reference_is_read() {
        let answer = decode(Action::Decrypt, StatusCode::OK, &HeaderMap::new(), SAMPLE.as_bytes()).unwrap();
        let (key, version) = (KeyId::new("202b9877"), KeyVersion::new("2ab1a983"));
        let expected = Decrypted { plaintext: Secret::copied(b"test"), key, version };
        assert_eq!((answer.reply, &*answer.request_id.text()), (Reply::Decrypted(expected), "207596a2"));
    }

    #[test]
    fn members_that_are_not_known_and_escapes_that_are_not_needed_are_let_be() {
        let body = r#"{"KeyVersionId":"v","New":[{"a":1}],"KeyId":"k\u0031","RequestId":"r","Plaintext":"\/\/8="}"#;
        let (key, version) = (KeyId::new("k1"), KeyVersion::new("v"));
        let expected = Decrypted { plaintext: Secret::copied(b"\xff\xff"), key, version };
        assert_eq!(decoded(Action::Decrypt, body), Ok(Reply::Decrypted(expected)));
    }

    #[test]
    fn what_is_not_in_the_schema_is_garbled() {
        let swapped = |from: &str, to: &str| SAMPLE.replace(from, to);
        let bodies = [
            String::new(),
            "<html><body>Please log in</body></html>".to_owned(),
            "{}".to_owned(),
            SAMPLE[..SAMPLE.len() - 1].to_owned(),
            format!("{SAMPLE}{SAMPLE}"),
            r#"["dGVzdA==","202b9877","2ab1a983","207596a2"]"#.to_owned(),
            swapped("\"KeyId\":\"202b9877\",", ""),
            swapped("202b9877", ""),
            swapped("207596a2", ""),
            swapped("\"202b9877\"", "7"),
            swapped("\"202b9877\"", "null"),
            swapped("dGVzdA==", "dGVzdA"),
            swapped("dGVzdA==", "dGVzdB=="),
            swapped("dGVzdA==", ""),
            swapped("\"dGVzdA==\"", "[116]"),
            swapped("\"KeyVersionId\"", "\"KeyId\""),
        ];
        for body in bodies {
            assert_eq!(decoded(Action::Decrypt, &body), Err(Kind::Garbled), "{body}");
        }
        assert_eq!(decoded(Action::Encrypt, SAMPLE), Err(Kind::Garbled));
        assert_eq!(decoded(Action::ListKeys, SAMPLE), Err(Kind::Garbled));
    }

    #[test]
    fn success_is_200_and_nothing_near_it() {
        for status in [100, 201, 204, 206, 301, 302, 304] {
            let status = StatusCode::from_u16(status).unwrap();
            let fault = decode(Action::Decrypt, status, &HeaderMap::new(), SAMPLE.as_bytes()).unwrap_err();
            assert_eq!(fault, Fault::kms(Kind::Garbled), "{status}");
        }
    }

    #[test]
    fn a_description_tells_key_and_state_and_keeps_every_member() {
        let body = r#"{"KeyMetadata":{"KeyId":"k","KeyState":"STATE","Arn":"a"},"RequestId":"r"}"#;
        for (text, state) in [
            ("Enabled", KeyState::Enabled),
            ("Disabled", KeyState::Disabled),
            ("PendingDeletion", KeyState::PendingDeletion),
            ("PendingImport", KeyState::PendingImport),
            ("Exotic", KeyState::Unavailable),
        ] {
            let body = body.replace("STATE", text);
            let Ok(Reply::Document(document)) = decoded(Action::DescribeKey, &body) else { panic!("{body}") };
            let mut members: Map<String, Value> = serde_json::from_str(&body).unwrap();
            members.remove("RequestId");
            assert_eq!(document, Document { members, described: Some((KeyId::new("k"), state)) });
        }
        let twice = body.replace("\"KeyState\"", "\"KeyState\":\"Disabled\",\"KeyState\"");
        let listed = r#"{"KeyMetadata":["k","Enabled"],"RequestId":"r"}"#.to_owned();
        for garbled in [body.replace("KeyState", "State"), twice, listed] {
            assert_eq!(decoded(Action::DescribeKey, &garbled), Err(Kind::Garbled), "{garbled}");
        }
    }

    #[test]
    fn a_number_in_a_document_is_handed_on_as_it_was_heard() {
        let number = "133333333333333333333333336333333333333333333333330";
        let body = format!(r#"{{"Keys":{{"Rent":{number}}},"RequestId":"r"}}"#);
        let answer = decode(Action::ListKeys, StatusCode::OK, &HeaderMap::new(), body.as_bytes()).unwrap();
        let again: Value = serde_json::from_slice(encode(&answer).expose()).unwrap();
        assert_eq!(again["Keys"]["Rent"].to_string().parse::<f64>(), number.parse::<f64>());
    }

    fn replies() -> impl Strategy<Value = (Action, Reply)> {
        let parts = ("\\PC{1,20}", "\\PC{0,20}", vec(any::<u8>(), 1..100), vec(any::<u8>(), 1..100), 0..5);
        parts.prop_map(|(key, version, plaintext, ciphertext, which)| {
            let (key, version) = (KeyId::new(&key), KeyVersion::new(&version));
            let (plaintext, ciphertext) = (Secret::new(plaintext), Ciphertext::new(ciphertext));
            match which {
                0 => (Action::Decrypt, Reply::Decrypted(Decrypted { plaintext, key, version })),
                1 => (Action::Encrypt, Reply::Encrypted(Encrypted { ciphertext, key, version })),
                2 => {
                    let plaintext = Some(plaintext);
                    (Action::GenerateDataKey, Reply::DataKey(DataKey { plaintext, ciphertext, key, version }))
                }
                3 => {
                    let reply = Reply::DataKey(DataKey { plaintext: None, ciphertext, key, version });
                    (Action::GenerateDataKeyWithoutPlaintext, reply)
                }
                _ => {
                    let mut members = Map::new();
                    members.insert("Keys".to_owned(), serde_json::json!({ "Key": [{ "KeyId": key.as_str() }] }));
                    members.insert("TotalCount".to_owned(), 1.into());
                    (Action::ListKeys, Reply::Document(Document { members, described: None }))
                }
            }
        })
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded_to_the_same_reply((action, reply) in replies()) {
            let answer = Answer { reply, request_id: RequestId::new("A\"1") };
            let body = encode(&answer);
            let back = decode(action, StatusCode::OK, &HeaderMap::new(), body.expose()).unwrap();
            prop_assert_eq!((back.reply, back.request_id), (answer.reply, answer.request_id));
        }
    }
}
