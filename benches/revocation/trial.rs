//! The three cases, and what is held against each trial.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use kmsproxy::lease::Terms;

use crate::dek::{Line, Seen};
use crate::figures::Figures;
use crate::scene::{Began, Scene};
use crate::traffic::{self, PACE};

/// One key: how long it was served, by either end of the instant at which the KMS began.
pub(crate) struct Trial {
    pub(crate) since_told: Duration,
    pub(crate) since_answered: Duration,
    /// Plaintexts that the promises forbid.
    pub(crate) violations: usize,
    /// What was answered when it was over.
    pub(crate) ended_by: String,
}

/// Keys are disabled one after the other, and every DEK is asked for throughout.
pub(crate) fn with_traffic(scene: &Scene) -> Figures {
    Figures::new("key disabled, every DEK asked for every 50 ms", under_traffic(scene, |at| disable_each(scene, at)))
}

/// Every DEK is asked for throughout, and the KMS stops answering.
pub(crate) fn under_silence(scene: &Scene) -> Figures {
    scene.enable_all();
    let silence = |at| {
        sleep_until(at);
        vec![scene.silence(); scene.deks.len()]
    };
    Figures::new("KMS silent, every DEK asked for every 50 ms", under_traffic(scene, silence))
}

/// Keys are disabled one after the other, and nobody asks for anything; the daemon itself is asked by which leases it
/// serves. Whose lease is no longer among them, of its DEK one Decrypt is asked.
pub(crate) fn without_traffic(scene: &Scene) -> Figures {
    scene.enable_all();
    let begun = Instant::now();
    let warm = AtomicBool::new(false);
    scope(|scope| {
        scope.spawn(|| {
            sleep_until(disables_from(begun) - SETTLING / 2);
            warm.store(true, Ordering::Relaxed);
        });
        for (seen, dek) in traffic::run(scene, begun, &warm).iter().zip(&scene.deks) {
            assert!(seen.last().is_some_and(|seen| seen.refusal.is_none()), "{} is not served", dek.key);
        }
    });
    scope(|scope| {
        let disabling = scope.spawn(|| disable_each(scene, disables_from(begun)));
        let closed = watch(scene, disables_from(begun) + SPREAD + lease() + BEYOND);
        let began = disabling.join().unwrap();
        Figures::new("key disabled, no traffic", began.into_iter().zip(closed).map(judge_closed).collect())
    })
}

/// A lease that was seen to be over.
struct Closed {
    /// The daemon was asked for the last time that it still said otherwise.
    served: Instant,
    /// The daemon had answered.
    closed: Instant,
    asked: Seen,
}

fn watch(scene: &Scene, end: Instant) -> Vec<Closed> {
    let mut found = BTreeMap::new();
    let mut served = Instant::now();
    while found.len() < scene.deks.len() && served < end {
        let asked = Instant::now();
        let serving = scene.serving();
        let closed = Instant::now();
        let gone =
            |(trial, key): (usize, &String)| (!found.contains_key(&trial) && !serving.contains(key)).then_some(trial);
        let gone: Vec<usize> = scene.deks.iter().map(|dek| &dek.key).enumerate().filter_map(gone).collect();
        for trial in gone {
            let asked = scene
                .runtime
                .block_on(async { scene.deks[trial].decrypt(&mut Line::open(&scene.socket()).await).await });
            found.insert(trial, Closed { served, closed, asked });
        }
        served = asked;
        sleep_until(asked + PACE);
    }
    assert_eq!(found.len(), scene.deks.len(), "a key is served later than any lease lasts");
    found.into_values().collect()
}

fn judge_closed((began, Closed { served, closed, asked }): (Began, Closed)) -> Trial {
    let late = served > began.answered + lease();
    Trial {
        since_told: closed.saturating_duration_since(began.told),
        since_answered: closed.saturating_duration_since(began.answered),
        violations: usize::from(late) + usize::from(asked.refusal.is_none()),
        ended_by: asked.refusal.unwrap_or_else(|| "a plaintext".to_owned()),
    }
}

/// Lets `begin` have the KMS refuse or fall silent for each trial while every DEK is asked for, and goes on asking until the
/// last lease must be over.
fn under_traffic(scene: &Scene, begin: impl FnOnce(Instant) -> Vec<Began> + Send) -> Vec<Trial> {
    let (begun, stop) = (Instant::now(), AtomicBool::new(false));
    scope(|scope| {
        let beginning = scope.spawn(|| {
            let began = begin(disables_from(begun));
            let last = began.iter().map(|began| began.answered).max().unwrap();
            sleep_until(last + lease() + BEYOND);
            stop.store(true, Ordering::Relaxed);
            began
        });
        let seen = traffic::run(scene, begun, &stop);
        let began = beginning.join().unwrap();
        began.into_iter().zip(seen).map(|(began, seen)| judge(began, &seen)).collect()
    })
}

/// Beyond doubt are a plaintext whose question was sent when the lease must have been over, and one whose question was sent
/// after a refusal had come. A plaintext that is under way when the lease ends may arrive after it.
fn judge(began: Began, seen: &[Seen]) -> Trial {
    let plaintexts = || seen.iter().filter(|seen| seen.refusal.is_none());
    assert!(plaintexts().any(|seen| seen.received < began.told), "nothing was served before");
    let last = plaintexts().map(|seen| seen.received).max().unwrap();
    let refused =
        seen.iter().find(|seen| seen.sent > began.answered && seen.refusal.is_some()).map(|seen| seen.received);
    let end = began.answered + lease();
    let ended_by = seen.iter().find(|seen| seen.sent > last).and_then(|seen| seen.refusal.clone());
    Trial {
        since_told: last.saturating_duration_since(began.told),
        since_answered: last.saturating_duration_since(began.answered),
        violations: plaintexts().filter(|seen| seen.sent > end.min(refused.unwrap_or(end))).count(),
        ended_by: ended_by.unwrap_or_else(|| "nothing".to_owned()),
    }
}

/// Disables the key of each trial at an instant of its own, not in the order in which they were first asked for.
fn disable_each(scene: &Scene, from: Instant) -> Vec<Began> {
    let count = scene.deks.len();
    let mut began: Vec<(usize, Began)> = (0..count)
        .map(|turn| {
            sleep_until(from + SPREAD * u32::try_from(turn).unwrap() / u32::try_from(count).unwrap());
            // A step that is prime to the count.
            let trial = turn * 7919 % count;
            (trial, scene.disable(&scene.deks[trial]))
        })
        .collect();
    began.sort_unstable_by_key(|(trial, _)| *trial);
    began.into_iter().map(|(_, began)| began).collect()
}

fn disables_from(begun: Instant) -> Instant {
    traffic::first_asked(begun, 0) + SPREAD + SETTLING
}

fn sleep_until(instant: Instant) {
    sleep(instant.saturating_duration_since(Instant::now()));
}

/// The bound that is promised.
pub(crate) fn lease() -> Duration {
    Terms::default().duration
}

/// A probe interval.
const SPREAD: Duration = Duration::from_secs(10);
/// For a key that was enabled to be tried, and its first plaintext to come.
const SETTLING: Duration = Duration::from_secs(2);
/// How long is looked further than to the bound.
const BEYOND: Duration = Duration::from_secs(1);
