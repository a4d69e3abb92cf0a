//! Under which versions of a key DEKs were asked for, as `kmsproxy status` tells it.

use std::time::Duration;

use kmsproxy::cache;
use kmsproxy::kms::{Call, Decrypt, Extra};
use kmsproxy::lease::Terms;
use kmsproxy::ledger::Verdict;

use super::{World, decrypt, encrypt, world, world_with};

/// For each version of the one key: its name, how many DEKs are cached, how many were asked for since the rotation.
fn told(world: &World) -> Vec<(String, usize, usize, Verdict)> {
    let keys = world.engine.versions();
    assert!(keys.len() <= 1, "{keys:?}");
    let versions = keys.into_iter().flat_map(|key| key.versions);
    versions.map(|at| (at.version.as_str().to_owned(), at.cached, at.asked_since, at.verdict)).collect()
}

impl World {
    fn second(&self) {
        self.clock.advance(Duration::from_secs(1));
    }

    /// `1` encrypts, three DEKs are asked for, then `2` encrypts.
    async fn rotated(&self) {
        self.ask("a", encrypt()).await.unwrap();
        for blob in [b"1", b"2", b"3"] {
            self.ask("a", decrypt(blob)).await.unwrap();
        }
        self.second();
        self.kms.rotate();
        self.ask("a", encrypt()).await.unwrap();
        self.second();
    }
}

#[tokio::test]
async fn after_a_rotation_the_old_version_counts_until_nobody_asks_for_it() {
    let world = world();
    world.rotated().await;
    assert_eq!(told(&world), [("2".into(), 0, 0, Verdict::Primary), ("1".into(), 3, 0, Verdict::Unasked)]);
    for _ in 0..2 {
        world.ask("a", decrypt(b"2")).await.unwrap();
    }
    assert_eq!(told(&world)[1], ("1".into(), 3, 1, Verdict::Asked), "a hit counts, and a DEK once");
    world.ask("a", decrypt(b"4")).await.unwrap();
    assert_eq!(told(&world)[0], ("2".into(), 1, 1, Verdict::Primary));
    world.ask("b", decrypt(b"5")).await.unwrap();
    assert_eq!(told(&world)[0], ("2".into(), 2, 2, Verdict::Primary), "callers that do not share have their own");
}

#[tokio::test]
async fn our_own_probes_and_refreshes_ask_for_nothing_and_a_refresh_forgets_nothing() {
    let max_age = Duration::from_secs(1000);
    let world = world_with(Terms::default(), cache::Config { capacity: 100, max_age });
    world.rotated().await;
    world.kms.rotate_back();
    world.ask("a", decrypt(b"1")).await.unwrap();
    let before = world.engine.versions();
    let calls = world.kms.calls();
    for _ in 0..960 {
        world.second();
        world.turn().await;
        world.engine.refresh(64).await;
    }
    assert!(world.kms.calls() > calls + 90, "it was asked about all the time");
    assert_eq!(world.engine.versions(), before);
}

#[tokio::test]
async fn what_is_never_shared_counts_and_so_does_what_is_refused_to_somebody_who_had_it() {
    let world = world();
    world.rotated().await;
    world.kms.rotate_back();
    let Call::Decrypt(call) = decrypt(b"1") else { unreachable!() };
    let odd = Decrypt { extra: Extra(vec![("Recipient".into(), "x".into())]), ..call };
    world.ask("a", Call::Decrypt(odd)).await.unwrap();
    assert_eq!(told(&world)[1], ("1".into(), 3, 0, Verdict::Asked));

    let world = super::world();
    world.rotated().await;
    world.kms.refuse(Some(kmsproxy::fault::Kind::KeyDisabled));
    world.clock.advance(Duration::from_secs(10));
    world.turn().await;
    world.ask("a", decrypt(b"3")).await.unwrap_err();
    assert_eq!(told(&world)[1], ("1".into(), 3, 1, Verdict::Asked));
}

#[tokio::test]
async fn who_is_not_allowed_a_dek_does_not_count() {
    let world = world();
    world.rotated().await;
    world.policy.replace(std::collections::HashMap::from([super::grant("a", "a", &["another-key"])]));
    world.ask("a", decrypt(b"1")).await.unwrap_err();
    assert_eq!(told(&world)[1], ("1".into(), 3, 0, Verdict::Unasked));
}
