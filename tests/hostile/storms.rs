//! Many calls to a KMS that is ill: it is not asked much more often than there are callers, and they are served again
//! as soon as it is well.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use tokio::time::Instant;

use super::kms::{Act, Kms, said, wrapped};
use super::stage::{Setup, Stage, one};

#[test]
fn a_storm_of_500s_is_not_amplified() {
    let storm = Storm::of(said(500, "InternalFailure"));
    assert_eq!(storm.answers, [(CALLS, (500, "InternalFailure".to_owned()))]);
    assert!(storm.attempts >= CALLS && storm.attempts <= CALLS + CALLS / 5 + SPARE, "{}", storm.attempts);
}

#[test]
fn a_storm_of_429s_is_damped() {
    let storm = Storm::of(said(429, "Rejected.Throttling"));
    let (throttled, timed_out) = ((429, "Rejected.Throttling".to_owned()), (409, "Rejected.Unavailable".to_owned()));
    // Whose deadline ends while it waits for the end of a pause hears that, and not of the throttling.
    assert!(storm.answers.iter().all(|(_, answer)| [&throttled, &timed_out].contains(&answer)), "{:?}", storm.answers);
    assert!(storm.answers.iter().any(|(count, answer)| *answer == throttled && *count > CALLS / 2));
    // Once it has said so nobody asks for a while: far fewer attempts than calls.
    assert!(storm.attempts <= CALLS + CALLS / 5 + SPARE, "{}", storm.attempts);
}

#[test]
fn a_storm_of_closed_connections_is_not_amplified() {
    let storm = Storm::of(Act::Blurt(Vec::new()));
    assert_eq!(storm.answers, [(CALLS, (409, "Rejected.Unavailable".to_owned()))]);
    assert!(storm.attempts <= CALLS + CALLS / 5 + SPARE, "{}", storm.attempts);
}

struct Storm {
    attempts: usize,
    /// How many got which answer.
    answers: Vec<(usize, (u16, String))>,
}

impl Storm {
    /// Half Decrypts, half Encrypts, from a crowd, to a KMS that always does this.
    fn of(act: Act) -> Self {
        let kms = Kms::plain();
        let setup = Setup { timeout: "1s", ..Setup::plain(&kms) };
        let stage = Stage::set_up(kms, &setup);
        stage.kms.says(act);
        let (next, begun) = (AtomicUsize::new(0), Instant::now());
        let answers = thread::scope(|scope| {
            let crowd: Vec<_> = (0..CROWD).map(|_| scope.spawn(|| call(&stage, &next))).collect();
            crowd.into_iter().flat_map(|caller| caller.join().unwrap()).collect::<Vec<_>>()
        });
        let attempts = stage.kms.count();
        eprintln!("{CALLS} calls, {attempts} attempts, {:?}", begun.elapsed());
        stage.kms.is_honest();
        let well = Instant::now();
        while stage.decrypt(&one(), &wrapped("key-1", "d2VsbA==", "")).status != 200 {
            assert!(well.elapsed() < Duration::from_secs(11), "a pause is at most ten seconds");
            thread::sleep(Duration::from_millis(50));
        }
        eprintln!("served {:?} after the KMS was well", well.elapsed());
        stage.assert_serves();
        Self { attempts, answers: counted(answers) }
    }
}

fn call(stage: &Stage, next: &AtomicUsize) -> Vec<(u16, String)> {
    let mut answers = Vec::new();
    loop {
        let number = next.fetch_add(1, Ordering::SeqCst);
        if number >= CALLS {
            return answers;
        }
        let number = number.to_string();
        let heard = if number.ends_with(['0', '2', '4', '6', '8']) {
            let query = [("Action", "Encrypt"), ("KeyId", "key-1"), ("Plaintext", "ZGVr")];
            stage.ask(&one().v1("POST", &query, &[]))
        } else {
            stage.decrypt(&one(), &wrapped("key-1", "ZGVr", &number))
        };
        answers.push(heard.refusal());
    }
}

fn counted(mut answers: Vec<(u16, String)>) -> Vec<(usize, (u16, String))> {
    answers.sort();
    answers.chunk_by(|one, other| one == other).map(|same| (same.len(), same[0].clone())).collect()
}

const CALLS: usize = 300;
const CROWD: usize = 20;
/// What the retry budget holds at the start, and earns while the storm lasts.
const SPARE: usize = 10;
