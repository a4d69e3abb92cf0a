//! What an operator purges is wiped, and neither an answer under way nor anything that we do by ourselves brings it back.

use kmsproxy::clock::Moment;
use kmsproxy::engine::Target;
use kmsproxy::lease::{Epoch, Standing};
use sha2::{Digest as _, Sha256};

use super::*;

fn digest(blob: &[u8]) -> [u8; 32] {
    Sha256::digest(blob).into()
}

/// What means the entry of caller `a` for `blob`, and perhaps more.
fn targets(blob: &[u8]) -> [Target; 4] {
    [Target::All, Target::Key(KeyId::new(KEY)), Target::Caller(CallerName::new("a")), Target::Digest(digest(blob))]
}

impl World {
    fn kept(&self, blob: &[u8]) -> usize {
        self.engine.explain(&Ciphertext::new(blob.to_vec()), self.clock.now()).len()
    }

    fn standings(&self) -> Vec<Standing> {
        self.engine.ledger().report(self.clock.now()).into_iter().map(|report| report.standing).collect()
    }
}

#[tokio::test]
async fn promise_04_what_is_purged_is_asked_anew_and_what_is_not_meant_stays() {
    for (target, wiped, kept) in [
        (Target::All, 3, [0, 0]),
        (Target::Key(KeyId::new(KEY)), 3, [0, 0]),
        (Target::Key(KeyId::new("another")), 0, [2, 1]),
        (Target::Caller(CallerName::new("a")), 2, [1, 0]),
        (Target::Digest(digest(b"1")), 2, [0, 1]),
        (Target::Digest(digest(b"3")), 0, [2, 1]),
    ] {
        let world = world();
        for (who, blob) in [("a", b"1"), ("b", b"1"), ("a", b"2")] {
            world.ask(who, decrypt(blob)).await.unwrap();
        }
        let mut wipes = world.engine.ledger().wipes();
        assert_eq!(world.engine.purge(&target), wiped, "{target:?}");
        assert_eq!([world.kept(b"1"), world.kept(b"2")], kept, "{target:?}");
        assert!(wipes.has_changed().unwrap(), "connections are let go of");
        assert_eq!(world.standings(), [Standing::Serving], "nobody refused");
        wipes.mark_unchanged();
        let before = world.kms.calls();
        for (who, blob) in [("a", b"1"), ("b", b"1"), ("a", b"2")] {
            assert_eq!(world.ask(who, decrypt(blob)).await, Ok(Kms::plaintext(blob)));
        }
        assert_eq!(world.kms.calls() - before, wiped, "{target:?}");
    }
}

#[tokio::test]
async fn promise_04_an_answer_that_was_under_way_when_it_was_purged_is_asked_for_anew_and_only_then_kept() {
    for target in targets(b"1") {
        let world = world();
        // The scope is there already: of one that is made later, no answer from before the purge would count anyway.
        world.ask("b", decrypt(b"2")).await.unwrap();
        let gate = world.kms.hold();
        let (engine, clock) = (Arc::clone(&world.engine), Arc::clone(&world.clock));
        let deadline = Deadline::after(clock.now(), Duration::from_secs(3));
        let asking = tokio::spawn(async move { engine.respond(&caller("a"), decrypt(b"1"), deadline).await.is_ok() });
        world.kms.asked(2).await;
        world.engine.purge(&target);
        gate.add_permits(2);
        assert!(asking.await.unwrap(), "who asked is answered");
        assert_eq!((world.kept(b"1"), world.kms.calls()), (1, 3), "{target:?}: the first answer is not kept");
    }
}

#[tokio::test]
async fn whose_answer_is_purged_in_the_instant_between_its_landing_and_its_release_is_answered() {
    for (target, calls) in targets(b"1").into_iter().zip([3, 3, 2, 2]) {
        let world = world();
        world.ask("b", decrypt(b"2")).await.unwrap();
        let (who, deadline) = (caller("a"), Deadline::after(world.clock.now(), Duration::from_secs(3)));
        let mut asking = Box::pin(world.engine.respond(&who, decrypt(b"1"), deadline));
        let polled = std::future::poll_fn(|context| Poll::Ready(asking.as_mut().poll(context))).await;
        assert!(polled.is_pending());
        while world.kept(b"1") == 0 {
            tokio::task::yield_now().await;
        }
        world.engine.purge(&target);
        // Where the sealing keys are wiped, of the KMS; else it has its answer, and nobody else will.
        assert!(asking.await.is_ok(), "{target:?}");
        assert_eq!((world.kept(b"1"), world.kms.calls()), (calls - 2, calls), "{target:?}");
    }
}

#[tokio::test]
async fn promise_04_what_we_ask_by_ourselves_does_not_bring_back_what_is_purged() {
    for target in targets(b"1") {
        let world = world();
        world.ask("a", decrypt(b"1")).await.unwrap();
        world.clock.advance(Duration::from_secs(23 * 3600));
        world.ask("a", encrypt()).await.unwrap();
        // The lease is renewed, and the entry is old.
        world.turn().await;
        let gate = world.kms.hold();
        let before = world.kms.calls();
        let engine = Arc::clone(&world.engine);
        let refreshing = tokio::spawn(async move { engine.refresh(10).await });
        world.kms.asked(before + 1).await;
        assert_eq!(world.engine.purge(&target), 1, "{target:?}");
        gate.add_permits(10);
        refreshing.await.unwrap();
        assert_eq!((world.kept(b"1"), world.kms.calls()), (0, before + 1), "{target:?}");
    }
}

#[tokio::test]
async fn a_purge_lifts_no_refusal_and_ends_no_lease() {
    let world = world();
    world.ask("a", decrypt(b"1")).await.unwrap();
    world.kms.refuse(Some(Kind::KeyDisabled));
    assert_eq!(world.ask("a", encrypt()).await, Err(Kind::KeyDisabled));
    world.engine.purge(&Target::All);
    assert!(matches!(world.standings()[..], [Standing::Refused(_)]));
    assert_eq!(world.ask("a", decrypt(b"1")).await, Err(Kind::KeyDisabled));
}

#[tokio::test]
async fn more_purges_than_are_told_apart_cost_an_answer_under_way_one_more_question_and_no_more() {
    let world = world();
    world.ask("b", decrypt(b"2")).await.unwrap();
    let gate = world.kms.hold();
    let engine = Arc::clone(&world.engine);
    let deadline = Deadline::after(world.clock.now(), Duration::from_secs(3));
    let asking = tokio::spawn(async move { engine.respond(&caller("a"), decrypt(b"1"), deadline).await.is_ok() });
    world.kms.asked(2).await;
    for other in 0..100_u32 {
        world.engine.purge(&Target::Digest(digest(&other.to_be_bytes())));
    }
    gate.add_permits(2);
    assert!(asking.await.unwrap());
    assert_eq!((world.kept(b"1"), world.kms.calls()), (1, 3));
}

#[tokio::test]
async fn what_is_asked_for_again_is_what_is_kept_of_the_key_whatever_its_age() {
    let world = world();
    for blob in [b"1", b"2"] {
        world.ask("a", decrypt(blob)).await.unwrap();
    }
    world.clock.advance(Duration::from_secs(5));
    let (entries, asking) = world.engine.refresh_key(&KeyId::new(KEY));
    assert_eq!(entries, 2);
    asking.await;
    assert_eq!(world.kms.calls(), 4);
    let asked: Vec<Moment> = [b"1", b"2"]
        .iter()
        .flat_map(|blob| world.engine.explain(&Ciphertext::new(blob.to_vec()), world.clock.now()))
        .map(|entry| entry.asked)
        .collect();
    assert_eq!(asked, [world.clock.now(); 2]);
    world.kms.refuse(Some(Kind::KeyDisabled));
    world.engine.refresh_key(&KeyId::new(KEY)).1.await;
    assert_eq!(world.kms.calls(), 5, "a refusal of the key is one for all of them");
}

#[tokio::test]
async fn what_is_kept_and_cannot_be_unsealed_any_more_is_asked_for_anew() {
    let world = world();
    world.ask("a", decrypt(b"1")).await.unwrap();
    // Its sealing key is wiped, and it is of the epoch in force: as where a purge comes between sealing and keeping.
    world.engine.ledger().purge(None, Epoch::default());
    assert_eq!(world.ask("a", decrypt(b"1")).await, Ok(Kms::plaintext(b"1")));
    assert_eq!(world.ask("a", decrypt(b"1")).await, Ok(Kms::plaintext(b"1")));
    assert_eq!(world.kms.calls(), 2);
}
