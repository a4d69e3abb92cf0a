//! Probes: what is asked on our own account about a key.

use std::sync::Arc;

use super::Engine;
use crate::fault::{Fault, Kind};
use crate::kms::{Call, Decrypt};
use crate::ledger::{Probe, Scope};

impl Engine {
    /// Asks about a key on our own account, and renews or ends its lease by the answer.
    ///
    /// # Errors
    /// The KMS's, after its consequences have been drawn.
    pub async fn probe(&self, probe: &Probe) -> Result<(), Fault> {
        self.attest(probe.scope(), probe.sample.clone()).await
    }

    /// Asks whether `sample` still decrypts, and renews or ends the lease of `scope` by the answer.
    pub(super) async fn attest(&self, scope: &Arc<Scope>, sample: Decrypt) -> Result<(), Fault> {
        let call = Call::Decrypt(sample);
        let answer = self.ask(&self.parts.policy.probe(), &call, self.remote_deadline()).await;
        let outcome = answer.and_then(|(asked, held)| match held.key() {
            Some(key) if key == scope.key() => Ok(asked),
            _ => Err(Fault::kms(Kind::Garbled)),
        });
        match (&outcome, call) {
            // A closing that came between stands; the next probe will tell.
            (Ok(asked), Call::Decrypt(sample)) => drop(scope.renew(*asked, sample)),
            (Ok(_), Call::Encrypt(_) | Call::GenerateDataKey(_) | Call::Read(_)) => {}
            (Err(fault), _) => self.parts.ledger.weigh(fault, Some(scope)),
        }
        outcome.map(drop)
    }
}
