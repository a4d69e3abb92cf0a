//! HTTP/1.1: one request at a time.

use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;

use http::header::{CONNECTION, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt as _;
use tokio::time::Instant;

use self::lane::{End, Lane};
use self::stay::{After, Stay, Step};
use super::stream::Stream;
use super::{Confidential, Limits, Opened, Order, Protocol};
use crate::listener::service::Service;

mod lane;
mod stay;

/// HTTP/1.1, answered by a service.
#[derive(Clone, Debug)]
pub(in crate::listener) struct Http1<S>(pub(in crate::listener) S);

impl<S: Service> Protocol for Http1<S> {
    type Error = hyper::Error;

    async fn converse(self, opened: Opened) -> Result<(), hyper::Error> {
        let Opened { mut stream, peer, member, limits } = opened;
        let (member, old) = (&member, Instant::now() + limits.age);
        let stay = Stay::new(member, &limits, stream.is_tls());
        let (watchful, at_rest) = (limits.watchful, AtomicBool::new(true));
        let lane = Lane { service: &self.0, peer: &peer, member, old, watchful, at_rest };
        let answer = |request| {
            let (busy, answering) = (member.begin(), self.0.answer(Arc::clone(&peer), request));
            let answered = &stay.answered;
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
        while matches!(rest(&lane, &stay, &mut stream).await, End::Long) {
            // In a box, which is gone while the connection rests.
            let mut http = Box::new(http(&limits).serve_connection(TokioIo::new(&mut stream), service_fn(answer)));
            let outcome = stay.attend(|cx, step| match step {
                Step::GoOn => Pin::new(&mut *http).poll(cx),
                Step::Finish => {
                    Pin::new(&mut *http).graceful_shutdown();
                    Poll::Pending
                }
            });
            match outcome.await {
                Ok(ended) => return ended,
                Err(After::Close) => return Ok(()),
                Err(After::Rest) => {}
            }
            let buffer = http.into_parts().read_buf;
            stream.unread(&buffer);
            // Not when the rest ends.
            drop(buffer);
        }
        Ok(())
    }
}

/// While the connection has no more than its socket: until something is said on it that needs hyper.
async fn rest<S: Service>(lane: &Lane<'_, S>, stay: &Stay<'_>, stream: &mut Stream) -> End {
    stay.answered.store(false, Ordering::Relaxed);
    let outcome = {
        // Of what was answered, rustls alone keeps anything.
        let answered = || stay.answered.store(stay.keeps_what_came_in(), Ordering::Relaxed);
        let mut going = pin!(lane.go(stream, answered));
        let part = stay.attend(|cx, step| match step {
            Step::GoOn => going.as_mut().poll(cx).map(Some),
            Step::Finish if lane.at_rest.load(Ordering::Relaxed) => Poll::Ready(None),
            Step::Finish => Poll::Pending,
        });
        part.await
    };
    match outcome {
        Ok(Some(ended)) => ended.unwrap_or(End::Over),
        Ok(None) => {
            // Over TLS, it is told that this is the end and no accident. It may be gone already.
            let _ = stream.shutdown().await;
            End::Over
        }
        Err(After::Close | After::Rest) => End::Over,
    }
}

fn http(limits: &Limits) -> http1::Builder {
    let mut http = http1::Builder::new();
    // hyper's own timeout makes no difference between an idle connection and half a head; ours does. Its
    // `pipeline_flush` would be a little faster, but keeps an answer back for as long as anything is unread: half a
    // next request, a body that was refused, the rest of a head that was too long.
    //
    // Unless it shall be watchful, who closes one direction is answered in the other. hyper would else look for the end of
    // what comes in while it answers, into a new buffer for each request; whoever hangs up is noticed when the answer is
    // written, and holds a place no longer than a request may take.
    http.header_read_timeout(None).max_buf_size(HEAD_MAX).pipeline_flush(false).writev(false);
    http.half_close(!limits.watchful);
    http
}

/// Bytes of a request's head: clients of Alibaba Cloud put up to 32 KiB of query into it. Over it: 431 or 414.
const HEAD_MAX: usize = 64 * 1024;
