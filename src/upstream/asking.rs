//! What a KMS is to whoever asks it.

use std::fmt::Debug;
use std::pin::Pin;
use std::sync::Arc;

use crate::clock::Deadline;
use crate::fault::Fault;
use crate::kms::Call;
use crate::policy::{Held, Permit};

/// An answer on its way.
pub type Asking<'a> = Pin<Box<dyn Future<Output = Result<Held, Fault>> + Send + 'a>>;

/// A KMS that can be asked, with a [`Permit`] only. Retries, credentials and connections are its own affair.
pub trait Upstream: Debug + Send + Sync {
    /// Sends `call` and returns the KMS's answer, or its refusal, before `deadline`.
    ///
    /// Dropping the future abandons the call; the KMS may have carried it out.
    fn ask<'a>(&'a self, permit: &'a Permit, call: &'a Call, deadline: Deadline) -> Asking<'a>;

    /// As whom it asks: an access key id or role, stable over refreshes of its session; empty while it has no
    /// credentials. When this changes, nothing that was allowed before is known to be allowed now.
    fn identity(&self) -> Arc<str>;

    /// Lets go of connections, in whose buffers the last answers lie: at once of those that are idle, of the others when
    /// they have ended. By default there are none.
    fn recycle(&self) {}
}
