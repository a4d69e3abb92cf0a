//! The state of everything: the clocks, the KMS and what it said, the questions on their way, and what kmsproxy holds.

use std::time::Duration;

use kmsproxy::clock::Moment;
use kmsproxy::fault::About;
use kmsproxy::lease::{Asked, Closings, Lease};

use super::design::Kept;

pub(super) const CALLERS: usize = 2;
/// Contexts of the one key. The first is no context.
pub(super) const SCOPES: usize = 2;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct World {
    /// Seconds on the boot clock.
    pub(super) now: u8,
    /// How many of them the machine was suspended.
    pub(super) slept: u8,
    /// The wall clock was set, and nobody has looked since.
    pub(super) stepped: bool,
    pub(super) kms: Kms,
    pub(super) flights: Vec<Flight>,
    pub(super) proxy: Proxy,
    pub(super) truth: Truth,
    pub(super) left: Left,
}

/// The KMS, and as whom we ask it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Kms {
    /// Since when it refuses the key to all.
    pub(super) disabled: Option<u8>,
    /// Since when it refuses the first identity.
    pub(super) barred: Option<u8>,
    pub(super) identity: Identity,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) enum Identity {
    #[default]
    First,
    Second,
}

/// What kmsproxy holds. Leases and their order are the daemon's own types.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Proxy {
    pub(super) closings: Closings,
    pub(super) leases: [Option<Lease>; SCOPES],
    pub(super) entries: [[Option<Entry>; SCOPES]; CALLERS],
    /// What has landed for a caller that has not woken yet, and may at any time.
    pub(super) landed: [[Option<Entry>; SCOPES]; CALLERS],
}

/// A plaintext. All but `kept` is what only the judge knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Entry {
    /// None: given to whoever waits without another look.
    pub(super) kept: Option<Kept>,
    pub(super) owner: u8,
    pub(super) identity: Identity,
    /// A refusal of its scope came after it was sent.
    pub(super) refused: bool,
    /// Some closing of its scope came between its sending and its landing.
    pub(super) overtaken: bool,
}

/// A question on its way, or the answer to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Flight {
    pub(super) question: Question,
    pub(super) asked: Asked,
    pub(super) identity: Identity,
    /// Whether its scope was known when it was sent: then an error tells of that scope.
    pub(super) known: bool,
    pub(super) answer: Option<Answer>,
    /// For the judge: when it was sent on the boot clock, whether it was sent after the last closing of its scope was
    /// heard of, and whether a refusal was among those.
    pub(super) sent: u8,
    pub(super) overtaken: bool,
    pub(super) refused: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Question {
    Decrypt { caller: u8, scope: u8 },
    Describe,
    Encrypt,
    Probe { scope: u8 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Answer {
    Allowed,
    /// `NoPermission`, for this identity.
    Barred,
    /// `KeyDisabled`.
    Disabled,
    /// `DescribeKey` answers a state, which may be an old one.
    DescribedDisabled,
    DescribedEnabled,
    /// Nothing came back, or nothing that can be believed: a timeout, a reset, a 5xx, a throttling.
    Silence,
}

/// What the KMS really said and when, for the promises to be judged by. kmsproxy never looks here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Truth {
    /// When the last `Decrypt` was sent that the KMS allowed the identity that we have now.
    pub(super) allowed: [Option<u8>; SCOPES],
    /// The same, of those that were sent for this caller.
    pub(super) granted: [[Option<u8>; SCOPES]; CALLERS],
    /// What was heard last, unless the KMS has allowed since what was asked after it.
    pub(super) closed: [Closed; SCOPES],
    /// An answer to a question from before a closing renewed a lease.
    pub(super) resurrected: bool,
}

/// The further down, the stronger.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Closed {
    #[default]
    No,
    /// From this second on.
    Noticed(u8),
    Suspended,
    Refused,
}

/// What may still happen: the bounds of the exploration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Left {
    /// Questions that may still be sent.
    pub(super) questions: u8,
    /// Changes of heart of the KMS.
    pub(super) turns: u8,
    /// Suspends of the machine, steps of the wall clock, changes of identity, refusals of other keys.
    pub(super) upsets: u8,
}

impl World {
    pub(super) fn new(left: Left) -> Self {
        Self {
            now: 0,
            slept: 0,
            stepped: false,
            kms: Kms::default(),
            flights: Vec::new(),
            proxy: Proxy::default(),
            truth: Truth::default(),
            left,
        }
    }

    pub(super) fn boot_clock(&self) -> Moment {
        seconds(self.now)
    }

    /// What a clock shows that stands still while the machine is suspended.
    pub(super) fn monotonic_clock(&self) -> Moment {
        seconds(self.now - self.slept)
    }

    /// Since when the KMS refuses the key to who we are now.
    pub(super) fn refused_since(&self) -> Option<u8> {
        let barred = self.kms.barred.filter(|_| self.kms.identity == Identity::First);
        [self.kms.disabled, barred].into_iter().flatten().min()
    }
}

impl Question {
    /// The scopes that an answer may be about.
    pub(super) const fn scope(self) -> usize {
        match self {
            Self::Decrypt { scope, .. } | Self::Probe { scope } => scope as usize,
            Self::Describe | Self::Encrypt => 0,
        }
    }

    pub(super) const fn is_decrypt(self) -> bool {
        matches!(self, Self::Decrypt { .. } | Self::Probe { .. })
    }
}

impl Flight {
    /// What the ledger would be told that it was about.
    pub(super) const fn about(&self) -> About {
        match self.question {
            Question::Describe | Question::Encrypt => About::Id,
            Question::Decrypt { .. } | Question::Probe { .. } if self.known => About::Scope,
            Question::Decrypt { .. } | Question::Probe { .. } => About::Stranger,
        }
    }
}

fn seconds(count: u8) -> Moment {
    Moment::BOOT + Duration::from_secs(count.into())
}
