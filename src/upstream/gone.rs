//! In the place of a KMS that the configuration does not name any more.

use std::sync::Arc;

use super::{Asking, Upstream};
use crate::clock::Deadline;
use crate::fault::{Fault, Kind};
use crate::kms::Call;
use crate::policy::Permit;

/// Answers nothing: for calls that were under way when their upstream was removed.
#[derive(Clone, Copy, Debug)]
pub struct Gone;

impl Upstream for Gone {
    fn ask<'a>(&'a self, _: &'a Permit, _: &'a Call, _: Deadline) -> Asking<'a> {
        Box::pin(async { Err(Fault::proxy(Kind::Unreachable)) })
    }

    fn identity(&self) -> Arc<str> {
        "".into()
    }
}
