//! The Alibaba Cloud KMS OpenAPI, RPC style, version 2016-01-20.
//!
//! Used from both sides: a face parses with [`request`] and encodes with [`answer`] and [`refusal`]; the upstream does
//! the reverse and signs with [`signature`]. Nothing here allocates a map or builds a canonical form to verify one.

pub mod answer;
mod authorization;
mod blob;
mod call;
pub mod context;
pub mod escape;
mod head;
pub mod object;
mod parameters;
pub mod refusal;
pub mod request;
pub mod signature;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use http::{HeaderMap, HeaderName, HeaderValue, Method};
    use proptest::collection::{btree_map, vec};
    use proptest::option;
    use proptest::prelude::*;

    use super::request::Request;
    use super::signature::{AccessKey, V3, v1, v3_headers};
    use super::*;
    use crate::claim::{Claim, Signed, SigningKey};
    use crate::fault::{Fault, Kind};
    use crate::kms::*;
    use crate::secret::Secret;

    /// A vector: header lines, an empty line, a request.
    struct Vector<'t> {
        expect: &'t str,
        access_key: &'t str,
        secret: Secret,
        signature: &'t str,
        method: Method,
        query: &'t str,
        headers: HeaderMap,
        body: &'t str,
    }

    fn read(text: &str) -> Vector<'_> {
        let (header, request) = text.split_once("\n\n").unwrap();
        let (head, body) = request.split_once("\n\n").unwrap_or((request.trim_ascii_end(), ""));
        let field = |name| header.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).unwrap();
        let mut lines = head.lines();
        let mut line = lines.next().unwrap().split(' ');
        let (method, target) = (line.next().unwrap().parse().unwrap(), line.next().unwrap());
        let headers = lines.map(|line| line.split_once(": ").unwrap());
        let headers = headers.map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap()));
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name, value);
        }
        Vector {
            expect: field("expect"),
            access_key: field("access-key"),
            secret: Secret::copied(field("secret").as_bytes()),
            signature: field("signature"),
            method,
            query: target.trim_start_matches("/").trim_start_matches('?'),
            headers: map,
            body: body.strip_suffix('\n').unwrap_or(body),
        }
    }

    fn signed(request: &Request<'_>, check: impl FnOnce(&Signed<'_>)) -> Result<(), Fault> {
        let Claim::Signed(signed) = request.claim()? else { panic!("a vector is signed") };
        check(&signed);
        Ok(())
    }

    fn key(secret: &Secret) -> SigningKey {
        SigningKey::new(secret).unwrap()
    }

    fn outcome(vector: &Vector<'_>) -> &'static str {
        let parsed = Request::parse(&vector.method, vector.query, &vector.headers, vector.body.as_bytes());
        let mut verified = false;
        let checked = parsed.and_then(|request| {
            signed(&request, |signed| {
                assert_eq!(signed.access_key_id, vector.access_key);
                assert!(!signed.proof.verify(&key(&Secret::copied(b"another"))), "no other secret verifies");
                verified = signed.proof.verify(&key(&vector.secret));
            })
        });
        match checked {
            Ok(()) if verified => "verified",
            Ok(()) => Kind::BadSignature(None).label(),
            Err(fault) => fault.kind().label(),
        }
    }

    fn vectors() -> Vec<(String, String)> {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/aliyun");
        let files = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
        files.map(|file| (file.file_name().into_string().unwrap(), fs::read_to_string(file.path()).unwrap())).collect()
    }

    #[test]
    fn every_vector_comes_out_as_it_says() {
        let vectors = vectors();
        assert_eq!(vectors.len(), 34);
        for (name, text) in &vectors {
            let vector = read(text);
            assert!(EXPECT.contains(&vector.expect), "{name}: {}", vector.expect);
            assert_eq!(outcome(&vector), vector.expect, "{name}");
        }
    }

    #[test]
    fn signing_what_a_v1_vector_holds_gives_its_signature() {
        let vectors = vectors();
        let v1s = vectors.iter().map(|(_, text)| read(text)).filter(|vector| vector.query.contains("Signature="));
        let mut count = 0;
        for vector in v1s.filter(|vector| vector.expect == "verified" && vector.body.is_empty()) {
            let parameters = parameters::Parameters::parse(vector.query, "").unwrap();
            let owned: Vec<_> = parameters.iter().map(|one| (one.name().to_owned(), one.value())).collect();
            let pairs = owned.iter().rev().filter(|(name, _)| name != "Signature");
            let pairs: Vec<_> = pairs.map(|(name, value)| (name.as_str(), &**value)).collect();
            assert_eq!(v1(vector.method.as_str(), &pairs, &vector.secret), vector.signature);
            count += 1;
        }
        assert_eq!(count, 4);
    }

    #[test]
    fn signing_vector_b_gives_its_headers() {
        let vectors = vectors();
        let vector = read(&vectors.iter().find(|(name, _)| name == "v3-b-form").unwrap().1);
        let token = Secret::copied(b"CAIS+token/==");
        let headers = v3_headers(&V3 {
            host: "kms.cn-hangzhou.aliyuncs.com",
            action: "Decrypt",
            version: request::VERSION,
            key: AccessKey { id: vector.access_key, secret: &vector.secret, token: Some(&token) },
            at: "2026-01-02T03:04:05Z".parse().unwrap(),
            nonce: "9f1c2b3a4d5e6f708192a3b4c5d6e7f8",
            body: vector.body.as_bytes(),
        });
        assert_eq!(headers, vector.headers);
        assert!(headers["authorization"].is_sensitive() && headers["x-acs-security-token"].is_sensitive());
    }

    #[test]
    fn the_string_to_sign_is_shown_only_where_it_is_not_confidential() {
        let vectors = vectors();
        let shown = |wanted| {
            let vector = read(&vectors.iter().find(|(name, _)| name == wanted).unwrap().1);
            let request = Request::parse(&vector.method, vector.query, &vector.headers, b"").unwrap();
            let mut shown = None;
            signed(&request, |signed| shown = signed.proof.string_to_sign()).unwrap();
            shown
        };
        let expected = "GET&%2F&AccessKeyId%3Dtestid%26Action%3DCreateKey%26Format%3Djson%26SignatureMethod%3DHMAC-SHA1\
            %26SignatureVersion%3D1.0%26Timestamp%3D2016-03-28T03%253A13%253A08Z%26Version%3D2016-01-20";
        assert_eq!(shown("v1-kms-create-key").as_deref(), Some(expected));
        assert_eq!((shown("v1-decrypt-post"), shown("v3-a-query")), (None, None));
    }

    fn contexts() -> impl Strategy<Value = Option<Context>> {
        let pairs = btree_map("\\PC{0,8}", "\\PC{0,8}", 1..4);
        let built = (any::<bool>(), pairs).prop_map(|(json, pairs)| {
            let text = serde_json::to_string(&pairs).unwrap();
            let boxed = pairs.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
            if json { context::parse(&text).unwrap() } else { context::flattened(boxed).unwrap() }
        });
        option::of(built)
    }

    fn extras() -> impl Strategy<Value = Extra> {
        btree_map("X[a-z]{1,5}", "\\PC{0,8}", 0..3).prop_map(|pairs| Extra(pairs.into_iter().collect()))
    }

    fn options() -> impl Strategy<Value = (Option<Context>, bool, Extra)> {
        (contexts(), any::<bool>(), extras())
    }

    fn sizes() -> impl Strategy<Value = DataKeySize> {
        let named = [DataKeySize::Default, DataKeySize::Aes128, DataKeySize::Aes256];
        prop_oneof![proptest::sample::select(named.to_vec()), (1..=1024_u16).prop_map(DataKeySize::Bytes)]
    }

    fn keys() -> impl Strategy<Value = KeyName> {
        "\\PC{1,40}".prop_map(|name| KeyName::new(&name))
    }

    fn calls() -> impl Strategy<Value = Call> {
        let reads = [Action::DescribeKey, Action::ListAliasesByKeyId, Action::ListKeyVersions];
        prop_oneof![
            (vec(any::<u8>(), 1..300), options()).prop_map(|(bytes, (context, dry_run, extra))| {
                Call::Decrypt(Decrypt { ciphertext: Ciphertext::new(bytes), key: None, context, dry_run, extra })
            }),
            (keys(), vec(any::<u8>(), 1..300), options()).prop_map(|(key, bytes, (context, dry_run, extra))| {
                Call::Encrypt(Encrypt { key, plaintext: Secret::new(bytes), context, dry_run, extra })
            }),
            (keys(), sizes(), any::<bool>(), options()).prop_map(
                |(key, size, plaintext, (context, dry_run, extra))| {
                    Call::GenerateDataKey(GenerateDataKey { key, size, plaintext, context, dry_run, extra })
                }
            ),
            (proptest::sample::select(reads.to_vec()), keys(), extras())
                .prop_map(|(action, key, extra)| Call::Read(Read { action, key: Some(key), extra })),
            extras().prop_map(|extra| Call::Read(Read { action: Action::ListKeys, key: None, extra })),
        ]
    }

    fn sign_v3(call: &Call, body: &[u8], secret: &Secret) -> HeaderMap {
        let key = AccessKey { id: "LTAIlocal", secret, token: None };
        let (at, action) = ("2026-01-02T03:04:05Z".parse().unwrap(), call.action().name());
        v3_headers(&V3 { host: "localhost:8443", action, version: request::VERSION, key, at, nonce: "n", body })
    }

    fn sign_v1(call: &Call, form: &str, secret: &Secret) -> String {
        let parameters = parameters::Parameters::parse("", form).unwrap();
        let mut pairs: Vec<_> =
            parameters.iter().map(|one| (one.name().to_owned(), one.value().into_owned())).collect();
        let common = [
            ("AccessKeyId", "LTAIlocal"),
            ("Action", call.action().name()),
            ("Format", "json"),
            ("SignatureType", ""),
            ("SignatureMethod", "HMAC-SHA1"),
            ("SignatureNonce", "n"),
            ("SignatureVersion", "1.0"),
            ("Timestamp", "2026-01-02T03:04:05Z"),
            ("Version", request::VERSION),
        ];
        pairs.extend(common.map(|(name, value)| (name.to_owned(), value.to_owned())));
        let borrowed: Vec<_> = pairs.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        pairs.push(("Signature".to_owned(), v1("GET", &borrowed, secret)));
        let mut query = Vec::new();
        for (name, value) in &pairs {
            escape::escape(name.as_bytes(), escape::Layer::Once, &mut query);
            query.push(b'=');
            escape::escape(value.as_bytes(), escape::Layer::Once, &mut query);
            query.push(b'&');
        }
        String::from_utf8(query).unwrap()
    }

    fn verifies(method: &Method, query: &str, headers: &HeaderMap, body: &[u8], secret: &Secret) -> bool {
        let parsed = Request::parse(method, query, headers, body);
        parsed.is_ok_and(|request| match request.claim() {
            Ok(Claim::Signed(signed)) => signed.access_key_id == "LTAIlocal" && signed.proof.verify(&key(secret)),
            Ok(Claim::Anonymous) | Err(_) => false,
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn what_is_encoded_and_signed_is_verified_and_decoded_to_the_same_call(call in calls(), key in "[ -~]{1,70}") {
            let (secret, form) = (Secret::copied(key.as_bytes()), request::encode(&call));
            let headers = sign_v3(&call, form.expose(), &secret);
            let parsed = Request::parse(&Method::POST, "", &headers, form.expose()).unwrap();
            signed(&parsed, |signed| assert!(signed.proof.verify(&SigningKey::new(&secret).unwrap()))).unwrap();
            prop_assert_eq!(parsed.call().unwrap(), call);
        }

        #[test]
        fn the_same_holds_for_v1_by_query(call in calls(), key in "[ -~]{1,70}") {
            let (secret, form) = (Secret::copied(key.as_bytes()), request::encode(&call));
            let query = sign_v1(&call, std::str::from_utf8(form.expose()).unwrap(), &secret);
            let headers = HeaderMap::new();
            let parsed = Request::parse(&Method::GET, &query, &headers, b"").unwrap();
            signed(&parsed, |signed| assert!(signed.proof.verify(&SigningKey::new(&secret).unwrap()))).unwrap();
            prop_assert_eq!(parsed.call().unwrap(), call);
        }

        #[test]
        fn no_byte_of_a_v3_request_can_be_changed(call in calls(), at: prop::sample::Index, bit in 0..7_u8) {
            let (secret, form) = (Secret::copied(b"secret"), request::encode(&call));
            let mut headers = sign_v3(&call, form.expose(), &secret);
            prop_assert!(verifies(&Method::POST, "", &headers, form.expose(), &secret));
            prop_assert!(!verifies(&Method::POST, "X=1", &headers, form.expose(), &secret));
            prop_assert!(!verifies(&Method::PUT, "", &headers, form.expose(), &secret));
            if !form.is_empty() {
                let mut body = form.expose().to_vec();
                body[at.index(form.len())] ^= 1 << bit;
                prop_assert!(!verifies(&Method::POST, "", &headers, &body, &secret));
            }
            let names: Vec<_> = headers.keys().cloned().collect();
            let name = &names[at.index(names.len())];
            let mut value = headers[name].as_bytes().to_vec();
            let position = at.index(value.len());
            value[position] ^= 1 << bit;
            if let Ok(changed) = HeaderValue::from_bytes(&value) {
                headers.insert(name, changed);
                prop_assert!(!verifies(&Method::POST, "", &headers, form.expose(), &secret));
            }
        }

        #[test]
        fn no_meaning_of_a_v1_request_can_be_changed(call in calls(), at: prop::sample::Index, bit in 0..7_u8) {
            let (secret, form) = (Secret::copied(b"secret"), request::encode(&call));
            let query = sign_v1(&call, std::str::from_utf8(form.expose()).unwrap(), &secret);
            let meaning = |query: &str| -> Option<Vec<(String, String)>> {
                let parameters = parameters::Parameters::parse(query, "").ok()?;
                Some(parameters.iter().map(|one| (one.name().to_owned(), one.value().into_owned())).collect())
            };
            let mut changed = query.clone().into_bytes();
            changed[at.index(query.len())] ^= 1 << bit;
            let changed = String::from_utf8(changed).unwrap();
            let headers = HeaderMap::new();
            prop_assert!(!verifies(&Method::POST, &query, &headers, b"", &secret));
            prop_assert_eq!(
                verifies(&Method::GET, &changed, &headers, b"", &secret),
                meaning(&changed) == meaning(&query)
            );
        }
    }

    const EXPECT: [&str; 6] =
        ["verified", "bad_signature", "invalid_parameter", "malformed", "missing_parameter", "stale_timestamp"];
}
