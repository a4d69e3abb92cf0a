//! The proxy and a KMS on a simulated network, with faults drawn from a seed, each run held against the oracle.
//!
//! `KMSPROXY_SEEDS=10000` runs that many; `KMSPROXY_SEED=17` runs that one and shows what befell it.
#![allow(clippy::unwrap_used, reason = "a test may; clippy's own exception ends at the test function")]

#[path = "simulation/clock.rs"]
mod clock;
#[path = "simulation/diary.rs"]
mod diary;
#[path = "simulation/load.rs"]
mod load;
#[path = "simulation/network.rs"]
mod network;
#[path = "oracle/checker.rs"]
mod oracle;
#[path = "simulation/plan.rs"]
mod plan;
#[path = "simulation/trace.rs"]
mod trace;
#[path = "simulation/world.rs"]
mod world;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use kmsproxy::chance;
use kmsproxy::upstream::local::Digest;
use oracle::history::{Decision, History, OK};
use oracle::{Tally, check};
use plan::{Dice, Plan};
use world::World;

/// What became of one seed.
struct Run {
    plan: Plan,
    history: History,
}

fn run(seed: u64) -> Run {
    chance::repeat(seed);
    let (mut dice, world) = (Dice::new(seed), World::new());
    let mut plan = Plan::draw(&mut dice);
    let mut sim = turmoil::Builder::new()
        .rng_seed(seed)
        .tick_duration(TICK)
        .simulation_duration(Duration::from_secs(60))
        .tcp_capacity(4096)
        .build();
    for (name, host) in [("kms", Host::Kms), ("proxy", Host::Proxy)] {
        let world = Arc::clone(&world);
        sim.host(name, move || host.live(Arc::clone(&world)));
    }
    sim.client("load", load::run(Arc::clone(&world), seed));
    // Never less than a tick, for within one hosts take turns; and the same for every message.
    for (one, other) in plan::LINKS {
        sim.set_link_latency(one, other, TICK + Duration::from_millis(dice.roll(50)));
    }
    loop {
        plan.advance(&mut sim, &world);
        if sim.step().unwrap_or_else(|error| panic!("a host ended: {error}")) {
            break;
        }
    }
    drop(sim);
    let decisions = world.local.decisions().iter().map(read).collect();
    let history = History {
        terms: world::terms(),
        policies: world.policies.lock().unwrap().clone(),
        decisions,
        told: std::mem::take(&mut world.diary.told.lock().unwrap()),
        heard: std::mem::take(&mut world.diary.heard.lock().unwrap()),
        restarts: plan.restarts.clone(),
        steps: plan.steps.clone(),
    };
    Run { plan, history }
}

#[derive(Clone, Copy)]
enum Host {
    Kms,
    Proxy,
}

impl Host {
    async fn live(self, world: Arc<World>) -> turmoil::Result {
        match self {
            Self::Kms => world.kms().await,
            Self::Proxy => world.proxy().await,
        }
    }
}

fn read(decision: &kmsproxy::upstream::local::Decision) -> Decision {
    serde_json::from_value(serde_json::to_value(decision).unwrap()).unwrap()
}

/// What is wrong with a seed, if anything is.
fn judged(seed: u64) -> Result<Tally, String> {
    let ran = catch_unwind(AssertUnwindSafe(|| run(seed))).map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        format!("it panicked: {}\n", text.unwrap_or_else(|| "see above".to_owned()))
    });
    let shown = |what: String, plan: &str| {
        format!("seed {seed}: {what}{plan}to see it again: KMSPROXY_SEED={seed} cargo test --test simulation seeds\n")
    };
    let run = ran.map_err(|what| shown(what, ""))?;
    let befallen = format!("what befell it, in seconds:\n{}", run.plan);
    let tally = check(&run.history).map_err(|violations| shown(violations.to_string(), &befallen))?;
    unrecovered(&run).map_or(Ok(tally), |what| Err(shown(what, &befallen)))
}

/// Some seconds after the last fault, every key is in use again.
fn unrecovered(run: &Run) -> Option<String> {
    let last = run.history.told.iter().map(|told| told.received_ns).max()?;
    let late = run.history.told.iter().filter(|told| told.sent_ns + LATE > last && told.action == "Decrypt");
    let mut outcomes: BTreeMap<&str, usize> = BTreeMap::new();
    late.for_each(|told| *outcomes.entry(&told.outcome).or_default() += 1);
    // What a KMS that throttles has taught of its quota holds for twenty seconds, which are not waited for here.
    let taught = if run.plan.throttles() { outcomes.get("throttled").copied() } else { None };
    let well = outcomes.get(OK).copied().unwrap_or(0) + taught.unwrap_or(0);
    let all: usize = outcomes.values().sum();
    (well < all).then(|| format!("at the end not all is well: {outcomes:?}\n"))
}

#[test]
fn no_promise_is_broken_whatever_befalls_for_so_many_seeds() {
    if let Some(seed) = asked("KMSPROXY_SEED") {
        eprintln!("what befalls seed {seed}, in seconds:\n{}", Plan::draw(&mut Dice::new(seed)));
        let tally = judged(seed).unwrap_or_else(|failure| panic!("{failure}"));
        eprintln!("{tally:?}, by the way {}", digest(&trace::of(&run(seed).history)));
        return;
    }
    let (count, next) = (asked("KMSPROXY_SEEDS").unwrap_or(SEEDS), AtomicU64::new(0));
    let (failures, sum) = (Mutex::new(Vec::new()), Mutex::new(Tally::default()));
    thread::scope(|threads| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            threads.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= count || failures.lock().unwrap().len() >= FAILURES_MAX {
                        break;
                    }
                    match judged(seed) {
                        Ok(tally) => add(&mut sum.lock().unwrap(), tally),
                        Err(failure) => failures.lock().unwrap().push(failure),
                    }
                }
            });
        }
    });
    let (failures, sum) = (failures.into_inner().unwrap(), sum.into_inner().unwrap());
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
    eprintln!("{count} seeds: {sum:?}");
    assert!(sum.plaintexts as u64 > 50 * count, "they were to see plaintexts: {sum:?}");
}

fn add(sum: &mut Tally, tally: Tally) {
    sum.decisions += tally.decisions;
    sum.heard += tally.heard;
    sum.plaintexts += tally.plaintexts;
    sum.told += tally.told;
}

#[test]
fn a_seed_replays_to_the_same_history_in_this_process_and_in_another() {
    let repeats = asked("KMSPROXY_REPEATS").unwrap_or(2);
    for seed in 0..8 {
        let first = trace::of(&run(seed).history);
        for repeat in 1..repeats {
            let trace = trace::of(&run(seed).history);
            let differs = first.iter().zip(&trace).find(|(one, other)| one != other);
            assert!(first == trace, "seed {seed} takes another way in repeat {repeat}: {differs:?}");
        }
        if seed < 2 {
            let shown = elsewhere(seed);
            let expected = digest(&first);
            assert!(
                shown.contains(&expected),
                "seed {seed} takes another way than {expected} in another process: {shown}"
            );
        }
    }
}

/// What is shown of `seed` in a process of its own.
fn elsewhere(seed: u64) -> String {
    let mut command = Command::new(std::env::current_exe().unwrap());
    let command = command.args(["no_promise", "--nocapture"]).env("KMSPROXY_SEED", seed.to_string());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

fn digest(trace: &[String]) -> String {
    Digest::of(trace.join("\n").as_bytes()).to_string()
}

fn asked(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

/// Some two minutes on two cores that do nothing else.
const SEEDS: u64 = 500;
const FAILURES_MAX: usize = 3;
const TICK: Duration = Duration::from_millis(10);
/// The part of a run, at its end, in which all is to be well.
const LATE: u64 = 700_000_000;
