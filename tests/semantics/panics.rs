//! An upstream that panics: F19 of `tests/faults/README.md`. There are no failpoints in the daemon, and nothing that comes
//! over a wire is known to make it panic, so that this is shown on the engine.

use std::sync::Arc;
use std::time::Duration;

use kmsproxy::fault::Kind;

use super::kms::Kms;
use super::{LEASE, World, decrypt, encrypt, world};

/// In one of a hundred fills, with three waiters each.
#[tokio::test]
async fn promise_07_a_fill_that_panics_fails_its_waiters_alone_and_the_next_question_is_asked() {
    let world = Arc::new(world());
    world.kms.panic_each(100);
    let (mut right, mut failed) = (0, 0);
    for number in 0_u32..500 {
        let blob = number.to_be_bytes();
        let before = world.kms.calls();
        let gate = world.kms.hold();
        let waiters: Vec<_> = (0..3).map(|_| tokio::spawn(ask(Arc::clone(&world), blob))).collect();
        world.kms.asked(before + 1).await;
        gate.add_permits(1);
        let mut answers = Vec::new();
        for waiter in waiters {
            answers.push(waiter.await.expect("nobody else panics"));
        }
        assert_eq!(world.kms.calls(), before + 1, "one question for all");
        if world.kms.calls().is_multiple_of(100) {
            assert_eq!(answers, vec![Err(Kind::Internal); 3]);
            failed += 3;
            world.kms.release();
            assert_eq!(ask(Arc::clone(&world), blob).await, Ok(Kms::plaintext(&blob)), "nothing of it is remembered");
        } else {
            assert_eq!(answers, vec![Ok(Kms::plaintext(&blob)); 3]);
            right += 3;
        }
    }
    eprintln!(
        "F19: {} questions, {failed} waiters of those that panicked failed, {right} others got theirs",
        world.kms.calls()
    );
    assert_eq!((right, failed), (1485, 15));
}

#[tokio::test]
async fn promise_05_a_probe_that_panics_renews_nothing_and_is_made_again() {
    let world = world();
    world.ask("a", decrypt(b"1")).await.unwrap();
    world.kms.panic_each(1);
    let sent = LEASE / 3;
    world.clock.advance(sent);
    world.turn().await;
    assert_eq!(world.kms.calls(), 2, "the probe that panicked");
    world.clock.advance(LEASE - sent);
    assert_eq!(world.ask("a", decrypt(b"1")).await, Err(Kind::Internal), "it renewed nothing");

    world.kms.panic_each(usize::MAX);
    world.clock.advance(Duration::from_secs(10));
    world.turn().await;
    let calls = world.kms.calls();
    assert_eq!(world.ask("a", decrypt(b"1")).await, Ok(Kms::plaintext(b"1")));
    assert_eq!(world.kms.calls(), calls, "served by the probe's consent");
}

/// As the listeners do it, each call is a task, or is caught in the task of its connection.
#[tokio::test]
async fn promise_11_an_encrypt_that_panics_ends_its_own_call_and_no_lease() {
    let world = Arc::new(world());
    world.ask("a", decrypt(b"1")).await.unwrap();
    world.kms.panic_each(1);
    let asking = Arc::clone(&world);
    assert!(tokio::spawn(async move { asking.ask("a", encrypt()).await }).await.unwrap_err().is_panic());
    let calls = world.kms.calls();
    assert_eq!(world.ask("a", decrypt(b"1")).await, Ok(Kms::plaintext(b"1")));
    assert_eq!(world.kms.calls(), calls);
}

async fn ask(world: Arc<World>, blob: [u8; 4]) -> Result<Vec<u8>, Kind> {
    world.ask("a", decrypt(&blob)).await
}
