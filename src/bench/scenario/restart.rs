//! `bench restart`: what kube-apiservers ask when they start.

use std::collections::VecDeque;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::Scenario;
use crate::bench::deks::Deks;
use crate::bench::record::Phase;
use crate::bench::source::{Chains, Source, What};
use crate::bench::stage::{Shape, Stage};
use crate::bench::{Failure, span};

/// Who starts, and with how much.
#[derive(Clone, Debug, Args)]
pub(crate) struct Restart {
    /// Encrypted objects of each resource. In the shape of v1 each has a DEK of its own
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    objects: u32,
    /// Encrypted resources (secrets, configmaps, …): each is listed by itself, beside the others
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=100))]
    resources: u32,
    /// kube-apiservers that start at once
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    apiservers: u32,
    /// What they ask: by KMS v1 or by v2
    #[arg(long, value_enum, default_value = "v1")]
    shape: Era,
    /// In the shape of v2: distinct seeds in etcd, about one for each start of an apiserver since the last migration
    #[arg(long, value_name = "N", default_value_t = 24, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    seeds: u32,
    /// How long a spawned daemon is up again, after it was killed, before the apiservers start
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = span)]
    head_start: Duration,
}

/// The shape of a start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Era {
    /// One Version, then a Decrypt for each object, one after the other within a resource
    V1,
    /// Status and Encrypt, then a Decrypt for each seed and resource
    V2,
}

/// The scenario.
pub(crate) struct Restarts {
    pub(crate) options: Restart,
    pub(crate) deks: Deks,
}

impl Scenario for Restarts {
    fn restarts(&self) -> bool {
        true
    }

    fn room(&self) -> usize {
        self.count()
    }

    fn connections(&self) -> usize {
        (self.options.apiservers * self.options.resources) as usize
    }

    fn prepare(&mut self, stage: &mut Stage<'_>) -> Result<(), Failure> {
        // A daemon that has not heard from its KMS yet says so to a Status, and the apiserver would come again later.
        let first = stage.prepare(1)?;
        stage.warm(&first)
    }

    fn round(&mut self, stage: &mut Stage<'_>) -> Result<Vec<Phase>, Failure> {
        self.deks = stage.prepare(self.count())?;
        stage.rough()?;
        let mut phases = vec![self.start(stage, "start, cache cold")?, self.start(stage, "start, cache warm")?];
        if stage.target.crash().map_err(Failure::Runtime)? {
            std::thread::sleep(self.options.head_start);
            phases.push(self.start(stage, "start, kmsproxy restarted")?);
        }
        Ok(phases)
    }
}

impl Restarts {
    fn count(&self) -> usize {
        match self.options.shape {
            Era::V1 => (self.options.objects * self.options.resources) as usize,
            Era::V2 => self.options.seeds as usize,
        }
    }

    fn start(&self, stage: &mut Stage<'_>, name: &'static str) -> Result<Phase, Failure> {
        let lanes = self.options.apiservers * self.options.resources;
        let each = stage.target.kms().map_or(Duration::from_millis(1), |kms| kms.latency);
        let expected = each.max(Duration::from_micros(200)) * (self.count() as u32 / self.options.resources.max(1));
        // kube-apiserver has one connection for each provider; the Alibaba faces take one call at a time.
        let usual = if stage.target.terms.face.api().is_some() { self.options.apiservers } else { lanes };
        let connections = stage.house.connections.unwrap_or(usual as usize);
        let expected = expected.max(Duration::from_millis(200));
        let shape = Shape { name, rate: None, callers: Some(lanes), connections, expected };
        let chains = self.chains();
        let source = |(part, parts): (u32, u32)| -> Box<dyn Source> {
            let own = chains.iter().skip(part as usize).step_by(parts as usize).cloned();
            Box::new(Chains::new(own.collect(), Duration::ZERO))
        };
        let (mut phase, ()) = stage.load(shape, &self.deks, &source, |_| ())?;
        phase.figures.insert("ready after, s".to_owned(), phase.seconds);
        Ok(phase)
    }

    /// One list for each apiserver and resource.
    fn chains(&self) -> Vec<VecDeque<What>> {
        let Restart { apiservers, resources, objects, shape, seeds, .. } = self.options;
        let lanes = (0..apiservers).flat_map(|_| 0..resources);
        let chain = |resource: u32| -> VecDeque<What> {
            let greeting: &[What] = match (shape, resource) {
                (Era::V1, 0) => &[What::Greeting],
                (Era::V2, 0) => &[What::Greeting, What::Encrypt],
                (_, _) => &[],
            };
            let deks = match shape {
                Era::V1 => resource * objects..(resource + 1) * objects,
                Era::V2 => 0..seeds,
            };
            greeting.iter().copied().chain(deks.map(What::Decrypt)).collect()
        };
        lanes.map(chain).collect()
    }
}
