//! What was measured, as people read it.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::trial::{Trial, lease};

/// The trials of one case.
pub(crate) struct Figures {
    name: &'static str,
    trials: Vec<Trial>,
}

impl Figures {
    pub(crate) const fn new(name: &'static str, trials: Vec<Trial>) -> Self {
        Self { name, trials }
    }

    pub(crate) fn violations(&self) -> usize {
        self.trials.iter().map(|trial| trial.violations).sum()
    }

    /// Rows of the table, and on standard error what was answered after the last.
    pub(crate) fn print(&self) {
        let answered: Vec<Duration> = self.trials.iter().map(|trial| trial.since_answered).collect();
        let told: Vec<Duration> = self.trials.iter().map(|trial| trial.since_told).collect();
        for (from, mut spans) in [("answered", answered), ("been told", told)] {
            spans.sort_unstable();
            let at = |share: f64| spans[((spans.len() - 1) as f64 * share) as usize].as_secs_f64();
            println!(
                "| {} | {from} | {} | {:.3} | {:.3} | {:.3} | {} | {} |",
                self.name,
                spans.len(),
                at(0.50),
                at(0.99),
                at(1.0),
                lease().as_secs(),
                self.violations(),
            );
        }
        let mut ends = BTreeMap::new();
        self.trials.iter().for_each(|trial| *ends.entry(trial.ended_by.as_str()).or_insert(0) += 1);
        eprintln!("after the last came {ends:?}");
    }
}

/// Of the table that [`Figures::print`] prints rows of.
pub(crate) const HEAD: &str = "\
| what | since the KMS had | trials | p50 s | p99 s | max s | promised s | violations |
|---|---|---|---|---|---|---|---|";
