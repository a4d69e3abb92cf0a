//! What is asked on our own account.

use std::sync::Arc;

use super::{Engine, Purpose, Question};
use crate::auth::CallerName;
use crate::fault::{Evidence, Fault, Kind};
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

    /// Asks for up to `most` entries again whose age is drawing to its end.
    pub async fn refresh(self: &Arc<Self>, most: usize) {
        let now = self.parts.clock.now();
        for entry in self.parts.cache.due(self.parts.ledger.upstream(), now, most) {
            // A refusal of one, or silence, may have closed the others since.
            if !entry.fresh(self.parts.clock.now()) {
                continue;
            }
            let (fingerprint, share, call) = (entry.fingerprint(), entry.share().clone(), entry.call().clone());
            let (permit, question) = (self.parts.policy.upkeep(), Question { share, fingerprint, call });
            let fill = || Arc::clone(self).fill(permit, question, Purpose::Refresh);
            // What it brought is in the cache; that it failed is in the ledger.
            let (_, landing) = self.flights.join(&fingerprint, fill).await;
            if matches!(&landing, Ok(Err(fault)) if Evidence::of(fault) == Evidence::Silence) {
                return;
            }
        }
    }

    /// Asks for `call` on our own account, so that its answer is there when somebody of `share` wants it; asks nobody where it
    /// is there already. Not a flight that callers could join: it waits behind all of them, and they shall not.
    ///
    /// # Errors
    /// The KMS's, after its consequences have been drawn.
    pub async fn warm(self: &Arc<Self>, share: &CallerName, call: Decrypt) -> Result<(), Fault> {
        let fingerprint = self.parts.cache.fingerprint(self.parts.ledger.upstream(), share, &call);
        let question = Question { share: share.clone(), fingerprint, call };
        Arc::clone(self).fill(self.parts.policy.warm_up(), question, Purpose::Want).await.map(drop)
    }
}
