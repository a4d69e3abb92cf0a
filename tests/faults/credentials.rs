//! Temporary credentials that end while no others can be had.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;
use tokio::time::{Instant, sleep_until};

use super::kms::{Kms, good, honest, html};
use super::rig::{Plan, Rig, ciphertexts};
use super::scene::MACHINE;
use super::traffic::{Traffic, once};
use super::{LEASE, SLACK};

/// F12, with a session of six seconds from a credentials URI, and no other to be had until a lease after its end. Roles
/// and OIDC are renewed by the same keeper; how STS fails is in their own tests.
#[tokio::test]
async fn f12_when_credentials_end_and_cannot_be_renewed_the_door_closes_with_the_lease_and_opens_with_the_next() {
    let _shared = MACHINE.read().await;
    let kms = Kms::plain();
    let (failures, well) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(true)));
    let (failed, mended) = (Arc::clone(&failures), Arc::clone(&well));
    kms.plays(move |asked| match (asked.action.as_str(), mended.load(Ordering::SeqCst)) {
        ("", true) => session(SESSION),
        ("", false) => {
            failed.fetch_add(1, Ordering::SeqCst);
            html(503)
        }
        _ => honest(asked),
    });
    let begun = Instant::now();
    let uri = format!(r#"{{ source = "uri", uri = "http://{}/credentials" }}"#, kms.address);
    let mut rig = Rig::new(kms, &Plan { credentials: Some(&uri), ..Plan::default() });
    let caller = rig.caller("one");
    let blobs = ciphertexts("key-1", "held", 8);
    for (blob, _) in &blobs {
        assert_eq!(once(&caller, blob).await.0.0, 200);
    }
    well.store(false, Ordering::SeqCst);
    let ends = Instant::now() + SESSION;
    let traffic = Traffic::start(&caller, &blobs);
    sleep_until(ends + LEASE + SLACK).await;
    let asked = rig.kms.count();
    well.store(true, Ordering::SeqCst);
    let back = Instant::now();
    let history = traffic.stop_at(back + RETRY_MAX + SLACK).await;
    let (last, first) = (history.last_plaintext(begun, back), history.first_plaintext(back));
    let closed = history.outcomes(ends + LEASE, back);
    eprintln!(
        "F12: session of {SESSION:?}, {} fetches failed: last plaintext after {last:.2?}, the next {first:.2?} after \
         credentials could be had again",
        failures.load(Ordering::SeqCst)
    );
    assert!(failures.load(Ordering::SeqCst) >= 3);
    assert!(last >= SESSION - SLACK && last <= SESSION + LEASE + SLACK, "{last:?}");
    assert_eq!(closed.keys().collect::<Vec<_>>(), [&(409, "Rejected.Unavailable".to_owned())], "{closed:?}");
    assert!(first <= RETRY_MAX + SLACK, "{first:?}");
    let all = rig.kms.asked();
    assert_eq!(all[asked..].iter().find(|asked| asked.action == "Decrypt").unwrap().access_key, "LTAIsession");
}

fn session(life: Duration) -> super::kms::Act {
    let end = Timestamp::now() + life;
    good(&json!({
        "Code": "Success",
        "AccessKeyId": "LTAIsession",
        "AccessKeySecret": "secret",
        "SecurityToken": "token",
        "Expiration": end.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
    }))
}

const SESSION: Duration = Duration::from_secs(6);
/// The longest time between the fourth fetch that failed and the next.
const RETRY_MAX: Duration = Duration::from_secs(8);
