//! Ciphertexts that come once and never again.

use std::collections::BTreeSet;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::SHORT;
use super::kms::Kms;
use super::rig::{Plan, Rig, ciphertexts};
use super::scene::{MACHINE, Setting};
use super::traffic::{Traffic, decrypt, once};
use super::vitals::Vitals;

/// F21 and F15. The table has 10⁶ such ciphertexts for a cache of 10⁵ and a hot set of 10³: here all are a hundredth,
/// and the hot set is ten times as large in its cache. Memory is bounded by reading it: 64 MiB is what the table gives, and in
/// them a cache without a bound would still find room for so few; so what it grows by is bounded as well.
#[tokio::test]
async fn f21_ciphertexts_that_come_once_do_not_push_out_those_in_use_nor_fill_the_memory() {
    let _shared = MACHINE.read().await;
    let prefix = ["env", "KMSPROXY_CACHE__CAPACITY=1000", "KMSPROXY_LOG=info"];
    let setting = Setting { lease: "60s", probe: "20s", ..SHORT };
    let mut rig = Rig::new(Kms::plain(), &Plan { prefix: &prefix, setting, ..Plan::default() });
    let caller = rig.caller("one");
    let hot = ciphertexts("key-1", "hot", HOT);
    for (blob, _) in hot.iter().chain(&hot).chain(&hot) {
        assert_eq!(once(&caller, blob).await.0.0, 200);
    }
    let (warm, before) = (rig.kms.count(), Vitals::of(rig.daemon.id()));
    let begun = Instant::now();
    let traffic = Traffic::of(4, &caller, &hot);
    let mut flood = JoinSet::new();
    for part in ciphertexts("key-1", "once", ONCE).chunks(ONCE / 8) {
        let (caller, part) = (caller.clone(), part.to_vec());
        flood.spawn(async move {
            let mut client = caller.connect().await;
            for (blob, plaintext) in part {
                let (status, body) = decrypt(&caller, &mut client, &blob).await.unwrap();
                assert_eq!((status, &body["Plaintext"]), (200, &plaintext.into()), "{body}");
            }
        });
    }
    flood.join_all().await;
    let history = traffic.stop().await;
    let blobs: BTreeSet<_> = hot.iter().map(|(blob, _)| blob.as_str()).collect();
    let asked = &rig.kms.asked()[warm..];
    // Probes ask for hot ones as well; they are counted against the cache here.
    let missed = asked.iter().filter(|asked| blobs.contains(&*asked.form["CiphertextBlob"])).count();
    #[allow(clippy::cast_precision_loss, reason = "counts of one test")]
    let rate = 1.0 - missed as f64 / history.0.len() as f64;
    let vitals = Vitals::of(rig.daemon.id());
    eprintln!(
        "F21: {ONCE} one-shot ciphertexts in {:.1?}, {} calls of a hot set of {HOT} in a cache of 1000: {:.2} % hits; F15: \
         peak {} KiB, {} more than before",
        begun.elapsed(),
        history.0.len(),
        rate * 100.0,
        vitals.peak_kib,
        vitals.peak_kib - before.resident_kib
    );
    assert_eq!(history.outcomes(begun, Instant::now()).len(), 1);
    assert!(rate >= 0.98, "{rate}");
    assert!(vitals.peak_kib <= 64 * 1024, "{vitals:?}");
    assert!(vitals.peak_kib <= before.resident_kib + GROWTH_KIB, "{before:?} {vitals:?}");
}

const HOT: usize = 100;
const ONCE: usize = 10_000;
/// A cache of a thousand grew by 2.3 MiB, one without a bound by 14.6.
const GROWTH_KIB: u64 = 8 * 1024;
