//! The door: from a claim and the peer that makes it to a caller.

use std::fmt;
use std::sync::Arc;

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
use crate::claim::*;
use crate::clock::Moment;
use crate::fault::*;
pub struct Entry {
    pub name: CallerName,
    pub listener: ListenerName,
    pub identity: Identity,
}
pub enum Identity {
    Listener,
}
pub struct Door(Vec<Entry>);
impl Door {
    pub fn new(e: Vec<Entry>) -> Result<Self, ()> {
        Ok(Self(e))
    }
    pub fn admit(&self, p: &Peer, _: &Claim<'_>, _: Moment, _: jiff::Timestamp) -> Result<Caller, Fault> {
        self.0
            .iter()
            .find(|e| e.listener == p.listener)
            .map(|e| Caller { name: e.name.clone() })
            .ok_or(Fault::caller(Kind::Unauthenticated))
    }
}
