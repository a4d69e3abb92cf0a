//! A daemon that starts unwraps again what the one before it had cached.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kmsproxy::auth::CallerName;
use kmsproxy::engine::Target;
use kmsproxy::fault::{Fault, Kind};
use kmsproxy::kms::{Call, KeyId};
use kmsproxy::warm::{Keeper, Progress};
use kmsproxy::working_set::{self, Member};
use sha2::Digest as _;
use tokio_util::sync::CancellationToken;

use super::kms::{KEY, Kms};
use super::{World, decrypt, with_context, world};

/// More than are asked for at a time.
const MANY: usize = 500;
const AT_ONCE: usize = 64;

impl World {
    fn keeper(&self, file: &Path) -> Arc<Keeper> {
        let keeper = Keeper::open(file.to_owned(), Duration::from_secs(30), Arc::clone(&self.cache));
        let _warm_up = keeper.admit(&self.engine);
        keeper
    }
}

fn member(blob: usize) -> Member {
    let Call::Decrypt(call) = decrypt(blob.to_string().as_bytes()) else { unreachable!() };
    Member { upstream: "test".to_owned(), share: CallerName::new("a"), key: KeyId::new(KEY), call }
}

/// A file of so many members.
fn file(dir: &tempfile::TempDir, members: &[Member]) -> std::path::PathBuf {
    let file = dir.path().join("working-set");
    working_set::write(&file, members.iter()).unwrap();
    file
}

async fn warm(keeper: &Keeper) {
    let [warm_up] = &keeper.warm_ups()[..] else { panic!("one upstream") };
    Arc::clone(warm_up).run(CancellationToken::new()).await;
}

#[tokio::test]
async fn what_was_cached_before_the_start_is_a_hit_after_it_for_whom_it_was_one() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("working-set");
    let before = world();
    for (who, call) in [("a", decrypt(b"1")), ("b", decrypt(b"2")), ("a", with_context(b"3", "default"))] {
        before.ask(who, call).await.unwrap();
    }
    before.keeper(&file).save();

    let after = world();
    let keeper = after.keeper(&file);
    assert_eq!(keeper.progress(), Progress { members: 3, unwrapped: 0, refused: 0 });
    warm(&keeper).await;
    assert_eq!((keeper.progress().left(), after.kms.calls()), (0, 3));
    assert_eq!(after.ask("a", decrypt(b"1")).await, Ok(Kms::plaintext(b"1")));
    assert_eq!(after.ask("b", decrypt(b"2")).await, Ok(Kms::plaintext(b"2")));
    assert_eq!(after.ask("a", with_context(b"3", "default")).await, Ok(Kms::plaintext(b"3")));
    assert_eq!(after.kms.calls(), 3, "none of them left again");
    after.ask("b", decrypt(b"1")).await.unwrap();
    assert_eq!(after.kms.calls(), 4, "what was another's is another's still");
}

#[tokio::test]
async fn what_was_asked_for_last_comes_first_and_a_refresh_is_no_asking() {
    let dir = tempfile::tempdir().unwrap();
    let world = world();
    for blob in [b"1", b"2", b"3", b"1"] {
        world.clock.advance(Duration::from_secs(1));
        world.ask("a", decrypt(blob)).await.unwrap();
    }
    let file = dir.path().join("working-set");
    world.keeper(&file).save();
    let blobs: Vec<_> =
        working_set::read(&file).unwrap().iter().map(|it| it.call.ciphertext.bytes().to_vec()).collect();
    assert_eq!(blobs, [b"1", b"3", b"2"]);
}

#[tokio::test]
async fn who_asks_for_what_still_waits_is_not_kept_waiting_and_it_is_not_asked_for_twice() {
    let dir = tempfile::tempdir().unwrap();
    let world = Arc::new(world());
    let keeper = world.keeper(&file(&dir, &(0..MANY).map(member).collect::<Vec<_>>()));
    let gate = world.kms.hold();
    let [warm_up] = &keeper.warm_ups()[..] else { panic!("one upstream") };
    let warming = tokio::spawn(Arc::clone(warm_up).run(CancellationToken::new()));
    world.kms.asked(AT_ONCE).await;
    world.kms.release();
    let last = (MANY - 1).to_string();
    assert_eq!(world.ask("a", decrypt(last.as_bytes())).await, Ok(Kms::plaintext(last.as_bytes())));
    assert_eq!(world.kms.calls(), AT_ONCE + 1, "it went by all that wait");
    gate.add_permits(AT_ONCE);
    warming.await.unwrap();
    assert_eq!((keeper.progress().left(), world.kms.calls()), (0, MANY));
}

#[tokio::test]
async fn a_refused_key_is_not_asked_about_for_each_dek_and_none_of_them_is_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let world = world();
    let members: Vec<_> = (0..MANY).map(member).collect();
    let file = file(&dir, &members);
    let keeper = world.keeper(&file);
    world.kms.refuse(Some(Kind::KeyDisabled));
    warm(&keeper).await;
    assert_eq!(keeper.progress(), Progress { members: MANY, unwrapped: 0, refused: MANY });
    assert!(world.kms.calls() <= AT_ONCE, "{}", world.kms.calls());
    assert_eq!(world.ask("a", decrypt(b"1")).await, Err(Kind::KeyDisabled));
    keeper.save();
    let mut left = working_set::read(&file).unwrap();
    left.sort_by_key(|member| members.iter().position(|other| other == member));
    assert_eq!(left, members, "the key may be enabled again");
}

#[tokio::test(start_paused = true)]
async fn while_the_kms_is_silent_the_warm_up_waits_forgets_nothing_and_then_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let world = Arc::new(world());
    let file = file(&dir, &(0..MANY).map(member).collect::<Vec<_>>());
    let keeper = world.keeper(&file);
    world.kms.silence(Some(Kind::Unreachable));
    let [warm_up] = &keeper.warm_ups()[..] else { panic!("one upstream") };
    let warming = tokio::spawn(Arc::clone(warm_up).run(CancellationToken::new()));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(keeper.progress().left(), MANY);
    assert!(world.kms.calls() <= AT_ONCE * 10, "it asks more and more seldom: {}", world.kms.calls());
    keeper.save();
    assert_eq!(working_set::read(&file).unwrap().len(), MANY);
    world.kms.silence(None);
    world.clock.advance(Duration::from_secs(60));
    warming.await.unwrap();
    assert_eq!(keeper.progress(), Progress { members: MANY, unwrapped: MANY, refused: 0 });
}

#[tokio::test]
async fn what_is_being_asked_for_when_the_file_is_written_is_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let world = Arc::new(world());
    let file = file(&dir, &(0..MANY).map(member).collect::<Vec<_>>());
    let keeper = world.keeper(&file);
    world.kms.hold();
    let (stop, [warm_up]) = (CancellationToken::new(), &keeper.warm_ups()[..]) else { panic!("one upstream") };
    let warming = tokio::spawn(Arc::clone(warm_up).run(stop.clone()));
    world.kms.asked(AT_ONCE).await;
    keeper.save();
    assert_eq!(working_set::read(&file).unwrap().len(), MANY);
    stop.cancel();
    warming.await.unwrap();
    assert_eq!(keeper.warm_ups()[0].left().len(), MANY, "nor does an end in the midst of it lose any");
}

#[tokio::test]
async fn what_is_waited_for_twice_or_was_cached_meanwhile_is_written_once_and_what_is_cached_first() {
    let dir = tempfile::tempdir().unwrap();
    let world = world();
    let file = file(&dir, &[1, 1, 2, 3].map(member));
    let keeper = world.keeper(&file);
    world.ask("a", decrypt(b"2")).await.unwrap();
    keeper.save();
    assert_eq!(working_set::read(&file).unwrap(), [2, 1, 3].map(member));
}

#[tokio::test(start_paused = true)]
async fn that_there_was_no_room_for_a_question_says_nothing_of_the_dek() {
    let dir = tempfile::tempdir().unwrap();
    let world = world();
    let keeper = world.keeper(&file(&dir, &[member(1), member(2)]));
    world.kms.say_once(Fault::proxy(Kind::Overloaded));
    warm(&keeper).await;
    assert_eq!(keeper.progress(), Progress { members: 2, unwrapped: 2, refused: 0 });
}

#[tokio::test]
async fn a_dek_that_the_kms_does_not_know_is_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let world = world();
    let file = file(&dir, &[member(1), member(2)]);
    let keeper = world.keeper(&file);
    world.kms.say_once(Kms::says(Kind::InvalidCiphertext, 400, "InvalidParameter"));
    warm(&keeper).await;
    assert_eq!(keeper.progress(), Progress { members: 2, unwrapped: 1, refused: 1 });
    keeper.save();
    assert_eq!(working_set::read(&file).unwrap().len(), 1);
}

#[tokio::test]
async fn members_of_an_upstream_or_a_caller_that_is_no_more_are_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let world = world();
    let elsewhere = Member { upstream: "elsewhere".to_owned(), ..member(1) };
    let nobody = Member { share: CallerName::new("nobody"), ..member(2) };
    let keeper = world.keeper(&file(&dir, &[elsewhere, nobody, member(3)]));
    warm(&keeper).await;
    assert_eq!((keeper.progress().members, world.kms.calls()), (1, 1));
}

#[tokio::test]
async fn what_was_cached_of_an_upstream_that_is_not_there_waits_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let world = world();
    let file = file(&dir, &(0..3).map(member).collect::<Vec<_>>());
    let keeper = Keeper::open(file.clone(), Duration::from_secs(30), Arc::clone(&world.cache));
    keeper.save();
    assert_eq!(working_set::read(&file).unwrap().len(), 3, "nor is it written over");
    keeper.forget_absent(&Target::Digest(sha2::Sha256::digest(b"1").into()));
    Arc::clone(&keeper.admit(&world.engine)).run(CancellationToken::new()).await;
    assert_eq!((keeper.progress().unwrapped, world.kms.calls()), (2, 2), "what was purged meanwhile is gone");

    // It goes, and comes again, in the midst of a warm-up or after it.
    world.ask("a", decrypt(b"7")).await.unwrap();
    keeper.part("test");
    world.cache.forget_upstream("test");
    assert_eq!((keeper.warm_ups().len(), world.cache.len()), (0, 0));
    keeper.save();
    assert_eq!(working_set::read(&file).unwrap().len(), 3);
    let waiting = keeper.admit(&world.engine);
    assert_eq!(waiting.progress().left(), 3);
    keeper.part("test");
    Arc::clone(&keeper.admit(&world.engine)).run(CancellationToken::new()).await;
    assert_eq!((keeper.progress().unwrapped, world.kms.calls()), (3, 6));
    assert_eq!(world.ask("a", decrypt(b"7")).await, Ok(Kms::plaintext(b"7")));
    assert_eq!(world.kms.calls(), 6, "a hit");
}

#[tokio::test]
async fn a_file_that_is_no_working_set_is_a_cold_start_and_is_written_over() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("working-set");
    std::fs::write(&file, "something else").unwrap();
    let world = world();
    let keeper = world.keeper(&file);
    assert_eq!(keeper.progress(), Progress::default());
    world.ask("a", decrypt(b"1")).await.unwrap();
    keeper.save();
    assert_eq!(working_set::read(&file).unwrap().len(), 1);
}

#[tokio::test]
async fn what_is_there_already_is_not_written_again() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("working-set");
    let world = world();
    let keeper = world.keeper(&file);
    world.ask("a", decrypt(b"1")).await.unwrap();
    keeper.save();
    std::fs::remove_file(&file).unwrap();
    world.ask("a", decrypt(b"1")).await.unwrap();
    keeper.save();
    assert!(!file.exists(), "nothing came or went");
    world.ask("a", decrypt(b"2")).await.unwrap();
    keeper.save();
    assert_eq!(working_set::read(&file).unwrap().len(), 2);
}

#[tokio::test]
async fn what_is_purged_is_neither_asked_for_nor_written_any_more() {
    let dir = tempfile::tempdir().unwrap();
    let members: Vec<_> = (0..3).map(member).collect();
    let file = file(&dir, &members);
    let world = world();
    let keeper = world.keeper(&file);
    let target = Target::Digest(sha2::Sha256::digest(b"1").into());
    keeper.forget("test", &target);
    assert_eq!(keeper.progress(), Progress { members: 2, unwrapped: 0, refused: 0 });
    warm(&keeper).await;
    keeper.save();
    assert_eq!(world.kms.calls(), 2);
    let written = working_set::read(&file).unwrap();
    assert!(written.len() == 2 && !written.contains(&members[1]));
}

#[tokio::test]
async fn what_is_purged_while_it_is_being_asked_for_is_not_asked_for_again() {
    let dir = tempfile::tempdir().unwrap();
    let file = file(&dir, &[member(1)]);
    let world = world();
    let keeper = world.keeper(&file);
    let gate = world.kms.hold();
    let [warm_up] = &keeper.warm_ups()[..] else { panic!("one upstream") };
    let warming = tokio::spawn(Arc::clone(warm_up).run(CancellationToken::new()));
    world.kms.asked(1).await;
    keeper.forget("test", &Target::All);
    assert_eq!(world.engine.purge(&Target::All), 0);
    gate.add_permits(10);
    warming.await.unwrap();
    keeper.save();
    assert_eq!((world.cache.len(), world.kms.calls()), (0, 1));
    assert_eq!(working_set::read(&file).unwrap(), []);
}
