//! What a reload puts in the place of something else while questions are under way, on a clock that only the test moves.

use std::sync::Arc;
use std::time::Duration;

use kmsproxy::auth::CallerName;
use kmsproxy::clock::Clock as _;
use kmsproxy::fault::Kind;
use kmsproxy::lease::{Standing, Terms};
use kmsproxy::upstream::gone::Gone;

use super::kms::Kms;
use super::{LEASE, World, decrypt, generate, world};

const TIMEOUT: Duration = Duration::from_secs(2);

impl World {
    /// Puts another KMS in the place of the one that is asked.
    fn exchange(&self) -> Arc<Kms> {
        let other = Arc::new(Kms::default());
        self.engine.exchange(Arc::<Kms>::clone(&other), TIMEOUT, "a test says so");
        other
    }

    fn amend(&self, duration: Duration) {
        let terms = Terms { duration, probe: duration / 3, ..Terms::default() };
        self.engine.ledger().amend(&terms);
    }

    fn standing(&self) -> Standing {
        self.engine.ledger().report(self.clock.now())[0].standing.clone()
    }
}

#[tokio::test]
async fn a_shorter_lease_ends_what_is_open_by_its_own_measure_and_is_probed_at_once() {
    let world = world();
    world.ask("a", decrypt(b"1")).await.unwrap();
    world.clock.advance(Duration::from_secs(5));
    world.amend(Duration::from_secs(6));
    assert_eq!(world.standing(), Standing::Serving);
    world.kms.silence(Some(Kind::Unreachable));
    world.clock.advance(Duration::from_millis(999));
    assert_eq!(world.ask("a", decrypt(b"1")).await, Ok(Kms::plaintext(b"1")));
    world.clock.advance(Duration::from_millis(1));
    assert_eq!(world.standing(), Standing::Lapsed, "six seconds after the KMS was asked");
    assert_eq!(world.ask("a", decrypt(b"1")).await, Err(Kind::Unreachable));

    world.kms.silence(None);
    let calls = world.kms.calls();
    world.amend(Duration::from_secs(3));
    world.turn().await;
    assert_eq!((world.kms.calls(), world.standing()), (calls + 1, Standing::Serving), "a probe renews");
    world.clock.advance(Duration::from_secs(3));
    assert_eq!(world.standing(), Standing::Lapsed);
}

#[tokio::test]
async fn a_longer_lease_counts_from_the_next_consent_on() {
    let world = world();
    world.ask("a", decrypt(b"1")).await.unwrap();
    world.amend(4 * LEASE);
    world.clock.advance(LEASE);
    assert_eq!(world.standing(), Standing::Lapsed, "what was consented to was for so long");
    world.ask("a", decrypt(b"1")).await.unwrap();
    world.clock.advance(2 * LEASE);
    assert_eq!(world.standing(), Standing::Serving);
}

#[tokio::test]
async fn nothing_that_another_kms_consented_to_is_released_after_an_exchange() {
    let world = Arc::new(world());
    world.ask("a", decrypt(b"kept")).await.unwrap();
    let gate = world.kms.hold();
    let mut flights = Vec::new();
    for call in [decrypt(b"slow"), generate()] {
        let world = Arc::clone(&world);
        flights.push(tokio::spawn(async move { world.ask("a", call).await }));
    }
    world.kms.asked(3).await;
    let other = world.exchange();
    assert_eq!(world.standing(), Standing::Unknown);
    gate.add_permits(2);
    for flight in flights {
        assert!(flight.await.unwrap().is_ok());
    }
    assert_eq!(other.calls(), 2, "what was under way is asked of the new one");
    assert_eq!(world.ask("a", decrypt(b"kept")).await, Ok(Kms::plaintext(b"kept")));
    assert_eq!((world.kms.calls(), other.calls()), (3, 3), "what was kept is asked for anew");
}

#[tokio::test]
async fn a_refusal_by_the_one_before_closes_nothing_of_the_new_one() {
    let world = Arc::new(world());
    world.ask("a", decrypt(b"1")).await.unwrap();
    world.kms.refuse(Some(Kind::KeyDisabled));
    world.clock.advance(Duration::from_secs(10));
    world.turn().await;
    assert_eq!(world.ask("a", decrypt(b"1")).await, Err(Kind::KeyDisabled));
    let gate = world.kms.hold();
    world.clock.advance(Duration::from_secs(2));
    let trial = {
        let world = Arc::clone(&world);
        tokio::spawn(async move { world.ask("a", decrypt(b"1")).await })
    };
    let calls = world.kms.calls();
    world.kms.asked(calls + 1).await;
    let other = world.exchange();
    gate.add_permits(1);
    assert_eq!(trial.await.unwrap(), Ok(Kms::plaintext(b"1")));
    assert_eq!(world.ask("a", decrypt(b"2")).await, Ok(Kms::plaintext(b"2")), "nor is a failure remembered");
    assert_eq!((other.calls(), world.standing()), (2, Standing::Serving));
}

#[tokio::test]
async fn what_was_under_way_at_an_upstream_that_is_gone_is_not_answered() {
    let world = Arc::new(world());
    world.ask("a", decrypt(b"kept")).await.unwrap();
    let gate = world.kms.hold();
    let slow = {
        let world = Arc::clone(&world);
        tokio::spawn(async move { world.ask("a", decrypt(b"slow")).await })
    };
    world.kms.asked(2).await;
    world.engine.exchange(Arc::new(Gone), Duration::ZERO, "a test says so");
    gate.add_permits(1);
    assert!(slow.await.unwrap().is_err());
    assert!(world.ask("a", decrypt(b"kept")).await.is_err());
}

#[tokio::test]
async fn an_exchange_is_no_change_of_identity_that_would_close_everything_once_more() {
    let world = world();
    world.ask("a", decrypt(b"1")).await.unwrap();
    let other = world.exchange();
    other.sign_as("somebody else");
    world.ask("a", decrypt(b"1")).await.unwrap();
    let calls = other.calls();
    world.turn().await;
    assert_eq!((other.calls(), world.standing()), (calls, Standing::Serving));
    other.sign_as("a third");
    world.turn().await;
    assert_eq!(other.calls(), calls + 1, "a probe, since everything is lost");
    world.ask("a", decrypt(b"1")).await.unwrap();
    assert_eq!(other.calls(), calls + 2);
}

#[tokio::test]
async fn who_shares_the_cache_changes_and_those_who_stay_keep_their_own() {
    let world = world();
    let share = |names: &[&str]| names.iter().map(|name| CallerName::new(name)).collect::<Vec<_>>();
    world.ask("a", decrypt(b"1")).await.unwrap();
    world.ask("b", decrypt(b"1")).await.unwrap();
    let now = world.clock.now();
    world.cache.divide(&share(&["a", "c"]), now);
    assert_eq!((world.cache.len(), world.kms.calls()), (1, 2));
    world.ask("a", decrypt(b"1")).await.unwrap();
    assert_eq!(world.kms.calls(), 2, "it is still there");
    // Whoever was permitted before, and is no more of those who share: answered, and not kept.
    world.ask("b", decrypt(b"1")).await.unwrap();
    assert_eq!((world.cache.len(), world.kms.calls()), (1, 3));
    world.cache.forget_upstream("test");
    assert_eq!(world.cache.len(), 0);
    world.ask("a", decrypt(b"1")).await.unwrap();
    assert_eq!((world.cache.len(), world.kms.calls()), (1, 4));
}
