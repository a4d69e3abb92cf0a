//! The Kubernetes KMS provider API, as kube-apiserver speaks it: gRPC messages, codes and the forms of what is kept in
//! etcd. Pure: no sockets here.
//!
//! Sources: `k8s.io/kms/apis/{v1beta1,v2}/api.proto`, `k8s.io/apiserver/pkg/storage/value/encrypt/envelope`, the gRPC over
//! HTTP/2 specification.

pub mod ack_kms_plugin;
pub mod answer;
pub mod ciphertext;
mod frame;
pub mod key_id;
mod messages;
pub mod refusal;
mod request;
pub mod timeout;

use serde::{Deserialize, Serialize};

use crate::kms::Action;

pub use frame::BODY_BYTES_MAX;
pub use request::Request;

/// A version of the API; both may be served on one socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Api {
    /// `/v1beta1.KeyManagementService`, deprecated since Kubernetes 1.28 and in use.
    V1beta1,
    /// `/v2.KeyManagementService`.
    V2,
}

/// What `Status` of v2 calls the API.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum V2Version {
    /// `v2`, Kubernetes 1.29 and later.
    #[default]
    V2,
    /// `v2beta1`, which 1.27 and 1.28 ask for and later ones accept.
    V2beta1,
}

/// The form of what v1 encrypts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum V1Ciphertext {
    /// As `ack-kms-plugin` writes it, the base64 text of the blob: so that the plugin can take over again.
    AckKmsPlugin,
    /// With a version byte and the key's id before the blob.
    #[default]
    Kmsproxy,
}

/// A method of either service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    /// Unwraps the key of one object.
    V1Decrypt,
    /// Wraps the key of one object.
    V1Encrypt,
    /// Says which version is spoken; asked once by each client, before all else.
    V1Version,
    /// Unwraps a seed.
    V2Decrypt,
    /// Wraps a seed.
    V2Encrypt,
    /// Says whether the key can be used, and which it is; asked each minute.
    V2Status,
}

impl Method {
    /// Every method.
    pub const ALL: [Self; 6] =
        [Self::V1Decrypt, Self::V1Encrypt, Self::V1Version, Self::V2Decrypt, Self::V2Encrypt, Self::V2Status];

    /// The method that `path` names, byte for byte; none for methods that the API does not have.
    #[must_use]
    pub fn of(path: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|method| method.path() == path)
    }

    /// The path of the HTTP/2 request, which is also what kube-apiserver's own metrics call the method.
    #[must_use]
    pub const fn path(self) -> &'static str {
        match self {
            Self::V1Decrypt => "/v1beta1.KeyManagementService/Decrypt",
            Self::V1Encrypt => "/v1beta1.KeyManagementService/Encrypt",
            Self::V1Version => "/v1beta1.KeyManagementService/Version",
            Self::V2Decrypt => "/v2.KeyManagementService/Decrypt",
            Self::V2Encrypt => "/v2.KeyManagementService/Encrypt",
            Self::V2Status => "/v2.KeyManagementService/Status",
        }
    }

    /// The service and the method, as the path has them.
    #[must_use]
    pub const fn full_name(self) -> &'static str {
        self.path().split_at(1).1
    }

    /// Whether a plaintext goes in or out by it.
    #[must_use]
    pub const fn is_confidential(self) -> bool {
        match self {
            Self::V1Decrypt | Self::V1Encrypt | Self::V2Decrypt | Self::V2Encrypt => true,
            Self::V1Version | Self::V2Status => false,
        }
    }

    /// A short name, for logs and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::V1Decrypt => "v1beta1/Decrypt",
            Self::V1Encrypt => "v1beta1/Encrypt",
            Self::V1Version => "v1beta1/Version",
            Self::V2Decrypt => "v2/Decrypt",
            Self::V2Encrypt => "v2/Encrypt",
            Self::V2Status => "v2/Status",
        }
    }

    /// The version of the API that it belongs to.
    #[must_use]
    pub const fn api(self) -> Api {
        match self {
            Self::V1Decrypt | Self::V1Encrypt | Self::V1Version => Api::V1beta1,
            Self::V2Decrypt | Self::V2Encrypt | Self::V2Status => Api::V2,
        }
    }

    /// What it asks of a KMS; nothing where we answer of ourselves.
    #[must_use]
    pub const fn action(self) -> Option<Action> {
        match self {
            Self::V1Decrypt | Self::V2Decrypt => Some(Action::Decrypt),
            Self::V1Encrypt | Self::V2Encrypt => Some(Action::Encrypt),
            Self::V1Version | Self::V2Status => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;
    use std::path::Path;

    use proptest::collection::{btree_map, vec};
    use proptest::prelude::*;
    use prost::Message;
    use serde_json::Value;

    use super::ciphertext::{v1_decode, v1_encode};
    use super::key_id::{Foreign, PublicKeyId};
    use super::*;
    use crate::fault::{Fault, Kind};
    use crate::kms::{Ciphertext, KeyId, KeyName, KeyVersion};
    use crate::secret::Secret;

    fn vectors(name: &str) -> Value {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/kubernetes");
        serde_json::from_slice(&fs::read(directory.join(name)).unwrap()).unwrap()
    }

    fn text(value: &Value) -> &str {
        value.as_str().unwrap()
    }

    fn bytes(value: &Value) -> Vec<u8> {
        let digits = text(value).as_bytes();
        let pairs = digits.chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
        pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
    }

    fn map(value: &Value) -> BTreeMap<String, Vec<u8>> {
        value.as_object().unwrap().iter().map(|(name, value)| (name.clone(), bytes(value))).collect()
    }

    fn expected(method: Method, holds: &Value) -> Request {
        let uid = || text(&holds["uid"]).to_owned();
        match method {
            Method::V1Decrypt => Request::DecryptV1 { ciphertext: bytes(&holds["ciphertext"]) },
            Method::V1Encrypt => Request::EncryptV1 { plaintext: Secret::new(bytes(&holds["plaintext"])) },
            Method::V1Version => Request::Version,
            Method::V2Decrypt => Request::DecryptV2 {
                ciphertext: bytes(&holds["ciphertext"]),
                uid: uid(),
                key_id: text(&holds["key_id"]).to_owned(),
                annotations: map(&holds["annotations"]),
            },
            Method::V2Encrypt => Request::EncryptV2 { plaintext: Secret::new(bytes(&holds["plaintext"])), uid: uid() },
            Method::V2Status => Request::Status,
        }
    }

    #[test]
    fn every_request_of_the_vectors_comes_out_as_it_says() {
        let vectors = vectors("requests.json");
        assert_eq!(vectors.as_array().unwrap().len(), 41);
        for vector in vectors.as_array().unwrap() {
            let method = Method::of(text(&vector["method"])).unwrap();
            let decoded = Request::decode(method, &bytes(&vector["body"])).map_err(|fault| fault.kind().label());
            let wanted = match vector["refused"].as_str() {
                Some(kind) => Err(kind),
                None => Ok(expected(method, &vector["holds"])),
            };
            assert_eq!(decoded, wanted, "{}", vector["name"]);
        }
    }

    #[test]
    fn every_answer_is_that_of_the_vectors_in_a_buffer_without_slack() {
        let vectors = vectors("answers.json");
        let at = |name: &str| bytes(&vectors[name]);
        let [version, runtime_name] = ["v1beta1", "kmsproxy"].map(str::to_owned);
        let spoken = VersionV1 { version, runtime_name, runtime_version: env!("CARGO_PKG_VERSION").to_owned() };
        assert_eq!(answer::version(), framed(&spoken));
        assert_eq!(answer::version()[5..24], at("version")[5..24], "up to our version, which changes");

        let (key, version) = (text(&vectors["key"]["key"]), text(&vectors["key"]["version"]));
        let (key, version) = (KeyId::new(key), KeyVersion::new(version));
        let id = PublicKeyId::of(&key, &version, "");
        assert_eq!(answer::status(V2Version::V2, &id), at("status_v2"));
        assert_eq!(answer::status(V2Version::V2beta1, &id), at("status_v2beta1"));

        let decrypted = answer::decrypted(&Secret::new(at("plaintext")));
        assert_eq!(decrypted.expose(), at("decrypted_v1"));
        assert_eq!(decrypted.expose(), at("decrypted_v2"));

        assert_eq!(answer::encrypted_v1(&at("ciphertext")).unwrap(), at("encrypted_v1"));
        let suffix = text(&vectors["key"]["suffix"]);
        let (id, annotations) = (PublicKeyId::of(&key, &version, suffix), key_id::annotations(&key, &version, suffix));
        assert_eq!(answer::encrypted_v2(&at("ciphertext"), &id, &annotations).unwrap(), at("encrypted_v2"));
    }

    #[test]
    fn both_forms_of_v1_are_those_of_the_vectors_and_nothing_else_is_read() {
        let vectors = vectors("ciphertexts.json");
        let (key, blob) = (text(&vectors["key"]), Ciphertext::new(bytes(&vectors["blob"])));
        let encode = |form| v1_encode(form, &KeyId::new(key), &blob).unwrap();
        let (ours, theirs) = (encode(V1Ciphertext::Kmsproxy), encode(V1Ciphertext::AckKmsPlugin));
        assert_eq!((&ours, &theirs), (&bytes(&vectors["kmsproxy"]), &bytes(&vectors["ack_kms_plugin"])));
        assert_eq!(v1_decode(&ours), Ok((Some(KeyName::new(key)), blob.clone())));
        assert_eq!(v1_decode(&theirs), Ok((None, blob)));
        let refused = vectors["refused"].as_object().unwrap();
        assert_eq!(refused.len(), 14);
        for (name, stored) in refused {
            assert_eq!(v1_decode(&bytes(stored)), Err(Fault::caller(Kind::InvalidCiphertext)), "{name}");
        }
    }

    #[test]
    fn what_ack_kms_plugin_writes_through_v2_is_known_by_its_annotations_and_read() {
        let vectors = vectors("ack_kms_plugin.json");
        let read = |stored: &Value| ack_kms_plugin::decode(&bytes(stored));
        assert_eq!(read(&vectors["ciphertext"]), Ok(Ciphertext::new(bytes(&vectors["blob"]))));
        let mut annotations = map(&vectors["annotations"]);
        assert!(ack_kms_plugin::annotated(&annotations));
        assert!(key_id::read(text(&vectors["key_id"]), &annotations).is_err(), "not ours");
        for name in annotations.clone().into_keys() {
            let value = annotations.remove(&name).unwrap();
            assert!(!ack_kms_plugin::annotated(&annotations), "without {name}");
            annotations.insert(name, value);
        }
        annotations.insert("another.example.com".to_owned(), vec![0xFF]);
        assert!(ack_kms_plugin::annotated(&annotations));
        for (name, stored) in vectors["refused"].as_object().unwrap() {
            assert_eq!(read(stored), Err(Fault::caller(Kind::InvalidCiphertext)), "{name}");
        }
    }

    #[test]
    fn every_key_id_is_that_of_the_vectors_and_is_read_back() {
        for vector in vectors("key_ids.json").as_array().unwrap() {
            let (key, version) = (KeyId::new(text(&vector["key"])), KeyVersion::new(text(&vector["version"])));
            let (suffix, annotations) = (text(&vector["suffix"]), map(&vector["annotations"]));
            let id = PublicKeyId::of(&key, &version, suffix);
            assert_eq!(id.as_str(), text(&vector["key_id"]));
            assert_eq!(key_id::annotations(&key, &version, suffix), annotations);
            assert_eq!(key_id::read(id.as_str(), &annotations), Ok((key, version)));
        }
    }

    #[test]
    fn every_grpc_message_is_that_of_the_vectors() {
        for vector in vectors("messages.json").as_array().unwrap() {
            assert_eq!(refusal::grpc_message(text(&vector["text"])), text(&vector["encoded"]));
        }
    }

    #[test]
    fn a_method_is_known_by_its_path_and_by_nothing_like_it() {
        for method in Method::ALL {
            assert_eq!(Method::of(method.path()), Some(method));
        }
        for path in [
            "",
            "/",
            "/v2.KeyManagementService",
            "/v2.KeyManagementService/",
            "/v2.KeyManagementService/status",
            "/v2.KeyManagementService/Version",
            "/v1beta1.KeyManagementService/Status",
            "/v2alpha1.KeyManagementService/Status",
            "/v2.KeyManagementService/Status/",
            "v2.KeyManagementService/Status",
            "/v2.KeyManagementService/Status?x",
        ] {
            assert_eq!(Method::of(path), None, "{path}");
        }
    }

    fn framed(message: &impl Message) -> Vec<u8> {
        let message = message.encode_to_vec();
        [&[0][..], &u32::try_from(message.len()).unwrap().to_be_bytes(), &message].concat()
    }

    fn refused(method: Method, body: &[u8]) -> Fault {
        Request::decode(method, body).unwrap_err()
    }

    #[test]
    fn what_is_longer_than_its_limit_is_refused_by_name_and_what_is_as_long_is_read() {
        let v1 = |length| {
            let message = messages::DecryptV1 { version: "v1beta1".to_owned(), cipher: vec![7; length] };
            Request::decode(Method::V1Decrypt, &framed(&message))
        };
        let invalid = |name: &str| Err(Fault::caller(Kind::InvalidParameter(name.into())));
        assert_eq!(v1(65_535).map(|request| request == Request::DecryptV1 { ciphertext: vec![7; 65_535] }), Ok(true));
        assert_eq!(v1(65_536).map(|_| true), invalid("cipher"));

        let v2 = |ciphertext: usize, uid: usize, key_id: usize, annotation: usize| {
            let annotations = BTreeMap::from([("a.b".to_owned(), vec![7; annotation])]);
            let (uid, key_id) = ("u".repeat(uid), "k".repeat(key_id));
            let message = messages::DecryptV2 { ciphertext: vec![7; ciphertext], uid, key_id, annotations };
            Request::decode(Method::V2Decrypt, &framed(&message)).map(|request| format!("{request:?}").len() > 2000)
        };
        assert_eq!(v2(1024, 1024, 1024, 32_765), Ok(true));
        assert_eq!(v2(1025, 1, 1, 1), invalid("ciphertext"));
        assert_eq!(v2(1, 1025, 1, 1), invalid("uid"));
        assert_eq!(v2(1, 1, 1025, 1), invalid("key_id"));
        assert_eq!(v2(1, 1, 1, 32_766), invalid("annotations"));
    }

    #[test]
    fn a_body_may_be_as_long_as_the_limit_and_may_not_say_more() {
        let message = messages::EncryptV2 { plaintext: vec![7; BODY_BYTES_MAX - 5 - 4], uid: String::new() };
        let mut body = framed(&message);
        assert_eq!(body.len(), BODY_BYTES_MAX);
        assert!(Request::decode(Method::V2Encrypt, &body).is_ok());
        let length = u32::try_from(BODY_BYTES_MAX - 4).unwrap();
        body[1..5].copy_from_slice(&length.to_be_bytes());
        assert_eq!(refused(Method::V2Encrypt, &body), Fault::caller(Kind::TooLarge));
    }

    #[test]
    fn what_kube_apiserver_would_not_take_is_not_answered() {
        let id = PublicKeyId::of(&KeyId::new("key-1"), &KeyVersion::new("v"), "");
        let v2 = |length, annotation| {
            let annotations = BTreeMap::from([("a.b".to_owned(), vec![7; annotation])]);
            answer::encrypted_v2(&vec![7; length], &id, &annotations).map(|_| ())
        };
        let v1 = |length| answer::encrypted_v1(&vec![7; length]).map(|_| ());
        let (none, large) = (Err(Fault::kms(Kind::Garbled)), Err(Fault::proxy(Kind::TooLarge)));
        assert_eq!([v1(0), v1(1), v1(65_535), v1(65_536)], [none.clone(), Ok(()), Ok(()), large.clone()]);
        assert_eq!([v2(0, 1), v2(1, 1), v2(1024, 32_765)], [none, Ok(()), Ok(())]);
        assert_eq!([v2(1025, 1), v2(1, 32_766)], [large.clone(), large]);
    }

    #[test]
    fn no_debug_shows_material() {
        let secret = b"hunter2".to_vec();
        let shown = [
            format!("{:?}", Request::EncryptV1 { plaintext: Secret::new(secret.clone()) }),
            format!("{:?}", Request::EncryptV2 { plaintext: Secret::new(secret.clone()), uid: "u".to_owned() }),
            format!("{:?}", Request::DecryptV1 { ciphertext: secret.clone() }),
            format!("{:?}", messages::EncryptV1 { version: String::new(), plain: secret.clone() }),
            format!("{:?}", messages::EncryptV2 { plaintext: secret.clone(), uid: String::new() }),
            format!("{:?}", messages::DecryptV1 { version: String::new(), cipher: secret }),
        ];
        let wanted = [
            "EncryptV1(Secret(7 bytes))",
            "EncryptV2(Secret(7 bytes), uid \"u\")",
            "DecryptV1(7 bytes)",
            "v1beta1.EncryptRequest",
            "v2.EncryptRequest",
            "v1beta1.DecryptRequest",
        ];
        assert_eq!(shown, wanted);
    }

    fn annotations() -> impl Strategy<Value = BTreeMap<String, Vec<u8>>> {
        btree_map("[a-z]{1,9}\\.[a-z]{1,9}", vec(any::<u8>(), 0..200), 0..5)
    }

    /// A request and the body that says it.
    fn requests() -> impl Strategy<Value = (Method, Request, Vec<u8>)> {
        let material = || vec(any::<u8>(), 1..300);
        let v1 = "v1beta1";
        prop_oneof![
            material().prop_map(move |plain| {
                let body = framed(&messages::EncryptV1 { version: v1.to_owned(), plain: plain.clone() });
                (Method::V1Encrypt, Request::EncryptV1 { plaintext: Secret::new(plain) }, body)
            }),
            material().prop_map(move |cipher| {
                let body = framed(&messages::DecryptV1 { version: v1.to_owned(), cipher: cipher.clone() });
                (Method::V1Decrypt, Request::DecryptV1 { ciphertext: cipher }, body)
            }),
            (material(), "\\PC{0,40}").prop_map(|(plaintext, uid)| {
                let body = framed(&messages::EncryptV2 { plaintext: plaintext.clone(), uid: uid.clone() });
                (Method::V2Encrypt, Request::EncryptV2 { plaintext: Secret::new(plaintext), uid }, body)
            }),
            (material(), "\\PC{0,40}", "\\PC{1,64}", annotations()).prop_map(
                |(ciphertext, uid, key_id, annotations)| {
                    let message = messages::DecryptV2 { ciphertext, uid, key_id, annotations };
                    let body = framed(&message);
                    let messages::DecryptV2 { ciphertext, uid, key_id, annotations } = message;
                    (Method::V2Decrypt, Request::DecryptV2 { ciphertext, uid, key_id, annotations }, body)
                }
            ),
        ]
    }

    /// `v1beta1.VersionResponse`, as protobuf has it.
    #[derive(Message)]
    struct VersionV1 {
        #[prost(string, tag = "1")]
        version: String,
        #[prost(string, tag = "2")]
        runtime_name: String,
        #[prost(string, tag = "3")]
        runtime_version: String,
    }

    /// `v2.EncryptResponse`, to read what we write.
    #[derive(Message)]
    struct EncryptedV2 {
        #[prost(bytes = "vec", tag = "1")]
        ciphertext: Vec<u8>,
        #[prost(string, tag = "2")]
        key_id: String,
        #[prost(btree_map = "string, bytes", tag = "3")]
        annotations: BTreeMap<String, Vec<u8>>,
    }

    proptest! {
        #[test]
        fn a_request_is_read_as_it_was_written((method, request, body) in requests()) {
            prop_assert_eq!(Request::decode(method, &body).unwrap(), request);
        }

        #[test]
        fn a_request_cut_anywhere_is_refused((method, _, body) in requests(), at: prop::sample::Index) {
            prop_assert!(Request::decode(method, &body[..at.index(body.len())]).is_err());
        }

        #[test]
        fn a_message_cut_anywhere_is_refused_or_says_less((method, whole, body) in requests(), at: prop::sample::Index) {
            let cut = at.index(body.len() - 5);
            let length = u32::try_from(cut).unwrap().to_be_bytes();
            let body = [&[0][..], &length, &body[5..5 + cut]].concat();
            if let Ok(less) = Request::decode(method, &body) {
                prop_assert_ne!(less, whole);
            }
        }

        #[test]
        fn garbage_is_refused_or_read_and_nothing_else(body in vec(any::<u8>(), 0..99), which in 0..6_usize) {
            let length = u32::try_from(body.len()).unwrap().to_be_bytes();
            for body in [[&[0][..], &length, &body].concat(), body] {
                let _ = Request::decode(Method::ALL[which], &body);
                let _ = v1_decode(&body);
                let garbled = BTreeMap::from([("key.kmsproxy.internal".to_owned(), body)]);
                prop_assert_eq!(key_id::read("0", &garbled), Err(garbled_as(&garbled)));
            }
        }

        #[test]
        fn an_answer_to_encrypt_is_read_as_it_was_written(
            ciphertext in vec(any::<u8>(), 1..1025), annotations in annotations(), version in ".{0,9}",
        ) {
            let id = PublicKeyId::of(&KeyId::new("key-1"), &KeyVersion::new(&version), "");
            let frame = answer::encrypted_v2(&ciphertext, &id, &annotations).unwrap();
            let expected = EncryptedV2 { ciphertext, key_id: id.as_str().to_owned(), annotations };
            prop_assert_eq!(frame.to_vec(), framed(&expected));
            prop_assert_eq!(format!("{:?}", EncryptedV2::decode(&frame[5..]).unwrap()), format!("{expected:?}"));
        }

        #[test]
        fn a_ciphertext_of_v1_is_read_as_it_was_written(
            key in "[!-.0-9;-~]{1,255}", blob in vec(any::<u8>(), 1..600), ours: bool,
        ) {
            let form = if ours { V1Ciphertext::Kmsproxy } else { V1Ciphertext::AckKmsPlugin };
            let blob = Ciphertext::new(blob);
            let stored = v1_encode(form, &KeyId::new(&key), &blob).unwrap();
            prop_assert_eq!(stored.capacity(), stored.len());
            prop_assert_eq!(v1_decode(&stored).unwrap(), (ours.then(|| KeyName::new(&key)), blob));
        }
    }

    fn garbled_as(annotations: &BTreeMap<String, Vec<u8>>) -> Foreign {
        let is_text = std::str::from_utf8(&annotations["key.kmsproxy.internal"]).is_ok();
        if is_text { Foreign::Missing } else { Foreign::Altered }
    }
}
