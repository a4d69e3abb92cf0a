//! What is done to a target, and what is learnt from it.

use std::time::Duration;

use super::Failure;
use super::control::Behaviour;
use super::record::Phase;
use super::stage::Stage;

pub(super) mod churn;
pub(super) mod cold;
pub(super) mod disable;
pub(super) mod hit;
pub(super) mod idle;
pub(super) mod mixed;
pub(super) mod outage;
pub(super) mod restart;
pub(super) mod storm;
mod zipf;

/// One scenario, as the command line shaped it, for one target.
pub(super) trait Scenario {
    /// How the KMS is where the command line does not say.
    fn kms(&self) -> Behaviour {
        Behaviour { latency: KMS_LATENCY, ..Behaviour::default() }
    }

    /// DEKs that the cache shall have room for, where the daemon is ours.
    fn room(&self) -> usize;

    /// Connections that will be open at once, at most.
    fn connections(&self) -> usize {
        64
    }

    /// Settings of the daemon, where it is ours.
    fn settings(&self) -> Vec<String> {
        Vec::new()
    }

    /// Whether the daemon, where it is ours, keeps a working set. It is written as often as it changes, which while a million
    /// DEKs are read is all the time.
    fn restarts(&self) -> bool {
        false
    }

    /// What stays from round to round.
    ///
    /// # Errors
    /// What stands in the way.
    fn prepare(&mut self, stage: &mut Stage<'_>) -> Result<(), Failure>;

    /// One round.
    ///
    /// # Errors
    /// What stands in the way, or a wrong plaintext.
    fn round(&mut self, stage: &mut Stage<'_>) -> Result<Vec<Phase>, Failure>;

    /// Whether a responder that answers a constant can play it.
    fn takes_bare(&self) -> bool {
        false
    }

    /// What was prepared, for a target that is to be asked with the same bytes.
    fn deks(&self) -> Option<&super::deks::Deks> {
        None
    }
}

/// What a cloud's KMS takes for a call.
const KMS_LATENCY: Duration = Duration::from_millis(20);
