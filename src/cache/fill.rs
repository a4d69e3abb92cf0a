//! What is kept, and what became of it.

use std::sync::Arc;

use super::{Entry, Fingerprint};
use crate::auth::CallerName;
use crate::kms::{Decrypt, KeyId, KeyVersion, RequestId};
use crate::lease::{Asked, Epoch};
use crate::ledger::{Dek, Scope};

/// What there is to keep of one answer.
#[derive(Debug)]
pub struct Fill<'a> {
    /// Of which call.
    pub fingerprint: Fingerprint,
    /// For whom: as in the fingerprint.
    pub share: &'a CallerName,
    /// The call itself, to ask it again.
    pub call: &'a Decrypt,
    /// When it was sent.
    pub asked: Asked,
    /// The key that the answer names.
    pub key: &'a KeyId,
    /// Its version.
    pub version: &'a KeyVersion,
    /// The DEK.
    pub plaintext: &'a [u8],
    /// What the KMS knows the call by.
    pub source: &'a RequestId,
}

/// What became of it.
#[derive(Clone, Debug)]
pub struct Filled {
    /// By which lease it may be released.
    pub scope: Arc<Scope>,
    /// In which epoch of that.
    pub epoch: Epoch,
    pub(super) dek: Told,
}

/// Who is told that a DEK is asked for.
#[derive(Clone, Debug)]
pub(super) enum Told {
    /// Where there was no room to keep it.
    Alone(Arc<Dek>),
    Entry(Entry),
}
