//! `bench cold`: many DEKs that nobody has, and a KMS that grants so many calls a second.

use std::time::Duration;

use clap::Args;

use super::{KMS_LATENCY, Scenario};
use crate::bench::Failure;
use crate::bench::control::Behaviour;
use crate::bench::record::Phase;
use crate::bench::source::{Chains, Source, What};
use crate::bench::stage::{Shape, Stage};
use crate::clock::{Clock as _, System};

/// How much is cold.
#[derive(Clone, Debug, Args)]
pub(crate) struct Cold {
    /// DEKs, each asked for once
    #[arg(long, value_name = "N", default_value_t = 5000, value_parser = clap::value_parser!(u32).range(1..=500_000))]
    deks: u32,
    /// How many are asked for at once. Behind a quota of Q, each of N waits N/Q seconds: below the listener's timeout, or
    /// it is refused
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    at_once: u32,
}

/// The scenario.
pub(crate) struct Colds(pub(crate) Cold);

impl Scenario for Colds {
    fn kms(&self) -> Behaviour {
        Behaviour { latency: KMS_LATENCY, quota: Some(QUOTA), ..Behaviour::default() }
    }

    fn room(&self) -> usize {
        self.0.deks as usize
    }

    fn connections(&self) -> usize {
        self.0.at_once as usize
    }

    fn prepare(&mut self, _: &mut Stage<'_>) -> Result<(), Failure> {
        Ok(())
    }

    fn round(&mut self, stage: &mut Stage<'_>) -> Result<Vec<Phase>, Failure> {
        let deks = stage.prepare(self.0.deks as usize)?;
        // Of the second in which they were made, nothing is left in the KMS's count.
        std::thread::sleep(Duration::from_secs(1));
        stage.rough()?;
        let callers = self.0.at_once.min(self.0.deks);
        let kms = stage.target.kms();
        let minimum = kms.map(|kms| {
            let by_quota = kms.quota.map_or(0.0, |quota| f64::from(self.0.deks) / f64::from(quota.max(1)));
            let waves = f64::from(self.0.deks) / f64::from(IN_FLIGHT.min(callers));
            by_quota.max(waves * kms.latency.as_secs_f64())
        });
        let expected = Duration::from_secs_f64(minimum.unwrap_or(5.0).max(0.5) * 1.2);
        let usual = stage.connections(callers as usize);
        let connections =
            if stage.target.terms.face.api().is_some() { usual.max(callers as usize / 100) } else { usual };
        let shape = Shape { name: "cold", rate: None, callers: Some(callers), connections, expected };
        let count = self.0.deks;
        let source = |(part, parts): (u32, u32)| -> Box<dyn Source> {
            let lanes = (0..callers).filter(|lane| lane % parts == part);
            let all = lanes.map(|lane| (lane..count).step_by(callers as usize).map(What::Decrypt).collect());
            Box::new(Chains::new(all.collect(), Duration::ZERO))
        };
        let begun = System.now();
        let (mut phase, ()) = stage.load(shape, &deks, &source, |_| ())?;
        if let Some(minimum) = minimum.filter(|minimum| *minimum > 0.0) {
            phase.figures.insert("least possible, s".to_owned(), minimum);
            phase.figures.insert("took × least possible".to_owned(), phase.seconds / minimum);
        }
        if let Some(most) = stage.target.control.as_ref().and_then(|control| control.busiest_second(begun)) {
            phase.figures.insert("calls in the KMS's busiest second".to_owned(), most as f64);
        }
        if let Some(calls) = phase.remote_calls {
            phase.figures.insert("remote calls for each DEK".to_owned(), calls as f64 / f64::from(count));
        }
        Ok(vec![phase])
    }
}

/// Alibaba Cloud's shared gateway, for an account and region.
const QUOTA: u32 = 1000;
/// The default of an upstream's `max_in_flight`.
const IN_FLIGHT: u32 = 64;
