//! How long a connection may take to open.

use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt as _;
use http::Uri;
use tokio::time::timeout;
use tower_service::Service;

/// Gives up on a connection that is not open, TLS included, after `limit`.
///
/// Whoever asks has a deadline of its own. This one is for connections that nobody waits for any more: hyper goes on
/// opening one in the background when its question has been given another, and a server that accepts and then says
/// nothing would keep it, with its descriptor, for as long as it likes.
#[derive(Clone, Debug)]
pub struct Opening<C> {
    connector: C,
    limit: Duration,
}

impl<C> Opening<C> {
    pub(super) const fn within(limit: Duration, connector: C) -> Self {
        Self { connector, limit }
    }
}

type Failure = Box<dyn Error + Send + Sync>;

impl<C> Service<Uri> for Opening<C>
where
    C: Service<Uri, Error = Failure>,
    C::Future: Send + 'static,
{
    type Response = C::Response;
    type Error = Failure;
    type Future = Pin<Box<dyn Future<Output = Result<C::Response, Failure>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        self.connector.poll_ready(cx)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let opening = timeout(self.limit, self.connector.call(uri));
        Box::pin(opening.map(|opened| opened.unwrap_or_else(|late| Err(late.into()))))
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::sync::{Arc, Weak};

    use tokio::time::Instant;

    use super::*;

    /// A server that accepts, and never says a word; `0` lives as long as the connection to it.
    struct Mute(Weak<()>);

    impl Service<Uri> for Mute {
        type Response = ();
        type Error = Failure;
        type Future = Pin<Box<dyn Future<Output = Result<(), Failure>> + Send>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Failure>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Uri) -> Self::Future {
            let held = Arc::new(());
            self.0 = Arc::downgrade(&held);
            Box::pin(async move {
                let _held = held;
                pending().await
            })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_accepts_and_says_nothing_is_given_up_on() {
        let mut opening = Opening::within(Duration::from_secs(10), Mute(Weak::new()));
        let begun = Instant::now();
        assert!(opening.call(Uri::from_static("https://kms.example")).await.is_err());
        assert_eq!(begun.elapsed(), Duration::from_secs(10));
        assert_eq!(opening.connector.0.strong_count(), 0, "the connection is closed");
    }
}
