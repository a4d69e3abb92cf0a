//! What stands behind a face: one type, so that listeners of a daemon and of the emulator are built alike.

use std::sync::Arc;

use crate::auth::Caller;
use crate::clock::Deadline;
use crate::engine::{Direct, Engine, Respond};
use crate::fault::Fault;
use crate::kms::{Answer, Call};

/// An upstream, with what is known of its keys or without.
pub(super) enum Answering {
    /// Cache, leases and all.
    Cached(Arc<Engine>),
    /// As it is.
    Straight(Arc<Direct>),
}

impl Respond for Answering {
    async fn respond(&self, caller: &Caller, call: Call, deadline: Deadline) -> Result<Answer, Fault> {
        match self {
            Self::Cached(engine) => engine.respond(caller, call, deadline).await,
            Self::Straight(direct) => direct.respond(caller, call, deadline).await,
        }
    }
}
