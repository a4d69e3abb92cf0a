//! What a status says of a KMS.

use super::*;

#[tokio::test]
async fn a_kms_that_refuses_or_throttles_answers_and_one_that_says_nothing_does_not() {
    let world = world();
    assert_eq!(world.engine.contact().is_good(), None);
    for (fault, good) in [
        (None, true),
        (Some(Fault::kms(Kind::TimedOut)), false),
        (Some(Kms::says(Kind::KeyDisabled, 409, "Rejected.Disabled")), true),
        (Some(Fault::kms(Kind::Unreachable)), false),
        (Some(Kms::says(Kind::Throttled(None), 429, "Rejected.Throttling")), true),
        // By our own queue.
        (Some(Fault::kms(Kind::Throttled(None))), true),
        (Some(Fault::kms(Kind::Unreachable)), false),
        (Some(Fault::kms(Kind::Throttled(None))), false),
        (None, true),
    ] {
        world.clock.advance(Duration::from_secs(1));
        world.kms.say(fault.clone());
        drop(world.ask("a", encrypt()).await);
        assert_eq!(world.engine.contact().is_good(), Some(good), "{fault:?}");
    }
}

#[tokio::test]
async fn who_was_refused_what_is_told_and_a_key_that_was_made_up_is_not() {
    let world = world();
    world.ask("a", encrypt()).await.unwrap();
    world.kms.say(Some(Kms::says(Kind::InvalidCiphertext, 400, "InvalidParameter")));
    for _ in 0..2 {
        world.ask("a", encrypt_under("made-up")).await.unwrap_err();
    }
    world.ask("b", decrypt(b"1")).await.unwrap_err();
    let told: Vec<_> =
        world.engine.refusals().into_iter().map(|one| (one.caller, one.action, one.key, one.times)).collect();
    let expected = [(CallerName::new("b"), Action::Decrypt, None, 1), (CallerName::new("a"), Action::Encrypt, None, 2)];
    assert_eq!(told, expected);
}

fn encrypt_under(key: &str) -> Call {
    let Call::Encrypt(call) = encrypt() else { unreachable!() };
    Call::Encrypt(Encrypt { key: KeyName::new(key), ..call })
}
