//! What a KMS, or whoever stands in its place, can say.

use std::net::TcpListener;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, pem::PemObject};
use serde_json::json;
use tokio::time::Instant;

use super::http::Heard;
use super::kms::{Act, Kms, good, html, said, wrapped};
use super::stage::{Setup, Stage, one};

#[test]
fn an_answer_that_is_not_in_the_schema_of_the_kms_is_no_answer() {
    let stage = Stage::new();
    let json = |body: &str| Act::Say(200, "content-type: application/json\r\n".to_owned(), body.into());
    let fits = r#"{"KeyId":"key-1","KeyVersionId":"v","Plaintext":"ZGVr","RequestId":"R"}"#;
    let headed = |headers: &str| Act::Say(200, headers.to_owned(), fits.into());
    let cases = [
        ("a login page, 200", html(200)),
        ("a login page, 403", html(403)),
        ("a login page, 500", html(500)),
        ("a login page, 407", html(407)),
        ("nothing, 200", json("")),
        ("nothing, 204", Act::Say(204, String::new(), Vec::new())),
        ("nothing, 403", Act::Say(403, String::new(), Vec::new())),
        ("truncated JSON", json(&fits[..40])),
        ("JSON and more", json(&format!("{fits}{fits}"))),
        ("another's JSON, 200", json(r#"{"error":"login required"}"#)),
        ("another's JSON, 403", Act::Say(403, String::new(), br#"{"error":"login required"}"#.to_vec())),
        ("an error with 200", json(r#"{"Code":"Rejected.Disabled","Message":"m","RequestId":"R"}"#)),
        ("half an error", Act::Say(409, String::new(), br#"{"Code":"Rejected.Disabled","Mess"#.to_vec())),
        ("an error without words", Act::Say(409, String::new(), br#"{"Code":"Rejected.Disabled"}"#.to_vec())),
        ("no key", json(r#"{"KeyVersionId":"v","Plaintext":"ZGVr","RequestId":"R"}"#)),
        ("an empty key", json(&fits.replace("key-1", ""))),
        ("a doubled member", json(&fits.replace('{', r#"{"Plaintext":"b3RoZXI=","#))),
        ("a number for a text", json(&fits.replace("\"v\"", "1"))),
        ("bad base64", json(&fits.replace("ZGVr", "ZGV"))),
        ("a redirect", headed("location: http://127.0.0.1:1/\r\n").status(302)),
        ("a permanent redirect", headed("location: http://127.0.0.1:1/\r\n").status(308)),
        ("201", headed("").status(201)),
        ("206", headed("content-range: bytes 0-9/10\r\n").status(206)),
        ("gzip", headed("content-encoding: gzip\r\n")),
        ("gzip, in truth", Act::Say(200, "content-encoding: gzip\r\n".to_owned(), b"\x1f\x8b\x08\0\0\0\0\0".to_vec())),
        ("a megabyte", json(&fits.replace('{', &format!(r#"{{"Filling":"{}","#, "x".repeat(1 << 20))))),
        ("a megabyte, unannounced", Act::Blurt(chunked(&"x".repeat(1 << 20)))),
        ("a hundred header fields", headed(&(0..100).map(|n| format!("x-{n}: y\r\n")).collect::<String>())),
        ("a header of 256 KiB", headed(&format!("x: {}\r\n", "y".repeat(256 << 10)))),
        ("an end in mid-body", Act::Blurt(format!("HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{fits}").into())),
        ("an end in mid-chunk", Act::Blurt(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nff\r\n{".to_vec())),
        ("an end in mid-head", Act::Blurt(b"HTTP/1.1 200 OK\r\nconte".to_vec())),
        ("an end at once", Act::Blurt(Vec::new())),
        ("no HTTP", Act::Blurt(b"SSH-2.0-OpenSSH_9.9\r\n\r\n".to_vec())),
        ("two lengths", Act::Blurt(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 9\r\n\r\n{}".to_vec())),
    ];
    for (number, (what, act)) in cases.into_iter().enumerate() {
        stage.kms.says(act);
        // A ciphertext of its own: failures are remembered for a moment.
        let blob = wrapped("key-1", "ZGVr", &number.to_string());
        let heard = stage.decrypt(&one(), &blob);
        assert_eq!(heard.refusal(), unavailable(), "{what}: Decrypt");
        assert!(!heard.body.contains("ZGVr") && !heard.body.contains("log in"), "{what}: {}", heard.body);
        assert_eq!(encrypt(&stage).refusal(), unavailable(), "{what}: Encrypt");
        stage.kms.is_honest();
        stage.assert_serves();
    }
}

#[test]
fn an_encrypt_under_another_key_than_asked_for_is_not_handed_on() {
    let stage = Stage::new();
    for key in ["key-2", "KEY-1", "key-1 ", "acs:kms:cn-hangzhou:1:key/key-1"] {
        let blob = json!({ "KeyId": key, "KeyVersionId": "v1", "CiphertextBlob": "QUJD", "RequestId": "R" });
        stage.kms.plays(move |_| good(&blob));
        let heard = encrypt(&stage);
        assert_eq!(heard.refusal(), unavailable(), "{key}");
        assert!(!heard.body.contains("QUJD"), "{}", heard.body);
        stage.kms.is_honest();
        stage.assert_serves();
    }
}

#[test]
fn a_redirect_is_not_followed() {
    let stage = Stage::new();
    let elsewhere = Kms::plain();
    for status in [301, 302, 303, 307, 308] {
        let location = format!("location: http://{}/\r\n", elsewhere.address);
        stage.kms.says(Act::Say(status, location, Vec::new()));
        assert_eq!(encrypt(&stage).refusal(), unavailable(), "{status}");
    }
    assert_eq!(elsewhere.connections(), 0);
    stage.kms.is_honest();
    stage.assert_serves();
}

#[test]
fn what_the_kms_says_in_its_own_schema_arrives_in_its_own_words() {
    let stage = Stage::new();
    for (status, code) in [(400, "SomethingNew"), (409, "Rejected.Disabled"), (404, "Forbidden.KeyNotFound")] {
        stage.kms.says(said(status, code));
        // The last two refuse the key, which is then tried at once, and after that once a second.
        let heard = encrypt(&stage);
        assert_eq!(heard.refusal(), (status, code.to_owned()));
        assert_eq!(heard.json()["RequestId"], "R");
        stage.kms.is_honest();
    }
    thread::sleep(Duration::from_millis(1100)); // until the next trial
    stage.assert_serves();
}

#[test]
fn a_kms_that_never_answers_costs_each_caller_its_deadline_and_no_more() {
    let kms = Kms::plain();
    let setup = Setup { timeout: "1s", ..Setup::plain(&kms) };
    let stage = Stage::set_up(kms, &setup);
    for act in [Act::Never, Act::Drip] {
        stage.kms.says(act);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let blob = wrapped("key-1", "ZGVr", &uuid::Uuid::new_v4().to_string());
                    assert_deadline_held(|| stage.decrypt(&one(), &blob));
                    assert_deadline_held(|| encrypt(&stage));
                });
            }
        });
        stage.kms.is_honest();
        stage.assert_serves();
    }
}

#[test]
fn a_kms_that_does_not_shake_hands_costs_its_caller_the_deadline_and_no_more() {
    let kms = Kms::plain();
    // Connections are accepted by the kernel, and nobody ever looks at them.
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("https://{}", mute.local_addr().unwrap());
    let setup = Setup { timeout: "1s", endpoint, ..Setup::plain(&kms) };
    let stage = Stage::set_up(kms, &setup);
    assert_deadline_held(|| encrypt(&stage));
    drop(mute);
    assert_eq!(encrypt(&stage).refusal(), unavailable(), "refused connections");
}

/// Of a listener whose timeout is a second.
fn assert_deadline_held(call: impl FnOnce() -> Heard) {
    let begun = Instant::now();
    let heard = call();
    let took = begun.elapsed();
    assert_eq!(heard.refusal(), unavailable());
    assert!((900..1500).contains(&took.as_millis()), "{took:?}");
    eprintln!("answered after {took:?}");
}

#[test]
fn no_byte_of_a_request_goes_to_who_cannot_prove_to_be_the_kms() {
    let (ca, right) = certified(&["127.0.0.1"]);
    let (_, unknown) = certified(&["127.0.0.1"]);
    let (wrong_ca, wrong) = certified(&["kms.cn-hangzhou.aliyuncs.com", "127.0.0.2"]);
    for (what, ca, config) in [("unknown CA", ca.clone(), unknown), ("wrong name", wrong_ca, wrong)] {
        let kms = Kms::tls(config);
        let setup = Setup { endpoint: format!("https://{}", kms.address), ca: Some(ca), ..Setup::plain(&kms) };
        let stage = Stage::set_up(kms, &setup);
        assert_eq!(encrypt(&stage).refusal(), unavailable(), "{what}");
        assert_eq!(stage.decrypt(&one(), &wrapped("key-1", "ZGVr", "")).refusal(), unavailable(), "{what}");
        assert!(stage.kms.connections() > 0, "{what}: it was tried");
        assert_eq!(stage.kms.bytes(), 0, "{what}");
    }
    let kms = Kms::tls(right);
    let setup = Setup { endpoint: format!("https://{}", kms.address), ca: Some(ca), ..Setup::plain(&kms) };
    let stage = Stage::set_up(kms, &setup);
    stage.assert_serves();
    // Plain HTTP where TLS should be: the same.
    let plain = Kms::plain();
    let setup = Setup { endpoint: format!("https://{}", plain.address), ..Setup::plain(&plain) };
    let stage = Stage::set_up(plain, &setup);
    assert_eq!(encrypt(&stage).refusal(), unavailable());
    assert_eq!(stage.kms.asked().len(), 0);
}

#[test]
fn a_portal_in_the_place_of_the_kms_neither_closes_a_lease_nor_renews_it() {
    let kms = Kms::plain();
    let setup = Setup { lease: r#"{ duration = "6s", probe = "1s" }"#, ..Setup::plain(&kms) };
    let stage = Stage::set_up(kms, &setup);
    let blob = wrapped("key-1", "ZGVr", "");
    let asked = Instant::now();
    assert_eq!(stage.decrypt(&one(), &blob).json()["Plaintext"], "ZGVr");
    stage.kms.says(html(403));
    let portal = Instant::now();
    let count = stage.kms.count();
    assert_eq!(encrypt(&stage).refusal(), unavailable());

    // Whatever the portal says to probes, what is cached is served until the lease ends, and not after.
    let (mut served, mut last) = (0, asked);
    let refused = loop {
        let begun = Instant::now();
        let heard = stage.decrypt(&one(), &blob);
        if heard.status != 200 {
            assert_eq!(heard.refusal(), unavailable());
            break begun;
        }
        assert_eq!(heard.json()["Plaintext"], "ZGVr");
        assert!(begun < portal + LEASE, "served {:?} after the last consent", begun - portal);
        (served, last) = (served + 1, begun);
        thread::sleep(Duration::from_millis(20));
    };
    let probes = stage.kms.count() - count;
    eprintln!("served {served} times, last {:?} after the question; {probes} further questions", last - asked);
    assert!(Instant::now() >= asked + LEASE, "closed {:?} after the question", refused - asked);
    assert!(probes >= 3, "the portal was asked {probes} times");

    stage.kms.is_honest();
    let served_again = Instant::now();
    while stage.decrypt(&one(), &blob).status != 200 {
        assert!(served_again.elapsed() < Duration::from_secs(5));
        thread::sleep(Duration::from_millis(50));
    }
    stage.assert_serves();
}

fn encrypt(stage: &Stage) -> Heard {
    let query = [("Action", "Encrypt"), ("KeyId", "key-1"), ("Plaintext", "ZGVr")];
    stage.ask(&one().v1("POST", &query, &[]))
}

/// What every client of ack-kms-plugin's kind stops at, rather than trying again at once.
fn unavailable() -> (u16, String) {
    (409, "Rejected.Unavailable".to_owned())
}

impl Act {
    fn status(self, status: u16) -> Self {
        match self {
            Self::Say(_, headers, body) => Self::Say(status, headers, body),
            other @ (Self::Blurt(_) | Self::Reset(_) | Self::Drip | Self::Never) => other,
        }
    }
}

fn chunked(body: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n", body.len()).into_bytes()
}

/// A CA, and a server that it vouches for under these names.
pub(crate) fn certified(names: &[&str]) -> (String, Arc<ServerConfig>) {
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
    let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &ca).unwrap();
    let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    (ca.pem(), Arc::new(config))
}

const LEASE: Duration = Duration::from_secs(6);
