//! Calls that are never shared, and what their answers say about leases.

use super::{Engine, Primary};
use crate::clock::Deadline;
use crate::fault::{Evidence, Fault, Kind};
use crate::kms::{Answer, Call, Encrypted, KeyName, KeyState};
use crate::lease::{Asked, Standing};
use crate::policy::{Held, Permit};

impl Engine {
    /// Calls that are never shared: straight to the KMS, every time.
    pub(super) async fn pass(&self, permit: &Permit, call: Call, deadline: Deadline) -> Result<Answer, Fault> {
        if let Some(key) = call.key().filter(|_| uses_key(&call)) {
            self.check_refused(key)?;
        }
        let left = deadline.min(self.remote_deadline());
        let (asked, held) = self.ask(permit, &call, left).await.inspect_err(|fault| match (call.key(), &call) {
            (Some(key), _) => self.parts.ledger.weigh_named(fault, key),
            (None, Call::Read(_)) => self.parts.ledger.weigh_listing(fault),
            (None, Call::Decrypt(_) | Call::Encrypt(_) | Call::GenerateDataKey(_)) => {
                self.parts.ledger.weigh(fault, None);
            }
        })?;
        // Of another KMS than the one that answered, perhaps.
        let overtaken = self.parts.ledger.is_overtaken(asked);
        if let (Some(name), Some(key), false) = (call.key(), held.key(), overtaken) {
            self.parts.ledger.learn(name, key);
        }
        if let (Some(name), Some(Encrypted { key, version, .. }), false) = (call.key(), held.encrypted(), overtaken) {
            self.encrypted(name, Primary { key: key.clone(), version: version.clone() }, asked);
        }
        self.heed(&call, &held, asked);
        let release = match held.key() {
            Some(key) => self.parts.policy.release(permit, key)?,
            None => self.parts.policy.release_list(permit)?,
        };
        self.note_passed(&call, &held, self.parts.clock.now());
        if let Some(key) = held.key().filter(|_| held.is_secret()) {
            let now = self.parts.clock.now();
            self.check_drift(now);
            self.parts.ledger.stands(key, asked, now)?;
        }
        held.pass(&release)
    }

    /// While a key is refused, calls that would use it are answered from that, but for one trial a second.
    pub(super) fn check_refused(&self, key: &KeyName) -> Result<(), Fault> {
        let Some(scope) = self.parts.ledger.known(key) else { return Ok(()) };
        let now = self.parts.clock.now();
        match scope.standing(now) {
            // A right to Decrypt that is missing says nothing of the right to Encrypt.
            Standing::Refused(fault) if Evidence::of(&fault) == Evidence::KeyRefused && !scope.may_try(now) => {
                Err(fault)
            }
            Standing::Lapsed
            | Standing::Refused(_)
            | Standing::Serving
            | Standing::ServingByGrace
            | Standing::Suspended
            | Standing::Unknown => Ok(()),
        }
    }

    /// What a successful call other than a shared Decrypt says about leases: it may shorten, never lengthen.
    fn heed(&self, call: &Call, held: &Held, asked: Asked) {
        match held.described().map(|(key, state)| (key, unusable(*state))) {
            Some((key, Some(kind))) => self.parts.ledger.refuse(key, &Fault::kms(kind)),
            Some((_, None)) => {}
            None if uses_key(call) => {
                if let Some(scope) = call.key().and_then(|key| self.parts.ledger.known(key)) {
                    scope.relent(asked);
                }
            }
            None => {}
        }
    }
}

/// Whether the call does with the key what a disabled key refuses; reads are allowed always.
const fn uses_key(call: &Call) -> bool {
    matches!(call, Call::Encrypt(_) | Call::GenerateDataKey(_))
}

const fn unusable(state: KeyState) -> Option<Kind> {
    match state {
        KeyState::Enabled => None,
        KeyState::Disabled => Some(Kind::KeyDisabled),
        KeyState::PendingDeletion => Some(Kind::KeyPendingDeletion),
        KeyState::PendingImport => Some(Kind::KeyPendingImport),
        KeyState::Unavailable => Some(Kind::KeyUnavailable),
    }
}
