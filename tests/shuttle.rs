//! The engine under schedules that a random and an adversarial (PCT) scheduler choose.
//!
//! The sources are compiled as they are, with shuttle's locks and tasks in the place of `src/sync.rs`: `engine`, `flight`,
//! `ledger`, `lease`, `cache`, `seal` and what they stand on, but for `guard`, which would wipe its stack for every key; keys are on
//! the heap here. Tasks change places at every lock, every channel that is empty
//! and every await of the KMS. What moka, tokio's channels and the counters do is one step each; all atomics are taken to
//! be in order, which `tests/loom.rs` does not take for granted. `SCHEDULES` says how many for each scenario.

#![allow(dead_code, unreachable_pub, unused_imports)]
#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::wildcard_enum_match_arm)]

#[path = "../src"]
mod source {
    pub(crate) mod audit;
    pub(crate) mod auth;
    pub(crate) mod cache;
    pub(crate) mod chance;
    pub(crate) mod claim;
    pub(crate) mod clock;
    pub(crate) mod engine;
    pub(crate) mod fault;
    pub(crate) mod flight;
    pub(crate) mod kms;
    pub(crate) mod lease;
    pub(crate) mod ledger;
    pub(crate) mod metrics;
    pub(crate) mod policy;
    pub(crate) mod seal;
    pub(crate) mod secret;
    pub(crate) mod trace;
    #[path = "upstream/asking.rs"]
    pub(crate) mod upstream;
}
#[path = "shuttle/guard.rs"]
mod guard;
#[path = "shuttle/scenarios.rs"]
mod scenarios;
#[path = "shuttle/stage.rs"]
mod stage;
#[path = "shuttle/sync.rs"]
mod sync;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use libtest_mimic::{Arguments, Failed, Trial};
use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::{Config, Runner};

use scenarios::{
    Filler, filler_revoker_reader, leader_that_leaves, purge_and_fill, purge_and_upkeep, suspension_and_fill,
    upkeep_and_refusal,
};
use source::{
    audit, auth, cache, chance, claim, clock, engine, fault, flight, kms, lease, ledger, metrics, policy, seal, secret,
    trace, upstream,
};

/// Runs `body` under half of the schedules by each scheduler; how many were run, of which the last failed if any did.
fn schedule(schedules: usize, body: fn()) -> Result<usize, usize> {
    let (random, adversary) = (RandomScheduler::new(schedules / 2), PctScheduler::new(CHANGES, schedules / 2));
    let run = Arc::new(AtomicUsize::new(0));
    let held = under(random, &run, body).and_then(|()| under(adversary, &run, body));
    let run = run.load(Ordering::SeqCst);
    held.map(|()| run).map_err(|()| run)
}

fn under(scheduler: impl Scheduler + 'static, run: &Arc<AtomicUsize>, body: fn()) -> Result<(), ()> {
    let run = Arc::clone(run);
    let mut config = Config::default();
    config.stack_size = STACK_BYTES;
    let runner = Runner::new(scheduler, config);
    let counted = move || {
        run.fetch_add(1, Ordering::SeqCst);
        body();
    };
    catch_unwind(AssertUnwindSafe(|| runner.run(counted))).map(|_| ()).map_err(drop)
}

fn holds(name: &'static str, body: fn()) -> Trial {
    Trial::test(name, move || match schedule(schedules(), body) {
        Ok(run) => {
            println!("{name}: {run} schedules");
            Ok(())
        }
        Err(run) => Err(Failed::from(format!("broken in schedule {run}"))),
    })
}

fn is_found(name: &'static str, body: fn()) -> Trial {
    Trial::test(name, move || match schedule(PLANTED_MAX, body) {
        Ok(run) => Err(Failed::from(format!("not found in {run} schedules"))),
        Err(run) => {
            println!("{name}: in schedule {run}");
            Ok(())
        }
    })
}

fn schedules() -> usize {
    std::env::var("SCHEDULES").map_or(SCHEDULES, |count| count.parse().expect("SCHEDULES is a number"))
}

fn main() -> ExitCode {
    let trials = vec![
        holds("a_refusal_beats_a_fill_and_a_hit", || filler_revoker_reader(Filler::Engine)),
        holds("a_leader_that_leaves_strands_nobody_and_one_question_is_asked", || leader_that_leaves(false)),
        holds("a_suspension_beats_a_fill", || suspension_and_fill(Filler::Engine)),
        holds("a_refusal_beats_a_refresh_and_a_probe", || upkeep_and_refusal(Filler::Engine)),
        holds("a_purge_beats_a_refresh", || purge_and_upkeep(Filler::Engine)),
        holds("a_purge_beats_a_fill_that_was_asked_for_before_it", purge_and_fill),
        is_found("a_fill_that_checks_first_is_found_to_beat_a_purge", || purge_and_upkeep(Filler::AfterACheck)),
        is_found("a_fill_that_checks_first_is_found_to_beat_a_refusal", || filler_revoker_reader(Filler::AfterACheck)),
        is_found("flights_that_end_with_their_leader_are_found_to_strand_others", || leader_that_leaves(true)),
        is_found("a_fill_that_checks_first_is_found_to_beat_a_suspension", || suspension_and_fill(Filler::AfterACheck)),
        is_found("a_refresh_that_checks_first_is_found_to_beat_a_refusal", || upkeep_and_refusal(Filler::AfterACheck)),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// In `cargo test`; releases are tried with a hundred thousand.
const SCHEDULES: usize = 2_000;
/// Within which a planted bug must be found.
const PLANTED_MAX: usize = 100_000;
/// Changes of priority that the adversary makes.
const CHANGES: usize = 3;
const STACK_BYTES: usize = 0x4_0000;
