//! `bench storm`: everybody wants one DEK that nobody has.

use std::collections::VecDeque;
use std::time::Duration;

use clap::Args;

use super::Scenario;
use crate::bench::Failure;
use crate::bench::record::{BEYOND, Phase};
use crate::bench::source::{Chains, Source, What};
use crate::bench::stage::{Shape, Stage};

/// How large the storm is.
#[derive(Clone, Debug, Args)]
pub(crate) struct Storm {
    /// Callers that ask for it at once. Over HTTP/1.1 each has a connection of its own; the limit of open files must allow
    /// twice as many
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    waiters: u32,
    /// Storms, one after the other, each on a new DEK
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    storms: u32,
}

/// The scenario.
pub(crate) struct Storms(pub(crate) Storm);

impl Scenario for Storms {
    fn room(&self) -> usize {
        0
    }

    fn connections(&self) -> usize {
        self.0.waiters as usize
    }

    fn prepare(&mut self, stage: &mut Stage<'_>) -> Result<(), Failure> {
        // A lease, so that what is measured is the DEK and not the key's first question.
        let first = stage.prepare(1)?;
        stage.warm(&first)
    }

    fn round(&mut self, stage: &mut Stage<'_>) -> Result<Vec<Phase>, Failure> {
        let waiters = self.0.waiters;
        let usual = if stage.target.terms.face.api().is_some() { waiters.div_ceil(100) } else { waiters };
        let connections = stage.house.connections.unwrap_or(usual as usize);
        let mut phases = Vec::new();
        for _ in 0..self.0.storms {
            let dek = stage.prepare(1)?;
            stage.rough()?;
            let expected = Duration::from_millis(500);
            let shape = Shape { name: "storm", rate: None, callers: Some(waiters), connections, expected };
            let source = |(part, parts): (u32, u32)| -> Box<dyn Source> {
                let own = waiters / parts + u32::from(part < waiters % parts);
                let chains = (0..own).map(|_| VecDeque::from([What::Decrypt(0)]));
                Box::new(Chains::new(chains.collect(), Duration::ZERO))
            };
            let (mut phase, ()) = stage.load(shape, &dek, &source, |_| ())?;
            phase.figures.insert("all answered after, ms".to_owned(), phase.seconds * 1000.0);
            // A responder that looks at nothing waits for no KMS either: all of its time is for reading and answering.
            let waited = stage.target.kms().map(|kms| kms.latency).or(stage.target.is_bare().then_some(Duration::ZERO));
            if let Some(waited) = waited {
                let beyond = phase.seconds * 1000.0 - waited.as_secs_f64() * 1000.0;
                phase.figures.insert(BEYOND.to_owned(), beyond);
            }
            phases.push(phase);
        }
        Ok(phases)
    }

    fn takes_bare(&self) -> bool {
        true
    }
}
