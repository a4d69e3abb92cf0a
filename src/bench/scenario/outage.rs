//! `bench outage`: the KMS stalls, fails, throttles, and comes back.

use std::time::Duration;

use clap::Args;

use super::Scenario;
use crate::bench::control::Behaviour;
use crate::bench::deks::Deks;
use crate::bench::record::Phase;
use crate::bench::source::{Schedule, Source, What, stride};
use crate::bench::stage::{Part, Shape, Stage};
use crate::bench::{Failure, span};

/// What befalls the KMS, and who asks meanwhile.
#[derive(Clone, Debug, Args)]
pub(crate) struct Outage {
    /// DEKs that were read before: hits
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=500_000))]
    deks: u32,
    /// How often a second one of them is read
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: u32,
    /// How often a second a DEK is asked for that nobody has
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    cold: u32,
    /// How long each state lasts. Hits end where one outlasts the lease (30s)
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = span)]
    each: Duration,
}

/// The scenario.
pub(crate) struct Outages {
    pub(crate) options: Outage,
    pub(crate) deks: Deks,
}

impl Scenario for Outages {
    fn room(&self) -> usize {
        self.options.deks as usize
    }

    fn connections(&self) -> usize {
        128
    }

    fn prepare(&mut self, stage: &mut Stage<'_>) -> Result<(), Failure> {
        stage.control()?;
        self.deks = stage.prepare(self.options.deks as usize)?;
        Ok(())
    }

    fn round(&mut self, stage: &mut Stage<'_>) -> Result<Vec<Phase>, Failure> {
        let control = stage.control()?;
        let usual = stage.target.kms().unwrap_or_default();
        let count = (f64::from(self.options.cold) * self.options.each.as_secs_f64()).ceil() as usize + 1;
        let cold = stage.prepare(count * STATES.len())?;
        stage.warm(&self.deks)?;
        let mut phases = Vec::new();
        for (at, (names, befall)) in STATES.iter().enumerate() {
            control.behave(&befall(usual)).map_err(Failure::Runtime)?;
            let played = self.state(stage, *names, &cold, at * count);
            control.behave(&usual).map_err(Failure::Runtime)?;
            phases.extend(played?);
        }
        Ok(phases)
    }
}

impl Outages {
    fn state(
        &self,
        stage: &mut Stage<'_>,
        names: [&'static str; 2],
        cold: &Deks,
        from: usize,
    ) -> Result<[Phase; 2], Failure> {
        let Outage { rate, cold: seldom, each, .. } = self.options;
        let shape = |name, rate: u32, connections| Shape {
            name,
            rate: Some(f64::from(rate)),
            callers: None,
            connections,
            expected: each,
        };
        let count = self.deks.len();
        let hits = |part: (u32, u32)| -> Box<dyn Source> {
            let at = stride(u64::from(part.0) * 1_000_003, count);
            Box::new(Schedule::new(f64::from(rate), each, part, Box::new(move |number| What::Decrypt(at(number)))))
        };
        let last = cold.len() as u64 - 1;
        let misses = |part: (u32, u32)| -> Box<dyn Source> {
            let at = move |number: u64| (from as u64 + number * u64::from(part.1) + u64::from(part.0)).min(last) as u32;
            Box::new(Schedule::new(f64::from(seldom), each, part, Box::new(move |number| What::Decrypt(at(number)))))
        };
        let connections = stage.connections(64);
        let first = Part { shape: shape(names[0], rate, connections), deks: &self.deks, source: &hits };
        stage.both(first, Part { shape: shape(names[1], seldom, connections), deks: cold, source: &misses })
    }
}

type Befall = fn(Behaviour) -> Behaviour;

/// What befalls the KMS, in this order; the names of hits and of what nobody has.
const STATES: [([&str; 2], Befall); 5] = [
    (["calm: hits", "calm: cold"], |usual| usual),
    (["stalled: hits", "stalled: cold"], |usual| Behaviour { stall: true, ..usual }),
    (["failing: hits", "failing: cold"], |usual| Behaviour { error_rate: 1.0, ..usual }),
    (["throttling: hits", "throttling: cold"], |usual| Behaviour { quota: Some(0), ..usual }),
    (["returned: hits", "returned: cold"], |usual| usual),
];
