//! A KMS that is gone, that says nothing, or that takes for ever.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::kms::{Act, Kms, honest};
use super::line::{Line, Weather};
use super::overseer::Overseer;
use super::process::Daemon;
use super::rig::{Plan, Rig, ciphertexts};
use super::scene::{MACHINE, Scene, Setting, until};
use super::traffic::{Traffic, once, word};
use super::vitals::Vitals;
use super::{DEADLINE, LEASE, SHORT, SLACK, emulator};

/// F1, an outage of two leases in place of a minute.
#[tokio::test]
async fn f01_a_killed_kms_closes_the_door_with_the_lease_and_opens_it_by_its_return() {
    let _shared = MACHINE.read().await;
    let (folder, overseer) = (tempfile::tempdir().unwrap(), Overseer::new(SHORT));
    let (state, decisions) = (folder.path().join("state"), overseer.file().display().to_string());
    let start = || Daemon::emulator_on(&[], &state, &["--decisions", &decisions]);
    let emulator = start();
    let line = Line::to(emulator.at("address")).await;
    let mut scene = Scene::through(emulator, &line.address, SHORT).under(overseer);
    let blobs = scene.warmed(&scene.key(), 8).await;
    let traffic = Traffic::start(&scene.tls, &blobs);
    traffic.flows().await;
    scene.emulator.signal("-KILL");
    let killed = Instant::now();
    sleep_until(killed + 2 * LEASE).await;
    scene.emulator = start();
    line.leads_to(scene.emulator.at("address"));
    let back = Instant::now();
    let history = traffic.stop_at(back + Duration::from_secs(3)).await;
    let (last, first) = (history.last_plaintext(killed, back), history.first_plaintext(back));
    let refills = scene.counted("Decrypt", "ok").await;
    eprintln!(
        "F1: last plaintext {last:.2?} after the kill (lease {LEASE:?}), first {first:.2?} after the return, \
         {refills} Decrypts to fill again and to probe"
    );
    assert!(last <= LEASE + SLACK && last >= LEASE / 2, "{last:?}");
    let closed = history.outcomes(killed + LEASE, back - DEADLINE);
    assert_eq!(closed.keys().collect::<Vec<_>>(), [&(409, "Rejected.Unavailable".to_owned())], "{closed:?}");
    assert!(first <= Duration::from_secs(2), "{first:?}");
    // One for each ciphertext at most, and the probes of three seconds.
    assert!(refills <= 8 + 6, "{refills}");
}

/// F2, a hole of nine deadlines in place of ten minutes. Packets are neither delivered nor refused: what is sent on
/// live connections stays on the way, and new connections are not answered by the kernel.
#[tokio::test]
async fn f02_in_a_black_hole_nobody_waits_beyond_the_deadline_and_nothing_piles_up() {
    let _shared = MACHINE.read().await;
    let (overseer, emulator) = emulator();
    let line = Line::to(emulator.at("address")).await;
    let scene = Scene::through(emulator, &line.address, SHORT).under(overseer);
    let key = scene.key();
    let cold = scene.wrapped(&key, ROUNDS * CROWD).await;
    let warm = scene.warmed(&key, 8).await;
    let traffic = Traffic::start(&scene.tls, &warm);
    traffic.flows().await;
    let before = Vitals::of(scene.proxy.id());
    line.falls_silent().await;
    let hole = Instant::now();
    let (mut callers, mut during) = (JoinSet::new(), before);
    for round in cold.chunks(CROWD) {
        for (blob, _) in round {
            let (target, blob) = (scene.tls.clone(), blob.clone());
            callers.spawn(async move { once(&target, &blob).await });
        }
        sleep(DEADLINE).await;
        let now = Vitals::of(scene.proxy.id());
        during.threads = during.threads.max(now.threads);
        during.descriptors = during.descriptors.max(now.descriptors);
        during.resident_kib = during.resident_kib.max(now.resident_kib);
    }
    let clear = Instant::now();
    line.is(Weather::Clear);
    let answers = callers.join_all().await;
    let history = traffic.stop_at(clear + Duration::from_secs(3)).await;
    let longest = answers.iter().map(|(_, took)| *took).max().unwrap().max(history.longest());
    let (last, first) = (history.last_plaintext(hole, clear), history.first_plaintext(clear));
    let grown = during.resident_kib.saturating_sub(before.resident_kib);
    eprintln!(
        "F2: {} cold calls in {:.1?}, longest wait {longest:.2?} (deadline {DEADLINE:?}), last plaintext {last:.2?} \
         after, first {first:.2?} after the end; memory +{grown} KiB, threads {} to {}, descriptors {} to {}",
        answers.len(),
        clear - hole,
        before.threads,
        during.threads,
        before.descriptors,
        during.descriptors,
    );
    assert!(longest <= DEADLINE + SLACK, "{longest:?}");
    assert!(last <= LEASE + SLACK, "{last:?}");
    assert_eq!(history.outcomes(hole + LEASE, clear - DEADLINE).keys().filter(|(status, _)| *status == 200).count(), 0);
    assert!(grown <= 16 * 1024, "{grown} KiB");
    assert!(during.threads <= before.threads + 8, "{before:?} {during:?}");
    assert!(during.descriptors <= before.descriptors + 3 * CROWD, "{before:?} {during:?}");
    // The connections of before are dead, and the first call may find that out.
    assert!(first <= Duration::from_secs(2) + DEADLINE, "{first:?}");
}

/// F4, five seconds at a byte each 50 ms. There is no bulkhead for each key: what one caller's slow calls leave to
/// another is its turn at the window, its cache, and the places of the probes.
#[tokio::test]
async fn f04_answers_that_drip_cost_their_callers_the_deadline_and_other_keys_nothing() {
    let _shared = MACHINE.read().await;
    let callers = [("slow", "kms"), ("other", "kms")];
    let setting = Setting { timeout: "3s", ..SHORT };
    let mut rig = Rig::new(Kms::plain(), &Plan { callers: &callers, setting, ..Plan::default() });
    let (slow, other) = (rig.caller("slow"), rig.caller("other"));
    let dripping = ciphertexts("key-1", "drip", 4000);
    let (warm, cold) = (ciphertexts("key-2", "warm", 8), ciphertexts("key-2", "cold", 8));
    for (blob, _) in &warm {
        assert_eq!(once(&other, blob).await.0.0, 200);
    }
    let drips: std::collections::BTreeSet<_> = dripping.iter().map(|(blob, _)| blob.clone()).collect();
    rig.kms.plays(move |asked| {
        let slow = asked.form.get("CiphertextBlob").is_some_and(|blob| drips.contains(blob));
        if slow { Act::Drip } else { honest(asked) }
    });
    let begun = Instant::now();
    // More at once than the window has places, for the whole time.
    let mut flood = JoinSet::new();
    for lane in dripping.chunks(dripping.len() / CROWDED) {
        let (slow, lane) = (slow.clone(), lane.to_vec());
        flood.spawn(async move {
            let mut longest = Duration::ZERO;
            for (blob, _) in lane.iter().take_while(|_| begun.elapsed() < DRIPPING) {
                let (outcome, took) = once(&slow, blob).await;
                assert_ne!(outcome.0, 200);
                longest = longest.max(took);
            }
            longest
        });
    }
    let traffic = Traffic::start(&other, &warm);
    let mut waited = Duration::ZERO;
    for (blob, plaintext) in &cold {
        sleep(Duration::from_millis(300)).await;
        let (outcome, took) = once(&other, blob).await;
        assert_eq!((outcome.0, &outcome.1["Plaintext"]), (200, &plaintext.as_str().into()), "{}", outcome.1);
        waited = waited.max(took);
    }
    let history = traffic.stop_at(begun + DRIPPING).await;
    let longest = flood.join_all().await.into_iter().max().unwrap();
    eprintln!(
        "F4: {CROWDED} at once wait {longest:.2?} at most (deadline 3s); of another key {} hits, {:.2} % served, cold \
         calls wait {waited:.2?} at most",
        history.0.len(),
        history.served() * 100.0,
    );
    assert!(longest <= Duration::from_secs(3) + SLACK, "{longest:?}");
    assert_eq!(history.outcomes(begun, Instant::now()).len(), 1, "every hit is served, for more than a lease");
    assert!(waited <= Duration::from_secs(1) + SLACK, "a place is free once the first drips have had their second");
    rig.kms.is_honest();
    let (blob, _) = &dripping[dripping.len() - 1];
    until("served again", async || (word(&once(&slow, blob).await.0).0 == 200).then_some(())).await;
}

/// F4, the same for a whole line, at a byte a second: it is silence, and ends with the line.
#[tokio::test]
async fn f04_a_line_that_passes_a_byte_a_second_costs_everybody_the_deadline_and_no_more() {
    let _shared = MACHINE.read().await;
    let (overseer, emulator) = emulator();
    let line = Line::to(emulator.at("address")).await;
    let scene = Scene::through(emulator, &line.address, SHORT).under(overseer);
    let blobs = scene.wrapped(&scene.key(), CROWD).await;
    line.is(Weather::Dripping);
    let mut callers = JoinSet::new();
    for (blob, _) in &blobs {
        let (target, blob) = (scene.tls.clone(), blob.clone());
        callers.spawn(async move { once(&target, &blob).await });
    }
    let answers = callers.join_all().await;
    let longest = answers.iter().map(|(_, took)| *took).max().unwrap();
    line.is(Weather::Clear);
    let clear = Instant::now();
    until("served", async || (once(&scene.tls, &blobs[0].0).await.0.0 == 200).then_some(())).await;
    eprintln!("F4: {CROWD} calls over such a line wait {longest:.2?} at most, {:.2?} after its end", clear.elapsed());
    let refused = (409, "Rejected.Unavailable".to_owned());
    assert!(answers.iter().all(|(outcome, _)| word(outcome) == refused), "{answers:?}");
    assert!(longest <= DEADLINE + SLACK, "{longest:?}");
    assert!(clear.elapsed() <= Duration::from_secs(2) + DEADLINE, "{:?}", clear.elapsed());
}

const ROUNDS: usize = 9;
const CROWD: usize = 25;
/// The window has 64 places.
const CROWDED: usize = 100;
const DRIPPING: Duration = Duration::from_secs(5);
