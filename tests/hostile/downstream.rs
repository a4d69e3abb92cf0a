//! What a caller can say.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::{Timestamp, ToSpan};

use super::http::{self, Raw};
use super::kms::wrapped;
use super::signer::{FORM, Signer};
use super::stage::{Stage, decrypting, one, three, two, with};

#[test]
fn parameters_may_come_by_get_by_query_by_form_and_by_a_mix_of_them() {
    let stage = Stage::new();
    let context = r#"{"app":"k8s *~","ns":"默认"}"#;
    let blob = wrapped("key-1", "ZGVr", context);
    let (action, blob, context) = (("Action", "Decrypt"), ("CiphertextBlob", &*blob), ("EncryptionContext", context));
    let requests = [
        one().v1("GET", &[action, blob, context], &[]),
        one().v1("POST", &[action, blob, context], &[]),
        one().v1("POST", &[], &[action, blob, context]),
        one().v1("POST", &[action, context], &[blob]),
        one().v3("GET", "Decrypt", &[blob, context], &[]),
        one().v3("POST", "Decrypt", &[blob, context], &[]),
        one().v3("POST", "Decrypt", &[], &[blob, context]),
        one().v3("POST", "Decrypt", &[blob], &[context]),
    ];
    for raw in requests {
        let heard = stage.ask(&raw);
        let body = heard.json();
        assert_eq!(
            (heard.status, body["Plaintext"].as_str(), body["KeyId"].as_str()),
            (200, Some("ZGVr"), Some("key-1"))
        );
    }
    // However they came, they were the same question.
    assert_eq!(stage.kms.count(), 1);
    assert_eq!(stage.kms.asked()[0].form["EncryptionContext"], context.1);
}

#[test]
fn who_does_not_prove_to_be_a_caller_is_told_what_is_wrong_and_nothing_else() {
    let stage = Stage::new();
    let blob = wrapped("key-1", "ZGVr", "");
    let query = decrypting(&blob);
    let form = [("CiphertextBlob", &*blob)];
    let forger = Signer::new("LTAIone", "anothersecret");
    assert_eq!(stage.refused(&forger.v1("POST", &query, &[])), is(400, "IncompleteSignature"));
    assert_eq!(stage.refused(&forger.v3("POST", "Decrypt", &[], &form)), is(400, "IncompleteSignature"));

    // Where nothing confidential is in it, V1 clients see what was signed and can find their mistake.
    let describe = [("Action", "DescribeKey"), ("KeyId", "key-1")];
    let heard = stage.ask(&forger.clone().nonce("n-1").v1("POST", &describe, &[]));
    assert_eq!(heard.refusal(), is(400, "SignatureDoesNotMatch"));
    assert!(heard.body.contains("server string to sign is:POST&%2F&AccessKeyId%3DLTAIone"), "{}", heard.body);

    for stranger in [Signer::new("LTAInobody", "localsecret"), Signer::new("LTAIsecure", "localsecret")] {
        assert_eq!(stage.refused(&stranger.v1("POST", &query, &[])), is(404, "InvalidAccessKeyId.NotFound"));
        let v3 = stranger.v3("POST", "Decrypt", &[], &form);
        assert_eq!(stage.refused(&v3), is(404, "InvalidAccessKeyId.NotFound"));
    }
    let unsigned = Raw::new("POST", &format!("/?Action=Decrypt&Version=2016-01-20&CiphertextBlob={blob}"), "");
    assert_eq!(stage.refused(&unsigned), is(400, "MissingParameter"));
    let twice = one().v1("POST", &query, &[]).and("authorization", "ACS3-HMAC-SHA256 Credential=a");
    assert_eq!(stage.refused(&twice), is(400, "ParseRequestParameterException"));
    let bearer = one().v3("POST", "Decrypt", &[], &form).and("x-acs-bearer-token", "t");
    assert_eq!(stage.refused(&bearer), is(400, "ParseRequestParameterException"));
    let other = one().v3("POST", "Decrypt", &[], &form).with("authorization", "Bearer abc");
    assert_eq!(stage.refused(&other), is(400, "ParseRequestParameterException"));

    // What was signed is what counts: a body changed on the way, a header added in place of a signed one.
    let mut changed = one().v3("POST", "Decrypt", &[], &form);
    changed.body.extend(b"&DryRun=true");
    assert_eq!(stage.refused(&changed), is(400, "IncompleteSignature"));
    let action = one().v3("POST", "Decrypt", &[], &form).with("x-acs-action", "Encrypt");
    assert_eq!(stage.refused(&action), is(400, "IncompleteSignature"));
}

#[test]
fn a_signature_is_good_for_fifteen_minutes_either_way() {
    let stage = Stage::new();
    let blob = wrapped("key-1", "ZGVr", "");
    let form = [("CiphertextBlob", &*blob)];
    for minutes in [-14, 14] {
        let at = Timestamp::now() + minutes.minutes();
        assert_eq!(stage.ask(&one().at(at).v1("POST", &decrypting(&blob), &[])).status, 200, "{minutes}");
        assert_eq!(stage.ask(&one().at(at).v3("POST", "Decrypt", &[], &form)).status, 200, "{minutes}");
    }
    for minutes in [-16, 16, -60 * 24 * 400, 60 * 24 * 400] {
        let at = Timestamp::now() + minutes.minutes();
        let stale = is(400, "InvalidTimeStamp.Expired");
        assert_eq!(stage.refused(&one().at(at).v1("POST", &decrypting(&blob), &[])), stale, "{minutes}");
        assert_eq!(stage.refused(&one().at(at).v3("POST", "Decrypt", &[], &form)), stale, "{minutes}");
    }
    let no_time = one().without("Timestamp").v1("POST", &with(&decrypting(&blob), &[("Timestamp", "yesterday")]), &[]);
    assert_eq!(stage.refused(&no_time), is(400, "InvalidTimeStamp.Expired"));
}

#[test]
fn nothing_is_heard_twice() {
    let stage = Stage::new();
    let blob = wrapped("key-1", "ZGVr", "");
    let (query, form) = (decrypting(&blob), [("CiphertextBlob", &*blob)]);
    let unnamed = Signer { nonce: None, ..one() };
    let requests = [
        one().v1("POST", &query, &[]),
        one().v3("POST", "Decrypt", &[], &form),
        // Without a nonce the signature itself is remembered.
        unnamed.v1("POST", &query, &[]),
        unnamed.v3("POST", "Decrypt", &[], &form),
    ];
    for raw in requests {
        assert_eq!(stage.ask(&raw).status, 200);
        assert_eq!(stage.refused(&raw), is(400, "SignatureNonceUsed"));
        assert_eq!(stage.refused(&raw), is(400, "SignatureNonceUsed"));
    }
    // One nonce, two requests that differ, in whichever way they are signed.
    let describe = [("Action", "DescribeKey"), ("KeyId", "key-1")];
    assert_eq!(stage.ask(&one().nonce("once").v1("GET", &describe, &[])).status, 200);
    assert_eq!(stage.refused(&one().nonce("once").v1("POST", &query, &[])), is(400, "SignatureNonceUsed"));
    assert_eq!(stage.refused(&one().nonce("once").v3("POST", "Decrypt", &[], &form)), is(400, "SignatureNonceUsed"));
    // A forger cannot use up the nonce of somebody else's request.
    let forged = Signer { secret: "anothersecret", ..one().nonce("mine") };
    assert_eq!(stage.refused(&forged.v1("POST", &query, &[])), is(400, "IncompleteSignature"));
    assert_eq!(stage.ask(&one().nonce("mine").v1("POST", &query, &[])).status, 200);
    assert_eq!(stage.ask(&two().nonce("mine").v1("POST", &describe, &[])).refusal(), is(403, "Forbidden.NoPermission"));
}

#[test]
fn missing_and_doubled_parameters_are_named() {
    let stage = Stage::new();
    let blob = wrapped("key-1", "ZGVr", "");
    let query = decrypting(&blob);
    let missing = is(400, "MissingParameter");
    for name in ["AccessKeyId", "SignatureMethod", "SignatureVersion", "Timestamp", "Version"] {
        let raw = one().without(name).v1("POST", &query, &[]);
        assert_eq!(stage.refused(&raw), missing, "{name}");
    }
    for (pairs, name) in [
        (vec![("CiphertextBlob", &*blob)], "Action"),
        (vec![("Action", "Decrypt")], "CiphertextBlob"),
        (vec![("Action", "Decrypt"), ("CiphertextBlob", "")], "CiphertextBlob"),
        (vec![("Action", "Encrypt"), ("Plaintext", "ZGVr")], "KeyId"),
        (vec![("Action", "Encrypt"), ("KeyId", "key-1")], "Plaintext"),
        (vec![("Action", "DescribeKey")], "KeyId"),
    ] {
        let heard = stage.ask(&one().v1("POST", &pairs, &[]));
        assert_eq!(heard.refusal(), missing, "{pairs:?}");
        let message = format!("The parameter \"{name}\" is needed but not provided.");
        assert_eq!(heard.json()["Message"], message.as_str());
    }
    assert_eq!(stage.refused(&one().v3("POST", "Decrypt", &[], &[])), missing);
    // A header that V3 must sign is as good as a wrong signature.
    for name in ["x-acs-action", "x-acs-version", "x-acs-date", "x-acs-content-sha256", "host"] {
        let raw = one().without(name).v3("POST", "Decrypt", &[], &[("CiphertextBlob", &blob)]);
        let expected = if name == "host" { is(403, "Forbidden.NoPermission") } else { is(400, "IncompleteSignature") };
        assert_eq!(stage.refused(&raw), expected, "{name}");
    }
    let doubled = is(400, "InvalidParameter");
    let again = [("CiphertextBlob", &*blob)];
    assert_eq!(stage.refused(&one().v1("POST", &with(&query, &again), &[])), doubled);
    assert_eq!(stage.refused(&one().v1("POST", &query, &again)), doubled);
    assert_eq!(stage.refused(&one().v1("POST", &with(&query, &[("Action", "Encrypt")]), &[])), doubled);
    assert_eq!(stage.refused(&one().v3("POST", "Decrypt", &again, &again)), doubled);
    assert_eq!(stage.refused(&one().v1("POST", &with(&query, &[("Version", "2016-01-20")]), &[])), doubled);
    let mut many = query.clone();
    let names: Vec<_> = (0..64).map(|number| format!("X{number}")).collect();
    many.extend(names.iter().map(|name| (name.as_str(), "")));
    assert_eq!(stage.refused(&one().v1("POST", &many, &[])), is(400, "ParseRequestParameterException"));
}

#[test]
fn values_that_cannot_be_are_the_callers_fault() {
    let stage = Stage::new();
    let invalid = is(400, "InvalidParameter");
    for wrong in ["!", "QUI", "QUI==", "QUJD=", "QUI=QUI=", "QUI=\n", " QUI=", "QUJ_", "QUL=", "=", "默认"] {
        assert_eq!(stage.refused(&one().v1("POST", &decrypting(wrong), &[])), invalid, "{wrong:?}");
        let encrypt = [("Action", "Encrypt"), ("KeyId", "key-1"), ("Plaintext", wrong)];
        assert_eq!(stage.refused(&one().v1("POST", &encrypt, &[])), invalid, "{wrong:?}");
    }
    let blob = wrapped("key-1", "ZGVr", "");
    for context in CONTEXTS {
        let query = with(&decrypting(&blob), &[("EncryptionContext", context)]);
        assert_eq!(stage.refused(&one().v1("POST", &query, &[])), invalid, "{context}");
        let form = [("CiphertextBlob", &*blob), ("EncryptionContext", context)];
        assert_eq!(stage.refused(&one().v3("POST", "Decrypt", &[], &form)), invalid, "{context}");
    }
    let both = [("EncryptionContext", "{}"), ("EncryptionContext.a", "b")];
    assert_eq!(stage.refused(&one().v1("POST", &with(&decrypting(&blob), &both), &[])), invalid);
    let version = one().without("Version").v1("POST", &with(&decrypting(&blob), &[("Version", "2014-05-26")]), &[]);
    assert_eq!(stage.refused(&version), invalid);
    let dry = with(&decrypting(&blob), &[("DryRun", "yes")]);
    assert_eq!(stage.refused(&one().v1("POST", &dry, &[])), invalid);
}

#[test]
fn bytes_that_are_no_text_are_refused_wherever_they_stand() {
    let stage = Stage::new();
    let blob = wrapped("key-1", "ZGVr", "");
    let by_query = one().v1("POST", &decrypting(&blob), &[]);
    for (tail, code) in [
        ("&X=%FF", "InvalidParameter"),
        ("&X=%C0%80", "InvalidParameter"),
        ("&X=%ED%A0%80", "InvalidParameter"),
        ("&X=%", "InvalidParameter"),
        ("&X=%zz", "InvalidParameter"),
        ("&%FF=1", "ParseRequestParameterException"),
        ("&=1", "ParseRequestParameterException"),
    ] {
        let target = format!("{}{tail}", by_query.target);
        assert_eq!(stage.refused(&by_query.clone().to(&target)), is(400, code), "{tail}");
    }
    let mut form = one().v1("POST", &[], &decrypting(&blob));
    form.body.extend(b"&X=\xff");
    assert_eq!(stage.refused(&form), is(400, "ParseRequestParameterException"));
    let json = one().v1("POST", &[], &decrypting(&blob)).with("content-type", "application/json");
    assert_eq!(stage.refused(&json), is(400, "ParseRequestParameterException"));
    let get = Raw { method: "GET".to_owned(), ..one().v1("POST", &[], &decrypting(&blob)) };
    assert_eq!(stage.refused(&get), is(400, "ParseRequestParameterException"));

    // Raw bytes in the request line are not ours to answer: hyper does, without a body, and closes.
    let bytes = [b"POST /?X=\xff\xfe HTTP/1.1\r\nhost: localhost\r\n\r\n".as_slice(), &by_query.bytes()].concat();
    let heard = http::exchange(&http::connect(stage.plain()), &bytes).unwrap();
    assert_eq!((heard.status, heard.closes()), (400, true), "{heard:?}");
    stage.assert_serves();
}

#[test]
fn a_query_of_thirty_two_kibibytes_is_served_and_one_byte_more_is_too_large() {
    let stage = Stage::new();
    let long = |bytes: usize| {
        let signer = one();
        let raw = |filling: usize| {
            let plaintext = STANDARD.encode(vec![b'a'; 3 * 1024]);
            let filling = "x".repeat(filling);
            let query = [("Action", "Encrypt"), ("KeyId", "key-1"), ("Plaintext", &*plaintext), ("Filling", &*filling)];
            signer.v1("GET", &query, &[])
        };
        // The length of an escaped signature varies: try until it fits.
        let length = |raw: &Raw| raw.target.len() - "/?".len();
        let start = bytes - length(&raw(0));
        (start - 8..start + 9).map(raw).find(|raw| length(raw) == bytes)
    };
    let sized = |bytes| std::iter::repeat_with(|| long(bytes)).flatten().next().unwrap();
    let heard = stage.ask(&sized(32 << 10));
    assert_eq!((heard.status, heard.json()["KeyId"].as_str()), (200, Some("key-1")));
    let filling = stage.kms.asked()[0].form["Filling"].len();
    assert!(filling > 27 << 10, "the KMS was told all of it: {filling}");
    assert_eq!(stage.refused(&sized((32 << 10) + 1)), is(413, "RequestTooLarge"));
    assert_eq!(stage.refused(&sized(33 << 10)), is(413, "RequestTooLarge"));

    // A head beyond 64 KiB never becomes a request: hyper's own answer, without a body.
    let huge = Raw::new("GET", &format!("/?x={}", "y".repeat(1 << 20)), "");
    let heard = http::exchange(&http::connect(stage.plain()), &huge.bytes()).unwrap();
    assert_eq!((heard.status, &*heard.body, heard.closes()), (431, "", true), "{heard:?}");
    stage.assert_serves();
}

#[test]
fn ten_megabytes_are_refused_whether_or_not_they_were_announced() {
    let stage = Stage::new();
    let ten = "a".repeat(10 << 20);
    let declared = Raw::new("POST", "/", &ten);
    assert_eq!(stage.refused(&declared), is(413, "RequestTooLarge"));
    let mut chunked = Raw::new("POST", "/", "").and("transfer-encoding", "chunked");
    chunked.body = format!("{:x}\r\n{ten}\r\n0\r\n\r\n", ten.len()).into_bytes();
    assert_eq!(stage.refused(&chunked), is(413, "RequestTooLarge"));
    // Its sender may well wait for the answer before it sends.
    let waiting = Raw { body: Vec::new(), ..declared.with("content-length", "10485760") };
    let heard = stage.ask(&waiting);
    assert_eq!((heard.refusal(), heard.closes()), (is(413, "RequestTooLarge"), true));
    let lies = waiting.with("content-length", "99999999999999999999999999");
    let heard = stage.ask(&lies);
    assert_eq!((heard.status, heard.closes()), (400, true), "{heard:?}");
    stage.assert_serves();
}

#[test]
fn what_is_no_kms_action_is_not_relayed() {
    let stage = Stage::new();
    let actions = [
        "DisableKey",
        "CreateKey",
        "EnableKey",
        "ScheduleKeyDeletion",
        "ReEncrypt",
        "ExportDataKey",
        "GetSecretValue",
        "AsymmetricDecrypt",
        "decrypt",
        "Decrypt ",
        "Nonsense",
        "../Decrypt",
    ];
    for action in actions {
        let v1 = one().v1("POST", &[("Action", action), ("KeyId", "key-1")], &[]);
        assert_eq!(stage.refused(&v1), is(404, "InvalidApi.NotFound"), "{action}");
    }
    let v3 = one().v3("POST", "DisableKey", &[], &[("KeyId", "key-1")]);
    assert_eq!(stage.refused(&v3), is(404, "InvalidApi.NotFound"));
    // V3 says it in the signed header; a parameter does not change it.
    let smuggled = one().v3("POST", "DisableKey", &[("Action", "DescribeKey")], &[("KeyId", "key-1")]);
    assert_eq!(stage.refused(&smuggled), is(404, "InvalidApi.NotFound"));
    // Actions that exist and that policy does not list.
    for action in ["GenerateDataKey", "GenerateDataKeyWithoutPlaintext", "ListKeyVersions", "ListKeys", "ListAliases"] {
        let raw = one().v1("POST", &[("Action", action), ("KeyId", "key-1")], &[]);
        assert_eq!(stage.refused(&raw), is(403, "Forbidden.NoPermission"), "{action}");
    }
}

#[test]
fn a_key_outside_the_policy_is_refused_before_asking_where_it_is_named() {
    let stage = Stage::new();
    let arn = "acs:kms:cn-hangzhou:1234:key/key-2";
    for key in ["key-2", "KEY-1", "key-1 ", "alias/key-1", arn, "*", "key-1/../key-2"] {
        let encrypt = [("Action", "Encrypt"), ("KeyId", key), ("Plaintext", "ZGVr")];
        assert_eq!(stage.refused(&one().v1("POST", &encrypt, &[])), is(403, "Forbidden.NoPermission"), "{key}");
    }
    let describe = [("Action", "DescribeKey"), ("KeyId", "key-2")];
    assert_eq!(stage.refused(&one().v1("GET", &describe, &[])), is(403, "Forbidden.NoPermission"));
}

#[test]
fn a_key_outside_the_policy_is_never_released_whoever_has_it_cached() {
    let stage = Stage::new();
    let blob = wrapped("key-1", "c2VjcmV0IERFSw==", "");
    for (stranger, asked) in [(three(), 1), (two(), 1)] {
        let before = stage.kms.count();
        let heard = stage.decrypt(&stranger, &blob);
        assert_eq!(heard.refusal(), is(403, "Forbidden.NoPermission"));
        assert_eq!(stage.kms.count() - before, asked, "only the answer names the key");
        assert!(!heard.body.contains("c2VjcmV0IERFSw"), "{}", heard.body);
    }
    assert_eq!(stage.decrypt(&one(), &blob).json()["Plaintext"], "c2VjcmV0IERFSw==");
    let cached = stage.kms.count();
    assert_eq!(stage.decrypt(&one(), &blob).json()["Plaintext"], "c2VjcmV0IERFSw==");
    assert_eq!(stage.kms.count(), cached, "now it is cached");
    // A caller who shares that cache, and one who does not.
    let heard = stage.decrypt(&two(), &blob);
    assert_eq!((heard.refusal(), stage.kms.count()), (is(403, "Forbidden.NoPermission"), cached));
    assert!(!heard.body.contains("c2VjcmV0IERFSw"), "{}", heard.body);
    let heard = stage.decrypt(&three(), &blob);
    assert_eq!(heard.refusal(), is(403, "Forbidden.NoPermission"));
    assert!(!heard.body.contains("c2VjcmV0IERFSw"), "{}", heard.body);
    // And nobody's refusal takes it from its owner.
    assert_eq!(stage.decrypt(&one(), &blob).json()["Plaintext"], "c2VjcmV0IERFSw==");
}

#[test]
fn browsers_and_gateways_are_turned_away() {
    let stage = Stage::new();
    let blob = wrapped("key-1", "ZGVr", "");
    let good = || one().v1("POST", &decrypting(&blob), &[]);
    for (name, value) in [
        ("Origin", "https://evil.example"),
        ("Origin", "null"),
        ("Sec-Fetch-Site", "same-origin"),
        ("Sec-Fetch-Mode", "no-cors"),
        ("Referer", "http://localhost/"),
        ("X-Forwarded-For", "10.0.0.1"),
        ("x-forwarded-host", "localhost"),
        ("Forwarded", "for=10.0.0.1"),
        ("Via", "1.1 gateway"),
    ] {
        assert_eq!(stage.refused(&good().and(name, value)), is(403, "Forbidden.NoPermission"), "{name}");
    }
    for host in ["evil.example", "evil.example:8443", "localhost.evil.example", "127.0.0.1.nip.io", ""] {
        assert_eq!(stage.refused(&good().with("host", host)), is(403, "Forbidden.NoPermission"), "{host}");
    }
    assert_eq!(stage.refused(&good().and("host", "localhost")), is(403, "Forbidden.NoPermission"));
    let preflight = Raw::new("OPTIONS", "/", "").and("origin", "https://evil.example");
    assert_eq!(stage.refused(&preflight), is(403, "Forbidden.NoPermission"));
    let zipped = good().and("content-encoding", "gzip");
    assert_eq!(stage.refused(&zipped), is(400, "ParseRequestParameterException"));
    for host in ["localhost", "localhost:1", "127.0.0.1", "[::1]:8443"] {
        assert_eq!(stage.ask(&good().with("host", host)).status, 200, "{host}");
    }
}

#[test]
fn other_methods_paths_and_forms_of_address_are_no_api() {
    let stage = Stage::new();
    let blob = wrapped("key-1", "ZGVr", "");
    let unknown = is(404, "InvalidApi.NotFound");
    for method in ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "get", "BREW"] {
        assert_eq!(stage.refused(&one().v1(method, &decrypting(&blob), &[])), unknown, "{method}");
    }
    let good = || one().v1("POST", &decrypting(&blob), &[]);
    let query = |raw: &Raw| raw.target.split_once('?').unwrap().1.to_owned();
    for path in ["/v1", "//", "/.", "/..", "/%2F", "/metrics", "/livez", "/control"] {
        let raw = good();
        let target = format!("{path}?{}", query(&raw));
        assert_eq!(stage.refused(&raw.to(&target)), unknown, "{path}");
    }
    for prefix in ["http://127.0.0.1:8443/", "https://kms.cn-hangzhou.aliyuncs.com/", "http://169.254.169.254/"] {
        let raw = good();
        let target = format!("{prefix}?{}", query(&raw));
        assert_eq!(stage.refused(&raw.to(&target)), unknown, "{prefix}");
    }
    let tunnel = Raw::new("CONNECT", "kms.cn-hangzhou.aliyuncs.com:443", "");
    assert_eq!(stage.refused(&tunnel), unknown);
    assert_eq!(stage.refused(&Raw::new("OPTIONS", "*", "")), unknown);
    // A HEAD's answer has no body to look at.
    let head = http::connect(stage.plain());
    let bytes = b"HEAD / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    std::io::Write::write_all(&mut &head, bytes).unwrap();
    let said = http::until_closed(&mut &head);
    assert!(said.starts_with(b"HTTP/1.1 404 "), "{}", String::from_utf8_lossy(&said));
    stage.assert_serves();
}

#[test]
fn a_length_that_can_be_read_two_ways_smuggles_nothing() {
    let stage = Stage::new();
    let blob = wrapped("key-1", "ZGVr", "");
    // With both, only the chunks count (RFC 9112, 6.3), and the connection ends: nothing behind them is heard.
    for length in ["4", "0", "100000"] {
        let good = one().v1("POST", &[], &decrypting(&blob)).and("transfer-encoding", "chunked");
        let chunked = [format!("{:x}\r\n", good.body.len()).as_bytes(), &good.body, b"\r\n0\r\n\r\n"].concat();
        let both = Raw { body: chunked, ..good }.and("content-length", length);
        let smuggled = one().v1("POST", &decrypting(&blob), &[]);
        let stream = http::connect(stage.plain());
        let first = http::exchange(&stream, &[both.bytes(), smuggled.bytes()].concat()).unwrap();
        assert_eq!((first.status, first.closes()), (200, true), "{first:?}");
        assert_eq!(String::from_utf8_lossy(&http::until_closed(&mut &stream)), "");
    }
    let good = one().v1("POST", &[], &decrypting(&blob));
    for (name, value) in [("content-length", "5, 6"), ("content-length", "-1"), ("content-length", "+5")] {
        let heard = stage.ask(&good.clone().with(name, value));
        assert_eq!((heard.status, heard.closes()), (400, true), "{value}: {heard:?}");
    }
    let heard = stage.ask(&good.clone().and("content-length", "5").and("content-length", "6"));
    assert_eq!((heard.status, heard.closes()), (400, true), "{heard:?}");
    let heard = stage.ask(&good.with("transfer-encoding", "gzip"));
    assert_eq!((heard.status, heard.closes()), (400, true), "{heard:?}");
    assert_eq!(stage.kms.count(), 1);
    stage.assert_serves();
}

#[test]
fn a_hundred_header_fields_are_read_and_one_more_is_too_many() {
    let stage = Stage::new();
    let blob = wrapped("key-1", "ZGVr", "");
    let crowded = |fields: usize| {
        let mut raw = one().v1("POST", &decrypting(&blob), &[]).and("content-length", "0");
        while raw.headers.len() < fields {
            let name = format!("x-{}", raw.headers.len());
            raw = raw.and(&name, "y");
        }
        stage.ask(&raw)
    };
    assert_eq!(crowded(100).status, 200);
    let heard = crowded(101);
    assert_eq!((heard.status, &*heard.body, heard.closes()), (431, "", true), "{heard:?}");
    stage.assert_serves();
}

#[test]
fn garbage_behind_a_good_request_ends_the_connection_after_its_answer() {
    let stage = Stage::new();
    let blob = wrapped("key-1", "ZGVr", "");
    let good = one().v1("POST", &[], &decrypting(&blob)).bytes();
    for garbage in [&b"\x16\x03\x01\x02\x00\x01"[..], b"GARBAGE\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", &[0; 4096]] {
        // Nothing is heard twice, so each round signs anew.
        let good = one().v1("POST", &[], &decrypting(&blob)).bytes();
        let stream = http::connect(stage.plain());
        let first = http::exchange(&stream, &[&good, garbage].concat()).unwrap();
        assert_eq!(first.json()["Plaintext"], "ZGVr");
        let rest = http::until_closed(&mut &stream);
        let rest = String::from_utf8_lossy(&rest);
        assert!(rest.starts_with("HTTP/1.1 400 ") && rest.contains("content-length: 0\r\n"), "{rest}");
        stage.assert_serves();
    }
    // The same pipelined twice is a replay of the first, on the same connection.
    let stream = http::connect(stage.plain());
    let first = http::exchange(&stream, &[good.clone(), good].concat()).unwrap();
    let second = http::answer(&mut &stream).unwrap();
    assert_eq!((first.status, second.refusal()), (200, is(400, "SignatureNonceUsed")));
}

#[test]
fn a_form_type_in_other_words_is_still_a_form() {
    let stage = Stage::new();
    let blob = wrapped("key-1", "ZGVr", "");
    let charset = format!("{}; charset=UTF-8", FORM.to_uppercase());
    assert_eq!(stage.ask(&one().v1("POST", &[], &decrypting(&blob)).with("content-type", &charset)).status, 200);
}

fn is(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}

const CONTEXTS: [&str; 14] = [
    "",
    "a",
    "null",
    "[]",
    "\"a\"",
    "{",
    "{} {}",
    r#"{"a":1}"#,
    r#"{"a":null}"#,
    r#"{"a":{"b":"c"}}"#,
    r#"{"a":["b"]}"#,
    r#"{"a":"1","a":"1"}"#,
    r#"{"a":"1","\u0061":"2"}"#,
    r#"{"a":"\ud800"}"#,
];
