//! The audit log of the real binary: whole under load and rotation, and what happens when it cannot be written.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::scene::{Scene, Setting, until};

const FILE: &str = "sink = \"file\"\npath = \"DIR/audit.jsonl\"";

fn kmsproxy(arguments: &[&str], files: &[PathBuf]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kmsproxy")).args(arguments).args(files).output().unwrap()
}

/// Exit code and what was found, of the files in their order.
fn verified(files: &[PathBuf], arguments: &[&str]) -> (i32, Value) {
    let output = kmsproxy(&[&["audit", "verify", "--json"], arguments].concat(), files);
    let said = String::from_utf8(output.stdout).unwrap();
    let report = serde_json::from_str(&said).unwrap_or_else(|_| String::from_utf8_lossy(&output.stderr).into());
    (output.status.code().unwrap(), report)
}

/// The request ids of all answers of `action`.
fn recorded(files: &[PathBuf], action: &str) -> Vec<String> {
    let lines: String = files.iter().map(|file| fs::read_to_string(file).unwrap()).collect();
    let lines = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let answers = lines.filter(|line| line["event"] == "answer" && line["action"] == action);
    answers.map(|line| line["request_id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_rotated_under_load_loses_no_record_of_what_was_released() {
    const ROTATIONS: usize = 5;
    let scene = Scene::new(Setting { audit: FILE, ..Setting::default() });
    let blobs = scene.ciphertexts(&scene.key(), 10).await;
    let current = scene.proxy.dir.path().join("audit.jsonl");
    let begun = Instant::now();
    let clients: Vec<_> = (0..8)
        .map(|first| {
            let (target, blobs) = (scene.tls.clone(), blobs.clone());
            tokio::spawn(async move {
                let (mut client, mut answered) = (target.connect().await, Vec::new());
                for turn in first.. {
                    if begun.elapsed() > Duration::from_secs(4) {
                        break;
                    }
                    let (status, body) = client.call("Decrypt", &[("CiphertextBlob", &blobs[turn % 10])]).await;
                    assert_eq!(status, 200, "{body}");
                    answered.push(body["RequestId"].as_str().unwrap().to_owned());
                }
                answered
            })
        })
        .collect();
    let mut files = Vec::new();
    for rotation in 0..ROTATIONS {
        until("the file is there", async || current.exists().then_some(())).await;
        sleep(Duration::from_millis(500)).await;
        files.push(current.with_extension(rotation.to_string()));
        fs::rename(&current, files.last().unwrap()).unwrap();
    }
    let mut answered = Vec::new();
    for client in clients {
        answered.extend(client.await.unwrap());
    }
    until("the last file is there", async || current.exists().then_some(())).await;
    let keep = tempfile::tempdir().unwrap();
    files.push(current);
    // The log must be read after its end, and the daemon's directory goes with the daemon.
    let kept: Vec<_> = files.iter().map(|file| keep.path().join(file.file_name().unwrap())).collect();
    for (file, kept) in files.iter().zip(&kept) {
        fs::hard_link(file, kept).or_else(|_| fs::copy(file, kept).map(drop)).unwrap();
    }
    assert!(scene.proxy.stop("-TERM").success());

    let (code, report) = verified(&kept, &[]);
    assert_eq!((code, &report["verdict"], &report["findings"]), (0, &json!("whole"), &json!([])), "{report}");
    let recorded = recorded(&kept, "Decrypt");
    let once: BTreeSet<&String> = recorded.iter().collect();
    assert_eq!(answered.iter().filter(|id| !once.contains(id)).count(), 0, "each answer has its record");
    // Those who waited for one flight share a request id.
    assert_eq!(recorded.len(), answered.len());
    assert!(recorded.len() > 100, "{} records in {} files", recorded.len(), kept.len());

    // One record less, in the middle.
    let text = fs::read_to_string(&kept[2]).unwrap();
    let lines: Vec<_> = text.lines().collect();
    let middle = lines.len() / 2;
    let without = [&lines[..middle], &lines[middle + 1..]].concat().join("\n") + "\n";
    fs::write(&kept[2], without).unwrap();
    let seq = serde_json::from_str::<Value>(lines[middle]).unwrap()["seq"].clone();
    let (code, report) = verified(&kept, &[]);
    let finding = &report["findings"][0];
    assert_eq!((code, &finding["finding"], &finding["from"], &finding["to"]), (65, &json!("removed"), &seq, &seq));
    assert_eq!((finding["file"].as_str(), &finding["line"]), (kept[2].to_str(), &json!(middle + 1)));
}

#[tokio::test]
async fn a_daemon_that_was_killed_goes_on_with_the_chain_and_the_verifier_tells_of_it() {
    let scene = Scene::new(Setting { audit: FILE, ..Setting::default() });
    let blob = scene.ciphertext().await;
    let path = scene.proxy.dir.path().join("audit.jsonl");
    assert_eq!(scene.tls.call("Decrypt", &[("CiphertextBlob", &blob)]).await.0, 200);
    let written = async || (recorded(std::slice::from_ref(&path), "Decrypt").len() == 1).then_some(());
    until("the record is written", written).await;
    scene.proxy.signal("-KILL");
    let files = [path];
    let (code, report) = verified(&files, &[]);
    assert_eq!((code, &report["findings"][0]["finding"]), (1, &json!("open_end")), "{report}");
    let anchor = report["last"].as_str().unwrap();

    // Whoever cuts off what the anchor saw is found out.
    let text = fs::read_to_string(&files[0]).unwrap();
    fs::write(&files[0], text.lines().next().unwrap().to_owned() + "\n").unwrap();
    assert_eq!(verified(&files, &[]).0, 1);
    let (code, report) = verified(&files, &["--anchor", anchor]);
    assert_eq!((code, &report["findings"][1]["finding"]), (65, &json!("truncated")), "{report}");
}

#[tokio::test]
async fn on_a_full_disk_nothing_is_released_where_the_log_is_required() {
    let scene = Scene::new(Setting { audit: "sink = \"file\"\npath = \"/dev/full\"", ..Setting::default() });
    let blob = scene.ciphertext().await;
    let failing = async || scene.metric("kmsproxy_audit_failing").await.filter(|&failing| failing == 1.0);
    until("the failure is seen", failing).await;
    let (status, body) = scene.tls.call("Decrypt", &[("CiphertextBlob", &blob)]).await;
    assert_eq!((status, &body["Code"]), (409, &json!("Rejected.Unavailable")));
    assert!(body["Message"].as_str().unwrap().contains("audit log"), "{body}");
    assert_eq!(scene.counted("Decrypt", "ok").await, 0, "nobody was asked in vain");
    let refused = "kmsproxy_requests_total{face=\"aliyun\",action=\"Decrypt\",outcome=\"unaudited\"}";
    assert_eq!(scene.metric(refused).await, Some(1.0));
    until("the log says so", async || scene.proxy.log().contains("audit log cannot be written").then_some(())).await;
}

#[tokio::test]
async fn on_a_full_disk_losses_are_counted_where_the_log_is_not_required() {
    let audit = "sink = \"file\"\npath = \"/dev/full\"\nrequired = false\nqueue = 5";
    let scene = Scene::new(Setting { audit, ..Setting::default() });
    let blob = scene.ciphertext().await;
    let failing = async || scene.metric("kmsproxy_audit_failing").await.filter(|&failing| failing == 1.0);
    until("the failure is seen", failing).await;
    let mut client = scene.tls.connect().await;
    for _ in 0..12 {
        assert_eq!(client.call("Decrypt", &[("CiphertextBlob", &blob)]).await.0, 200);
    }
    assert_eq!(scene.metric("kmsproxy_audit_dropped_total").await, Some(7.0));
    assert!(scene.metric("kmsproxy_audit_errors_total").await > Some(0.0));
    let lines = scene.proxy.log().matches("does not keep up or cannot be written").count();
    assert!(lines <= 1, "seven losses, and at most one line");
}

#[tokio::test]
async fn a_pipe_that_nobody_reads_closes_the_door_and_one_that_is_read_again_opens_it() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("audit.pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    // Both ends: a pipe without any reader could not be opened.
    let reader = fs::OpenOptions::new().read(true).write(true).open(&pipe).unwrap();
    let audit: &'static str = format!("sink = \"file\"\npath = \"{}\"\nqueue = 200", pipe.display()).leak();
    let scene = Scene::new(Setting { audit, ..Setting::default() });
    let blob = scene.ciphertext().await;
    let mut client = scene.tls.connect().await;
    let mut released = 0;
    let refused = loop {
        let (status, body) = client.call("Decrypt", &[("CiphertextBlob", &blob)]).await;
        match status {
            200 => released += 1,
            _ => break body,
        }
        assert!(released < 10_000, "a pipe holds 64 KiB, and the queue 200 records");
    };
    assert_eq!(refused["Code"], "Rejected.Unavailable", "{refused}");

    let drained = std::thread::spawn(move || drain(reader));
    let open = async || (client.call("Decrypt", &[("CiphertextBlob", &blob)]).await.0 == 200).then_some(());
    until("the door opens", open).await;
    assert!(scene.proxy.stop("-TERM").success());
    fs::write(folder.path().join("log"), drained.join().unwrap()).unwrap();
    let files = [folder.path().join("log")];
    assert_eq!(verified(&files, &[]), (0, verified(&files, &[]).1));
    assert_eq!(recorded(&files, "Decrypt").len(), released + 1);
}

/// All that comes through `pipe` up to the record that ends a log.
fn drain(mut pipe: fs::File) -> Vec<u8> {
    use std::io::Read;
    let (mut all, mut some) = (Vec::new(), [0; 4096]);
    while !String::from_utf8_lossy(&all[all.len().saturating_sub(400)..]).contains("\"closed\"") {
        let read = pipe.read(&mut some).unwrap();
        all.extend_from_slice(&some[..read]);
    }
    all
}

#[test]
fn a_keyed_log_is_verified_with_its_secret_and_its_digests_can_be_made_again() {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("audit.secret");
    super::process::write_private(&secret, "0123456789abcdef0123456789abcdef\n");
    let audit: &'static str =
        format!("sink = \"file\"\npath = \"DIR/audit.jsonl\"\nsecret_file = \"{}\"", secret.display()).leak();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let scene = Scene::new(Setting { audit, ..Setting::default() });
        let blob = scene.ciphertext().await;
        assert_eq!(scene.tls.call("Decrypt", &[("CiphertextBlob", &blob)]).await.0, 200);
        let kept = folder.path().join("audit.jsonl");
        fs::hard_link(scene.proxy.dir.path().join("audit.jsonl"), &kept).unwrap();
        assert!(scene.proxy.stop("-TERM").success());
        let files = [kept];
        let given = ["--secret-file", secret.to_str().unwrap()];
        assert_eq!(verified(&files, &given).0, 0);
        assert_eq!(verified(&files, &[]).0, 64, "without its secret nothing can be said");

        let digest = kmsproxy(&["audit", "digest", given[0], given[1], &blob], &[]);
        let digest = String::from_utf8(digest.stdout).unwrap();
        assert!(fs::read_to_string(&files[0]).unwrap().contains(digest.trim()), "{digest}");
        other_secret(folder.path(), &files);
    });
}

fn other_secret(folder: &Path, files: &[PathBuf]) {
    let other = folder.join("other.secret");
    super::process::write_private(&other, "another secret, which is as long\n");
    assert_eq!(verified(files, &["--secret-file", other.to_str().unwrap()]).0, 65);
}
