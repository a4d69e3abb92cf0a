//! What each caller may do. A [`Permit`] is the only way to ask the cache or an upstream, and only [`Policy`] makes
//! one; a [`Held`] answer gives up its plaintext only to a permit that covers the key which the answer names.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};

use crate::auth::{Caller, CallerName};
use crate::fault::{Fault, Kind};
use crate::kms::{Action, Answer, Call, KeyId, KeyName, Reply};

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
    fn covers(&self, action: Action, key: &str) -> bool {
        self.actions.contains(&action) && self.keys.iter().any(|listed| listed == "*" || bare(listed) == key)
    }

    fn covers_every_key(&self, action: Action) -> bool {
        self.actions.contains(&action) && self.keys.iter().any(|listed| listed == "*")
    }
}

/// The rules in force. Replaced whole; every request and every release asks it anew.
#[derive(Debug)]
pub struct Policy {
    rules: ArcSwap<HashMap<CallerName, Vec<Rule>>>,
}

impl Policy {
    /// A policy of `rules`; a caller without rules may do nothing.
    #[must_use]
    pub fn new(rules: HashMap<CallerName, Vec<Rule>>) -> Arc<Self> {
        Arc::new(Self { rules: ArcSwap::from_pointee(rules) })
    }

    /// Puts other rules in force, for requests under way as well.
    pub fn replace(&self, rules: HashMap<CallerName, Vec<Rule>>) {
        self.rules.store(Arc::new(rules));
    }

    /// Decides whether `caller` may make `call`.
    ///
    /// For a call that names its key the answer is final. `Decrypt` names none: it is permitted provisionally where
    /// any key is allowed at all, and [`Policy::release`] decides again once the key is known.
    ///
    /// # Errors
    /// [`Kind::Forbidden`] where no rule covers the call.
    pub fn permit(&self, caller: &Caller, call: &Call) -> Result<Permit, Fault> {
        let (action, key) = (call.action(), call.key());
        let granted = self.any_rule(caller.name(), |rule| match (action, key) {
            (Action::Decrypt, _) => rule.actions.contains(&Action::Decrypt) && !rule.keys.is_empty(),
            (_, Some(key)) => rule.covers(action, key.bare()),
            (_, None) => rule.covers_every_key(action),
        });
        if !granted {
            return Err(Fault::proxy(Kind::Forbidden));
        }
        Ok(Permit { caller: caller.clone(), action, requested: key.cloned() })
    }

    /// Decides whether what `key` made may go to the holder of `permit`, by the rules in force now.
    ///
    /// # Errors
    /// [`Kind::Forbidden`] where it may not.
    pub fn release(&self, permit: &Permit, key: &KeyId) -> Result<Release, Fault> {
        let asked = permit.requested.as_ref().map_or_else(|| key.as_str(), KeyName::bare);
        if self.any_rule(permit.caller.name(), |rule| rule.covers(permit.action, asked)) {
            return Ok(Release(()));
        }
        Err(Fault::proxy(Kind::Forbidden))
    }

    fn any_rule(&self, caller: &CallerName, covers: impl Fn(&Rule) -> bool) -> bool {
        self.rules.load().get(caller).is_some_and(|rules| rules.iter().any(covers))
    }
}

fn bare(listed: &str) -> &str {
    // As KeyName::bare, for a configured name that is never sent.
    listed
        .strip_prefix("acs:kms:")
        .and_then(|arn| arn.rsplit(':').next())
        .map_or(listed, |resource| resource.strip_prefix("key/").unwrap_or(resource))
}

/// Leave to ask: proof that policy was consulted for this caller and this action.
///
/// ```compile_fail
/// // Only `Policy::permit` makes one.
/// let forged = kmsproxy::policy::Permit { caller: todo!(), action: todo!(), requested: None };
/// ```
#[derive(Clone, Debug)]
pub struct Permit {
    caller: Caller,
    action: Action,
    requested: Option<KeyName>,
}

impl Permit {
    /// Who asks.
    #[must_use]
    pub const fn caller(&self) -> &Caller {
        &self.caller
    }

    /// What is asked.
    #[must_use]
    pub const fn action(&self) -> Action {
        self.action
    }
}

/// Leave to hand out what one key made: only [`Policy::release`] makes one.
#[derive(Debug)]
pub struct Release(());

/// An answer that is still locked: what it holds in clear comes out only with a [`Release`].
#[derive(Debug)]
pub struct Held(Answer);

impl Held {
    /// Locks `answer`. Upstreams return nothing else.
    #[must_use]
    pub const fn new(answer: Answer) -> Self {
        Self(answer)
    }

    /// The key that the answer names: none for lists.
    #[must_use]
    pub fn key(&self) -> Option<&KeyId> {
        match &self.0.reply {
            Reply::DataKey(reply) => Some(&reply.key),
            Reply::Decrypted(reply) => Some(&reply.key),
            Reply::Document(reply) => reply.described.as_ref().map(|(key, _)| key),
            Reply::Encrypted(reply) => Some(&reply.key),
        }
    }

    /// The answer itself, against proof that it may go out.
    #[must_use]
    pub const fn open(&self, _: &Release) -> &Answer {
        &self.0
    }

    /// As [`Held::open`], giving the answer away.
    #[must_use]
    pub fn into_inner(self, _: &Release) -> Answer {
        self.0
    }
}
