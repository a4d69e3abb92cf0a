//! What the failures of one caller cost another on the same upstream.

use kmsproxy::lease::Standing;

use super::*;

fn encrypt_with(key: &str) -> Call {
    let Call::Encrypt(call) = encrypt() else { unreachable!() };
    Call::Encrypt(Encrypt { key: KeyName::new(key), ..call })
}

impl World {
    /// Whether every lease is in force.
    fn all_serve(&self) -> bool {
        let reports = self.engine.ledger().report(self.clock.now());
        reports.iter().filter(|it| it.entries > 0).all(|it| it.standing == Standing::Serving)
    }
}

#[tokio::test]
async fn refusals_of_an_unnamed_key_cost_others_two_probes_an_interval_and_no_hit() {
    let calls: [fn(u8) -> Call; 2] = [|_| encrypt_with("alias/gone"), |number| decrypt(&[b'x', number])];
    for call in calls {
        let world = world();
        let contexts = ["1", "2", "3"];
        for context in contexts {
            world.ask("a", with_context(b"blob", context)).await.unwrap();
        }
        let before = world.kms.calls();
        // One refused call each tenth of a second, for as long as a probe interval lasts.
        for number in 0..100 {
            world.kms.say_once(Kms::says(Kind::KeyDisabled, 409, "Rejected.Disabled"));
            assert_eq!(world.ask("b", call(number)).await, Err(Kind::KeyDisabled));
            world.turn().await;
            for context in contexts {
                assert!(world.ask("a", with_context(b"blob", context)).await.is_ok());
            }
            assert!(world.all_serve());
            world.clock.advance(Duration::from_millis(100));
        }
        assert_eq!(world.kms.calls() - before, 100 + 2 * contexts.len());
    }
}

#[tokio::test]
async fn a_refusal_of_one_key_leaves_another_keys_hits_and_lease_alone() {
    let world = world();
    world.ask("a", decrypt(b"blob")).await.unwrap();
    let before = world.kms.calls();
    for number in 0..100 {
        world.kms.say_once(Kms::says(Kind::KeyDisabled, 409, "Rejected.Disabled"));
        assert_eq!(world.ask("b", encrypt_with(&format!("key-{number}"))).await, Err(Kind::KeyDisabled));
        assert!(world.ask("a", decrypt(b"blob")).await.is_ok());
        world.turn().await;
    }
    assert_eq!(world.kms.calls() - before, 100);
}

#[tokio::test]
async fn refusals_of_other_keys_cost_the_first_question_ever_about_a_key_one_repetition_at_most() {
    let world = world();
    let gate = world.kms.hold();
    let engine = Arc::clone(&world.engine);
    let deadline = Deadline::after(world.clock.now(), Duration::from_secs(3));
    let asked = tokio::spawn(async move { engine.respond(&caller("a"), decrypt(b"blob"), deadline).await.is_ok() });
    world.kms.asked(1).await;
    for round in 0..2 {
        world.engine.ledger().refuse(&KeyId::new(&format!("key-{round}")), &Fault::kms(Kind::KeyDisabled));
        gate.add_permits(1);
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }
    assert!(asked.await.unwrap());
    assert_eq!(world.kms.calls(), 2);
}
