//! One call: from the head of its request until its answer is with the client.

use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::Poll;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Error, Reason, SendStream};
use http::{HeaderMap, Response};
use tokio::time::{Duration, timeout};

use crate::listener::Confidential;
use crate::listener::crowd::Busy;

/// What a request over HTTP/2 is answered with.
pub struct Answer {
    /// The head and the body. Where the body is empty and there are no trailers, the head ends the stream, which is what
    /// gRPC calls `Trailers-Only`.
    pub response: Response<Bytes>,
    /// What follows the body.
    pub trailers: Option<HeaderMap>,
}

/// Waits for the answer and sends it. Ends when the client has taken it all, has reset the stream, or after `limit`;
/// the answer is no longer waited for then.
pub(super) async fn call(
    answering: impl Future<Output = Answer>,
    mut respond: SendResponse<Bytes>,
    busy: Busy,
    limit: Duration,
) {
    let answered = timeout(limit, async {
        match answer(answering, &mut respond).await {
            Some(Ok(answer)) => {
                if answer.response.extensions().get::<Confidential>().is_some() {
                    busy.confide();
                }
                send(answer, &mut respond).await.map_err(|_| Reason::CANCEL)
            }
            Some(Err(Panicked)) => Err(Reason::INTERNAL_ERROR),
            None => Ok(()),
        }
    });
    // What the client withdrew, or the connection lost, needs no reset: to h2 the stream is closed.
    if let Err(reason) = answered.await.unwrap_or(Err(Reason::CANCEL)) {
        respond.send_reset(reason);
    }
    drop(busy);
}

struct Panicked;

/// The answer; `None` if the client does not wait for it any more. A panic is this call's own: others on the connection
/// go on.
async fn answer(
    answering: impl Future<Output = Answer>,
    respond: &mut SendResponse<Bytes>,
) -> Option<Result<Answer, Panicked>> {
    let mut answering = pin!(answering);
    poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| answering.as_mut().poll(cx))) {
        Ok(Poll::Ready(answer)) => Poll::Ready(Some(Ok(answer))),
        Ok(Poll::Pending) => respond.poll_reset(cx).map(|_| None),
        Err(_) => Poll::Ready(Some(Err(Panicked))),
    })
    .await
}

/// Hands the body over only as far as the client's window goes: what the client does not take, it must not make us keep,
/// and the call stays in flight.
async fn send(answer: Answer, respond: &mut SendResponse<Bytes>) -> Result<(), Error> {
    let (head, mut body) = answer.response.into_parts();
    let last = answer.trailers.is_none();
    let head = Response::from_parts(head, ());
    let mut stream = respond.send_response(head, last && body.is_empty())?;
    while !body.is_empty() {
        let Some(room) = room(&mut stream, body.len()).await? else { return Ok(()) };
        let part = body.split_to(room.min(body.len()));
        stream.send_data(part, last && body.is_empty())?;
    }
    answer.trailers.map_or(Ok(()), |trailers| stream.send_trailers(trailers))
}

/// How much the client takes, of `wanted`; `None` if it has reset the stream.
async fn room(stream: &mut SendStream<Bytes>, wanted: usize) -> Result<Option<usize>, Error> {
    stream.reserve_capacity(wanted);
    match stream.capacity() {
        0 => poll_fn(|cx| stream.poll_capacity(cx)).await.transpose(),
        room => Ok(Some(room)),
    }
}
