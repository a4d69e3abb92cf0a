//! `bench idle`: many connections that have asked once and then say nothing.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::time::Duration;

use clap::Args;

use super::Scenario;
use crate::bench::control::Behaviour;
use crate::bench::course::Course;
use crate::bench::deks::Deks;
use crate::bench::process::Vitals;
use crate::bench::record::Phase;
use crate::bench::source::{Chains, Next, Source, What};
use crate::bench::stage::{Shape, Stage};
use crate::bench::{Failure, span};

/// Who is idle.
#[derive(Clone, Debug, Args)]
pub(crate) struct Idle {
    /// How many; the limit of open files must allow twice as many
    #[arg(long, value_name = "N", default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    idlers: u32,
    /// How long they say nothing, before the target's memory is looked at again
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = span)]
    rest: Duration,
}

/// The scenario.
pub(crate) struct Idlers {
    pub(crate) options: Idle,
    pub(crate) deks: Deks,
}

impl Scenario for Idlers {
    fn kms(&self) -> Behaviour {
        Behaviour::default()
    }

    fn room(&self) -> usize {
        DEKS
    }

    fn connections(&self) -> usize {
        self.options.idlers as usize
    }

    fn prepare(&mut self, stage: &mut Stage<'_>) -> Result<(), Failure> {
        self.deks = stage.prepare(DEKS)?;
        stage.warm(&self.deks)
    }

    fn round(&mut self, stage: &mut Stage<'_>) -> Result<Vec<Phase>, Failure> {
        let (idlers, rest) = (self.options.idlers, self.options.rest);
        let expected = rest + Duration::from_secs(1);
        let shape = Shape { name: "idle", rate: None, callers: Some(idlers), connections: idlers as usize, expected };
        let source = |(part, parts): (u32, u32)| -> Box<dyn Source> {
            let own = (0..idlers).filter(|idler| idler % parts == part);
            let once = own.map(|idler| VecDeque::from([What::Decrypt(idler % DEKS as u32)]));
            Box::new(Resting { once: Chains::new(once.collect(), Duration::ZERO), rest, until: None })
        };
        let vitals = stage.target.vitals;
        let resident = || vitals.and_then(Vitals::rss_bytes);
        let before = stage.resident();
        let (mut phase, seen) = stage.load(shape, &self.deks, &source, |course| {
            all_asked(course, idlers);
            let used = resident();
            // Looked at while all are still there.
            course.rest(rest.saturating_sub(EARLY));
            (used, resident())
        })?;
        for (name, then) in [("just used", seen.0), ("at rest", seen.1)] {
            if let Some((before, then)) = before.zip(then) {
                let each = (then as f64 - before as f64) / f64::from(idlers);
                phase.figures.insert(format!("resident bytes for each connection, {name}"), each);
            }
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

fn all_asked(course: &Course, idlers: u32) {
    let ended = || course.good.load(Ordering::Relaxed) + course.failed.load(Ordering::Relaxed);
    while ended() < u64::from(idlers) && !course.is_over(course.elapsed()) {
        course.rest(LOOK);
    }
}

/// Calls that are made once; and then a time in which nothing is asked, and no connection closed.
struct Resting {
    once: Chains,
    rest: Duration,
    until: Option<Duration>,
}

impl Source for Resting {
    fn next(&mut self, now: Duration) -> Next {
        match self.once.next(now) {
            Next::Over => {
                let until = *self.until.get_or_insert(now + self.rest);
                if now < until { Next::At(until) } else { Next::Over }
            }
            other @ (Next::Call(_) | Next::At(_) | Next::Waiting) => other,
        }
    }

    fn ended(&mut self, lane: u32, now: Duration) {
        self.once.ended(lane, now);
    }

    fn is_open(&self) -> bool {
        false
    }
}

const DEKS: usize = 64;
const LOOK: Duration = Duration::from_millis(10);
const EARLY: Duration = Duration::from_millis(200);
