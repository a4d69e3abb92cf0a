//! The path of a request.

use crate::auth::Caller;
use crate::clock::Deadline;
use crate::fault::Fault;
use crate::kms::{Answer, Call};

/// What answers calls: the engine, and in tests whatever stands in for it.
pub trait Respond: Send + Sync + 'static {
    /// Answers `call` of `caller` before `deadline`.
    fn respond(
        &self,
        caller: &Caller,
        call: Call,
        deadline: Deadline,
    ) -> impl Future<Output = Result<Answer, Fault>> + Send;
}
