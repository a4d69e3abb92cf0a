//! Promise 6 where time does not go as it should: suspended machines, hands on the wall clock, restored snapshots.

use super::*;

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;

fn step(world: &World, seconds: i64) {
    world.clock.step_wall(world.clock.wall() + jiff::SignedDuration::from_secs(seconds));
}

/// One Decrypt under way, that leaves before what happens and is answered after it.
async fn overtaken(call: fn() -> Call, happens: impl FnOnce(&World)) -> Result<Vec<u8>, Kind> {
    let world = Arc::new(world());
    let gate = world.kms.hold();
    let asking = {
        let world = Arc::clone(&world);
        tokio::spawn(async move { world.ask("a", call()).await })
    };
    world.kms.asked(1).await;
    happens(&world);
    world.kms.release();
    world.kms.silence(Some(Kind::Unreachable));
    gate.add_permits(1);
    asking.await.unwrap()
}

#[tokio::test]
async fn promise_06_steps_of_an_hour_and_a_day_either_way_want_new_consent() {
    for seconds in [HOUR, -HOUR, DAY, -DAY] {
        let world = world();
        world.ask("a", decrypt(b"1")).await.unwrap();
        world.clock.advance(Duration::from_secs(1));
        step(&world, seconds);
        world.kms.silence(Some(Kind::Unreachable));
        assert_eq!(world.ask("a", decrypt(b"1")).await, Err(Kind::Unreachable), "{seconds} s");
        world.kms.silence(None);
        world.clock.advance(Duration::from_secs(6));
        assert_eq!(world.ask("a", decrypt(b"1")).await, Ok(Kms::plaintext(b"1")), "{seconds} s");
        let calls = world.kms.calls();
        world.clock.advance(LEASE - Duration::from_millis(1));
        assert_eq!(world.ask("a", decrypt(b"1")).await, Ok(Kms::plaintext(b"1")), "{seconds} s");
        assert_eq!(world.kms.calls(), calls, "the new lease is as long as any");
        world.clock.advance(Duration::from_millis(1));
        world.kms.silence(Some(Kind::Unreachable));
        assert_eq!(world.ask("a", decrypt(b"1")).await, Err(Kind::Unreachable), "and no longer: {seconds} s");
    }
}

#[tokio::test]
async fn promise_06_a_step_is_found_by_the_watch_without_any_request() {
    let world = world();
    world.ask("a", decrypt(b"1")).await.unwrap();
    world.clock.advance(Duration::from_secs(1));
    step(&world, DAY);
    world.turn().await;
    assert_eq!(world.kms.calls(), 2, "suspended, and probed at once");
}

#[tokio::test]
async fn promise_06_on_resume_nothing_is_served_from_before_the_suspension() {
    for (slept, served) in
        [(LEASE - Duration::from_millis(1), true), (LEASE, false), (Duration::from_secs(86_400), false)]
    {
        let world = world();
        world.ask("a", decrypt(b"1")).await.unwrap();
        world.clock.advance(slept);
        world.kms.silence(Some(Kind::Unreachable));
        let expected = if served { Ok(Kms::plaintext(b"1")) } else { Err(Kind::Unreachable) };
        assert_eq!(world.ask("a", decrypt(b"1")).await, expected, "{slept:?}");
    }
}

#[tokio::test]
async fn promise_06_an_answer_that_a_suspension_overtook_is_not_released() {
    let asleep = |world: &World| world.clock.advance(2 * LEASE);
    assert_eq!(overtaken(|| decrypt(b"1"), asleep).await, Err(Kind::Lapsed));
    assert_eq!(overtaken(generate, asleep).await, Err(Kind::Lapsed));
}

#[tokio::test]
async fn promise_06_an_answer_from_before_a_snapshot_is_not_released_after_it_was_restored() {
    let restored = |world: &World| {
        world.clock.advance(Duration::from_secs(1));
        step(world, DAY);
    };
    assert_eq!(overtaken(|| decrypt(b"1"), restored).await, Err(Kind::Lapsed));
    assert_eq!(overtaken(generate, restored).await, Err(Kind::Lapsed));
}
