//! `kmsproxy status`, asked of a real daemon: what it tells before and after a rotation, and whom.

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::{Value, json};

use super::client::{Client, Target, plain};
use super::posture::{as_user, user};
use super::process::Daemon;

fn status(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kmsproxy")).arg("status").args(arguments).output().unwrap()
}

fn told(daemon: &Daemon) -> (Value, String) {
    let socket = daemon.at("admin_socket");
    let [json, table] = [&["--socket", socket, "--json"][..], &["--socket", socket]].map(|arguments| {
        let output = status(arguments);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    });
    (serde_json::from_str(&json).unwrap(), table)
}

/// Of the one key: what is told of it and of each of its versions, without times and names.
fn verdicts(status: &Value) -> Value {
    let key = &status["upstreams"][0]["keys"][0];
    let versions = key["versions"].as_array().unwrap().iter();
    let versions: Vec<_> =
        versions.map(|at| json!([at["verdict"], at["cached"], at["asked_since_rotation"]])).collect();
    json!({ "lease": key["lease"], "old": key["old"], "versions": versions })
}

async fn wrap(client: &mut Client, key: &str, plaintext: &str) -> String {
    let (status, body) = client.call("Encrypt", &[("KeyId", key), ("Plaintext", plaintext)]).await;
    assert_eq!(status, 200, "{body}");
    body["CiphertextBlob"].as_str().unwrap().to_owned()
}

async fn unwrap(client: &mut Client, blob: &str) {
    let (status, body) = client.call("Decrypt", &[("CiphertextBlob", blob)]).await;
    assert_eq!(status, 200, "{body}");
}

#[tokio::test]
async fn a_rotation_is_followed_until_nothing_is_left_to_tell_of() {
    let daemon = Daemon::dev(&[]);
    let key = daemon.at("key_id").to_owned();
    let mut client = Target::of(&daemon).connect().await;
    let mut blobs = Vec::new();
    for plaintext in ["REVLMDAwMQ==", "REVLMDAwMg=="] {
        blobs.push(wrap(&mut client, &key, plaintext).await);
    }
    for blob in &blobs {
        unwrap(&mut client, blob).await;
    }
    let (status, table) = told(&daemon);
    let expected = json!({ "lease": "serving", "old": "unseen", "versions": [["primary", 2, 2]] });
    assert_eq!(verdicts(&status), expected, "{status}");
    assert!(table.contains("nothing was asked for under an old version since kmsproxy started at 20"), "{table}");

    // Within the millisecond of the last Decrypt, the rotation would count as not later.
    tokio::time::sleep(Duration::from_millis(2)).await;
    let (rotated, answer) = plain(&daemon.control(), "POST", &format!("/keys/{key}/rotate"), "").await;
    assert_eq!(rotated, 200, "{answer}");
    let new = wrap(&mut client, &key, "REVLMDAwMw==").await;
    unwrap(&mut client, &new).await;
    let (status, table) = told(&daemon);
    let versions = json!([["primary", 1, 1], ["unasked", 2, 0]]);
    assert_eq!(verdicts(&status), json!({ "lease": "serving", "old": "unseen", "versions": versions }), "{status}");
    assert!(table.contains("nothing was asked for under an old version since 20"), "{table}");

    unwrap(&mut client, &blobs[0]).await;
    let (status, table) = told(&daemon);
    let versions = json!([["primary", 1, 1], ["asked", 2, 1]]);
    assert_eq!(verdicts(&status), json!({ "lease": "serving", "old": "seen", "versions": versions }), "{status}");
    assert!(table.contains("SOMETHING MAY BE LEFT under an old version"), "{table}");
    assert!(table.contains("old: 1 DEK asked for since "), "{table}");
    for secret in ["REVLMDAwMQ==", "DEK0001", &blobs[0]] {
        assert!(!status.to_string().contains(secret));
    }
}

#[tokio::test]
async fn the_admin_socket_knows_its_commands_and_their_methods() {
    let daemon = Daemon::dev(&[]);
    let socket = PathBuf::from(daemon.at("admin_socket"));
    let (status, body) = plain(&socket, "GET", "/status", "").await;
    assert_eq!((status, &body["version"]), (200, &json!(env!("CARGO_PKG_VERSION"))));
    let wrong = json!({ "error": "/status knows no POST", "remedy": "ask with GET" });
    assert_eq!(plain(&socket, "POST", "/status", "").await, (405, wrong));
    let (status, body) = plain(&socket, "GET", "/", "").await;
    assert_eq!((status, &body["error"]), (404, &json!("no such command")));
    assert!(body["remedy"].as_str().unwrap().starts_with("there are GET /status, "), "{body}");
}

#[test]
fn the_socket_is_found_by_the_configuration_however_much_else_is_wrong_with_it() {
    let daemon = Daemon::dev(&[]);
    let file = daemon.dir.path().join("mine.toml");
    let text = format!("[admin]\naddress = \"unix:{}\"\n[cache]\ncapacity = 0\n", daemon.at("admin_socket"));
    std::fs::write(&file, text).unwrap();
    let output = status(&["--config", file.to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8(output.stdout).unwrap().starts_with("kmsproxy "));
}

#[test]
fn each_failure_has_its_code_and_its_remedy() {
    let daemon = Daemon::dev(&[]);
    let dir = daemon.dir.path();
    let file = |name: &str, text: &str| {
        let path = dir.join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let none = file("none.toml", "");
    let wrong = file("wrong.toml", "[admin]\naddress = \"127.0.0.1:1\"\n");
    let systemd = file("systemd.toml", "[admin]\naddress = \"systemd:admin\"\n");
    let missing = dir.join("missing").display().to_string();
    let control = daemon.control().display().to_string();
    for (option, value, code, says) in [
        ("--socket", &missing, 70, ": nothing listens there\n  remedy: start kmsproxy"),
        ("--socket", &control, 70, ": what listens there does not know this command\n  remedy: "),
        ("--config", &none, 78, ": has no admin socket\n  remedy: write address = \"unix:/run/kmsproxy/admin.sock\""),
        ("--config", &wrong, 78, "control over TCP is refused"),
        ("--config", &systemd, 78, "remedy: give --socket PATH"),
        ("--config", &missing, 78, "this configuration file does not exist"),
    ] {
        let output = status(&[option, value]);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{option} {value}: {error}");
        assert!(error.contains(says), "{option} {value}: {error}");
        assert_eq!(output.stdout, b"", "{option} {value}");
    }
}

#[test]
fn somebody_else_is_told_to_become_somebody_else() {
    let daemon = Daemon::dev(&[]);
    let socket = Path::new(daemon.at("admin_socket"));
    let dir = tempfile::tempdir().unwrap();
    let binary = dir.path().join("kmsproxy");
    std::fs::copy(env!("CARGO_BIN_EXE_kmsproxy"), &binary).unwrap();
    chown(dir.path(), Some(user()), None).unwrap();
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o000)).unwrap();
    let output = as_user(Command::new(&binary)).args(["status", "--socket"]).arg(socket).output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(70), "{error}");
    assert!(
        error.contains(": permission denied\n  remedy: run this as root, or as the user that kmsproxy runs as"),
        "{error}"
    );
}
