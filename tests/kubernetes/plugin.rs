//! A cluster moves from ack-kms-plugin to kmsproxy, and back.
//!
//! The plugin's ciphertext is the `CiphertextBlob` of the KMS, as the text it came as, in v1 and v2; its plaintext is
//! base64. Its `key_id` of v2 is what its `--key-id` is.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::SEED;
use super::apiserver::Era;
use super::objects::{all_well, serve};
use super::process::Daemon;
use super::stage::{QUIET, Stage};
use super::truth::open;

#[tokio::test]
async fn what_ack_kms_plugin_encrypted_decrypts_unchanged() {
    let Some(mut server) = Era::Latest.start() else { return };
    let stage = Stage::new(QUIET);
    open(&mut server, &stage).await;
    let key = stage.emulator.at("key_id").to_owned();
    let plugin = stage.aliyun("plugin");
    let (status, made) = plugin.call("Encrypt", &[("KeyId", &key), ("Plaintext", SEED)]).await;
    assert_eq!(status, 200, "{made}");
    let text = made["CiphertextBlob"].as_str().unwrap();
    let asked = json!({ "ciphertext": STANDARD.encode(text) });
    assert_eq!(server.decrypt("v1", &asked).ok(), SEED);
}

#[tokio::test]
async fn what_ack_kms_plugin_encrypted_through_v2_decrypts_unchanged() {
    let Some(mut server) = Era::Latest.start() else { return };
    let stage = Stage::new(QUIET);
    open(&mut server, &stage).await;
    let key = stage.emulator.at("key_id").to_owned();
    let (status, made) = stage.aliyun("plugin").call("Encrypt", &[("KeyId", &key), ("Plaintext", SEED)]).await;
    assert_eq!(status, 200, "{made}");
    let text = |member: &str| STANDARD.encode(made[member].as_str().unwrap());
    let annotations = json!({
        "x-acs-request-id.ack.alibabacloud.com": text("RequestId"),
        "x-acs-kms-key-version-id.ack.alibabacloud.com": text("KeyVersionId"),
        "x-acs-kms-region-id.ack.alibabacloud.com": STANDARD.encode("cn-hangzhou"),
    });
    let stored =
        |key_id: &str| json!({ "ciphertext": text("CiphertextBlob"), "key_id": key_id, "annotations": annotations });
    for key_id in [&key, "alias/kmsproxy-dev"] {
        assert_eq!(server.decrypt("v2", &stored(key_id)).ok(), SEED, "with --key-id {key_id}");
    }

    let before = stage.remote_calls().await;
    for (key_id, code) in [("key-of-another", "NotFound"), ("alias/another", "NotFound")] {
        assert_eq!(server.decrypt("v2", &stored(key_id)).code(), Some(code), "{key_id}");
    }
    let mut bare = stored(&key);
    bare["annotations"].as_object_mut().unwrap().remove("x-acs-kms-region-id.ack.alibabacloud.com");
    assert_eq!(server.decrypt("v2", &bare).code(), Some("NotFound"), "an annotation is lost");
    let mut raw = stored(&key);
    raw["ciphertext"] = json!(STANDARD.encode(b"no base64"));
    assert_eq!(server.decrypt("v2", &raw).code(), Some("InvalidArgument"));
    assert_eq!(stage.remote_calls().await, before, "the KMS was asked");
}

#[tokio::test]
async fn a_cluster_that_keeps_the_plugins_form_can_go_back_to_it() {
    let Some(mut server) = Era::Latest.start() else { return };
    let stage = Stage::with(Daemon::emulator(&[]), QUIET, BOTH_FORMS);
    server.open("back", "v1", &stage.socket("back"));
    let made = server.encrypt("back", SEED).ok();
    let text = String::from_utf8(STANDARD.decode(made["ciphertext"].as_str().unwrap()).unwrap()).unwrap();
    let (status, opened) = stage.aliyun("plugin").call("Decrypt", &[("CiphertextBlob", &text)]).await;
    assert_eq!((status, &opened["Plaintext"]), (200, &json!(SEED)), "{opened}");

    // Objects in the plugin's form are read by a listener that writes the other, and the other way around.
    for (one, other) in [("back", "forth"), ("forth", "back")] {
        let (Some(mut writer), Some(mut reader)) = (Era::Latest.start(), Era::Latest.start()) else { return };
        let etcd = stage.file(&format!("etcd-{one}"));
        serve(&mut writer, &[("secrets", "v1", &stage.socket(one))]).await;
        writer.write("secrets", &etcd, 20).ok();
        serve(&mut reader, &[("secrets", "v1", &stage.socket(other))]).await;
        assert_eq!(reader.read("secrets", &etcd), all_well(20), "written by {one}");
    }
}

const BOTH_FORMS: &str = r#"
[[listener]]
name = "forth"
face = "kubernetes"
address = "unix:RUN/forth.sock"
upstream = "kms"
key = "alias/kmsproxy-dev"
[[listener]]
name = "back"
face = "kubernetes"
address = "unix:RUN/back.sock"
upstream = "kms"
key = "alias/kmsproxy-dev"
v1_ciphertext = "ack-kms-plugin"
[[listener]]
name = "plugin"
face = "aliyun"
address = "unix:RUN/plugin.sock"
upstream = "kms"
[[caller]]
name = "forth"
listener = "forth"
allow = [{ actions = ["Encrypt"], keys = ["alias/kmsproxy-dev"] }, { actions = ["Decrypt"], keys = ["KEY"] }]
[[caller]]
name = "back"
listener = "back"
allow = [{ actions = ["Encrypt"], keys = ["alias/kmsproxy-dev"] }, { actions = ["Decrypt"], keys = ["KEY"] }]
[[caller]]
name = "plugin"
listener = "plugin"
access_key = { id = "LTAIlocal", secret_file = "DIR/secret" }
allow = [{ actions = ["Decrypt"], keys = ["KEY"] }]
"#;
