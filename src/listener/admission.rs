//! Who comes in, and who is sent away.

use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::address::Acceptor;
use super::connection::Socket;
use super::crowd::{Crowd, Order, Place};
use super::patience::Patience;

/// Lets everyone in for whom there is a place, until `shutdown`.
///
/// # Errors
/// If the socket itself fails.
pub(super) async fn admit(
    acceptor: &Acceptor,
    crowd: &Crowd,
    begin: impl Fn(Socket, Place),
    shutdown: &CancellationToken,
) -> io::Result<()> {
    let mut patience = Patience::default();
    loop {
        let socket = tokio::select! {
            biased;
            () = shutdown.cancelled() => return Ok(()),
            accepted = acceptor.accept() => match accepted {
                Ok(socket) => socket,
                Err(error) => match patience.after(&error) {
                    Some(pause) => { sleep(pause).await; continue }
                    None => return Err(error),
                },
            },
        };
        patience = Patience::default();
        // Whoever has been let in is served, if there is a place, although it is the last: it may have asked already.
        let place = tokio::select! {
            biased;
            place = crowd.enter() => place,
            () = shutdown.cancelled() => return Ok(()),
        };
        begin(socket, place);
    }
}

/// Sends everyone home who is there when `word` changes: at once who is idle, after its answer who waits for one. They
/// may come again.
pub(super) async fn dismiss(crowd: &Crowd, mut word: watch::Receiver<u64>) -> Infallible {
    while word.changed().await.is_ok() {
        crowd.tell_all(Order::Leave);
    }
    // Whoever could say it is gone.
    pending().await
}

/// As [`dismiss`], where there is such a word.
pub(super) async fn dismiss_if(crowd: &Crowd, word: Option<watch::Receiver<u64>>) -> Infallible {
    match word {
        Some(word) => dismiss(crowd, word).await,
        None => pending().await,
    }
}

/// Sends everyone home: at once who is idle, after its answer who waits for one, and at the end whoever is left.
pub(super) async fn drain(crowd: &Crowd, tasks: &TaskTracker, patience: Duration) {
    tasks.close();
    crowd.tell_all(Order::Leave);
    if timeout(patience, tasks.wait()).await.is_err() {
        tracing::warn!(connections = tasks.len(), "cut at the end of the drain time");
        crowd.tell_all(Order::Cut);
        tasks.wait().await;
    }
}
