//! An upstream as it is.

use std::sync::Arc;

use super::Respond;
use crate::auth::Caller;
use crate::clock::{Clock, Deadline};
use crate::fault::{Fault, Kind};
use crate::kms::{Answer, Call};
use crate::policy::Policy;
use crate::sync::timeout;
use crate::upstream::Upstream;

/// An upstream without cache or leases: how the emulator answers.
#[derive(Debug)]
pub struct Direct {
    /// Who may do what.
    pub policy: Arc<Policy>,
    /// The KMS.
    pub upstream: Arc<dyn Upstream>,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

impl Respond for Arc<Direct> {
    async fn respond(&self, caller: &Caller, call: Call, deadline: Deadline) -> Result<Answer, Fault> {
        let permit = self.policy.permit(caller, &call)?;
        let left = deadline.remaining(self.clock.now());
        let asking = self.upstream.ask(&permit, &call, deadline);
        let held = timeout(left, asking).await.unwrap_or(Err(Fault::kms(Kind::TimedOut)))?;
        let release = match held.key() {
            Some(key) => self.policy.release(&permit, key)?,
            None => self.policy.release_list(&permit)?,
        };
        held.pass(&release)
    }
}
