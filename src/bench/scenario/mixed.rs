//! `bench mixed`: few DEKs often, many seldom, and writes between.

use clap::Args;

use super::Scenario;
use super::hit::Pace;
use super::zipf::Zipf;
use crate::bench::Failure;
use crate::bench::deks::Deks;
use crate::bench::record::Phase;
use crate::bench::source::What;
use crate::bench::stage::{Shape, Stage};

/// How the mixture is made.
#[derive(Clone, Debug, Args)]
pub(crate) struct Mixed {
    /// DEKs, drawn by Zipf's law; none is read before
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=2_000_000))]
    deks: u32,
    /// Encrypts among 100 calls
    #[arg(long, value_name = "PERCENT", default_value_t = 5, value_parser = clap::value_parser!(u32).range(0..=100))]
    writes: u32,
    #[command(flatten)]
    pace: Pace,
}

/// The scenario.
pub(crate) struct Mixture {
    pub(crate) options: Mixed,
    pub(crate) deks: Deks,
    pub(crate) round: u64,
}

impl Scenario for Mixture {
    fn room(&self) -> usize {
        self.options.deks as usize
    }

    fn connections(&self) -> usize {
        self.options.pace.callers()
    }

    fn prepare(&mut self, stage: &mut Stage<'_>) -> Result<(), Failure> {
        self.deks = stage.prepare(self.options.deks as usize)?;
        stage.rough()
    }

    fn round(&mut self, stage: &mut Stage<'_>) -> Result<Vec<Phase>, Failure> {
        self.round += 1;
        let (pace, writes) = (&self.options.pace, f64::from(self.options.writes) / 100.0);
        let (law, round) = (Zipf::new(self.deks.len(), 0), self.round);
        let shape: Shape = pace.shape("reads and writes", stage.connections(pace.callers()));
        let source = |part: (u32, u32)| {
            let mut law = law.seeded(round << 32 | u64::from(part.0));
            let pick = move |_| if law.share() < writes { What::Encrypt } else { What::Decrypt(law.draw()) };
            pace.source(part, Box::new(pick))
        };
        let (mut phase, ()) = stage.load(shape, &self.deks, &source, |_| ())?;
        if let Some(calls) = phase.remote_calls {
            let share = calls as f64 / (phase.answered + phase.failed).max(1) as f64;
            phase.figures.insert("remote calls for each call".to_owned(), share);
        }
        Ok(vec![phase])
    }
}
