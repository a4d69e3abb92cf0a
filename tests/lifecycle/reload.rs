//! What a reload changes, when, and what it leaves alone.

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep};

use super::client::{Target, plain};
use super::process::{Daemon, write_private};
use super::scene::{Scene, Setting, decrypts, until};
use super::stage::{SETTING, kmsproxy};
use super::strict::Strict;

const ALLOWED: &str = r#"actions = ["Encrypt", "Decrypt", "GenerateDataKey", "DescribeKey"]"#;

#[tokio::test]
async fn what_a_caller_may_do_counts_at_once_for_answers_that_are_on_their_way_as_well() {
    let scene = Scene::new(SETTING);
    let kept = scene.kept(1).await;
    let cold = scene.ciphertext().await;
    scene.behave(&json!({ "latency": "800ms" })).await;
    let target = scene.tls.clone();
    let flight = tokio::spawn(async move { target.call("Decrypt", &[("CiphertextBlob", &cold)]).await });
    sleep(Duration::from_millis(300)).await;
    scene.rewrite(ALLOWED, r#"actions = ["Encrypt"]"#);
    assert_eq!(scene.reloaded().await, ["caller.plugin: allow"]);
    let (status, body) = scene.tls.call("Decrypt", &[("CiphertextBlob", &kept[0].0)]).await;
    assert_eq!((status, body["Code"].as_str()), (403, Some("Forbidden.NoPermission")), "{body}");
    let (status, body) = flight.await.unwrap();
    assert_eq!((status, body["Code"].as_str()), (403, Some("Forbidden.NoPermission")), "{body}");
    // And it may again.
    scene.rewrite(r#"actions = ["Encrypt"]"#, ALLOWED);
    scene.reloaded().await;
    assert_eq!(scene.tls.call("Decrypt", &[("CiphertextBlob", &kept[0].0)]).await.0, 200);
}

#[tokio::test]
async fn callers_come_and_go_and_a_changed_secret_counts_at_once() {
    let scene = Scene::new(SETTING);
    let kept = scene.kept(1).await;
    let ask = async |target: &Target| {
        let (status, body) = target.call("Decrypt", &[("CiphertextBlob", &kept[0].0)]).await;
        (status, body["Code"].as_str().unwrap_or_default().to_owned())
    };
    let served = || (200, String::new());
    let other = Target { access_key: "LTAIother".into(), page: None, ..scene.tls.clone() };
    assert_eq!(ask(&other).await, (404, "InvalidAccessKeyId.NotFound".to_owned()));
    let newcomer = r#"
[[caller]]
name = "other"
listener = "tls"
access_key = { id = "LTAIother", secret_file = "DIR/secret" }
allow = [{ actions = ["Decrypt"], keys = ["*"] }]
"#;
    let before = scene.config();
    scene.write(&format!("{before}{newcomer}"));
    assert_eq!(scene.reloaded().await, ["caller.other: added"]);
    assert_eq!((ask(&other).await, ask(&scene.tls).await), (served(), served()));
    // Each has had it asked for once: the one who stays has kept its own.
    assert_eq!(scene.calls().await, decrypts(2));

    write_private(&scene.proxy.dir.path().join("secret"), "another-secret");
    assert_eq!(ask(&scene.tls).await, served(), "not before it is told");
    let mut said = scene.reloaded().await;
    said.sort();
    assert_eq!(said, ["caller.other: its secret", "caller.plugin: its secret"]);
    assert_eq!(ask(&scene.tls).await, (400, "IncompleteSignature".to_owned()));
    let renewed = Target { secret: "another-secret".into(), ..scene.tls.clone() };
    assert_eq!(ask(&renewed).await, served());

    scene.write(&before);
    assert_eq!(scene.reloaded().await, ["caller.other: removed"]);
    let other = Target { secret: "another-secret".into(), ..other };
    assert_eq!(ask(&other).await, (404, "InvalidAccessKeyId.NotFound".to_owned()));
    assert_eq!((ask(&renewed).await, scene.calls().await), (served(), decrypts(2)));
}

#[tokio::test]
async fn a_shorter_lease_ends_those_that_are_open() {
    let scene = Scene::new(SETTING);
    let kept = scene.kept(1).await;
    scene.emulator.signal("-STOP");
    sleep(Duration::from_millis(2200)).await;
    let mut client = scene.tls.connect().await;
    assert_eq!(client.call("Decrypt", &[("CiphertextBlob", &kept[0].0)]).await.0, 200);
    scene.rewrite(r#"duration = "30s", probe = "10s""#, r#"duration = "2100ms", probe = "200ms""#);
    let (status, verdict) = scene.reload().await;
    // A question does not fit into that.
    assert_eq!((status, verdict["outcome"].as_str()), (409, Some("mistaken")), "{verdict}");
    assert_eq!(client.call("Decrypt", &[("CiphertextBlob", &kept[0].0)]).await.0, 200);
    scene.rewrite(r#"probe = "200ms""#, r#"probe = "100ms""#);
    assert_eq!(scene.reloaded().await, ["upstream.emulator: lease.duration, lease.probe"]);
    let (status, body) = client.call("Decrypt", &[("CiphertextBlob", &kept[0].0)]).await;
    assert_ne!(status, 200, "{body}");
    scene.emulator.signal("-CONT");
    until("the lease", async || {
        (scene.tls.call("Decrypt", &[("CiphertextBlob", &kept[0].0)]).await.0 == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_upstream_that_a_reload_brings_back_is_warm_before_anybody_asks() {
    let audit = "[admin]\naddress = \"unix:DIR/admin.sock\"\n[working_set]\nfile = \"DIR/working-set\"";
    let scene = Scene::new(Setting { audit, ..SETTING });
    let kept = scene.kept(5).await;
    let before = scene.counted("Decrypt", "ok").await;
    // By mistake under another name, and then as it was.
    let config = scene.config();
    scene.write(&config.replace("upstream.emulator", "upstream.renamed").replace("= \"emulator\"", "= \"renamed\""));
    scene.reloaded().await;
    scene.write(&config);
    scene.reloaded().await;
    scene.is_warm(&kept, before).await;
}

#[tokio::test]
async fn an_upstream_that_a_reload_asks_otherwise_is_warm_before_anybody_asks() {
    let audit = "[admin]\naddress = \"unix:DIR/admin.sock\"\n[working_set]\nfile = \"DIR/working-set\"";
    let scene = Scene::new(Setting { audit, ..SETTING });
    let kept = scene.kept(5).await;
    for (from, to) in [("retries = 0", "retries = 1"), ("retries = 1", "retries = 0")] {
        let before = scene.counted("Decrypt", "ok").await;
        scene.rewrite(from, to);
        assert_eq!(scene.reloaded().await, ["upstream.emulator: retries"]);
        scene.is_warm(&kept, before).await;
    }
}

#[tokio::test]
async fn a_reload_that_changes_nothing_replaces_no_listener_where_descriptors_are_few() {
    let audit = "sink = \"file\"\npath = \"DIR/audit.jsonl\"\n[admin]\naddress = \"unix:DIR/admin.sock\"";
    let emulator = Daemon::emulator(&[]);
    let address = emulator.at("address").to_owned();
    let scene = Scene::started_by(&["prlimit", "--nofile=512"], emulator, &address, Setting { audit, ..SETTING });
    assert!(scene.proxy.log().contains("the limit of open files is 512"), "{}", scene.proxy.log());
    let opened = || scene.proxy.log().matches(" listening ").count();
    // The log is written behind.
    until("both listen", async || (opened() == 2).then_some(())).await;
    assert_eq!(scene.reloaded().await, Vec::<String>::new());
    until("it is told", async || scene.proxy.log().contains(": reloaded ").then_some(())).await;
    assert_eq!(opened(), 2);
}

#[tokio::test]
async fn a_kms_that_is_asked_otherwise_is_another_and_no_call_fails_for_it() {
    let scene = Scene::new(SETTING);
    let kept = scene.kept(4).await;
    scene.behave(&json!({ "latency": "20ms" })).await;
    let strict = Strict::start(4, &scene.tls, &kept);
    for round in 0..5 {
        sleep(Duration::from_millis(300)).await;
        let before = scene.counted("Decrypt", "ok").await;
        let (from, to) = if round % 2 == 0 { ("retries = 0", "retries = 1") } else { ("retries = 1", "retries = 0") };
        scene.rewrite(from, to);
        assert_eq!(scene.reloaded().await, ["upstream.emulator: retries"]);
        until("everything is asked for anew", async || {
            (scene.counted("Decrypt", "ok").await >= before + 4).then_some(())
        })
        .await;
    }
    strict.stop().await.assert_all_served();
}

#[tokio::test]
async fn what_takes_a_restart_and_what_is_wrong_is_told_with_its_remedy_and_nothing_changes() {
    let scene = Scene::new(SETTING);
    let before = scene.config();
    scene.write(&format!("{before}\n[cache]\ncapacity = 7\n").replace(ALLOWED, r#"actions = ["Encrypt"]"#));
    let (status, verdict) = scene.reload().await;
    let reasons = ["cache.capacity: a running process cannot change this\n  remedy: restart kmsproxy, or set it back"];
    assert_eq!((status, &verdict), (409, &json!({ "outcome": "restart", "changes": [], "reasons": reasons })));

    scene.write(&before.replace("127.0.0.1:0\"\ntls", "localhost:1\"\ntls").replace("retries = 0", "retries = 99"));
    let (status, verdict) = scene.reload().await;
    assert_eq!((status, verdict["outcome"].as_str()), (409, Some("mistaken")));
    let reasons = verdict["reasons"].as_array().unwrap();
    let lines = |text: &str| reasons.iter().any(|reason| reason.as_str().unwrap().contains(text));
    assert!(reasons.len() == 2 && lines("kmsproxy.toml:") && lines("remedy: write at most 10"), "{verdict}");

    let socket = scene.admin_socket().display().to_string();
    let told = kmsproxy(&["reload", "--socket", &socket]);
    assert_eq!((told.status.code(), told.stdout.is_empty()), (Some(78), true));
    assert!(String::from_utf8(told.stderr).unwrap().contains("retries"));
    // Nor has anything else changed.
    let blob = scene.ciphertext().await;
    assert_eq!(scene.tls.call("Decrypt", &[("CiphertextBlob", &blob)]).await.0, 200);
    scene.write(&before);
    let told = kmsproxy(&["reload", "--config", scene.config_file().to_str().unwrap()]);
    assert_eq!(String::from_utf8(told.stdout).unwrap(), "reloaded, and nothing differs\n");
    assert_eq!(told.status.code(), Some(0));
    for (outcome, times) in [("reloaded", 1.0), ("mistaken", 2.0), ("restart", 1.0)] {
        let series = format!("kmsproxy_reloads_total{{outcome=\"{outcome}\"}}");
        assert_eq!(scene.metric(&series).await, Some(times), "{outcome}");
    }
}

#[tokio::test]
async fn a_listener_is_added_changed_and_removed_and_an_address_that_is_taken_changes_nothing() {
    let scene = Scene::new(SETTING);
    let kept = scene.kept(1).await;
    let before = scene.config();
    let socket = scene.proxy.dir.path().join("second.sock");
    let second = r#"
[[listener]]
name = "second"
face = "aliyun"
address = "unix:DIR/second.sock"
upstream = "emulator"
[[caller]]
name = "second"
listener = "second"
access_key = { id = "LTAIlocal", secret_file = "DIR/secret" }
allow = [{ actions = ["Decrypt"], keys = ["*"] }]
"#;
    let taken = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    scene.write(&format!("{before}{second}").replace(ALLOWED, r#"actions = ["Encrypt"]"#));
    let (status, verdict) = scene.reload().await;
    assert_eq!((status, verdict["outcome"].as_str()), (409, Some("impossible")), "{verdict}");
    assert_eq!(scene.tls.call("Decrypt", &[("CiphertextBlob", &kept[0].0)]).await.0, 200, "the caller is as before");
    drop(taken);

    scene.write(&format!("{before}{second}"));
    assert_eq!(scene.reloaded().await, ["caller.second: added", "listener.second: added"]);
    let target = Target { address: format!("unix:{}", socket.display()), page: None, ..scene.unix.clone() };
    let mut client = target.connect().await;
    assert_eq!(client.call("Decrypt", &[("CiphertextBlob", &kept[0].0)]).await.0, 200);

    // Its socket stays, whoever is connected is let go of, and whoever comes finds the new face.
    scene.write(&format!("{before}{second}").replace("second.sock\"\n", "second.sock\"\nhosts = [\"kms.test\"]\n"));
    assert_eq!(scene.reloaded().await, ["listener.second: hosts"]);
    until("it is let go of", async || client.is_closed().then_some(())).await;
    let (status, body) = target.call("Decrypt", &[("CiphertextBlob", &kept[0].0)]).await;
    assert_eq!(status, 403, "{body}");

    scene.write(&before);
    assert_eq!(scene.reloaded().await, ["caller.second: removed", "listener.second: removed"]);
    until("its file is gone", async || (!socket.exists()).then_some(())).await;
    assert_eq!(scene.tls.call("Decrypt", &[("CiphertextBlob", &kept[0].0)]).await.0, 200, "and no other");
}

/// A folder of a socket that somebody has locked is waited for, for half a second, and so is whatever else a reload binds or
/// reads. Of three tries one is enough: on a machine that stands still the half second may be over before the signal comes.
#[tokio::test]
async fn who_is_told_to_end_while_a_reload_is_prepared_does_not_wait_for_it() {
    for _ in 0..3 {
        let mut scene = Scene::new(SETTING);
        let folder = scene.proxy.dir.path().join("locked");
        std::fs::create_dir(&folder).unwrap();
        let held = std::fs::File::open(&folder).unwrap();
        rustix::fs::flock(&held, rustix::fs::FlockOperation::LockExclusive).unwrap();
        scene.rewrite("/plugin.sock", "/locked/plugin.sock");
        scene.proxy.signal("-HUP");
        sleep(Duration::from_millis(150)).await;
        scene.proxy.signal("-TERM");
        let (begun, mut ended) = (Instant::now(), None);
        while ended.is_none() && begun.elapsed() < Duration::from_secs(30) {
            sleep(Duration::from_millis(20)).await;
            ended = scene.proxy.ended();
        }
        let (code, log) = (ended.and_then(|status| status.code()), scene.proxy.log());
        assert!(code == Some(0) && log.contains(": draining"), "{code:?}\n{log}");
        if !log.contains(": not reloaded") {
            return;
        }
    }
    panic!("the reload came to its end first");
}

#[tokio::test]
async fn a_listener_of_another_name_takes_the_socket_over_and_its_file_keeps_its_mode() {
    let scene = Scene::new(SETTING);
    let blob = scene.ciphertext().await;
    let blob = percent_encoding::utf8_percent_encode(&blob, percent_encoding::NON_ALPHANUMERIC);
    let uri = format!("/?Action=Decrypt&Version=2016-01-20&Format=JSON&CiphertextBlob={blob}");
    let socket = scene.proxy.dir.path().join("plugin.sock");
    let before = scene.config();
    let renamed = before.replace("name = \"unix\"", "name = \"other\"");
    let renamed = renamed.replace("listener = \"unix\"", "listener = \"other\"");
    scene.write(&renamed.replace("plugin.sock\"\n", "plugin.sock\"\nmode = \"0600\"\n"));
    let (status, verdict) = scene.reload().await;
    assert_eq!((status, verdict["outcome"].as_str()), (409, Some("impossible")), "{verdict}");
    assert!(verdict["reasons"][0].as_str().unwrap().contains("another mode, owner or group"), "{verdict}");
    assert_eq!(plain(&socket, "GET", &uri, "").await.0, 200);
    scene.write(&renamed);
    let changes = ["caller.anyone: listener", "listener.other: added", "listener.unix: removed"];
    assert_eq!(scene.reloaded().await, changes);
    assert_eq!(plain(&socket, "GET", &uri, "").await.0, 200);
    assert_eq!(scene.counted("Decrypt", "ok").await, 1, "who it is by name has kept what it had");
}

#[tokio::test]
async fn systemd_is_told_that_it_reloads_and_when_that_is_over() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let emulator = Daemon::emulator(&[]);
    let address = emulator.at("address").to_owned();
    let notify = format!("NOTIFY_SOCKET={}", path.display());
    let scene = Scene::started_by(&["env", &notify], emulator, &address, SETTING);
    let hear = || {
        let mut buffer = [0; 512];
        let length = manager.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    };
    assert_eq!([hear(), hear()], ["READY=1", "STATUS=serving"]);
    scene.rewrite("retries = 0", "retries = 99");
    scene.proxy.signal("-HUP");
    let begun = hear();
    let (word, at) = begun.split_once("\nMONOTONIC_USEC=").unwrap();
    assert!(word == "RELOADING=1" && at.parse::<u64>().unwrap() > 0, "{begun}");
    let status = "STATUS=serving by the configuration before: the last one is wrong, see the log";
    assert_eq!([hear(), hear()], [status, "READY=1"]);
    scene.rewrite("retries = 99", "retries = 1");
    scene.proxy.signal("-HUP");
    assert!(hear().starts_with("RELOADING=1"));
    assert_eq!([hear(), hear()], ["STATUS=serving", "READY=1"]);
    let begun = Instant::now();
    while !scene.proxy.log().contains("reloaded changes=\"upstream.emulator: retries\"") {
        assert!(begun.elapsed() < Duration::from_secs(20), "{}", scene.proxy.log());
        sleep(Duration::from_millis(20)).await;
    }
}
