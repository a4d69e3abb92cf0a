//! Status tells the truth, soon, and costs nothing.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::SEED;
use super::apiserver::{Apiserver, Era};
use super::objects::READY;
use super::stage::{BRISK, LEASE, PROBE, QUIET, Stage, until};

#[tokio::test]
async fn a_thousand_status_calls_cost_the_kms_nothing() {
    let Some(mut server) = Era::Latest.start() else { return };
    let stage = Stage::new(QUIET);
    open(&mut server, &stage).await;
    let before = stage.remote_calls().await;
    let said = server.statuses("v2", 1_000).ok();
    assert_eq!((&said["version"], &said["healthz"], &said["same"]), (&json!("v2"), &json!("ok"), &json!(1_000)));
    assert_eq!(stage.remote_calls().await, before);
}

#[tokio::test]
async fn status_calls_add_nothing_to_the_daemons_own_probes() {
    let Some(mut server) = Era::Latest.start() else { return };
    let stage = Stage::new(BRISK);
    open(&mut server, &stage).await;
    let (begun, before) = (Instant::now(), stage.remote_calls().await);
    let mut asked = 0;
    while begun.elapsed() < WATCHED {
        server.statuses("v2", 100).ok();
        asked += 100;
    }
    let busy = stage.remote_calls().await - before;
    let before = stage.remote_calls().await;
    sleep(WATCHED).await;
    let idle = stage.remote_calls().await - before;
    assert!(asked > 500, "{asked} calls of Status");
    assert!(busy <= idle + 4, "{busy} remote calls while asked {asked} times, {idle} while not asked");
}

#[tokio::test]
async fn a_disabled_key_ends_status_and_decrypts_until_it_is_enabled() {
    let Some(mut server) = Era::Latest.start() else { return };
    let stage = Stage::new(BRISK);
    open(&mut server, &stage).await;
    let made = [("v1", server.encrypt("v1", SEED).ok()), ("v2", server.encrypt("v2", SEED).ok())];

    let key = stage.emulator.at("key_id").to_owned();
    stage.disable(&key).await;
    let took = until_status(&mut server, &["FailedPrecondition"]).await;
    assert!(took <= LEASE + PROBE + SLACK, "Status took {took:?} to tell");
    for (name, made) in &made {
        until_ended(&mut server, name, made).await;
        for refused in [server.decrypt(name, made), server.encrypt(name, SEED)] {
            assert_eq!(refused.code(), Some("FailedPrecondition"), "{refused:?}");
            let told = refused.message();
            assert!(told.contains(&key) || told.contains("alias/kmsproxy-dev"), "the key's name is missing: {told}");
        }
    }

    stage.enable(&key).await;
    until_status(&mut server, &[]).await;
    for (name, made) in &made {
        until_opened(&mut server, name, made).await;
        server.encrypt(name, SEED).ok();
    }
}

#[tokio::test]
async fn a_silent_kms_ends_status_and_decrypts_until_it_speaks() {
    let Some(mut server) = Era::Latest.start() else { return };
    let stage = Stage::new(BRISK);
    open(&mut server, &stage).await;
    let made = [("v1", server.encrypt("v1", SEED).ok()), ("v2", server.encrypt("v2", SEED).ok())];
    for (name, made) in &made {
        assert_eq!(server.decrypt(name, made).ok(), SEED, "{name}");
    }
    let key_id = server.key_id("v2");

    stage.behave(&json!({ "stall": true })).await;
    for (name, made) in &made {
        assert_eq!(server.decrypt(name, made).ok(), SEED, "{name} within the lease");
    }
    let took = until_status(&mut server, &SILENCE).await;
    assert!(took <= LEASE + SLACK, "Status took {took:?} to tell");
    for (name, made) in &made {
        until_ended(&mut server, name, made).await;
        for refused in [server.decrypt(name, made), server.encrypt(name, SEED)] {
            assert!(refused.code().is_some_and(|code| SILENCE.contains(&code)), "{refused:?}");
            assert!(refused.millis() < 3_500.0, "{refused:?}");
        }
    }

    stage.behave(&json!({})).await;
    until_status(&mut server, &[]).await;
    assert_eq!(server.key_id("v2"), key_id);
    for (name, made) in &made {
        until_opened(&mut server, name, made).await;
    }
}

#[tokio::test]
async fn a_kms_that_is_gone_ends_status_within_the_lease() {
    let Some(mut server) = Era::Latest.start() else { return };
    let stage = Stage::new(BRISK);
    open(&mut server, &stage).await;
    let made = server.encrypt("v2", SEED).ok();
    stage.emulator.signal("-KILL");
    let took = until_status(&mut server, &SILENCE).await;
    assert!(took <= LEASE + SLACK, "Status took {took:?} to tell");
    let refused = server.decrypt("v2", &made);
    assert!(refused.code().is_some_and(|code| SILENCE.contains(&code)), "{refused:?}");
}

#[tokio::test]
async fn a_call_that_the_kms_does_not_answer_ends_within_the_apiservers_three_seconds() {
    let Some(mut server) = Era::Latest.start() else { return };
    let stage = Stage::new(QUIET);
    open(&mut server, &stage).await;
    stage.behave(&json!({ "stall": true })).await;
    for name in ["v1", "v2"] {
        let refused = server.encrypt(name, SEED);
        assert!(refused.code().is_some_and(|code| SILENCE.contains(&code)), "{refused:?}");
        assert!(refused.millis() < 3_200.0, "{refused:?}");
    }
    // The lease is not touched by that.
    server.status("v2").ok();
}

/// A client of each version on the socket `k8s`, which serves by then.
pub(crate) async fn open(server: &mut Apiserver, stage: &Stage) {
    for version in ["v1", "v2"] {
        server.open(version, version, &stage.socket("k8s"));
    }
    until_status(server, &[]).await;
}

/// Waits until Status fails with one of `codes`; where there are none, until it does not fail.
async fn until_status(server: &mut Apiserver, codes: &[&str]) -> Duration {
    let (_, took) = until("Status", READY, || {
        let status = server.status("v2");
        let met = status.code().map_or(codes.is_empty(), |code| codes.contains(&code));
        if met { Ok(()) } else { Err(format!("{status:?}")) }
    })
    .await;
    took
}

/// Waits until the lease of a DEK ends: Status wants an Encrypt of late as well, and so may tell sooner.
async fn until_ended(server: &mut Apiserver, name: &str, made: &Value) {
    let ended = || Some(server.decrypt(name, made)).filter(|it| it.code().is_some()).ok_or("served".to_owned());
    until("the lease ends", LEASE, ended).await;
}

/// Waits until what was refused is opened: that it was refused is remembered for a moment after Status is well again.
async fn until_opened(server: &mut Apiserver, name: &str, made: &Value) {
    let (opened, _) = until("it decrypts again", SLACK, || {
        let opened = server.decrypt(name, made);
        if opened.code().is_none() { Ok(opened.ok()) } else { Err(format!("{opened:?}")) }
    })
    .await;
    assert_eq!(opened, SEED, "{name}");
}

/// By how the daemon learned of it: nobody is there, or nobody speaks.
const SILENCE: [&str; 2] = ["Unavailable", "DeadlineExceeded"];
const WATCHED: Duration = Duration::from_secs(4);
/// For a machine that is busy with the other tests.
const SLACK: Duration = Duration::from_secs(2);
