//! `bench disable`: the revocation drill.

use std::sync::atomic::Ordering;
use std::time::Duration;

use clap::Args;

use super::Scenario;
use crate::bench::control::{self, Control};
use crate::bench::course::Course;
use crate::bench::deks::Deks;
use crate::bench::record::Phase;
use crate::bench::source::{Chains, Schedule, Source, What, stride};
use crate::bench::stage::{Shape, Stage};
use crate::bench::{Failure, span};
use crate::clock::{Clock as _, System};

/// How the key is disabled.
#[derive(Clone, Debug, Args)]
pub(crate) struct Disable {
    /// DEKs of the key
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    deks: u32,
    /// How often a second one of them is asked for, in the half with traffic
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: u32,
    /// How long it is served before the key is disabled
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = span)]
    before: Duration,
    /// Without a plaintext for so long, the drill is over
    #[arg(long, value_name = "TIME", default_value = "3s", value_parser = span)]
    quiet: Duration,
    /// How long to wait for the end at most; the lease's duration, and some
    #[arg(long, value_name = "TIME", default_value = "40s", value_parser = span)]
    within: Duration,
}

/// The scenario.
pub(crate) struct Drill {
    pub(crate) options: Disable,
    pub(crate) deks: Deks,
}

/// Enables the key again, whatever happens.
struct Disabled<'a>(&'a Control, &'a str);

impl Drop for Disabled<'_> {
    fn drop(&mut self) {
        // Where the KMS is gone, so is its key.
        let _ = self.0.turn(self.1, true);
    }
}

impl Scenario for Drill {
    fn room(&self) -> usize {
        self.options.deks as usize
    }

    fn prepare(&mut self, stage: &mut Stage<'_>) -> Result<(), Failure> {
        stage.control()?;
        self.deks = stage.prepare(self.options.deks as usize)?;
        Ok(())
    }

    fn round(&mut self, stage: &mut Stage<'_>) -> Result<Vec<Phase>, Failure> {
        stage.warm(&self.deks)?;
        let mut phases = vec![self.with_traffic(stage)?];
        if stage.target.admin.is_some() {
            std::thread::sleep(AGAIN);
            stage.warm(&self.deks)?;
            phases.push(self.without_traffic(stage)?);
        }
        Ok(phases)
    }
}

impl Drill {
    fn with_traffic(&self, stage: &mut Stage<'_>) -> Result<Phase, Failure> {
        let (control, key) = (stage.control()?, stage.target.terms.key.clone());
        let Disable { rate, before, within, quiet, .. } = self.options;
        let (connections, whole, count) = (stage.connections(16), before + within, self.deks.len());
        let rate = f64::from(rate);
        let name = "disabled, with traffic";
        let shape = Shape { name, rate: Some(rate), callers: None, connections, expected: whole };
        let source = |part: (u32, u32)| -> Box<dyn Source> {
            let at = stride(u64::from(part.0), count);
            Box::new(Schedule::new(rate, whole, part, Box::new(move |number| What::Decrypt(at(number)))))
        };
        let watch = |shared: &Course| -> Result<(Duration, Duration), String> {
            shared.wait_until(before);
            let told = shared.elapsed();
            control.turn(&key, false)?;
            let _again = Disabled(&control, &key);
            let refusing = shared.elapsed();
            loop {
                let last = Duration::from_nanos(shared.last_plaintext.load(Ordering::Relaxed));
                let over = !shared.wait_until(shared.elapsed() + LOOK);
                if over || shared.elapsed().saturating_sub(last.max(refusing)) > quiet {
                    shared.stop.store(true, Ordering::Relaxed);
                    return Ok((told, last));
                }
            }
        };
        let (mut phase, seen) = stage.load(shape, &self.deks, &source, |shared| {
            let seen = watch(shared);
            shared.stop.store(true, Ordering::Relaxed);
            seen
        })?;
        let (told, last) = seen.map_err(Failure::Runtime)?;
        phase.figures.insert("last plaintext after, s".to_owned(), last.saturating_sub(told).as_secs_f64());
        Ok(phase)
    }

    /// Nobody asks; the daemon itself says when it no longer serves, and then one question proves it.
    fn without_traffic(&self, stage: &mut Stage<'_>) -> Result<Phase, Failure> {
        let (control, key) = (stage.control()?, stage.target.terms.key.clone());
        let admin = stage.target.admin.clone().expect("it was looked for");
        let told = System.now();
        control.turn(&key, false).map_err(Failure::Runtime)?;
        let again = Disabled(&control, &key);
        let mut closed = None;
        while closed.is_none() && System.now().since(told) < self.options.within {
            std::thread::sleep(LOOK);
            let status = control::status(&admin).map_err(Failure::Runtime)?;
            let keys = status.upstreams.iter().flat_map(|upstream| &upstream.keys);
            let serves = keys.filter(|other| other.key == key).any(|key| key.lease.starts_with("serving"));
            closed = (!serves).then(|| System.now().since(told));
        }
        let shape = Shape {
            name: "disabled, without traffic",
            rate: None,
            callers: Some(1),
            connections: 1,
            expected: Duration::from_millis(100),
        };
        let source = |(part, _): (u32, u32)| -> Box<dyn Source> {
            let lanes = if part == 0 { vec![[What::Decrypt(0)].into()] } else { Vec::new() };
            Box::new(Chains::new(lanes, Duration::ZERO))
        };
        let (mut phase, ()) = stage.load(shape, &self.deks, &source, |_| ())?;
        drop(again);
        let Some(closed) = closed else {
            let within = self.options.within.as_secs_f64();
            return Err(Failure::Runtime(format!("the key was still served {within} s after it was disabled")));
        };
        phase.figures.insert("closed after, s".to_owned(), closed.as_secs_f64());
        phase.figures.insert("plaintexts afterwards".to_owned(), phase.answered as f64);
        Ok(phase)
    }
}

const LOOK: Duration = Duration::from_millis(50);
/// While a key is refused one trial a second goes up; after this one the key is known to be enabled.
const AGAIN: Duration = Duration::from_millis(1500);
