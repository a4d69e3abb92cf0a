//! What a Kubernetes provider is told of its key, on a clock that only the test moves.

use super::*;

use kmsproxy::engine::{Following, Primary, Provide};
use kmsproxy::kms::KeyVersion;

const PROBE: Duration = Duration::from_secs(10);

fn primary(version: &str) -> Result<Primary, Kind> {
    Ok(Primary { key: KeyId::new(KEY), version: KeyVersion::new(version) })
}

fn said(provider: &Following) -> Result<Primary, Kind> {
    provider.primary().map_err(|fault| fault.kind().clone())
}

fn provider(world: &World, name: &str) -> Following {
    world.engine.follow(&KeyName::new(name))
}

fn named(blob: &[u8], key: &str) -> Call {
    let Call::Decrypt(call) = decrypt(blob) else { unreachable!() };
    Call::Decrypt(Decrypt { key: Some(KeyName::new(key)), ..call })
}

#[tokio::test]
async fn the_primary_version_is_known_without_asking_for_each_who_wants_to_know() {
    let world = world();
    let provider = provider(&world, KEY);
    assert_eq!(said(&provider), Err(Kind::Lapsed), "nobody has asked yet");
    world.turn().await;
    assert_eq!(world.kms.calls(), 2, "an Encrypt for the version, a Decrypt for the lease");
    for _ in 0..10_000 {
        assert_eq!(said(&provider), primary("1"));
    }
    assert_eq!(world.kms.calls(), 2);
}

#[tokio::test]
async fn two_calls_a_probe_interval_keep_an_unused_provider_healthy_however_many_follow_its_key() {
    let world = world();
    let (one, other) = (provider(&world, KEY), provider(&world, KEY));
    for _ in 0..60 {
        world.turn().await;
        assert_eq!((said(&one), said(&other)), (primary("1"), primary("1")));
        world.clock.advance(PROBE);
    }
    assert_eq!(world.kms.calls(), 120);
}

#[tokio::test]
async fn promise_10_a_rotation_shows_within_a_probe_interval_and_invalidates_nothing() {
    let world = world();
    let provider = provider(&world, KEY);
    world.turn().await;
    world.kms.rotate();
    assert_eq!(said(&provider), primary("1"), "not asked yet");
    world.clock.advance(PROBE);
    world.turn().await;
    assert_eq!(said(&provider), primary("2"));
    assert_eq!(provider.past(), [primary("1").unwrap(), primary("2").unwrap()]);
}

#[tokio::test]
async fn a_callers_encrypt_shows_a_rotation_at_once() {
    let world = world();
    let provider = provider(&world, KEY);
    world.turn().await;
    world.kms.rotate();
    world.clock.advance(Duration::from_secs(1));
    world.ask("a", encrypt()).await.unwrap();
    assert_eq!(said(&provider), primary("2"));
}

#[tokio::test]
async fn a_version_that_was_primary_before_another_does_not_come_back() {
    let world = world();
    let provider = provider(&world, KEY);
    world.turn().await;
    world.kms.rotate();
    world.clock.advance(PROBE);
    world.turn().await;
    world.kms.rotate_back();
    world.clock.advance(PROBE);
    world.turn().await;
    assert_eq!(said(&provider), primary("2"), "a replica that lags");
}

#[tokio::test]
async fn promise_02_a_refusal_of_either_call_is_told_at_the_next_status() {
    for kind in [Kind::KeyDisabled, Kind::KeyPendingDeletion, Kind::NoPermission, Kind::AliasNotFound] {
        let world = world();
        let provider = provider(&world, KEY);
        world.turn().await;
        world.kms.refuse(Some(kind.clone()));
        world.clock.advance(PROBE);
        world.turn().await;
        assert_eq!(said(&provider), Err(kind));
        world.kms.refuse(None);
        world.clock.advance(PROBE);
        world.turn().await;
        world.turn().await;
        assert_eq!(said(&provider), primary("1"), "allowed again, it comes back by itself");
    }
}

#[tokio::test]
async fn promise_02_what_a_callers_decrypt_learns_is_told_too() {
    let world = world();
    let provider = provider(&world, KEY);
    world.turn().await;
    world.ask("a", decrypt(b"1")).await.unwrap();
    world.kms.refuse(Some(Kind::KeyDisabled));
    world.engine.ledger().refuse(&KeyId::new(KEY), &Fault::kms(Kind::KeyDisabled));
    assert_eq!(said(&provider), Err(Kind::KeyDisabled));
}

#[tokio::test]
async fn promise_05_silence_is_told_when_the_lease_ends_and_not_before() {
    let world = world();
    let provider = provider(&world, KEY);
    world.turn().await;
    world.kms.silence(Some(Kind::Unreachable));
    for _ in 0..29 {
        world.clock.advance(Duration::from_secs(1));
        world.turn().await;
        assert_eq!(said(&provider), primary("1"));
    }
    world.clock.advance(Duration::from_secs(1));
    assert_eq!(said(&provider), Err(Kind::Unreachable));
    world.kms.silence(None);
    world.clock.advance(Duration::from_secs(3));
    world.turn().await;
    world.turn().await;
    assert_eq!(said(&provider), primary("1"));
}

#[tokio::test]
async fn a_kms_that_does_not_answer_us_in_time_is_no_deadline_of_the_caller() {
    let world = world();
    let provider = provider(&world, KEY);
    world.turn().await;
    world.kms.silence(Some(Kind::TimedOut));
    for _ in 0..4 {
        world.clock.advance(PROBE);
        world.turn().await;
    }
    assert_eq!(said(&provider), Err(Kind::Lapsed));
}

#[tokio::test]
async fn grace_for_reads_is_no_consent_to_write() {
    let terms = Terms { outage_grace: Duration::from_secs(60), ..Terms::default() };
    let world = world_with(terms, cache::Config::default());
    let provider = provider(&world, KEY);
    world.turn().await;
    world.ask("a", decrypt(b"1")).await.unwrap();
    world.kms.silence(Some(Kind::Unreachable));
    world.clock.advance(Duration::from_secs(20));
    world.turn().await;
    world.clock.advance(Duration::from_secs(20));
    world.turn().await;
    assert_eq!(world.ask("a", decrypt(b"1")).await, Ok(Kms::plaintext(b"1")), "reads go on by grace");
    assert_eq!(said(&provider), Err(Kind::Unreachable));
}

#[tokio::test]
async fn promise_06_a_lease_that_was_suspended_is_not_told_as_in_force() {
    let world = world();
    let provider = provider(&world, KEY);
    world.turn().await;
    world.engine.ledger().suspend_all("a test");
    assert_eq!(said(&provider), Err(Kind::Lapsed));
    world.turn().await;
    assert_eq!(said(&provider), primary("1"));
}

#[tokio::test]
async fn an_idle_provider_learns_of_a_disabled_key_from_its_own_probe() {
    let world = world();
    let provider = provider(&world, "alias/k8s");
    world.turn().await;
    assert_eq!(said(&provider), primary("1"), "by an alias as well");
    world.kms.refuse(Some(Kind::KeyDisabled));
    world.clock.advance(PROBE);
    world.turn().await;
    assert_eq!(said(&provider), Err(Kind::KeyDisabled));
    let standing = world.engine.ledger().known(&KeyName::new(KEY)).unwrap().standing(world.clock.now());
    assert!(
        matches!(standing, kmsproxy::lease::Standing::Refused(_)),
        "{standing:?}: an Encrypt by alias hurries the probe"
    );
}

#[tokio::test]
async fn a_decrypt_that_names_another_key_is_refused_and_keeps_nothing() {
    let world = world();
    assert_eq!(world.ask("a", named(b"1", "another")).await, Err(Kind::InvalidCiphertext));
    assert_eq!(world.cache.len(), 0);
    assert_eq!(world.ask("a", named(b"1", KEY)).await, Ok(Kms::plaintext(b"1")));
    assert_eq!(world.ask("a", named(b"1", "another")).await, Err(Kind::InvalidCiphertext), "not from the cache either");
}

#[tokio::test]
async fn policy_refuses_a_decrypt_by_the_key_that_it_names_before_any_remote_call() {
    let world = world();
    world.policy.replace(HashMap::from([grant("a", "a", &["another"])]));
    assert_eq!(world.ask("a", named(b"1", KEY)).await, Err(Kind::Forbidden));
    assert_eq!(world.kms.calls(), 0);
}

#[tokio::test]
async fn promise_03_a_decrypt_that_names_a_refused_key_is_answered_from_the_refusal() {
    let world = world();
    world.ask("a", decrypt(b"1")).await.unwrap();
    world.kms.refuse(Some(Kind::KeyDisabled));
    world.engine.ledger().refuse(&KeyId::new(KEY), &Fault::kms(Kind::KeyDisabled));
    let before = world.kms.calls();
    for blob in 0..100_u8 {
        assert_eq!(world.ask("a", named(&[blob], KEY)).await, Err(Kind::KeyDisabled));
    }
    assert!(world.kms.calls() <= before + 1, "one trial a second at most");
    world.kms.refuse(None);
    world.clock.advance(Duration::from_secs(1));
    assert_eq!(world.ask("a", named(b"7", KEY)).await, Ok(Kms::plaintext(b"7")), "the trial finds it enabled");
}
