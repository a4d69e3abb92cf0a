//! The commands of the admin socket, asked of a real daemon: with rights and without.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use kmsproxy::admin::COMMANDS;
use serde_json::{Value, json};

use super::client::{Client, Target, plain};
use super::posture::as_user;
use super::process::Daemon;
use super::scene::until;

/// Runs `kmsproxy WORDS` on the daemon's admin socket, with `input`.
pub(super) fn told(daemon: &Daemon, words: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_kmsproxy"))
        .args(words)
        .args(["--socket", daemon.at("admin_socket")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that reads nothing may have ended.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

fn obeyed(daemon: &Daemon, words: &[&str], input: &str) -> String {
    let output = told(daemon, words, input);
    assert!(output.status.success(), "{words:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn refused(daemon: &Daemon, words: &[&str], input: &str) -> (Option<i32>, String) {
    let output = told(daemon, words, input);
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

/// A daemon that has been asked for so many DEKs, and their ciphertexts.
pub(super) async fn busy(count: usize) -> (Daemon, Client, Vec<String>) {
    let daemon = Daemon::dev(&[]);
    let mut client = Target::of(&daemon).connect().await;
    let mut blobs = Vec::new();
    for number in 0..count {
        let plaintext = format!("REVL{number:04}");
        let parameters = [("KeyId", daemon.at("key_id")), ("Plaintext", &plaintext)];
        let (status, body) = client.call("Encrypt", &parameters).await;
        assert_eq!(status, 200, "{body}");
        blobs.push(body["CiphertextBlob"].as_str().unwrap().to_owned());
    }
    for blob in &blobs {
        assert_eq!(client.call("Decrypt", &[("CiphertextBlob", blob)]).await.0, 200);
    }
    (daemon, client, blobs)
}

async fn live(daemon: &Daemon) -> Value {
    plain(Path::new(daemon.at("admin_socket")), "GET", "/live", "").await.1
}

async fn entries(daemon: &Daemon) -> u64 {
    live(daemon).await["upstreams"][0]["keys"][0]["entries"].as_u64().unwrap_or(0)
}

#[tokio::test]
async fn every_command_by_every_method_is_refused_to_everybody_else_and_does_nothing() {
    if !rustix::process::geteuid().is_root() || !Path::new("/usr/bin/perl").exists() {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "nothing may be skipped in CI");
        eprintln!("skipped: only root can become somebody else, and perl is to ask then");
        return;
    }
    let (mut daemon, _client, _) = busy(3).await;
    let before = live(&daemon).await;
    // The rights of the file and of its directories aside, which would keep others from connecting at all.
    let socket = PathBuf::from(daemon.at("admin_socket"));
    for directory in socket.ancestors().skip(1).filter(|path| path.starts_with(daemon.dir.path())) {
        std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o666)).unwrap();
    let paths: BTreeSet<_> = COMMANDS.iter().map(|command| command.path).chain(["/", "/elsewhere"]).collect();
    let methods = ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"];
    let asked: Vec<_> = paths.iter().flat_map(|path| methods.map(|method| format!("{method} {path}"))).collect();
    assert!(COMMANDS.iter().all(|command| asked.contains(&format!("{} {}", command.method, command.path))));
    let output = as_user(Command::new("/usr/bin/perl")).args(["-e", ASK]).arg(&socket).args(&asked).output().unwrap();
    let expected: String = asked.iter().map(|asked| format!("{asked}: HTTP/1.1 403 Forbidden\n")).collect();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), expected, "{}", String::from_utf8_lossy(&output.stderr));

    assert_eq!(daemon.ended(), None, "nobody drained it");
    let after = live(&daemon).await;
    for unchanged in ["cache", "log", "obstacles"] {
        assert_eq!(after[unchanged], before[unchanged], "{unchanged}");
    }
}

/// Asks a socket each of METHOD PATH with a connection of its own, and prints the first line of each answer.
const ASK: &str = r#"
use IO::Socket::UNIX;
my $path = shift;
for my $asked (@ARGV) {
    my $socket = IO::Socket::UNIX->new(Peer => $path) or die "$path: $!";
    print $socket "$asked HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 12\r\n\r\n{\"all\":true}";
    my $line = <$socket>;
    $line =~ s/\r//;
    print "$asked: $line";
}
"#;

#[tokio::test]
async fn every_command_knows_its_methods_and_says_what_to_do_where_it_is_not_obeyed() {
    let daemon = Daemon::dev(&[]);
    let socket = Path::new(daemon.at("admin_socket"));
    let paths: BTreeSet<_> = COMMANDS.iter().map(|command| command.path).collect();
    for path in paths {
        for method in ["GET", "POST", "PUT", "DELETE", "PATCH"] {
            if COMMANDS.iter().any(|command| command.path == path && command.method.as_str() == method) {
                continue;
            }
            let (status, body) = plain(socket, method, path, "").await;
            assert_eq!((status, &body["error"]), (405, &json!(format!("{path} knows no {method}"))));
            assert!(body["remedy"].as_str().unwrap().starts_with("ask with "), "{body}");
        }
    }
    for (method, path, body, status) in [
        ("POST", "/purge", "", 400),
        ("POST", "/purge", "{\"all\": false}", 400),
        ("POST", "/purge", "{\"digest\": \"abc\"}", 400),
        ("POST", "/purge", "{\"all\": true, \"key\": \"k\"}", 400),
        ("POST", "/purge", "{\"key\": \"nobody-knows\"}", 404),
        ("POST", "/purge", "{\"caller\": \"nobody\"}", 404),
        ("POST", "/refresh", "{\"key\": \"nobody-knows\"}", 404),
        ("POST", "/explain", "{\"caller\": \"local\", \"ciphertext\": \"SECRET-BLOB!\"}", 400),
        ("POST", "/explain", "{\"caller\": \"nobody\", \"ciphertext\": \"AAAA\"}", 404),
        ("PUT", "/log-level", "{\"level\": \"a=b=c\"}", 400),
        ("PUT", "/log-level", "\"info\"", 400),
    ] {
        let (found, answer) = plain(socket, method, path, body).await;
        assert_eq!(found, status, "{method} {path} {body}: {answer}");
        assert!(answer["error"].is_string() && answer["remedy"].is_string(), "{answer}");
        assert!(!answer.to_string().contains("SECRET-BLOB"), "{answer}");
    }
    let long = format!("{{\"caller\": \"{}\"}}", "a".repeat(200_000));
    assert_eq!(plain(socket, "POST", "/purge", &long).await.0, 413);
}

#[tokio::test]
async fn what_is_purged_is_gone_and_what_is_refreshed_is_asked_for_again() {
    let (daemon, _client, blobs) = busy(4).await;
    assert_eq!(entries(&daemon).await, 4);
    assert_eq!(obeyed(&daemon, &["purge", "--ciphertext"], &blobs[0]), "upstream local: 1 DEKs wiped\n");
    assert_eq!(entries(&daemon).await, 3);
    let key = daemon.at("key_id");
    let told = obeyed(&daemon, &["refresh", key], "");
    assert_eq!(told, format!("upstream local, key {key}: 3 DEKs are being asked for again\n"));
    until("it is asked for", async || {
        let (status, calls) = plain(&daemon.control(), "GET", "/calls", "").await;
        (status == 200 && calls["outcomes"]["Decrypt"]["ok"].as_u64() >= Some(7)).then_some(())
    })
    .await;
    assert_eq!(obeyed(&daemon, &["purge", "--key", key], ""), "upstream local: 3 DEKs wiped\n");
    assert_eq!(obeyed(&daemon, &["purge", "--all"], ""), "upstream local: 0 DEKs wiped\n");
    // Its connection was let go of.
    let mut client = Target::of(&daemon).connect().await;
    assert_eq!(client.call("Decrypt", &[("CiphertextBlob", &blobs[0])]).await.0, 200);
    assert_eq!(obeyed(&daemon, &["purge", "--caller", "local"], ""), "upstream local: 1 DEKs wiped\n");
    let (code, error) = refused(&daemon, &["purge", "--key", "no\u{1b}key"], "");
    assert_eq!(code, Some(70));
    assert!(error.starts_with("error: no key no\\u{1b}key is known here\n  remedy: "), "{error}");
    assert_eq!(refused(&daemon, &["purge"], "").0, Some(64));
    assert_eq!(refused(&daemon, &["purge", "--all", "--key", key], "").0, Some(64));
}

#[tokio::test]
async fn it_is_explained_what_would_become_of_a_ciphertext_and_nothing_is_changed_by_that() {
    let (daemon, mut client, blobs) = busy(1).await;
    let key = daemon.at("key_id").to_owned();
    let calls = || async { plain(&daemon.control(), "GET", "/calls", "").await.1 };
    let before = calls().await;
    let told = obeyed(&daemon, &["explain", "--caller", "local"], &blobs[0]);
    let expected = "upstream local: would be served\n  why: from memory, by line 1 of the caller's allow\n";
    assert!(told.starts_with(expected), "{told}");
    assert!(told.contains(&format!("\n    key {key}, version ")), "{told}");
    assert!(told.contains("\n    lease serving, "), "{told}");
    assert!(told.contains("\n    allowed by line 1: ") && told.ends_with(" on *\n"), "{told}");
    let told = obeyed(&daemon, &["explain", "--caller", "local"], "AAAA");
    assert!(told.starts_with("upstream local: the KMS would be asked\n  why: nothing is kept for it"), "{told}");
    assert_eq!(calls().await, before, "no KMS was asked");

    plain(&daemon.control(), "POST", &format!("/keys/{key}/disable"), "").await;
    assert_ne!(client.call("Encrypt", &[("KeyId", &key), ("Plaintext", "REVL")]).await.0, 200);
    let told: Value =
        serde_json::from_str(&obeyed(&daemon, &["explain", "--caller", "local", "--json"], &blobs[0])).unwrap();
    let judged = &told["upstreams"][0];
    assert_eq!(judged["verdict"], "refused", "{told}");
    assert!(judged["why"].as_str().unwrap().starts_with("the KMS refuses its key: key_disabled"), "{told}");
    assert!(judged["remedy"].as_str().unwrap().starts_with("enable the key"), "{told}");
    assert!(!told.to_string().contains(&blobs[0]));
    assert!(!daemon.log().contains(&blobs[0]), "it is not logged");
}

#[tokio::test]
async fn a_ciphertext_is_explained_for_the_call_that_is_meant() {
    let (daemon, mut client, _) = busy(0).await;
    let context = ("EncryptionContext", r#"{"name": "CONTEXT-OF-THE-TEST"}"#);
    let parameters = [("KeyId", daemon.at("key_id")), ("Plaintext", "REVL"), context];
    let blob = client.call("Encrypt", &parameters).await.1["CiphertextBlob"].as_str().unwrap().to_owned();
    assert_eq!(client.call("Decrypt", &[("CiphertextBlob", &blob), context]).await.0, 200);
    let explained = |more: &[&str]| obeyed(&daemon, &[&["explain", "--caller", "local"], more].concat(), &blob);
    let served = "upstream local: would be served\n  why: from memory, to calls with the same encryption context";
    for same in [&[][..], &["--context", "name=CONTEXT-OF-THE-TEST"], &["--listener", "local"]] {
        assert!(explained(same).starts_with(served), "{same:?}: {}", explained(same));
    }
    let asked = "upstream local: the KMS would be asked\n  why: it is kept for calls with another encryption context";
    let key = daemon.at("key_id");
    for other in [["--context", "name=another"], ["--context", "other=CONTEXT-OF-THE-TEST"], ["--key", key]] {
        assert!(explained(&other).starts_with(asked), "{other:?}: {}", explained(&other));
    }
    let elsewhere = "upstream local: WOULD BE REFUSED\n  why: nobody who comes through that listener is this caller";
    assert!(
        explained(&["--listener", "kubernetes"]).starts_with(elsewhere),
        "{}",
        explained(&["--listener", "kubernetes"])
    );
    let (code, error) = refused(&daemon, &["explain", "--caller", "local", "--listener", "nobody"], &blob);
    assert_eq!(code, Some(70), "{error}");
    assert!(error.starts_with("error: there is no listener of that name\n  remedy: "), "{error}");
    assert_eq!(refused(&daemon, &["explain", "--caller", "local", "--context", "name"], &blob).0, Some(64));

    plain(&daemon.control(), "POST", &format!("/keys/{key}/disable"), "").await;
    assert_ne!(client.call("Encrypt", &[("KeyId", key), ("Plaintext", "REVL")]).await.0, 200);
    let told = obeyed(&daemon, &["explain", "--caller", "local", "--key", key], "AAAA");
    assert!(
        told.starts_with("upstream local: WOULD BE REFUSED\n  why: the KMS refuses its key: key_disabled"),
        "{told}"
    );
    assert!(!daemon.log().contains("CONTEXT-OF-THE-TEST"), "it is not logged");
}

#[tokio::test]
async fn the_log_level_is_told_changed_and_told_what_it_was() {
    let daemon = Daemon::dev(&[]);
    assert_eq!(obeyed(&daemon, &["log-level"], ""), "trace\n");
    assert_eq!(
        obeyed(&daemon, &["log-level", "warn,kmsproxy::admin=debug"], ""),
        "warn,kmsproxy::admin=debug (was trace)\n"
    );
    let (quiet, lines) = (daemon.log(), || daemon.log().lines().count());
    let before = quiet.lines().count();
    obeyed(&daemon, &["purge", "--all"], "");
    until("the purge is logged", async || (lines() > before).then_some(())).await;
    let log = daemon.log();
    assert!(log.lines().skip(before).all(|line| line.contains("kmsproxy::admin")), "{log}");
    obeyed(&daemon, &["log-level", "off"], "");
    assert_eq!(obeyed(&daemon, &["log-level"], ""), "off\n");
    let (code, error) = refused(&daemon, &["log-level", "a=b=c"], "");
    assert_eq!(code, Some(70), "{error}");
    assert!(error.contains("\n  remedy: write off, error, warn, info, debug or trace"), "{error}");
}

#[tokio::test]
async fn told_to_drain_it_ends_well() {
    let (mut daemon, _client, _) = busy(1).await;
    assert!(obeyed(&daemon, &["drain"], "").starts_with("draining: "));
    let ended = until("it ended", async || daemon.ended()).await;
    assert!(ended.success(), "{ended}");
}

#[tokio::test]
async fn a_status_shows_the_daemon_the_kms_and_who_was_refused() {
    let (daemon, mut client, blobs) = busy(2).await;
    for _ in 0..8 {
        assert_eq!(client.call("Decrypt", &[("CiphertextBlob", &blobs[0])]).await.0, 200);
    }
    for _ in 0..2 {
        assert_eq!(client.call("Decrypt", &[("CiphertextBlob", "AAAA")]).await.0, 400);
    }
    let table = obeyed(&daemon, &["status"], "");
    for told in [
        "\nready, sealing keys in ",
        " memory, log trace\ncache     2 of 100000 DEKs\n",
        "\nrequests  12 ok, 2 invalid_ciphertext; half within ",
        "\nLISTENER",
        "\nupstream local: the KMS answers, last heard of ",
        "\n  Decrypts  66.6 % from memory; 8 hit, 2 failed, 2 miss\n",
        "\n  REFUSED  TIMES  CALLER  ACTION   WHY\n",
        " 2      local   Decrypt  invalid_ciphertext",
        "\n  lease serving for ",
    ] {
        assert!(table.replace("\n  LISTENER", "\nLISTENER").contains(told), "{told}\n{table}");
    }
    let keys = obeyed(&daemon, &["keys"], "");
    assert!(keys.starts_with("UPSTREAM  KEY"), "{keys}");
    assert!(keys.contains(daemon.at("key_id")), "{keys}");
    let status = live(&daemon).await;
    let listener = status["listeners"].as_array().unwrap().iter().find(|one| one["name"] == "local").unwrap();
    assert_eq!((&listener["name"], &listener["connections"]), (&json!("local"), &json!(1)), "{status}");
    assert_eq!(status["upstreams"][0]["decrypts"], json!({ "hit": 8, "miss": 2, "coalesced": 0, "failed": 2 }));
}
