//! The doors of the house: each a listener and the face behind it.

use std::io;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::error;

use super::answering::Answering;
use crate::admin::status::Counted;
use crate::claim::Peer;
use crate::engine::Following;
use crate::listener::{self, Held, Listener};
use crate::serve::{aliyun, kubernetes};

/// One listener with its face. (A door is what admits callers.)
pub(super) struct Entrance {
    pub(super) config: listener::Config,
    pub(super) listener: Listener,
    pub(super) face: Face,
    /// Its socket once more, unless that is held already.
    pub(super) held: Option<Held>,
}

impl Entrance {
    /// What a status tells of it.
    pub(super) fn counted(&self) -> Counted {
        Counted {
            name: self.config.name.clone(),
            address: self.listener.local_address().to_string(),
            upstream: self.config.upstream.clone(),
            max_connections: self.listener.max_connections(),
            census: self.listener.census(),
        }
    }
}

/// What is spoken behind a door.
pub(super) enum Face {
    Aliyun(aliyun::Face<Answering>),
    Kubernetes(kubernetes::Face<Following>),
}

/// Opens one, until `stop`.
pub(super) fn open(name: String, listener: Listener, face: Face, stop: CancellationToken, listening: &TaskTracker) {
    listening.spawn(async move {
        let served = match face {
            Face::Aliyun(face) => serve_aliyun(listener, face, stop).await,
            Face::Kubernetes(face) => serve_kubernetes(listener, face, stop).await,
        };
        if let Err(error) = served {
            error!(listener = name, %error, "the listener's socket failed");
        }
    });
}

async fn serve_aliyun(listener: Listener, face: aliyun::Face<Answering>, stop: CancellationToken) -> io::Result<()> {
    listener.run(Arc::new(face), stop).await
}

async fn serve_kubernetes(
    listener: Listener,
    face: kubernetes::Face<Following>,
    stop: CancellationToken,
) -> io::Result<()> {
    let face = Arc::new(face);
    let service = move |peer: Arc<Peer>, request| {
        let face = Arc::clone(&face);
        async move { face.serve(request, &peer).await }
    };
    listener.run_http2(service, stop).await
}
