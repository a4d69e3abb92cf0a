//! The audit log of a house.

use std::sync::Arc;

use ::metrics::{counter, gauge};
use tracing::warn;

use super::{Error, Mode};
use crate::audit::{Audit, Destination, Meters, Terms};
use crate::clock::Clock;
use crate::metrics;

/// Opens it, where there is to be one; says loudly where a daemon runs without.
pub(super) fn open(terms: Option<Terms>, clock: &Arc<dyn Clock>, mode: Mode) -> Result<Arc<Audit>, Error> {
    let meters = meters();
    let Some(terms) = terms else {
        if mode == Mode::Cached {
            warn!("no audit log: what is answered from memory leaves no record; [audit] turns it on");
        }
        return Ok(Audit::off());
    };
    let place = match &terms.destination {
        Destination::File(path) => path.display().to_string(),
        Destination::Journal => "the journal".to_owned(),
        Destination::Stdout => "standard output".to_owned(),
    };
    let audit = Audit::open(terms, Arc::clone(clock), meters);
    audit.map_err(|error| Error::Config(format!("audit: {place} cannot be opened: {error}")))
}

fn meters() -> Meters {
    let counters = [metrics::AUDIT_RECORDS, metrics::AUDIT_DROPPED, metrics::AUDIT_ERRORS];
    let gauges = [metrics::AUDIT_QUEUE, metrics::AUDIT_SEQUENCE, metrics::AUDIT_FAILING];
    let [written, dropped, errors] = counters.map(|name| counter!(name));
    let [queued, sequence, failing] = gauges.map(|name| gauge!(name));
    for counter in [&written, &dropped, &errors] {
        counter.increment(0);
    }
    for gauge in [&queued, &sequence, &failing] {
        gauge.set(0.0);
    }
    Meters { written, dropped, errors, queued, sequence, failing }
}
