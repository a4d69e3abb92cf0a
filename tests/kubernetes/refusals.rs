//! What is not ours, or no longer what it was, is refused in gRPC's terms and mostly without the KMS.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::SEED;
use super::apiserver::{Apiserver, Era};
use super::objects::READY;
use super::process::Daemon;
use super::stage::{QUIET, Stage, until};
use super::truth::open;

#[tokio::test]
async fn what_was_never_sealed_here_is_refused_before_the_kms_is_asked() {
    let Some(mut server) = Era::Latest.start() else { return };
    let stage = Stage::new(QUIET);
    open(&mut server, &stage).await;
    let v1 = server.encrypt("v1", SEED).ok();
    let v2 = server.encrypt("v2", SEED).ok();
    let before = stage.remote_calls().await;

    let unknown = with(&v2, |asked| asked["key_id"] = json!("0".repeat(64)));
    expect(&mut server, "an unknown key_id", "v2", &unknown, &["NotFound"]);
    let longer = with(&v2, |asked| asked["key_id"] = json!(format!("{}0", v2["key_id"].as_str().unwrap())));
    expect(&mut server, "a key_id and more", "v2", &longer, &["NotFound"]);
    let none = with(&v2, |asked| asked["key_id"] = json!(""));
    expect(&mut server, "no key_id", "v2", &none, &["InvalidArgument", "NotFound"]);
    let bare = with(&v2, |asked| asked["annotations"] = Value::Null);
    expect(&mut server, "no annotations", "v2", &bare, &["InvalidArgument"]);
    for name in v2["annotations"].as_object().unwrap().keys() {
        let altered = with(&v2, |asked| asked["annotations"][name] = json!(encoded(b"another")));
        expect(&mut server, "an annotation altered", "v2", &altered, &["InvalidArgument", "NotFound"]);
        let missing = with(&v2, |asked| drop(asked["annotations"].as_object_mut().unwrap().remove(name)));
        expect(&mut server, "an annotation missing", "v2", &missing, &["InvalidArgument", "NotFound"]);
    }
    let empty = with(&v2, |asked| asked["ciphertext"] = json!(""));
    expect(&mut server, "an empty ciphertext", "v2", &empty, &["InvalidArgument"]);

    let another = b"vault:v1:8SDd3WHDOjf7mq69CyCqYjBXAiQQAVZRkFM13ok481zoCmHnSeDX9g==";
    let garbage: [(&str, &[u8]); 5] = [
        ("nothing", b""),
        ("another provider's", another),
        ("our version byte alone", b"\x01"),
        ("a key's id that is cut off", b"\x01\x20key"),
        ("zeros", &[0; 64]),
    ];
    for (what, ciphertext) in garbage {
        let asked = json!({ "ciphertext": encoded(ciphertext) });
        expect(&mut server, what, "v1", &asked, &["InvalidArgument"]);
    }
    assert_eq!(stage.remote_calls().await, before, "the KMS was asked");

    for (name, made) in [("v1", v1), ("v2", v2)] {
        assert_eq!(server.decrypt(name, &made).ok(), SEED, "the next caller of {name}");
    }
}

#[tokio::test]
async fn an_altered_ciphertext_is_an_invalid_argument_and_not_the_end_of_the_key() {
    let Some(mut server) = Era::Latest.start() else { return };
    let stage = Stage::new(QUIET);
    open(&mut server, &stage).await;
    for name in ["v1", "v2"] {
        let made = server.encrypt(name, SEED).ok();
        let mut blob = STANDARD.decode(made["ciphertext"].as_str().unwrap()).unwrap();
        *blob.last_mut().unwrap() ^= 1;
        let altered = with(&made, |asked| asked["ciphertext"] = json!(encoded(&blob)));
        expect(&mut server, "one bit altered", name, &altered, &["InvalidArgument"]);
        assert_eq!(server.decrypt(name, &made).ok(), SEED);
    }
    server.status("v2").ok();
}

#[tokio::test]
async fn a_listener_serves_the_versions_that_it_is_told_to_under_the_name_it_is_told() {
    let Some(mut server) = Era::Latest.start() else { return };
    let stage = Stage::with(Daemon::emulator(&[]), QUIET, SETTINGS);
    for listener in ["one", "two", "beta", "suffix"] {
        for version in ["v1", "v2"] {
            server.open(&format!("{listener} {version}"), version, &stage.socket(listener));
        }
    }
    let version_of = |server: &mut Apiserver, name: &str| {
        let status = server.status(name);
        if status.code().is_some() { Err(format!("{status:?}")) } else { Ok(status.ok()["version"].clone()) }
    };
    for (name, version) in [("two v2", "v2"), ("beta v2", "v2beta1"), ("suffix v2", "v2")] {
        assert_eq!(until("Status", READY, || version_of(&mut server, name)).await.0, version, "{name}");
    }
    assert_eq!(server.encrypt("two v1", SEED).code(), Some("Unimplemented"));
    assert_eq!(server.status("one v2").code(), Some("Unimplemented"));
    server.encrypt("one v1", SEED).ok();

    let ids = ["two v2", "beta v2", "suffix v2"].map(|name| server.key_id(name));
    assert_eq!(ids[0], ids[1], "one key has one key_id");
    assert_ne!(ids[0], ids[2], "but for a suffix");
    let made = server.encrypt("two v2", SEED).ok();
    assert_eq!(server.decrypt("beta v2", &made).ok(), SEED);
    // What is in etcd under the old suffix is still read after it was changed.
    assert_eq!(server.decrypt("suffix v2", &made).ok(), SEED);
}

fn expect(server: &mut Apiserver, what: &str, name: &str, asked: &Value, codes: &[&str]) {
    let outcome = server.decrypt(name, asked);
    assert!(outcome.code().is_some_and(|code| codes.contains(&code)), "{what}, {name}: {outcome:?}");
}

fn with(made: &Value, alter: impl FnOnce(&mut Value)) -> Value {
    let mut altered = made.clone();
    alter(&mut altered);
    altered
}

fn encoded(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

const SETTINGS: &str = r#"
[[listener]]
name = "one"
face = "kubernetes"
address = "unix:RUN/one.sock"
upstream = "kms"
key = "alias/kmsproxy-dev"
api = ["v1beta1"]
[[listener]]
name = "two"
face = "kubernetes"
address = "unix:RUN/two.sock"
upstream = "kms"
key = "alias/kmsproxy-dev"
api = ["v2"]
[[listener]]
name = "beta"
face = "kubernetes"
address = "unix:RUN/beta.sock"
upstream = "kms"
key = "alias/kmsproxy-dev"
v2_version = "v2beta1"
[[listener]]
name = "suffix"
face = "kubernetes"
address = "unix:RUN/suffix.sock"
upstream = "kms"
key = "alias/kmsproxy-dev"
key_id_suffix = "2"
[[caller]]
name = "one"
listener = "one"
allow = [{ actions = ["Encrypt"], keys = ["alias/kmsproxy-dev"] }, { actions = ["Decrypt"], keys = ["KEY"] }]
[[caller]]
name = "two"
listener = "two"
allow = [{ actions = ["Encrypt"], keys = ["alias/kmsproxy-dev"] }, { actions = ["Decrypt"], keys = ["KEY"] }]
[[caller]]
name = "beta"
listener = "beta"
allow = [{ actions = ["Encrypt"], keys = ["alias/kmsproxy-dev"] }, { actions = ["Decrypt"], keys = ["KEY"] }]
[[caller]]
name = "suffix"
listener = "suffix"
allow = [{ actions = ["Encrypt"], keys = ["alias/kmsproxy-dev"] }, { actions = ["Decrypt"], keys = ["KEY"] }]
"#;
