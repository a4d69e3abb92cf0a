//! The door: from a claim and the peer that makes it to a caller.

use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;

use crate::claim::{Claim, ListenerName, Peer};
use crate::clock::Moment;
use crate::fault::{Fault, Kind};
use crate::secret::Secret;

/// A caller's name in the configuration.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallerName(Arc<str>);

impl CallerName {
    /// Wraps a configured name.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self(name.into())
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CallerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Somebody who has proven who they are. Only this module makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    name: CallerName,
}

impl Caller {
    /// The configured name.
    #[must_use]
    pub const fn name(&self) -> &CallerName {
        &self.name
    }
}

/// One configured caller on one listener.
#[derive(Debug)]
pub struct Entry {
    /// The caller.
    pub name: CallerName,
    /// Where it comes in.
    pub listener: ListenerName,
    /// What proves that it is the one.
    pub identity: Identity,
}

/// What proves who a caller is.
#[derive(Debug)]
pub enum Identity {
    /// A signature by this key.
    AccessKey {
        /// Its id.
        id: String,
        /// Its secret.
        secret: Secret,
    },
    /// A client certificate with this name.
    Certificate {
        /// The name.
        name: String,
    },
    /// A unix peer with this user id.
    Unix {
        /// The user.
        uid: u32,
    },
    /// Whoever reaches the socket.
    Listener,
}

/// Decides who is let in as whom.
#[derive(Debug)]
pub struct Door(Vec<Entry>);

impl Door {
    /// A door for `entries`.
    ///
    /// # Errors
    /// None yet.
    pub const fn new(entries: Vec<Entry>) -> Result<Self, std::convert::Infallible> {
        Ok(Self(entries))
    }

    /// Finds the caller whom `peer` and `claim` prove.
    ///
    /// # Errors
    /// Where they prove none.
    pub fn admit(&self, peer: &Peer, claim: &Claim<'_>, _now: Moment, _wall: Timestamp) -> Result<Caller, Fault> {
        let Claim::Signed(signed) = claim else { return Err(Fault::caller(Kind::Unauthenticated)) };
        let found = self.0.iter().find_map(|entry| match &entry.identity {
            Identity::AccessKey { id, secret } if id == signed.access_key_id && entry.listener == peer.listener => {
                Some((entry, secret))
            }
            Identity::AccessKey { .. } | Identity::Certificate { .. } | Identity::Unix { .. } | Identity::Listener => {
                None
            }
        });
        let (entry, secret) = found.ok_or(Fault::caller(Kind::UnknownAccessKey))?;
        if signed.proof.verify(secret) {
            return Ok(Caller { name: entry.name.clone() });
        }
        Err(Fault::caller(Kind::BadSignature(signed.proof.string_to_sign())))
    }
}
