//! What each caller may do. A [`Permit`] is the only way to ask the cache or an upstream, and only [`Policy`] makes
//! one; a [`Held`] answer gives up its plaintext only to a permit that covers the key which the answer names, and only
//! once the audit log has the record of it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};

use crate::audit::{Audit, Outcome, Record};
use crate::auth::{Caller, CallerName};
use crate::fault::{Fault, Kind};
use crate::kms::{Action, Call, Ciphertext, KeyId, KeyName, bare};
use crate::trace::Span;

mod held;

pub use held::{Held, Release};

/// One line of a caller's `allow`: these actions on these keys. Lines add up; there is no deny.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// What may be done.
    pub actions: Vec<Action>,
    /// With which keys: ids, ARNs, aliases, or `*`. `Decrypt` names no key, its answer names an id; so for `Decrypt`
    /// an alias here allows nothing. Account-wide lists need `*`.
    pub keys: Vec<String>,
}

impl Rule {
    /// Whether it allows `action` on the key of that bare name.
    #[must_use]
    pub fn covers(&self, action: Action, key: &str) -> bool {
        self.actions.contains(&action) && self.keys.iter().any(|listed| listed == "*" || bare(listed) == key)
    }

    fn covers_every_key(&self, action: Action) -> bool {
        self.actions.contains(&action) && self.keys.iter().any(|listed| listed == "*")
    }
}

/// What one caller is granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// What it may do.
    pub rules: Vec<Rule>,
    /// With whom it shares cached answers: itself, or the name of a group that the configuration declares.
    pub share: CallerName,
}

/// The grants in force. Replaced whole; every request and every release asks it anew.
#[derive(Debug)]
pub struct Policy {
    /// Callers are few: to compare names takes less than to hash one.
    grants: ArcSwap<BTreeMap<CallerName, Grant>>,
    audit: Arc<Audit>,
}

impl Policy {
    /// A policy of `grants` without an audit log; a caller without a grant may do nothing.
    #[must_use]
    pub fn new(grants: HashMap<CallerName, Grant>) -> Arc<Self> {
        Self::audited(grants, Audit::off())
    }

    /// A policy of `grants`, whose decisions `audit` records.
    #[must_use]
    pub fn audited(grants: HashMap<CallerName, Grant>, audit: Arc<Audit>) -> Arc<Self> {
        Arc::new(Self { grants: ArcSwap::from_pointee(grants.into_iter().collect()), audit })
    }

    /// Puts other grants in force, for requests under way as well.
    pub fn replace(&self, grants: HashMap<CallerName, Grant>) {
        self.grants.store(Arc::new(grants.into_iter().collect()));
    }

    /// Decides whether `caller` may make `call`.
    ///
    /// For a call that names its key the answer is final. `Decrypt` need not name one: it is then permitted provisionally
    /// where any key is allowed at all, and [`Policy::release`] decides again once the key is known.
    ///
    /// # Errors
    /// [`Kind::Forbidden`] where no rule covers the call, which is recorded; [`Kind::Unaudited`] where the audit log is
    /// required and cannot be written.
    pub fn permit(&self, caller: &Caller, call: &Call) -> Result<Permit, Fault> {
        let (action, key) = (call.action(), call.key());
        let grants = self.grants.load();
        let grant = grants.get(caller.name());
        let granted = |rule: &Rule| match (action, key) {
            (Action::Decrypt, None) => rule.actions.contains(&Action::Decrypt) && !rule.keys.is_empty(),
            (_, Some(key)) => rule.covers(action, key.bare()),
            (_, None) => rule.covers_every_key(action),
        };
        let share = grant.filter(|grant| grant.rules.iter().any(granted)).map(|grant| grant.share.clone());
        let forbidden = share.is_none();
        let holder = Holder::Caller { caller: caller.clone(), share: share.unwrap_or_else(|| caller.name().clone()) };
        let ciphertext = call.ciphertext().cloned();
        let permit = Permit { holder, action, requested: key.cloned(), ciphertext };
        if forbidden {
            return Err(self.refused(&permit, Fault::proxy(Kind::Forbidden)));
        }
        self.ready()?;
        Ok(permit)
    }

    /// Whether anything could be released now.
    ///
    /// # Errors
    /// [`Kind::Unaudited`] where the audit log is required and cannot be written.
    pub fn ready(&self) -> Result<(), Fault> {
        self.audit.ready().map_err(|_| Fault::proxy(Kind::Unaudited))
    }

    /// What `caller` is granted now.
    #[must_use]
    pub fn grant(&self, caller: &CallerName) -> Option<Grant> {
        self.grants.load().get(caller).cloned()
    }

    /// Records that the holder of `permit` gets no answer but `fault`, and gives that back.
    pub fn refused(&self, permit: &Permit, fault: Fault) -> Fault {
        let outcome = Outcome::Refused(fault.kind().label());
        if let Some(caller) = permit.holder.caller().filter(|_| *fault.kind() != Kind::Unaudited) {
            let kms_request_id = fault.verbatim().map(|said| &said.request_id);
            self.audit.note(&Record { kms_request_id, ..permit.record(caller, outcome) });
        }
        fault
    }

    /// Leave to ask about a key on our own account: to see whether it still consents. What comes back is never
    /// released to anyone.
    #[must_use]
    pub const fn upkeep(&self) -> Permit {
        Permit { holder: Holder::Upkeep, action: Action::Decrypt, requested: None, ciphertext: None }
    }

    /// As [`Policy::upkeep`], for what nobody has asked for in the life of this process and somebody may.
    #[must_use]
    pub const fn warm_up(&self) -> Permit {
        Permit { holder: Holder::WarmUp, action: Action::Decrypt, requested: None, ciphertext: None }
    }

    /// As [`Policy::upkeep`], for what cannot wait behind callers: the probes that leases live by.
    #[must_use]
    pub const fn probe(&self) -> Permit {
        Permit { holder: Holder::Probe, action: Action::Decrypt, requested: None, ciphertext: None }
    }

    /// As [`Policy::probe`], to see by an Encrypt which version of a key is primary.
    #[must_use]
    pub fn follow(&self, key: &KeyName) -> Permit {
        Permit { holder: Holder::Probe, action: Action::Encrypt, requested: Some(key.clone()), ciphertext: None }
    }

    /// Decides whether what `key` made may go to the holder of `permit`, by the rules in force now.
    ///
    /// # Errors
    /// [`Kind::Forbidden`] where it may not.
    pub fn release<'p>(&'p self, permit: &'p Permit, key: &KeyId) -> Result<Release<'p>, Fault> {
        let asked = match (&permit.action, &permit.requested) {
            // What a Decrypt is allowed is decided by the key that made the plaintext, whatever the caller called it.
            (Action::Decrypt, _) | (_, None) => key.as_str(),
            (_, Some(name)) => name.bare(),
        };
        self.covered(permit, |rule| rule.covers(permit.action, asked))
    }

    /// As [`Policy::release`], for an answer about no key in particular.
    ///
    /// # Errors
    /// [`Kind::Forbidden`] where the caller may not ask that (any more).
    pub fn release_list<'p>(&'p self, permit: &'p Permit) -> Result<Release<'p>, Fault> {
        self.covered(permit, |rule| match &permit.requested {
            Some(key) => rule.covers(permit.action, key.bare()),
            None => permit.action != Action::Decrypt && rule.covers_every_key(permit.action),
        })
    }

    fn covered<'p>(&'p self, permit: &'p Permit, covers: impl Fn(&Rule) -> bool) -> Result<Release<'p>, Fault> {
        let grants = self.grants.load();
        let rules = match &permit.holder {
            Holder::Caller { caller, .. } => grants.get(caller.name()).map_or(&[][..], |grant| &grant.rules),
            Holder::Probe | Holder::Upkeep | Holder::WarmUp => &[],
        };
        if rules.iter().any(covers) {
            Ok(Release::new(&self.audit, permit))
        } else {
            Err(Fault::proxy(Kind::Forbidden))
        }
    }
}

/// Leave to ask: proof that policy was consulted for this caller and this action.
///
/// ```compile_fail
/// // Only `Policy::permit` makes one.
/// fn forge(honest: &kmsproxy::policy::Permit) -> kmsproxy::policy::Permit {
///     kmsproxy::policy::Permit { ..honest.clone() }
/// }
/// ```
#[derive(Clone, Debug)]
pub struct Permit {
    holder: Holder,
    action: Action,
    requested: Option<KeyName>,
    /// What is to be unwrapped, for the record.
    ciphertext: Option<Ciphertext>,
}

#[derive(Clone, Debug)]
enum Holder {
    Caller { caller: Caller, share: CallerName },
    Probe,
    Upkeep,
    WarmUp,
}

impl Permit {
    /// With whom the holder shares cached answers; none for our own upkeep.
    #[must_use]
    pub const fn share(&self) -> Option<&CallerName> {
        match &self.holder {
            Holder::Caller { share, .. } => Some(share),
            Holder::Probe | Holder::Upkeep | Holder::WarmUp => None,
        }
    }

    /// Who asks; none for our own upkeep.
    #[must_use]
    pub fn caller(&self) -> Option<&CallerName> {
        self.holder.caller().map(Caller::name)
    }

    /// The span of the request that it is for; none where that is not traced, nor for our own upkeep.
    #[must_use]
    pub fn span(&self) -> Option<&Span> {
        self.holder.caller().and_then(Caller::span)
    }

    /// Whether it goes before all callers.
    #[must_use]
    pub const fn is_urgent(&self) -> bool {
        matches!(self.holder, Holder::Probe)
    }

    /// Whether it goes after everything else.
    #[must_use]
    pub const fn is_idle(&self) -> bool {
        matches!(self.holder, Holder::WarmUp)
    }

    /// What is asked.
    #[must_use]
    pub const fn action(&self) -> Action {
        self.action
    }

    /// The key that was named, where the call named one.
    #[must_use]
    pub const fn requested(&self) -> Option<&KeyName> {
        self.requested.as_ref()
    }

    /// What is known so far of what `caller`, its holder, asks.
    fn record<'r>(&'r self, caller: &'r Caller, outcome: Outcome) -> Record<'r> {
        Record {
            caller: caller.name().as_str(),
            listener: caller.listener(),
            action: self.action,
            named: self.requested.as_ref(),
            key: None,
            version: None,
            ciphertext: self.ciphertext.as_ref(),
            outcome,
            request_id: None,
            kms_request_id: None,
        }
    }
}

impl Holder {
    const fn caller(&self) -> Option<&Caller> {
        match self {
            Self::Caller { caller, .. } => Some(caller),
            Self::Probe | Self::Upkeep | Self::WarmUp => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{Door, Entry, Identity};
    use crate::claim::{Claim, ListenerName, Peer, PeerOrigin};
    use crate::clock::{Clock, Manual};
    use crate::kms::{Ciphertext, Decrypt, Encrypt, Extra, Read};
    use crate::secret::Secret;

    const ARN: &str = "acs:kms:cn-hangzhou:1234:key/key-1";

    fn caller() -> Caller {
        let (name, listener) = (CallerName::new("plugin"), ListenerName::new("ack"));
        let entry = Entry { name, listener: listener.clone(), identity: Identity::Listener };
        let peer = Peer { listener, origin: PeerOrigin::Unix(None), certificate_names: Arc::from([]) };
        let clock = Manual::at(jiff::Timestamp::UNIX_EPOCH);
        Door::new(vec![entry]).unwrap().admit(&peer, &Claim::Anonymous, clock.now(), clock.wall()).unwrap()
    }

    fn policy(actions: &[Action], keys: &[&str]) -> Arc<Policy> {
        let keys = keys.iter().map(|&key| key.to_owned()).collect();
        let rules = vec![Rule { actions: actions.to_vec(), keys }];
        Policy::new(HashMap::from([(CallerName::new("plugin"), Grant { rules, share: CallerName::new("plugin") })]))
    }

    fn encrypt(key: &str) -> Call {
        let (key, plaintext) = (KeyName::new(key), Secret::default());
        Call::Encrypt(Encrypt { key, plaintext, context: None, dry_run: false, extra: Extra::default() })
    }

    fn decrypt() -> Call {
        let ciphertext = Ciphertext::new(vec![1]);
        Call::Decrypt(Decrypt { ciphertext, key: None, context: None, dry_run: false, extra: Extra::default() })
    }

    fn list(key: Option<&str>) -> Call {
        let action = if key.is_some() { Action::ListKeyVersions } else { Action::ListKeys };
        Call::Read(Read { action, key: key.map(KeyName::new), extra: Extra::default() })
    }

    fn allows(policy: &Policy, call: &Call) -> bool {
        policy.permit(&caller(), call).is_ok()
    }

    #[test]
    fn a_key_is_known_by_its_id_and_its_arn_and_an_alias_only_by_itself() {
        for listed in ["key-1", ARN] {
            let policy = policy(&[Action::Encrypt], &[listed]);
            assert!(allows(&policy, &encrypt("key-1")));
            assert!(allows(&policy, &encrypt(ARN)));
            assert!(!allows(&policy, &encrypt("key-10")));
            assert!(!allows(&policy, &encrypt("alias/one")));
        }
        let policy = policy(&[Action::Encrypt], &["alias/one"]);
        assert!(allows(&policy, &encrypt("alias/one")));
        assert!(!allows(&policy, &encrypt("key-1")));
    }

    #[test]
    fn one_action_does_not_imply_another() {
        let policy = policy(&[Action::Encrypt], &["*"]);
        assert!(allows(&policy, &encrypt("key-1")));
        assert!(!allows(&policy, &decrypt()));
        assert!(!allows(&policy, &list(Some("key-1"))));
    }

    #[test]
    fn a_decrypt_is_permitted_provisionally_and_released_by_the_key_of_its_answer() {
        let policy = policy(&[Action::Decrypt], &["key-1", "alias/two"]);
        let permit = policy.permit(&caller(), &decrypt()).unwrap();
        assert!(policy.release(&permit, &KeyId::new("key-1")).is_ok());
        assert!(policy.release(&permit, &KeyId::new("key-2")).is_err());
        assert!(policy.release_list(&permit).is_err());
    }

    #[test]
    fn account_wide_lists_need_every_key() {
        let one = policy(&[Action::ListKeys, Action::ListKeyVersions], &["key-1"]);
        assert!(!allows(&one, &list(None)));
        assert!(allows(&one, &list(Some("key-1"))));
        let all = policy(&[Action::ListKeys], &["*"]);
        let permit = all.permit(&caller(), &list(None)).unwrap();
        assert!(all.release_list(&permit).is_ok());
    }

    #[test]
    fn rules_that_were_withdrawn_release_nothing_of_what_they_permitted() {
        let policy = policy(&[Action::Decrypt, Action::ListKeys], &["*"]);
        let decrypting = policy.permit(&caller(), &decrypt()).unwrap();
        let listing = policy.permit(&caller(), &list(None)).unwrap();
        policy.replace(HashMap::new());
        assert!(policy.release(&decrypting, &KeyId::new("key-1")).is_err());
        assert!(policy.release_list(&listing).is_err());
        assert!(!allows(&policy, &decrypt()));
    }

    #[test]
    fn our_own_upkeep_may_ask_and_is_never_given_anything() {
        let policy = policy(&[Action::Decrypt], &["*"]);
        let permit = policy.upkeep();
        assert_eq!(permit.share(), None);
        assert!(policy.release(&permit, &KeyId::new("key-1")).is_err());
    }
}
