//! What kmsproxy does with its leases, one decision a field; and designs that decide one thing otherwise.
//!
//! Every field of [`KMSPROXY`] calls the functions that the daemon calls. The others are how a cache in front of a KMS
//! is commonly built, and each must break a promise.

use std::time::Duration;

use kmsproxy::clock::Moment;
use kmsproxy::fault::{Evidence, Fault};
use kmsproxy::lease::{Asked, Epoch, Lease, Stale, Terms};

use super::world::World;

#[derive(Clone, Copy)]
pub(super) struct Design {
    pub(super) name: &'static str,
    /// What leases and ages are measured on.
    pub(super) clock: fn(&World) -> Moment,
    /// What a consent to a question counts as when it is taken in at this moment.
    pub(super) consent: fn(&mut Lease, Asked, Moment) -> Result<(), Stale>,
    /// What an error is evidence of.
    pub(super) evidence: fn(&Fault) -> Evidence,
    /// Whether what was kept in an epoch, until its age ends, is served at this moment.
    pub(super) serves: fn(&Lease, Kept, Moment) -> bool,
    /// Under which name what was unwrapped for a caller is filed.
    pub(super) filed: fn(usize) -> usize,
    /// What those who waited for a question that a closing has overtaken are given.
    pub(super) overtaken: Overtaken,
    /// `DescribeKey` says that the key is enabled.
    pub(super) described: fn(&mut Lease, Asked),
    /// `Encrypt` succeeded.
    pub(super) encrypted: fn(&mut Lease, Asked),
}

/// When an entry, or an answer on its way to those who wait, was kept, and until when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Kept {
    pub(super) epoch: Epoch,
    pub(super) expires: Moment,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Overtaken {
    Failure,
    Plaintext,
}

pub(super) const TERMS: Terms =
    Terms { duration: Duration::from_secs(2), probe: Duration::from_secs(1), outage_grace: Duration::ZERO };
/// The age limit of an entry.
pub(super) const MAX_AGE: Duration = Duration::from_secs(4);
const FOR_EVER: Duration = Duration::from_secs(1000);

pub(super) const KMSPROXY: Design = Design {
    name: "kmsproxy",
    clock: World::boot_clock,
    consent: |lease, asked, _| lease.consent(asked, &TERMS),
    evidence: Evidence::of,
    serves: |lease, kept, now| now < kept.expires && lease.serves(kept.epoch, now, &TERMS),
    filed: |caller| caller,
    overtaken: Overtaken::Failure,
    described: |_, _| {},
    encrypted: |lease, asked| lease.relent(asked),
};

pub(super) const MUTANTS: [Design; 10] = [
    Design {
        name: "no epoch",
        consent: |lease, asked, _| lease.consent(Asked { epoch: Epoch(u64::MAX), ..asked }, &TERMS),
        ..KMSPROXY
    },
    Design {
        name: "receive-time lease",
        consent: |lease, asked, now| lease.consent(Asked { sent: now, ..asked }, &TERMS),
        ..KMSPROXY
    },
    Design { name: "monotonic clock", clock: World::monotonic_clock, ..KMSPROXY },
    Design {
        name: "refusal that does not revoke",
        evidence: |fault| match Evidence::of(fault) {
            Evidence::KeyRefused | Evidence::IdentityRefused => Evidence::Nothing,
            evidence => evidence,
        },
        ..KMSPROXY
    },
    Design {
        name: "stale if error",
        serves: |lease, kept, now| {
            now < kept.expires && lease.serves(kept.epoch, now, &Terms { outage_grace: FOR_EVER, ..TERMS })
        },
        ..KMSPROXY
    },
    Design { name: "validity checked only at fill", serves: |_, kept, now| now < kept.expires, ..KMSPROXY },
    Design { name: "caller left out of the key", filed: |_| 0, ..KMSPROXY },
    Design { name: "waiters not failed", overtaken: Overtaken::Plaintext, ..KMSPROXY },
    Design { name: "Describe renews", described: |lease, asked| drop(lease.consent(asked, &TERMS)), ..KMSPROXY },
    Design { name: "Encrypt renews", encrypted: |lease, asked| drop(lease.consent(asked, &TERMS)), ..KMSPROXY },
];
