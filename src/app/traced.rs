//! The tracing of a house.

use std::sync::Arc;

use ::metrics::{Counter, counter};
use tracing::info;

use super::Error;
use crate::clock::Clock;
use crate::exporter::{Exporter, Meters, Terms};
use crate::metrics;
use crate::trace::{Spans, Tracer};

/// What begins spans and what sends them, where there are to be any.
pub(super) fn open(terms: Option<&Terms>, clock: &Arc<dyn Clock>) -> Result<(Tracer, Option<Exporter>), Error> {
    let [exported, lost, dropped] = ["exported", "lost", "dropped"].map(spans);
    let Some(terms) = terms else { return Ok((Tracer::off(), None)) };
    let list = Spans::new(terms.queue, dropped);
    let exporter = Exporter::new(terms, Arc::clone(&list), Meters { exported, lost }, Arc::clone(clock));
    let exporter = exporter.map_err(|error| Error::Config(format!("tracing: {error}")))?;
    info!(endpoint = terms.endpoint, sample = terms.sample, "spans are sent");
    Ok((Tracer::new(list, Arc::clone(clock), terms.sample), Some(exporter)))
}

/// There from the start on, whether or not spans are made.
fn spans(outcome: &'static str) -> Counter {
    let counter = counter!(metrics::SPANS, "outcome" => outcome);
    counter.increment(0);
    counter
}
