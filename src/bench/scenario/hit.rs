//! `bench hit`: cached DEKs, steadily.

use std::time::Duration;

use clap::Args;

use super::Scenario;
use crate::bench::control::Behaviour;
use crate::bench::deks::Deks;
use crate::bench::record::Phase;
use crate::bench::source::{Callers, Pick, Schedule, Source, What, stride};
use crate::bench::stage::{Shape, Stage};
use crate::bench::{Failure, span};

/// How hits are asked for.
#[derive(Clone, Debug, Args)]
pub(crate) struct Hit {
    /// DEKs, each read once before and then in turns
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=2_000_000))]
    pub(crate) deks: u32,
    #[command(flatten)]
    pub(crate) pace: Pace,
}

/// A rate, or callers; and for how long.
#[derive(Clone, Debug, Args)]
pub(crate) struct Pace {
    /// Calls a second, by schedule (open loop)
    #[arg(long, value_name = "N", default_value_t = 5000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: u32,
    /// Instead: N callers that each wait for their answer before they ask again (closed loop). Shows what a target can do
    /// at most; its latencies say little, because a slow target is asked less
    #[arg(long, value_name = "N", conflicts_with = "rate", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    closed: Option<u32>,
    /// For how long, at most 10m
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = span)]
    duration: Duration,
}

impl Pace {
    /// How many may be under way at once.
    pub(crate) fn callers(&self) -> usize {
        self.closed.map_or(64, |callers| callers as usize)
    }

    pub(crate) fn shape(&self, name: &'static str, connections: usize) -> Shape {
        let rate = self.closed.is_none().then_some(f64::from(self.rate));
        Shape { name, rate, callers: self.closed, connections, expected: self.duration }
    }

    /// The part of one thread.
    pub(crate) fn source(&self, (part, parts): (u32, u32), pick: Pick) -> Box<dyn Source> {
        match self.closed {
            None => Box::new(Schedule::new(f64::from(self.rate), self.duration, (part, parts), pick)),
            Some(callers) => {
                let own = callers / parts + u32::from(part < callers % parts);
                Box::new(Callers::new(own, self.duration, pick))
            }
        }
    }
}

/// The scenario.
pub(crate) struct Hits {
    pub(crate) options: Hit,
    pub(crate) deks: Deks,
    /// By how much the target's memory grew for each DEK when they were read first.
    pub(crate) each: Option<f64>,
}

impl Scenario for Hits {
    fn kms(&self) -> Behaviour {
        Behaviour::default()
    }

    fn room(&self) -> usize {
        self.options.deks as usize
    }

    fn connections(&self) -> usize {
        self.options.pace.callers()
    }

    fn prepare(&mut self, stage: &mut Stage<'_>) -> Result<(), Failure> {
        // Of few, what the connections take would be most of it.
        let weighed = self.options.deks >= DEKS_WEIGHED;
        if weighed {
            // What it takes to be asked at all is not what a DEK takes: connections, and what is made at the first call.
            let first = stage.prepare(FIRST)?;
            stage.warm(&first)?;
        }
        self.deks = stage.prepare(self.options.deks as usize)?;
        let before = stage.resident();
        stage.warm(&self.deks)?;
        let grown = before.zip(stage.resident()).filter(|_| weighed);
        self.each = grown.map(|(before, after)| (after as f64 - before as f64) / f64::from(self.options.deks));
        Ok(())
    }

    fn round(&mut self, stage: &mut Stage<'_>) -> Result<Vec<Phase>, Failure> {
        let (pace, count) = (&self.options.pace, self.deks.len());
        let shape = pace.shape("hits", stage.connections(pace.callers()));
        let source = |part: (u32, u32)| {
            let at = stride(u64::from(part.0) * 1_000_003, count);
            pace.source(part, Box::new(move |number| What::Decrypt(at(number))))
        };
        let (mut phase, ()) = stage.load(shape, &self.deks, &source, |_| ())?;
        if let Some(each) = self.each.filter(|_| !stage.target.is_bare()) {
            phase.figures.insert("resident bytes for each DEK".to_owned(), each);
        }
        Ok(vec![phase])
    }

    fn takes_bare(&self) -> bool {
        true
    }

    fn deks(&self) -> Option<&Deks> {
        Some(&self.deks)
    }
}

const DEKS_WEIGHED: u32 = 1000;
/// Read before the others, by as many callers at once.
const FIRST: usize = 256;
