//! A KMS that unwraps everything, to the same plaintext, at once.

use std::sync::Arc;

use kmsproxy::clock::Deadline;
use kmsproxy::fault::{Fault, Kind};
use kmsproxy::kms::{Answer, Call, Decrypted, KeyId, KeyVersion, Reply, RequestId};
use kmsproxy::policy::{Held, Permit};
use kmsproxy::secret::Secret;
use kmsproxy::upstream::{Asking, Upstream};

#[derive(Debug)]
pub(crate) struct Kms;

impl Upstream for Kms {
    fn ask<'a>(&'a self, _: &'a Permit, call: &'a Call, _: Deadline) -> Asking<'a> {
        let Call::Decrypt(_) = call else { return Box::pin(async { Err(Fault::kms(Kind::UnknownAction)) }) };
        Box::pin(async { Ok(Held::new(answer())) })
    }

    fn identity(&self) -> Arc<str> {
        "somebody".into()
    }
}

/// What it says to a Decrypt.
pub(crate) fn answer() -> Answer {
    let (plaintext, key, version) = (Secret::copied(&PLAINTEXT), KeyId::new(KEY), KeyVersion::new(VERSION));
    let request_id = RequestId::new("5c6ef6d9-1b2c-4a83-8a2a-0f2f3f1e7c55");
    Answer { reply: Reply::Decrypted(Decrypted { plaintext, key, version }), request_id }
}

pub(crate) const PLAINTEXT: [u8; 32] = *b"the DEK of an object of thirty-2";
pub(crate) const KEY: &str = "key-hzz0000000000000000000000000";
pub(crate) const VERSION: &str = "2ab1a983-7072-4bbc-a582-584b5bd8b1a4";
