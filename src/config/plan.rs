//! What the daemon is built from: everything parsed, looked up and compared.

use std::io;
use std::net::{SocketAddr, TcpListener};

use crate::audit;
use crate::auth::Entry;
use crate::cache;
use crate::config::address::Address;
use crate::config::key::Place;
use crate::config::mistake::{Mistake, Mistakes};
use crate::config::raw::Kms;
use crate::exporter;
use crate::guard;
use crate::lease;
use crate::listener::{self, Provider};
use crate::policy::Rule;
use crate::working_set;

/// A configuration that cannot be wrong any more, as far as can be known without the network.
#[derive(Debug)]
pub struct Plan {
    /// At least one; names are distinct.
    pub upstreams: Vec<UpstreamPlan>,
    /// At least one; names and addresses are distinct, and each has an upstream above and a caller below.
    pub listeners: Vec<ListenerPlan>,
    /// Names are distinct, and so are identities at one listener.
    pub callers: Vec<CallerPlan>,
    /// Bounds of the cache.
    pub cache: cache::Config,
    /// Which memory sealing keys must have.
    pub memory: guard::Config,
    /// Where metrics and health are told, if anywhere.
    pub metrics: Option<SocketAddr>,
    /// The control socket, if any; never TCP.
    pub admin: Option<Address>,
    /// Whether the status page is served, at the address of metrics, which there then is.
    pub page: bool,
    /// The audit log, if any.
    pub audit: Option<audit::Terms>,
    /// Where the working set is kept, if anywhere.
    pub working_set: working_set::Config,
    /// Where spans are sent, if anywhere.
    pub tracing: Option<exporter::Terms>,
    pub(super) places: Vec<(SocketAddr, Place)>,
}

/// One upstream.
#[derive(Debug)]
pub struct UpstreamPlan {
    /// Its name.
    pub name: String,
    /// Which KMS.
    pub kms: Kms,
    /// Its lease.
    pub lease: lease::Terms,
}

/// One listener.
#[derive(Debug)]
pub struct ListenerPlan {
    /// `config.address`, parsed.
    pub address: Address,
    /// `config.mode`, parsed: the permission bits of a unix socket.
    pub mode: Option<u32>,
    /// What is spoken on it.
    pub face: FacePlan,
    /// Its settings.
    pub config: listener::Config,
}

/// A face with what it alone needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FacePlan {
    /// Alibaba Cloud KMS OpenAPI.
    Aliyun,
    /// The Kubernetes KMS provider API. The listener's address is then a unix or an inherited socket without TLS, and
    /// its callers prove themselves by the listener or by uid.
    Kubernetes(Provider),
}

/// One caller.
#[derive(Debug)]
pub struct CallerPlan {
    /// For the door.
    pub entry: Entry,
    /// The group that it shares cached answers with.
    pub share: Option<String>,
    /// For the policy.
    pub allow: Vec<Rule>,
}

impl Plan {
    /// Binds every TCP address for a moment. What is free now may be taken a moment later: this is for telling the
    /// operator early and with the line, not for holding the address.
    ///
    /// # Errors
    /// [`Unbindable`]; a mistake wins over a taken address.
    pub fn try_addresses(&self) -> Result<(), Unbindable> {
        let (mut taken, mut mistakes) = (None, Vec::new());
        for (address, place) in &self.places {
            match TcpListener::bind(address) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                    taken = taken.or_else(|| Some(Unbindable::Taken { address: *address, place: place.clone() }));
                }
                Err(error) => mistakes.push(unreachable(*address, place.clone(), &error)),
            }
        }
        if !mistakes.is_empty() {
            return Err(Unbindable::Mistaken(Mistakes(mistakes)));
        }
        taken.map_or(Ok(()), Err)
    }
}

/// Why an address cannot be listened on.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unbindable {
    /// Somebody else listens there.
    #[error(
        "{place}: {address} is taken\n  remedy: stop what listens there (ss -ltnp shows it) or choose another port"
    )]
    Taken {
        /// Where.
        address: SocketAddr,
        /// Where it is configured.
        place: Place,
    },
    /// This machine does not have it, or we may not.
    #[error("{0}")]
    Mistaken(Mistakes),
}

fn unreachable(address: SocketAddr, place: Place, error: &io::Error) -> Mistake {
    #[expect(clippy::wildcard_enum_match_arm, reason = "not our enum: the rest is told as it is")]
    let (problem, remedy) = match error.kind() {
        io::ErrorKind::AddrNotAvailable => (
            format!("{address} is not an address of this machine"),
            "write one of its own (`ip address` lists them), or 127.0.0.1".to_owned(),
        ),
        io::ErrorKind::PermissionDenied => (
            format!("{address} may not be bound: permission denied"),
            "choose a port from 1024 on, or grant CAP_NET_BIND_SERVICE".to_owned(),
        ),
        _ => (format!("{address} cannot be bound: {error}"), "choose another address".to_owned()),
    };
    Mistake { place, problem, remedy }
}
