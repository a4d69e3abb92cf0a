//! Attacks on the promises, each a schedule that broke one.

use super::*;

fn plain(call: Call) -> Decrypt {
    match call {
        Call::Decrypt(call) => call,
        Call::Encrypt(_) | Call::GenerateDataKey(_) | Call::Read(_) => unreachable!(),
    }
}

fn flattened(blob: &[u8]) -> Call {
    let context = Context::new(ContextForm::Flattened, "{}", vec![]);
    Call::Decrypt(Decrypt { context, ..plain(decrypt(blob)) })
}

fn read(action: Action, name: &str) -> Call {
    Call::Read(Read { action, key: Some(KeyName::new(name)), extra: Extra::default() })
}

async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn promise_02_what_is_passed_through_does_not_outlive_a_lease_that_began_when_it_was_sent() {
    for call in [|| flattened(b"1"), generate] {
        let world = Arc::new(world());
        let gate = world.kms.hold();
        let asking = {
            let world = Arc::clone(&world);
            tokio::spawn(async move { world.ask("a", call()).await })
        };
        world.kms.asked(1).await;
        // The machine was suspended, or the process stopped: the boot clock went on, tokio's timers did not.
        world.clock.advance(2 * LEASE);
        gate.add_permits(1);
        assert_eq!(asking.await.unwrap(), Err(Kind::Lapsed));
    }
}

#[tokio::test]
async fn promise_04_what_is_passed_through_and_was_sent_before_a_refusal_is_not_released() {
    for call in [|| flattened(b"1"), generate] {
        let world = Arc::new(world());
        world.ask("a", decrypt(b"known")).await.unwrap();
        let gate = world.kms.hold();
        let asking = {
            let world = Arc::clone(&world);
            tokio::spawn(async move { world.ask("a", call()).await })
        };
        world.kms.asked(2).await;
        world.kms.release();
        world.kms.refuse(Some(Kind::KeyDisabled));
        assert_eq!(world.ask("a", encrypt()).await, Err(Kind::KeyDisabled));
        gate.add_permits(1);
        assert_eq!(asking.await.unwrap(), Err(Kind::KeyDisabled));
    }
}

#[tokio::test]
async fn an_arn_of_somebody_elses_account_does_not_end_the_lease_of_our_key() {
    let world = world();
    let (name, all) = grant("a", "a", &["*"]);
    let rules = vec![Rule { actions: vec![Action::DescribeKey], keys: vec![KEY.to_owned()] }];
    let reader = (CallerName::new("b"), Grant { rules, share: CallerName::new("b") });
    world.policy.replace(HashMap::from([(name, all), reader]));
    world.ask("a", decrypt(b"1")).await.unwrap();
    world.kms.say_once(Kms::says(Kind::KeyNotFound, 404, "Forbidden.KeyNotFound"));
    let foreign = format!("acs:kms:cn-nowhere:1:key/{KEY}");
    assert_eq!(world.ask("b", read(Action::DescribeKey, &foreign)).await, Err(Kind::KeyNotFound));
    world.kms.silence(Some(Kind::Unreachable));
    assert_eq!(world.ask("a", decrypt(b"1")).await, Ok(Kms::plaintext(b"1")));
}

#[tokio::test]
async fn an_arn_with_parts_to_spare_is_not_the_key_behind_its_last_colon() {
    let world = world();
    world.policy.replace(HashMap::from([grant("a", "a", &[KEY])]));
    let doubled = format!("acs:kms:cn-hangzhou:1:key/another:{KEY}");
    assert_eq!(world.ask("a", read(Action::DescribeKey, &doubled)).await, Err(Kind::Forbidden));
}

#[tokio::test]
async fn contexts_of_one_caller_do_not_cost_the_key_its_lease_without_context() {
    let world = world();
    for n in 0..kmsproxy::ledger::CONTEXTS_PER_KEY {
        world.ask("b", with_context(b"1", &n.to_string())).await.unwrap();
    }
    world.ask("a", decrypt(b"1")).await.unwrap();
    for _ in 0..40 {
        world.clock.advance(Duration::from_secs(1));
        world.turn().await;
    }
    let calls = world.kms.calls();
    world.ask("a", decrypt(b"1")).await.unwrap();
    assert_eq!(world.kms.calls(), calls, "probed, and still served");
}

#[tokio::test]
async fn refusals_of_one_key_do_not_keep_another_key_from_its_first_lease() {
    let world = Arc::new(world());
    let gate = world.kms.hold();
    let asking = {
        let world = Arc::clone(&world);
        tokio::spawn(async move { world.ask("a", decrypt(b"1")).await })
    };
    for n in 1..=2 {
        world.kms.asked(n).await;
        world.engine.ledger().refuse(&KeyId::new("another"), &Fault::kms(Kind::KeyDisabled));
        gate.add_permits(1);
        settle().await;
        if asking.is_finished() {
            break;
        }
    }
    assert_eq!(asking.await.unwrap(), Ok(Kms::plaintext(b"1")));
}

#[tokio::test]
async fn refusals_of_unknown_ciphertexts_do_not_hide_that_our_credentials_were_refused() {
    let world = world();
    world.ask("a", decrypt(b"1")).await.unwrap();
    world.kms.say_once(Kms::says(Kind::KeyDisabled, 409, "Rejected.Disabled"));
    assert_eq!(world.ask("a", decrypt(b"foreign")).await, Err(Kind::KeyDisabled));
    world.turn().await;
    world.kms.say(Some(Kms::says(Kind::Credentials, 403, "InvalidAccessKeyId.Inactive")));
    assert_eq!(world.ask("a", decrypt(b"cold")).await, Err(Kind::Credentials));
    assert_eq!(world.ask("a", decrypt(b"1")).await, Err(Kind::Credentials), "suspended");
}

#[tokio::test]
async fn promise_03_reads_that_a_disabled_key_allows_do_not_end_the_wait_between_trials() {
    let world = world();
    for blob in [b"1", b"2"] {
        world.ask("a", decrypt(blob)).await.unwrap();
    }
    let disabled = || Kms::says(Kind::KeyDisabled, 409, "Rejected.Disabled");
    world.engine.ledger().refuse(&KeyId::new(KEY), &disabled());
    world.kms.say_once(disabled());
    assert_eq!(world.ask("a", decrypt(b"1")).await, Err(Kind::KeyDisabled), "the trial");
    world.ask("a", read(Action::ListKeyVersions, KEY)).await.unwrap();
    let calls = world.kms.calls();
    world.kms.say_once(disabled());
    assert_eq!(world.ask("a", decrypt(b"2")).await, Err(Kind::KeyDisabled));
    assert_eq!(world.kms.calls(), calls);
}

#[tokio::test]
async fn a_missing_right_to_decrypt_says_nothing_of_the_right_to_encrypt() {
    let world = Arc::new(world());
    world.ask("a", decrypt(b"1")).await.unwrap();
    world.kms.say_once(Kms::says(Kind::NoPermission, 403, "Forbidden.NoPermission"));
    world.clock.advance(Duration::from_secs(10));
    world.turn().await;
    let gate = world.kms.hold();
    let first = {
        let world = Arc::clone(&world);
        tokio::spawn(async move { world.ask("a", encrypt()).await })
    };
    world.kms.asked(3).await;
    world.kms.release();
    assert_eq!(world.ask("a", encrypt()).await, Ok(Vec::new()), "the KMS would have allowed it");
    gate.add_permits(1);
    first.await.unwrap().unwrap();
}

#[tokio::test]
async fn promise_03_holds_for_a_key_that_nothing_was_decrypted_with() {
    for contexts_only in [false, true] {
        let world = world();
        if contexts_only {
            world.ask("a", with_context(b"1", "x")).await.unwrap();
        }
        let calls = world.kms.calls();
        world.kms.refuse(Some(Kind::KeyDisabled));
        for _ in 0..20 {
            assert_eq!(world.ask("a", encrypt()).await, Err(Kind::KeyDisabled));
        }
        assert!(world.kms.calls() - calls <= 2, "{} Encrypts went up", world.kms.calls() - calls);
    }
}

#[tokio::test]
async fn probes_do_not_pile_up_before_a_kms_that_hangs() {
    let world = world();
    for n in 0..40 {
        world.ask("a", with_context(b"1", &n.to_string())).await.unwrap();
    }
    let tasks = TaskTracker::new();
    let watch = Watch::new(Arc::clone(&world.engine), tasks.clone());
    let _gate = world.kms.hold();
    for _ in 0..6 {
        world.clock.advance(Duration::from_secs(10));
        watch.turn(world.clock.now());
        settle().await;
    }
    assert!(tasks.len() <= 40, "{} probes wait for 40 scopes", tasks.len());
}

#[tokio::test]
async fn a_probe_that_was_not_answered_is_sent_again_soon() {
    let world = world();
    world.ask("a", decrypt(b"1")).await.unwrap();
    world.clock.advance(Duration::from_secs(10));
    world.kms.say_once(Fault::kms(Kind::TimedOut));
    world.turn().await;
    assert_eq!(world.kms.calls(), 2);
    world.clock.advance(Duration::from_secs(4));
    world.turn().await;
    assert_eq!(world.kms.calls(), 3, "two lost probes in a row must not cost a healthy lease");
}

#[tokio::test]
async fn a_change_of_our_identity_probes_at_once() {
    let world = world();
    world.ask("a", decrypt(b"1")).await.unwrap();
    world.kms.sign_as("another");
    world.turn().await;
    world.turn().await;
    assert_eq!(world.kms.calls(), 2, "suspended and probed");
}

#[tokio::test]
async fn a_context_in_other_words_neither_answers_nor_fails_for_this_one() {
    let spelled = |text: &str| {
        let context = Context::new(ContextForm::Json, text, vec![("ns".into(), "x".into())]);
        Call::Decrypt(Decrypt { context, ..plain(decrypt(b"1")) })
    };
    let world = world();
    world.kms.say_once(Kms::says(Kind::InvalidCiphertext, 400, "InvalidParameter"));
    assert_eq!(world.ask("a", spelled("{ \"ns\": \"x\" }")).await, Err(Kind::InvalidCiphertext));
    assert_eq!(world.ask("a", spelled("{\"ns\":\"x\"}")).await, Ok(Kms::plaintext(b"1")));
}

#[tokio::test]
async fn one_caller_does_not_evict_what_another_uses() {
    let world = world_with(Terms::default(), cache::Config { capacity: 200, ..cache::Config::default() });
    for _ in 0..5 {
        for blob in 0..50_u32 {
            world.ask("a", decrypt(&blob.to_be_bytes())).await.unwrap();
        }
        world.cache.sweep(world.clock.now());
    }
    for blob in 0..2000_u32 {
        for _ in 0..20 {
            world.ask("b", decrypt(&blob.to_be_bytes())).await.unwrap();
        }
        world.cache.sweep(world.clock.now());
    }
    let calls = world.kms.calls();
    for blob in 0..50_u32 {
        world.ask("a", decrypt(&blob.to_be_bytes())).await.unwrap();
    }
    assert!(world.kms.calls() - calls <= 5, "{} of 50 were gone", world.kms.calls() - calls);
}

#[tokio::test]
async fn promise_03_a_trial_is_not_spent_on_a_failure_that_is_remembered() {
    let world = Arc::new(world());
    world.ask("a", decrypt(b"1")).await.unwrap();
    world.kms.refuse(Some(Kind::KeyDisabled));
    world.clock.advance(Duration::from_secs(10));
    world.turn().await;
    let gate = world.kms.hold();
    let trial = {
        let world = Arc::clone(&world);
        tokio::spawn(async move { world.ask("a", decrypt(b"1")).await })
    };
    world.kms.asked(3).await;
    world.clock.advance(Duration::from_millis(100));
    world.kms.release();
    gate.add_permits(1);
    assert_eq!(trial.await.unwrap(), Err(Kind::KeyDisabled));
    world.kms.refuse(None);
    world.clock.advance(Duration::from_millis(900));
    let _ = world.ask("a", decrypt(b"1")).await;
    world.clock.advance(Duration::from_millis(150));
    assert_eq!(world.ask("a", decrypt(b"1")).await, Ok(Kms::plaintext(b"1")), "1.15 s after the last trial");
}

#[tokio::test]
async fn contexts_that_hold_nothing_any_more_leave_their_place_to_others() {
    let world = world_with(Terms::default(), cache::Config { capacity: 8, ..cache::Config::default() });
    for n in 0..kmsproxy::ledger::CONTEXTS_PER_KEY {
        world.ask("b", with_context(b"1", &n.to_string())).await.unwrap();
        world.cache.sweep(world.clock.now());
    }
    let holding = world.engine.ledger().report(world.clock.now()).iter().filter(|scope| scope.entries > 0).count();
    assert!(holding <= 16, "{holding} scopes hold something");
    for _ in 0..20 {
        let _ = world.ask("a", with_context(b"1", "later")).await;
        world.cache.sweep(world.clock.now());
    }
    for _ in 0..40 {
        world.clock.advance(Duration::from_secs(1));
        world.turn().await;
    }
    let calls = world.kms.calls();
    world.ask("a", with_context(b"1", "later")).await.unwrap();
    assert_eq!(world.kms.calls(), calls, "probed, and still served");
}

#[tokio::test]
async fn promise_03_a_refresh_under_way_stops_at_a_refusal() {
    let max_age = Duration::from_secs(1000);
    let world = world_with(Terms::default(), cache::Config { capacity: 100, max_age });
    for blob in 0..20_u8 {
        world.ask("a", decrypt(&[blob])).await.unwrap();
    }
    for _ in 0..940 {
        world.clock.advance(Duration::from_secs(1));
        world.turn().await;
    }
    world.kms.refuse(Some(Kind::KeyDisabled));
    let calls = world.kms.calls();
    world.engine.refresh(64).await;
    assert!(world.kms.calls() - calls <= 1, "{} refreshes of a refused key went up", world.kms.calls() - calls);
}
