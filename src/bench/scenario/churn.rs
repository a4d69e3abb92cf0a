//! `bench churn`: ciphertexts that come once flood a set that is read all the time.

use std::time::Duration;

use clap::Args;

use super::Scenario;
use crate::bench::deks::Deks;
use crate::bench::record::Phase;
use crate::bench::source::{Schedule, Source, What, stride};
use crate::bench::stage::{Part, Shape, Stage};
use crate::bench::{Failure, span};

/// How the flood is.
#[derive(Clone, Debug, Args)]
pub(crate) struct Churn {
    /// DEKs that are read all the time
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=500_000))]
    hot: u32,
    /// How often a second one of them is read
    #[arg(long, value_name = "N", default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..=500_000))]
    rate: u32,
    /// How many ciphertexts come once, a second
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    flood: u32,
    /// Entries that a spawned daemon's cache has room for: what the flood must push out of
    #[arg(long, value_name = "N", default_value_t = 4000)]
    capacity: u32,
    /// How long the flood lasts
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = span)]
    duration: Duration,
}

/// The scenario.
pub(crate) struct Churns {
    pub(crate) options: Churn,
    pub(crate) hot: Deks,
}

impl Scenario for Churns {
    fn room(&self) -> usize {
        self.options.hot as usize
    }

    fn settings(&self) -> Vec<String> {
        vec![format!("cache.capacity={}", self.options.capacity)]
    }

    fn prepare(&mut self, stage: &mut Stage<'_>) -> Result<(), Failure> {
        self.hot = stage.prepare(self.options.hot as usize)?;
        stage.warm(&self.hot)
    }

    fn round(&mut self, stage: &mut Stage<'_>) -> Result<Vec<Phase>, Failure> {
        let Churn { flood, duration, .. } = self.options;
        let count = (f64::from(flood) * duration.as_secs_f64()).ceil();
        if count > FLOOD_MAX {
            return Err(Failure::Usage(format!("a flood has at most {FLOOD_MAX} ciphertexts: shorten it")));
        }
        let once = stage.prepare(count as usize)?;
        stage.warm(&self.hot)?;
        let alone = duration.min(ALONE_MAX) / 2;
        let before = self.alone(stage, "hot set alone", alone)?;
        let flooded = {
            let shape = self.shape("ciphertexts that come once", flood, duration, stage);
            let last = once.len() as u64 - 1;
            let source = move |part: (u32, u32)| -> Box<dyn Source> {
                let at = move |number: u64| (number * u64::from(part.1) + u64::from(part.0)).min(last) as u32;
                let pick = move |number| What::Decrypt(at(number));
                Box::new(Schedule::new(f64::from(flood), duration, part, Box::new(pick)))
            };
            let hot = self.shape("hot set, flooded", self.options.rate, duration, stage);
            let reads = self.reads(duration);
            let first = Part { shape: hot, deks: &self.hot, source: &reads };
            stage.both(first, Part { shape, deks: &once, source: &source })?
        };
        let mut after = self.alone(stage, "hot set afterwards", alone)?;
        if let Some(calls) = after.remote_calls {
            let asked = calls.saturating_sub(after.probes.unwrap_or(0));
            after.figures.insert("hot DEKs that had been pushed out, about".to_owned(), asked as f64);
        }
        let [hot, flood] = flooded;
        Ok(vec![before, hot, flood, after])
    }
}

impl Churns {
    fn shape(&self, name: &'static str, rate: u32, expected: Duration, stage: &Stage<'_>) -> Shape {
        Shape { name, rate: Some(f64::from(rate)), callers: None, connections: stage.connections(64), expected }
    }

    fn reads(&self, duration: Duration) -> impl Fn((u32, u32)) -> Box<dyn Source> + Sync + use<> {
        let (rate, count) = (f64::from(self.options.rate), self.hot.len());
        move |part| {
            let at = stride(u64::from(part.0) * 1_000_003, count);
            Box::new(Schedule::new(rate, duration, part, Box::new(move |number| What::Decrypt(at(number)))))
        }
    }

    fn alone(&self, stage: &mut Stage<'_>, name: &'static str, duration: Duration) -> Result<Phase, Failure> {
        let shape = self.shape(name, self.options.rate, duration, stage);
        stage.load(shape, &self.hot, &self.reads(duration), |_| ()).map(|(phase, ())| phase)
    }
}

const FLOOD_MAX: f64 = 500_000.0;
const ALONE_MAX: Duration = Duration::from_secs(10);
