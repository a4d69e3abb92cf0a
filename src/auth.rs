//! The door: from a claim and the peer that makes it to a caller.

use std::fmt;
use std::sync::Arc;

use crate::claim::ListenerName;
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

/// One configured caller: stub.
#[derive(Debug, PartialEq, Eq)]
pub struct Entry {
    /// Who.
    pub name: CallerName,
    /// Through which listener.
    pub listener: ListenerName,
    /// Proven how.
    pub identity: Identity,
}

/// What proves a caller: stub.
#[derive(Debug, PartialEq, Eq)]
pub enum Identity {
    /// A signature.
    AccessKey {
        /// Its id.
        id: String,
        /// Its secret.
        secret: Secret,
    },
    /// A name in a client certificate.
    Certificate {
        /// The name.
        name: String,
    },
    /// Peer credentials.
    Unix {
        /// The user.
        uid: u32,
    },
    /// Whoever reaches the socket.
    Listener,
}
