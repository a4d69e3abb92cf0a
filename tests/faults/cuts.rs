//! Answers that break off.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::kms::{Act, Kms, honest};
use super::line::{Line, Weather};
use super::rig::{Plan, Rig, ciphertexts};
use super::scene::{MACHINE, Scene, until};
use super::traffic::{once, word};
use super::{SHORT, SLACK, emulator};

/// F3, a thousand resets in place of ten thousand: before the head, within it, after it, and in mid-body.
#[tokio::test]
async fn f03_an_answer_that_is_reset_at_any_place_is_no_answer_and_its_connection_is_given_up() {
    let _shared = MACHINE.read().await;
    let mut rig = Rig::new(Kms::plain(), &Plan::default());
    let (caller, turn) = (rig.caller("one"), AtomicUsize::new(0));
    let cut: Arc<Mutex<BTreeSet<String>>> = Arc::default();
    let cutting = Arc::clone(&cut);
    rig.kms.plays(move |asked| {
        let Act::Say(status, headers, mut body) = honest(asked) else { unreachable!("honest says") };
        // As much of nothing again: of an answer that is cut in there, the document has come whole.
        body.resize(body.len() * 2, b' ');
        let head = format!("HTTP/1.1 {status} OK\r\n{headers}content-length: {}\r\n\r\n", body.len());
        let whole = [head.as_bytes(), &body].concat();
        let turn = turn.fetch_add(1, Ordering::SeqCst);
        if turn % 5 < 4 {
            cutting.lock().unwrap().insert(asked.form["CiphertextBlob"].clone());
        }
        match turn % 5 {
            0 => Act::Reset(Vec::new()),
            1 => Act::Reset(whole[..head.len() / 2].to_vec()),
            2 => Act::Reset(whole[..head.len()].to_vec()),
            3 => Act::Reset(whole[..head.len() + 1 + turn % (body.len() - 1)].to_vec()),
            _ => Act::Say(status, headers, body),
        }
    });
    let (mut right, mut refused) = (0, 0);
    for (blob, plaintext) in ciphertexts("key-1", "cut", RESETS * 5 / 4) {
        let (outcome, took) = once(&caller, &blob).await;
        assert!(took < SLACK, "{took:?}");
        if cut.lock().unwrap().contains(&blob) {
            assert_eq!(word(&outcome), (409, "Rejected.Unavailable".to_owned()));
            refused += 1;
        } else {
            assert_eq!((outcome.0, &outcome.1["Plaintext"]), (200, &plaintext.into()), "{}", outcome.1);
            right += 1;
        }
    }
    let connections = rig.kms.connections();
    eprintln!("F3: {refused} answers reset, {right} whole and right, over {connections} connections");
    // Probes have their turns as well.
    assert!(refused >= RESETS * 9 / 10 && right >= RESETS / 5, "{refused} {right}");
    assert!(connections >= refused, "a connection is never used again after a reset");
}

/// F3 within TLS: the line is reset after so many bytes of the handshake or of the answer.
#[tokio::test]
async fn f03_a_tls_connection_that_is_reset_after_any_byte_gives_the_right_plaintext_or_none() {
    let _shared = MACHINE.read().await;
    let (overseer, emulator) = emulator();
    let line = Line::to(emulator.at("address")).await;
    let scene = Scene::through(emulator, &line.address, SHORT).under(overseer);
    let blobs = scene.wrapped(&scene.key(), CUTS).await;
    let (mut right, mut refused) = (0, 0);
    for (number, (blob, plaintext)) in blobs.iter().enumerate() {
        line.is(Weather::CutAfter(number * STEP));
        line.hangs_up();
        let (outcome, _) = once(&scene.tls, blob).await;
        match outcome.0 {
            200 => {
                assert_eq!(outcome.1["Plaintext"], *plaintext);
                right += 1;
            }
            _ => {
                assert_eq!(word(&outcome), (409, "Rejected.Unavailable".to_owned()));
                refused += 1;
            }
        }
    }
    line.is(Weather::Clear);
    let (blob, plaintext) = &blobs[0];
    until("served on a clear line", async || {
        let (outcome, _) = once(&scene.tls, blob).await;
        (outcome.1["Plaintext"] == **plaintext).then_some(())
    })
    .await;
    eprintln!("F3: of {CUTS} lines cut after 0 to {} bytes, {refused} gave none, {right} the right one", CUTS * STEP);
    assert!(refused > CUTS / 4 && right > 0, "{refused} {right}: the cuts were to fall on both sides of the answer");
}

const RESETS: usize = 1000;
const CUTS: usize = 120;
/// Bytes from one cut to the next: handshake and answer together are about two and a half thousand.
const STEP: usize = 25;
