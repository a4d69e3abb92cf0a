//! Who somebody says they are, and what there is to prove it.

use std::fmt::{self, Debug};
use std::net::SocketAddr;
use std::sync::Arc;

use jiff::Timestamp;

mod signing_key;

pub use signing_key::{SigningKey, hmac_v1, hmac_v3};

/// A listener's name in the configuration. A connection's listener is the strongest identity there is: a socket that
/// only one plugin can reach proves more than credentials seen through namespaces.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListenerName(Arc<str>);

impl ListenerName {
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

/// Credentials of a unix peer as the kernel gave them at `connect(2)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnixPeer {
    /// User; 65534 when the peer lives in another user namespace, which proves nothing.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// What the socket itself tells of the other end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Which listener it came through.
    pub listener: ListenerName,
    /// Where it sits.
    pub origin: PeerOrigin,
    /// DNS and URI names (SANs) of a client certificate that the listener's client CA verified; empty without one.
    pub certificate_names: Arc<[Box<str>]>,
}

/// Where a peer sits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerOrigin {
    /// A TCP peer. The address identifies nobody; it is for logs.
    Tcp(SocketAddr),
    /// A unix peer; `None` where the kernel gave no credentials.
    Unix(Option<UnixPeer>),
}

/// A signature over one request, ready to be checked against the access key it claims.
pub trait Proof {
    /// Whether `key` made it. Takes the same time for every wrong signature.
    fn verify(&self, key: &SigningKey) -> bool;

    /// What this side calculated, for a dialect whose clients want to see it; never contains the secret, but does
    /// contain the request, so it may go to that very caller and nowhere else.
    fn string_to_sign(&self) -> Option<String>;

    /// The signature's own bytes, decoded: equal for equal requests, however the signature was spelled. What makes a
    /// request without a nonce unrepeatable.
    fn tag(&self) -> &[u8];
}

/// Who the request says it is from.
pub enum Claim<'r> {
    /// It says nothing: the listener, the certificate or the peer credentials must do.
    Anonymous,
    /// Signed with an access key.
    Signed(Signed<'r>),
}

/// A request signed with an access key.
pub struct Signed<'r> {
    /// The id of the key, as sent.
    pub access_key_id: &'r str,
    /// When it was signed, by the signer's clock.
    pub signed_at: Timestamp,
    /// What makes it unrepeatable; some signers send none.
    pub nonce: Option<&'r str>,
    /// The signature.
    pub proof: Box<dyn Proof + 'r>,
}

impl Debug for Claim<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anonymous => f.write_str("Anonymous"),
            Self::Signed(signed) => write!(f, "Signed({})", signed.access_key_id),
        }
    }
}
