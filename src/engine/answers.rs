//! Answers made of what was kept, one for each who asked.

use crate::cache::Entry;
use crate::fault::{Fault, Kind};
use crate::kms::{Answer, Decrypted, Reply, RequestId};
use crate::policy::{Held, Release};
use crate::secret::Secret;

pub(super) fn from_entry(entry: &Entry, plaintext: Secret) -> Answer {
    let reply = Decrypted { plaintext, key: entry.key().clone(), version: entry.version().clone() };
    Answer { reply: Reply::Decrypted(reply), request_id: RequestId::random() }
}

pub(super) fn copied(held: &Held, release: &Release) -> Result<Answer, Fault> {
    let answer = held.open(release);
    let Reply::Decrypted(reply) = &answer.reply else { return Err(Fault::kms(Kind::Garbled)) };
    let reply = Decrypted {
        plaintext: Secret::copied(reply.plaintext.expose()),
        key: reply.key.clone(),
        version: reply.version.clone(),
    };
    Ok(Answer { reply: Reply::Decrypted(reply), request_id: answer.request_id.clone() })
}
