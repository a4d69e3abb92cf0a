//! Where a scenario plays: one target, and everything that is done to it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::Failure;
use super::bare;
use super::control::{Behaviour, Control};
use super::course::Course;
use super::deks::Deks;
use super::load::Load;
use super::measured::Measured;
use super::preparation::Preparation;
use super::process::Vitals;
use super::processors::Processors;
use super::progress::Progress;
use super::record::Phase;
use super::source::{Chains, Source, What};
use super::speech::made_up;
use super::target::Target;
use crate::clock::{Clock as _, Deadline, Moment, System};

/// One target under one scenario.
pub(super) struct Stage<'a> {
    pub(super) target: Target,
    pub(super) house: &'a House,
    /// Makes the plaintexts of this run its own.
    run: u64,
    made: u64,
    /// What another target was given, for one that answers a constant.
    pub(super) echo: Option<Deks>,
    pub(super) verified: u64,
    pub(super) wrong: u64,
}

/// What the stages of a run have in common.
pub(super) struct House {
    pub(super) processors: Processors,
    pub(super) progress: Progress,
    pub(super) interrupted: Arc<AtomicBool>,
    pub(super) begun: Moment,
    /// When everything ends.
    pub(super) deadline: Deadline,
    pub(super) patience: Duration,
    pub(super) threads: u32,
    pub(super) connections: Option<usize>,
}

/// How a load is described and bounded.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) name: &'static str,
    /// Calls a second of an open loop.
    pub(super) rate: Option<f64>,
    /// Callers of a closed one.
    pub(super) callers: Option<u32>,
    pub(super) connections: usize,
    pub(super) expected: Duration,
}

/// One of two loads.
pub(super) struct Part<'a> {
    pub(super) shape: Shape,
    pub(super) deks: &'a Deks,
    pub(super) source: Sources<'a>,
}

/// Makes the source of each thread.
pub(super) type Sources<'a> = &'a (dyn Fn((u32, u32)) -> Box<dyn Source> + Sync);

impl<'a> Stage<'a> {
    pub(super) fn new(target: Target, house: &'a House) -> Self {
        let run = uuid::Uuid::new_v4().as_u64_pair().0;
        Self { target, house, run, made: 0, echo: None, verified: 0, wrong: 0 }
    }

    /// As many connections as clients of this face would have for so many calls at once.
    pub(super) fn connections(&self, callers: usize) -> usize {
        let usual = if self.target.terms.face.api().is_some() { (callers / 16).clamp(1, 4) } else { callers };
        self.house.connections.unwrap_or(usual).clamp(1, CONNECTIONS_MAX)
    }

    /// The target's resident memory in bytes, where its process is known.
    pub(super) fn resident(&self) -> Option<u64> {
        self.target.vitals.and_then(Vitals::rss_bytes)
    }

    /// The control socket of the KMS.
    ///
    /// # Errors
    /// Where it is not known.
    pub(super) fn control(&self) -> Result<Control, Failure> {
        self.target.control.clone().ok_or_else(|| {
            let why =
                "this scenario steers the KMS: leave the target out, or give --control PATH of an emulator or dev";
            Failure::Usage(why.to_owned())
        })
    }

    /// Makes `count` new DEKs, with the KMS at its best.
    ///
    /// # Errors
    /// Where they are not encrypted.
    pub(super) fn prepare(&mut self, count: usize) -> Result<Deks, Failure> {
        if self.target.is_bare() {
            return Ok(self.echoes(count));
        }
        self.calm()?;
        let target = &self.target;
        let itself = target.wraps.as_ref().map(|(endpoint, terms)| (endpoint, terms));
        let (endpoint, terms) = itself.unwrap_or((&target.endpoint, &target.terms));
        let preparation = Preparation {
            terms,
            endpoint,
            run: self.run,
            first: self.made,
            count,
            limit: self.left(),
            progress: &self.house.progress,
            interrupted: &self.house.interrupted,
        };
        let deks = preparation.run().map_err(Failure::Runtime)?;
        self.made += count as u64;
        Ok(deks)
    }

    fn echoes(&self, count: usize) -> Deks {
        if let Some(echo) = &self.echo {
            return echo.clone().echoed(bare::PLAIN);
        }
        let mut deks = Deks::default();
        for index in 0..count as u64 {
            let mut blob = [0x42; BLOB_BYTES];
            blob[40..48].copy_from_slice(&index.to_be_bytes());
            deks.push(&made_up(self.target.terms.face, &blob), bare::PLAIN);
        }
        deks
    }

    /// Reads each DEK once, with the KMS at its best, and then lets the KMS be as it is to be.
    ///
    /// # Errors
    /// Where one is not read.
    pub(super) fn warm(&mut self, deks: &Deks) -> Result<(), Failure> {
        if !self.target.is_bare() {
            self.calm()?;
            let mut failed = 0;
            for _ in 0..WARMINGS {
                let phase = self.read_each(deks, "warming")?;
                failed = phase.failed;
                if failed == 0 {
                    break;
                }
                // Most of what a busy daemon refuses, it refuses for a moment only.
                std::thread::sleep(TICK);
                if self.house.interrupted.load(Ordering::Relaxed) || phase.answered == 0 {
                    break;
                }
            }
            if failed > 0 {
                return Err(Failure::Runtime(format!("{failed} of {} DEKs could not be read beforehand", deks.len())));
            }
        }
        self.rough()
    }

    fn read_each(&mut self, deks: &Deks, name: &'static str) -> Result<Phase, Failure> {
        let callers = 64.min(deks.len()).max(1);
        let connections = self.connections(callers);
        let expected = Duration::from_secs_f64(deks.len() as f64 / 5000.0) + Duration::from_millis(100);
        let shape = Shape { name, rate: None, callers: Some(64), connections, expected };
        let count = u32::try_from(deks.len()).expect("DEKs are numbered in 32 bits");
        let source = move |(part, parts): (u32, u32)| -> Box<dyn Source> {
            let lanes = (callers as u32).div_ceil(parts);
            let all = (0..lanes).map(|lane| {
                let first = part + lane * parts;
                (first..count).step_by((lanes * parts) as usize).map(What::Decrypt).collect()
            });
            Box::new(Chains::new(all.collect(), Duration::ZERO))
        };
        self.load(shape, deks, &source, |_| ()).map(|(phase, ())| phase)
    }

    /// Has the KMS answer at once whatever it is asked, where it is ours.
    fn calm(&self) -> Result<(), Failure> {
        match (&self.target.control, self.target.kms()) {
            (Some(control), Some(_)) => control.behave(&Behaviour::default()).map_err(Failure::Runtime),
            _ => Ok(()),
        }
    }

    /// Has the KMS be as the command line or the scenario wants it, where it is ours.
    ///
    /// # Errors
    /// Where it does not obey.
    pub(super) fn rough(&self) -> Result<(), Failure> {
        match (&self.target.control, self.target.kms()) {
            (Some(control), Some(kms)) => control.behave(&kms).map_err(Failure::Runtime),
            _ => Ok(()),
        }
    }

    /// Loads, and measures; `meanwhile` runs beside.
    ///
    /// # Errors
    /// Where nobody listens, or a plaintext was wrong.
    pub(super) fn load<R: Send>(
        &mut self,
        shape: Shape,
        deks: &Deks,
        source: Sources<'_>,
        meanwhile: impl FnOnce(&Course) -> R + Send,
    ) -> Result<(Phase, R), Failure> {
        let (before, begun) = (Seen::of(&self.target), self.so_far());
        let (measured, seen) = self.measure(&shape, deks, source, meanwhile)?;
        let mut phase = self.phase(&shape, &measured, begun)?;
        before.until(&Seen::of(&self.target), &mut phase);
        Ok((phase, seen))
    }

    /// Two loads at once. What the target spent is in the first phase, for both.
    ///
    /// # Errors
    /// As [`Stage::load`].
    pub(super) fn both(&mut self, first: Part<'_>, second: Part<'_>) -> Result<[Phase; 2], Failure> {
        let (before, begun) = (Seen::of(&self.target), self.so_far());
        let (measured, other) = self.measure(&first.shape, first.deks, first.source, |_| {
            self.shaped(&second.shape, second.deks).run(second.source, |_| ())
        })?;
        let (other, ()) = other.map_err(|error| self.unreached(&error))?;
        let mut phases = [self.phase(&first.shape, &measured, begun)?, self.phase(&second.shape, &other, begun)?];
        let calls = phases[1].answered + phases[1].failed;
        phases[0].answered += calls;
        before.until(&Seen::of(&self.target), &mut phases[0]);
        phases[0].answered -= calls;
        Ok(phases)
    }

    fn measure<R: Send>(
        &self,
        shape: &Shape,
        deks: &Deks,
        source: Sources<'_>,
        meanwhile: impl FnOnce(&Course) -> R + Send,
    ) -> Result<(Measured, R), Failure> {
        self.house.progress.begin(shape.name);
        let load = self.shaped(shape, deks);
        let done = load.run(source, |shared| self.watched(shared, shape.expected, meanwhile));
        done.map_err(|error| self.unreached(&error))
    }

    fn phase(&mut self, shape: &Shape, measured: &Measured, begun: Duration) -> Result<Phase, Failure> {
        let mut phase = Phase::of(shape.name, measured, self.house.threads);
        phase.kind = if shape.rate.is_some() { "open" } else { "closed" }.to_owned();
        (phase.offered_per_second, phase.callers) = (shape.rate, shape.callers);
        (phase.connections, phase.begun_seconds) = (shape.connections, begun.as_secs_f64());
        phase.rss_bytes = self.resident();
        self.verified += measured.answered();
        self.wrong += measured.wrong;
        if measured.wrong > 0 { Err(Failure::Wrong(phase.name)) } else { Ok(phase) }
    }

    fn so_far(&self) -> Duration {
        System.now().since(self.house.begun)
    }

    fn unreached(&self, error: &std::io::Error) -> Failure {
        Failure::Runtime(format!("{}: {error}", self.target.endpoint))
    }

    /// The load of a shape, bounded.
    pub(super) fn shaped<'s>(&'s self, shape: &Shape, deks: &'s Deks) -> Load<'s> {
        Load {
            terms: &self.target.terms,
            endpoint: &self.target.endpoint,
            deks,
            connections: shape.connections,
            threads: self.house.threads,
            patience: self.house.patience,
            expected: shape.expected,
            limit: self.left(),
            processors: &self.house.processors,
            interrupted: Arc::clone(&self.house.interrupted),
        }
    }

    fn left(&self) -> Duration {
        self.house.deadline.remaining(System.now())
    }

    /// Runs `meanwhile` while the bar is moved beside it.
    fn watched<R: Send>(&self, shared: &Course, expected: Duration, meanwhile: impl FnOnce(&Course) -> R + Send) -> R {
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let beside = scope.spawn(|| {
                let seen = meanwhile(shared);
                done.store(true, Ordering::Relaxed);
                seen
            });
            while !(done.load(Ordering::Relaxed) && shared.is_done()) {
                let (good, failed) = (shared.good.load(Ordering::Relaxed), shared.failed.load(Ordering::Relaxed));
                self.house.progress.seen(shared.elapsed(), expected, good, failed);
                shared.rest(TICK);
            }
            beside.join().expect("what runs beside a load does not panic")
        })
    }
}

/// What is counted elsewhere.
struct Seen {
    calls: Option<u64>,
    probes: Option<u64>,
    cpu: Option<f64>,
}

impl Seen {
    fn of(target: &Target) -> Self {
        let sum = |metric| target.metrics.and_then(|metrics| metrics.sum(metric));
        let calls = target.control.as_ref().and_then(Control::calls);
        let calls = calls.or_else(|| sum(crate::metrics::ATTEMPTS));
        let cpu = target.vitals.and_then(Vitals::cpu_micros);
        Self { calls, probes: sum(crate::metrics::PROBES), cpu }
    }

    fn until(&self, after: &Self, phase: &mut Phase) {
        let grown = |before: Option<u64>, after: Option<u64>| Some(after?.saturating_sub(before?));
        phase.remote_calls = grown(self.calls, after.calls);
        phase.probes = grown(self.probes, after.probes);
        let cpu = self.cpu.zip(after.cpu).map(|(before, after)| (after - before).max(0.0));
        let calls = phase.answered + phase.failed;
        phase.cpu_us_per_call = cpu.filter(|_| calls > 0).map(|cpu| cpu / calls as f64);
    }
}

const CONNECTIONS_MAX: usize = 20_000;
/// A ciphertext of the embedded KMS for 32 bytes: a version's id, an IV, and a tag.
const BLOB_BYTES: usize = 36 + 12 + 32 + 16;
const TICK: Duration = Duration::from_millis(100);
/// Times that all DEKs are read beforehand, at most: once where each read succeeds.
const WARMINGS: u32 = 4;
