//! The authorities that a KMS is believed by, taken anew when their file changes.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::queue::Queue;
use super::{Aliyun, Error};
use crate::stamp::Stamp;
use crate::upstream::transport::Trust;

/// A file of authorities, and which content of it was last tried.
#[derive(Debug)]
pub(super) struct Believed {
    path: PathBuf,
    tried: Mutex<Option<Stamp>>,
}

impl Believed {
    pub(super) fn new(path: &Path, stamp: Option<Stamp>) -> Self {
        Self { path: path.to_owned(), tried: Mutex::new(stamp) }
    }
}

impl Aliyun {
    /// Looks whether the file of authorities has changed, and believes those in it from now on; whether it has. Leases live
    /// on: who was asked under the old ones was who it had to be then.
    ///
    /// # Errors
    /// What is wrong with the file, once for each change; those before are still believed.
    pub fn renew_trust(&self) -> Result<bool, Error> {
        let Some(believed) = &self.believed else { return Ok(false) };
        let stamp = Stamp::of(&believed.path);
        let mut tried = believed.tried.lock().unwrap_or_else(PoisonError::into_inner);
        if *tried == stamp {
            return Ok(false);
        }
        *tried = stamp;
        self.transport.believe(Trust::platform().with_file(&believed.path)?);
        Ok(true)
    }

    /// In the place of `before`: what that one has asked counts towards the quota, where the limits are the same.
    #[must_use]
    pub fn in_place_of(mut self, before: &Self) -> Self {
        Queue::follow(&mut self.crypto, &before.crypto);
        Queue::follow(&mut self.reads, &before.reads);
        self
    }
}
