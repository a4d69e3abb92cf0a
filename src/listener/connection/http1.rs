//! HTTP/1.1: one request at a time.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use http::header::{CONNECTION, HeaderValue};
use http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, sleep_until};

use super::{Limits, Member, Opened, Order, Protocol, overdue};
use crate::claim::Peer;

/// HTTP/1.1, answered by a service.
#[derive(Clone, Debug)]
pub(in crate::listener) struct Http1<S>(pub(in crate::listener) S);

impl<S, F, B> Protocol for Http1<S>
where
    S: Fn(Arc<Peer>, Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Error = hyper::Error;

    async fn converse(self, opened: Opened) -> Result<(), hyper::Error> {
        let Opened { stream, peer, member, limits } = opened;
        let (member, old) = (&member, Instant::now() + limits.age);
        let answer = service_fn(|request| {
            let (busy, answering) = (member.begin(), (self.0)(Arc::clone(&peer), request));
            async move {
                let mut response = answering.await;
                if Instant::now() >= old {
                    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                }
                drop(busy);
                Ok::<_, Infallible>(response)
            }
        });
        let http = http().serve_connection(TokioIo::new(stream), answer);
        let mut http = pin!(http);
        let mut told = pin!(member.told());
        let mut timer = pin!(sleep_until(due(member, &limits)));
        poll_fn(|cx| {
            loop {
                if let Poll::Ready(ended) = http.as_mut().poll(cx) {
                    return Poll::Ready(ended);
                }
                match obey(member) {
                    Obedience::Close => return Poll::Ready(Ok(())),
                    Obedience::Finish => http.as_mut().graceful_shutdown(),
                    Obedience::Carry => {}
                }
                if overdue(timer.as_mut(), due(member, &limits), cx) {
                    return Poll::Ready(Ok(()));
                }
                if told.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                told.set(member.told());
            }
        })
        .await
    }
}

enum Obedience {
    Carry,
    Close,
    Finish,
}

fn obey(member: &Member) -> Obedience {
    match member.order() {
        Order::Stay => Obedience::Carry,
        Order::Yield if member.busy() => {
            member.stay();
            Obedience::Carry
        }
        Order::Yield if member.hearing() => Obedience::Close,
        Order::Yield | Order::Leave => Obedience::Finish,
        Order::Cut => Obedience::Close,
    }
}

fn due(member: &Member, limits: &Limits) -> Instant {
    let span = match (member.busy(), member.hearing()) {
        (true, _) => limits.request,
        (false, true) => limits.head,
        (false, false) => limits.idle,
    };
    member.since() + span
}

fn http() -> http1::Builder {
    let mut http = http1::Builder::new();
    // hyper's own timeout makes no difference between an idle connection and half a head; ours does. Its
    // `pipeline_flush` would be a little faster, but keeps an answer back for as long as anything is unread: half a
    // next request, a body that was refused, the rest of a head that was too long.
    http.header_read_timeout(None).max_buf_size(HEAD_MAX).pipeline_flush(false).writev(false).half_close(false);
    http
}

/// Bytes of a request's head: clients of Alibaba Cloud put up to 32 KiB of query into it. Over it, hyper answers 431.
const HEAD_MAX: usize = 64 * 1024;
