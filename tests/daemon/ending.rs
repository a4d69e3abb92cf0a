//! How it ends: asked to, or unable to begin. The exit codes are part of the interface.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::json;
use tokio::net::TcpStream;

use super::client::{Target, attempt, get};
use super::process::{Daemon, write_private};
use super::scene::{Scene, Setting, until};

#[tokio::test]
async fn asked_to_stop_it_answers_what_is_in_flight_and_exits_with_0() {
    for signal in ["-TERM", "-INT"] {
        let scene = Scene::new(Setting { timeout: "20s", ..Setting::default() });
        let blob = scene.ciphertext().await;
        scene.behave(&json!({ "stall": true })).await;
        let (target, sent) = (scene.tls.clone(), blob.clone());
        let asking = tokio::spawn(async move { target.call("Decrypt", &[("CiphertextBlob", &sent)]).await });
        until("the call is under way", async || (scene.calls().await["under_way"] == 1).then_some(())).await;

        scene.proxy.signal(signal);
        let closed = async || TcpStream::connect(&scene.tls.address).await.is_err().then_some(());
        until("no more connections are taken", closed).await;
        assert!(!asking.is_finished(), "{signal}");
        scene.behave(&json!({})).await;
        let (status, body) = asking.await.unwrap();
        assert_eq!((status, &body["Plaintext"]), (200, &json!("REVL0000")), "{signal}: {body}");
        let Scene { mut proxy, emulator, unix, .. } = scene;
        let ended = until("it ends", async || proxy.ended()).await;
        assert_eq!(ended.code(), Some(0), "{signal}");
        assert!(!Path::new(unix.address.strip_prefix("unix:").unwrap()).exists(), "the unix socket is gone");
        assert_eq!(emulator.stop(signal).code(), Some(0), "{signal}");
    }
}

#[tokio::test]
async fn while_draining_it_says_so_and_is_not_ready() {
    let scene = Scene::new(Setting { timeout: "20s", ..Setting::default() });
    let address = scene.proxy.at("metrics_address").to_owned();
    until("ready", async || (get(&address, "/readyz").await.0 == 200).then_some(())).await;
    let blob = scene.ciphertext().await;
    scene.behave(&json!({ "stall": true })).await;
    let target = scene.tls.clone();
    let asking = tokio::spawn(async move { target.call("Decrypt", &[("CiphertextBlob", &blob)]).await });
    until("the call is under way", async || (scene.calls().await["under_way"] == 1).then_some(())).await;
    scene.proxy.signal("-TERM");
    let closed = async || TcpStream::connect(&scene.tls.address).await.is_err().then_some(());
    until("no more connections are taken", closed).await;
    assert_eq!(attempt(&address, "GET", "/readyz").await, Some((503, json!("draining\n"))));
    scene.behave(&json!({})).await;
    assert_eq!(asking.await.unwrap().0, 200);
}

#[tokio::test]
async fn what_dev_encrypted_is_decrypted_after_a_restart_on_the_same_state() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let first = Daemon::dev_on(&state, &[]);
    let (key, ca) = (first.at("key_id").to_owned(), std::fs::read(first.at("ca_file")).unwrap());
    let (status, made) = Target::of(&first).call("Encrypt", &[("KeyId", &key), ("Plaintext", "aGVsbG8=")]).await;
    assert_eq!(status, 200, "{made}");
    let control = first.control();
    assert!(control.exists());
    assert_eq!(first.stop("-INT").code(), Some(0));
    assert!(!control.exists(), "the control socket is gone");

    for signal in ["-KILL", "-TERM"] {
        let again = Daemon::dev_on(&state, &[]);
        assert_eq!((again.at("key_id"), std::fs::read(again.at("ca_file")).unwrap()), (key.as_str(), ca.clone()));
        let blob = made["CiphertextBlob"].as_str().unwrap();
        let (status, body) = Target::of(&again).call("Decrypt", &[("CiphertextBlob", blob)]).await;
        assert_eq!((status, &body["Plaintext"]), (200, &json!("aGVsbG8=")), "{body}");
        let _ = again.stop(signal);
    }
}

#[test]
fn a_second_dev_on_the_same_state_says_that_it_is_in_use_and_leaves_the_first_alone() {
    let first = Daemon::dev(&[]);
    let state = Path::new(first.at("ca_file")).parent().unwrap();
    let config = std::fs::read_to_string(state.join("kmsproxy.toml")).unwrap();
    let second = run(&["dev", "--listen", "127.0.0.2:0", "--state-dir", state.to_str().unwrap()]);
    let said = String::from_utf8_lossy(&second.stderr);
    assert_eq!(second.status.code(), Some(78), "{said}");
    assert!(said.contains("another kmsproxy runs on it: stop that one"), "{said}");
    assert_eq!(std::fs::read_to_string(state.join("kmsproxy.toml")).unwrap(), config);
    assert!(first.control().exists());
}

#[test]
fn a_taken_port_is_75_in_every_command() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let dir = tempfile::tempdir().unwrap();
    for command in ["dev", "emulator"] {
        let state = dir.path().join(command);
        ends_with(75, &address, &[command, "--listen", &address, "--state-dir", state.to_str().unwrap()]);
    }
    let config = dir.path().join("kmsproxy.toml");
    let state = dir.path().join("keys").display().to_string();
    for metrics in [String::new(), format!("[metrics]\naddress = \"{address}\"\n")] {
        let listen = if metrics.is_empty() { &address } else { "127.0.0.1:0" };
        write_private(&config, &local(listen, &state, &metrics));
        ends_with(75, &address, &["serve", "--config", config.to_str().unwrap()]);
    }
}

#[test]
fn wrong_usage_is_64_and_a_wrong_configuration_78() {
    for arguments in [&["nonsense"][..], &["serve", "--nonsense"], &[], &["dev", "--listen", "here"]] {
        ends_with(64, "--help", arguments);
    }
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("kmsproxy.toml");
    let path = config.to_str().unwrap();
    ends_with(78, path, &["serve", "--config", path]);
    write_private(&config, "[upstream.x]\nkind = \"nonsense\"\n");
    ends_with(78, "in the configuration", &["serve", "--config", path]);
    write_private(&config, &local("127.0.0.1:0", "/proc/nowhere", ""));
    ends_with(78, "/proc/nowhere", &["serve", "--config", path]);
}

fn local(listen: &str, state: &str, more: &str) -> String {
    format!(
        r#"
[upstream.local]
kind = "local"
state_dir = "{state}"
[[listener]]
name = "plain"
face = "aliyun"
address = "{listen}"
insecure = true
upstream = "local"
[[caller]]
name = "somebody"
listener = "plain"
access_key = {{ id = "LTAIlocal", secret_env = "PLAIN_CALLER_SECRET" }}
allow = [{{ actions = ["Decrypt"], keys = ["*"] }}]
{more}"#
    )
}

fn ends_with(code: i32, part: &str, arguments: &[&str]) {
    let output = run(arguments);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
    assert!(said.contains(part), "{arguments:?} does not say {part:?}: {said}");
}

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kmsproxy"))
        .args(arguments)
        .env("PLAIN_CALLER_SECRET", "localsecret")
        .output()
        .unwrap()
}
