//! Secrets that would be recognised anywhere, and nowhere are: everything that can be read of a run at the most
//! talkative level.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE};
use std::io::Write;

use serde_json::json;

use super::http::{self, Heard, Raw};
use super::kms::{Act, Kms, html, said, wrapped};
use super::signer::{Pairs, Signer, encoded, hex};
use super::stage::{Setup, Stage, one};
use super::upstream::certified;

#[test]
fn no_secret_is_in_the_log_the_metrics_the_error_bodies_or_the_command_line() {
    let (ca, tls) = certified(&["127.0.0.1"]);
    let kms = Kms::tls(tls);
    let setup = Setup {
        endpoint: format!("https://{}", kms.address),
        ca: Some(ca),
        lease: r#"{ duration = "3s", probe = "1s" }"#,
        local_secret: LOCAL,
        upstream_secret: UPSTREAM,
        ..Setup::plain(&kms)
    };
    let stage = Stage::set_up(kms, &setup);
    let context = json!({ "name": CONTEXT }).to_string();
    let blob = wrapped("key-1", &STANDARD.encode(DEK), &context);
    let bodies = provoke(&stage, &blob, &context);
    await_probes(&stage);

    let canaries = [LOCAL, UPSTREAM, DEK, &STANDARD.encode(DEK), CONTEXT, &context, &blob];
    let log = stage.daemon.log();
    let command = std::fs::read(format!("/proc/{}/cmdline", stage.daemon.id())).unwrap();
    let places = [
        ("log", log.clone()),
        ("metrics", stage.metrics()),
        ("error bodies", bodies.join("\n")),
        ("command line", String::from_utf8(command).unwrap()),
    ];
    for (place, text) in &places {
        assert!(!text.is_empty(), "{place} is empty");
        for canary in canaries {
            assert_eq!(found(text, canary), None, "{canary} in {place}");
        }
    }
    // The log was indeed talkative.
    for word in ["TRACE", "request", "attempt", "invalid_parameter", "bad_signature", "garbled"] {
        assert!(log.contains(word), "{word} is not in the log");
    }
    eprintln!("{} lines of log, {} error bodies", log.lines().count(), bodies.len());
}

/// Good requests, and bad ones of every sort that carry the canaries; returns the bodies of the refusals.
fn provoke(stage: &Stage, blob: &str, context: &str) -> Vec<String> {
    let decrypt = [("Action", "Decrypt"), ("CiphertextBlob", blob), ("EncryptionContext", context)];
    let plaintext = STANDARD.encode(DEK);
    let encrypt = [("KeyId", "key-1"), ("Plaintext", &*plaintext), ("EncryptionContext", context)];
    for _ in 0..2 {
        let heard = stage.ask(&me().v1("GET", &decrypt, &[]));
        assert_eq!((heard.status, heard.json()["Plaintext"].as_str()), (200, Some(&*plaintext)));
    }
    let heard = stage.ask(&me().v3("POST", "Encrypt", &encrypt, &[]));
    assert_eq!((heard.status, heard.json()["CiphertextBlob"].as_str()), (200, Some(blob)));
    let mut tls = stage.connect_tls();
    let secure = Signer { secret: LOCAL, ..Signer::new("LTAIsecure", LOCAL) };
    tls.write_all(&secure.v1("POST", &decrypt, &[]).bytes()).unwrap();
    assert_eq!(http::answer(&mut tls).unwrap().status, 200);

    let forger = || Signer { secret: "forged", ..one() };
    let wrong_context = [decrypt[0], decrypt[1], ("EncryptionContext", r#"{"other":"context"}"#)];
    let broken_context = [decrypt[0], decrypt[1], ("EncryptionContext", &context[1..])];
    let doubled = [&decrypt[..], &decrypt[1..2]].concat();
    let named: Vec<_> = decrypt.into_iter().chain([(blob, CONTEXT), (CONTEXT, "")]).collect();
    let odd = [("Action", CONTEXT), ("CiphertextBlob", blob)];
    let plain = me().v1("POST", &decrypt, &[]);
    let bad_path = format!("/{}?{}", encoded(blob), plain.target.trim_start_matches("/?"));
    let broken = format!("{}&{}=%FF", plain.target, encoded(CONTEXT));
    let requests = [
        forger().v1("POST", &decrypt, &[]),
        forger().v1("POST", &odd, &[]),
        forger().v3("POST", "Encrypt", &encrypt, &[]),
        forger().v3("POST", "Encrypt", &[], &encrypt),
        me().v1("POST", &wrong_context, &[]),
        me().v1("POST", &broken_context, &[]),
        me().v1("POST", &doubled, &[]),
        me().v1("POST", &odd, &[]),
        me().v1("POST", &[("Action", "Encrypt"), ("KeyId", "key-2"), encrypt[1], encrypt[2]], &[]),
        plain.clone().to(&bad_path),
        plain.clone().with("host", "evil.example"),
        plain.clone().and("origin", "https://evil.example"),
        Raw { method: "PUT".to_owned(), ..plain.clone() },
        plain.clone(),
        plain.clone(),
    ];
    let mut refusals: Vec<Heard> =
        requests.iter().map(|raw| stage.ask(raw)).filter(|heard| heard.status != 200).collect();
    assert_eq!(refusals.len(), requests.len() - 1, "all but the one that was good the first time");
    // The parser names what it cannot read; its name is the caller's own word, cut to 128 bytes.
    let unreadable = stage.ask(&plain.to(&broken));
    assert_eq!(unreadable.refusal(), (400, "InvalidParameter".to_owned()));
    let relayed = stage.ask(&me().v1("POST", &named, &[]));
    assert_eq!(relayed.status, 200, "{relayed:?}");

    refusals.extend(lie(stage, &decrypt, &encrypt));
    assert!(refusals.iter().all(|heard| heard.status != 200));
    refusals.into_iter().map(|heard| heard.head + &heard.body).collect()
}

/// What a KMS says of a wrong signature quotes what we sent, and a portal may quote anything.
fn lie(stage: &Stage, decrypt: Pairs<'_>, encrypt: Pairs<'_>) -> Vec<Heard> {
    let mut refusals = Vec::new();
    let (blob, context) = (decrypt[1].1, decrypt[2].1);
    let quoted = format!("Specified signature is not matched. server string to sign is:POST {DEK} {blob} {context}");
    let body = json!({ "Code": "SignatureDoesNotMatch", "Message": quoted, "RequestId": "R" }).to_string();
    for act in [
        Act::Say(400, String::new(), body.into_bytes()),
        Act::Say(200, format!("x-echo: {DEK}\r\n"), format!("<html>{UPSTREAM} {DEK} {blob} {context}</html>").into()),
        Act::Blurt(format!("{DEK} {blob} {context} {UPSTREAM}\r\n\r\n").into_bytes()),
        html(403),
        said(500, "InternalFailure"),
        said(409, "Rejected.Disabled"),
    ] {
        stage.kms.says(act);
        refusals.push(stage.ask(&me().v3("POST", "Encrypt", &[], encrypt)));
        refusals.push(stage.ask(&me().v1("POST", &[decrypt, &[("DryRun", "true")]].concat(), &[])));
    }
    stage.kms.is_honest();
    refusals
}

fn me() -> Signer {
    Signer { secret: LOCAL, ..one() }
}

/// Waits until some probes were made, so that they are in the log, too.
fn await_probes(stage: &Stage) {
    let before = stage.kms.count();
    for _ in 0..400 {
        if stage.kms.count() > before + 1 {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    panic!("no probe");
}

/// In which spelling `text` holds `canary`.
fn found(text: &str, canary: &str) -> Option<String> {
    spellings(canary).into_iter().find(|spelling| text.contains(spelling.as_str()))
}

fn spellings(canary: &str) -> Vec<String> {
    let bytes = canary.as_bytes();
    let decimal = bytes.iter().map(u8::to_string).collect::<Vec<_>>();
    let mut all = vec![
        canary.to_owned(),
        encoded(canary),
        encoded(&encoded(canary)),
        hex(bytes),
        hex(bytes).to_uppercase(),
        format!("{canary:?}").trim_matches('"').to_owned(),
        URL_SAFE.encode(bytes),
        decimal.join(", "),
        decimal.join(","),
    ];
    for shift in 0..3 {
        // In the middle of something longer: what does not depend on its neighbours.
        let shifted = STANDARD_NO_PAD.encode([&b"xx"[..shift], bytes].concat());
        let core = shifted.get([0, 2, 3][shift]..shifted.len() - 2).unwrap().to_owned();
        all.extend([encoded(&core), core]);
    }
    all
}

#[test]
fn a_canary_is_found_in_every_spelling() {
    let spelled = [
        format!("at {DEK}."),
        format!("Bytes({:?})", DEK.as_bytes()),
        STANDARD.encode(DEK),
        STANDARD.encode(format!("a{DEK}b")),
        encoded(&STANDARD.encode(format!("ab{DEK}"))),
        hex(DEK.as_bytes()),
        encoded(DEK),
    ];
    for text in spelled {
        assert!(found(&text, DEK).is_some(), "{text}");
    }
    assert_eq!(found("nothing of the sort", DEK), None);
}

const LOCAL: &str = "canary+local/secret=0f3a";
const UPSTREAM: &str = "canary+upstream/secret=77b1";
const DEK: &str = "canary+plaintext/dek=93cd";
const CONTEXT: &str = "canary+context/value=41ee";
