//! HTTP/1.1: one request at a time.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::Poll;

use http::header::{CONNECTION, HeaderValue};
use http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, sleep_until};

use super::{Confidential, LINGER, LINGER_HEARING, Limits, Member, Opened, Order, Protocol, overdue};
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
        let Opened { mut stream, peer, member, limits } = opened;
        let (member, old, tls) = (&member, Instant::now() + limits.age, stream.is_tls());
        let (answered, leaving) = (&AtomicBool::new(false), &OnceLock::new());
        let answer = |request| {
            let (busy, answering) = (member.begin(), (self.0)(Arc::clone(&peer), request));
            async move {
                let mut response = answering.await;
                let now = Instant::now();
                if now >= old || member.order() >= Order::Leave {
                    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                }
                answered.store(true, Ordering::Relaxed);
                if response.extensions().get::<Confidential>().is_some() {
                    busy.confide();
                }
                busy.end(now);
                Ok::<_, Infallible>(response)
            }
        };
        loop {
            let mut http = http().serve_connection(TokioIo::new(&mut stream), service_fn(answer));
            let mut told = pin!(member.told());
            let due = || {
                let after = if tls && member.confided() { After::Close } else { After::BeginAnew };
                due(member, &limits, answered.load(Ordering::Relaxed).then_some(after), leaving.get().copied())
            };
            let mut timer = pin!(sleep_until(due().0));
            let outcome = poll_fn(|cx| {
                loop {
                    if let Poll::Ready(ended) = Pin::new(&mut http).poll(cx) {
                        return Poll::Ready(ended.map(|()| After::Close));
                    }
                    match obey(member) {
                        Obedience::Close => return Poll::Ready(Ok(After::Close)),
                        Obedience::Finish => Pin::new(&mut http).graceful_shutdown(),
                        Obedience::Carry => {}
                        Obedience::Linger => {
                            leaving.get_or_init(Instant::now);
                        }
                    }
                    let (due, after) = due();
                    if overdue(timer.as_mut(), due, cx) {
                        return Poll::Ready(Ok(after));
                    }
                    if told.as_mut().poll(cx).is_pending() {
                        return Poll::Pending;
                    }
                    told.set(member.told());
                }
            });
            match outcome.await? {
                After::Close => return Ok(()),
                After::BeginAnew => {
                    let unread = http.into_parts().read_buf;
                    stream.unread(unread);
                    answered.store(false, Ordering::Relaxed);
                }
            }
        }
    }
}

/// What follows when the time has come.
#[derive(Clone, Copy, Debug)]
enum After {
    /// hyper is given the same connection as if it were a new one: its buffers, in which the last request and the last
    /// answer lie, are freed and so wiped.
    BeginAnew,
    /// The connection ends, and with it what rustls keeps of a request that came in.
    Close,
}

enum Obedience {
    Carry,
    Close,
    Finish,
    /// Close after the next answer, or soon.
    Linger,
}

fn obey(member: &Member) -> Obedience {
    match member.order() {
        Order::Stay => Obedience::Carry,
        Order::Yield if member.busy() => {
            member.stay();
            Obedience::Carry
        }
        Order::Yield if member.hearing() => Obedience::Close,
        Order::Leave if !member.busy() => Obedience::Linger,
        Order::Yield | Order::Leave => Obedience::Finish,
        Order::Cut => Obedience::Close,
    }
}

/// When the time comes, if nothing changes, and for what.
fn due(member: &Member, limits: &Limits, rested: Option<After>, leaving: Option<Instant>) -> (Instant, After) {
    if let Some(leaving) = leaving.filter(|_| !member.busy()) {
        return (leaving + if member.hearing() { LINGER_HEARING } else { LINGER }, After::Close);
    }

    let rested = rested.filter(|_| member.silent() && limits.rest < limits.idle);
    let (span, after) = match (member.busy(), member.hearing(), rested) {
        (true, ..) => (limits.request, After::Close),
        (false, true, _) => (limits.head, After::Close),
        (false, false, Some(after)) => (limits.rest, after),
        (false, false, None) => (limits.idle, After::Close),
    };
    (member.since() + span, after)
}

fn http() -> http1::Builder {
    let mut http = http1::Builder::new();
    // hyper's own timeout makes no difference between an idle connection and half a head; ours does. Its
    // `pipeline_flush` would be a little faster, but keeps an answer back for as long as anything is unread: half a
    // next request, a body that was refused, the rest of a head that was too long.
    //
    // Who closes one direction is answered in the other. hyper would else look for the end of what comes in while it
    // answers, into a new buffer for each request; whoever hangs up is noticed when the answer is written, and holds a
    // place no longer than a request may take.
    http.header_read_timeout(None).max_buf_size(HEAD_MAX).pipeline_flush(false).writev(false).half_close(true);
    http
}

/// Bytes of a request's head: clients of Alibaba Cloud put up to 32 KiB of query into it. Over it, hyper answers 431.
const HEAD_MAX: usize = 64 * 1024;
