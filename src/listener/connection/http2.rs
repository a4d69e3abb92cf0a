//! HTTP/2 with prior knowledge: many requests at a time, all in the connection's one task.
//!
//! What a request waits for is polled beside the connection, so that an answer that is at hand goes out without a
//! second task, and the answers of one turn in one write.

mod bell;
mod call;
mod screen;

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use h2::server::{Builder, Connection, SendResponse};
use h2::{Error, RecvStream};
use http::Request;
use tokio::time::{Duration, Instant, sleep_until, timeout};

use self::bell::Bell;
pub use self::call::Answer;
use self::call::call;
use self::screen::Screen;
use super::{Limits, Member, Opened, Order, Protocol, Stream, overdue, sent_away};
use crate::claim::Peer;
use crate::wire::http2::FRAME_BYTES_MAX;

/// HTTP/2, answered by a service.
#[derive(Clone, Debug)]
pub(in crate::listener) struct Http2<S>(pub(in crate::listener) S);

impl<S, F> Protocol for Http2<S>
where
    S: Fn(Arc<Peer>, Request<RecvStream>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Answer> + Send + 'static,
{
    type Error = Error;

    async fn converse(self, opened: Opened) -> Result<(), Error> {
        let Opened { stream, peer, member, limits } = opened;
        let mut stay = Stay::new(&member, limits);
        let shaken = tokio::select! {
            biased;
            shaken = timeout(limits.head, http().handshake(Screen::new(stream, Arc::clone(&member)))) => shaken,
            () = sent_away(&member) => return Ok(()),
        };
        let Ok(shaken) = shaken else { return Ok(()) };
        let (mut http, mut calls) = (shaken?, FuturesUnordered::new());
        member.overheard();
        let begin = |request, respond: SendResponse<Bytes>| {
            // In a box, because what `call` waits for is moved from one wait into the next, and then into `calls`.
            call(Box::pin((self.0)(Arc::clone(&peer), request)), respond, member.begin(), limits.request)
        };
        let mut told = pin!(member.told());
        let mut timer = pin!(sleep_until(stay.due()));
        let bell = Bell::new();
        let mut poll = |cx: &mut Context<'_>| {
            loop {
                if let Poll::Ready(ended) = turn(&mut http, &mut calls, &begin, &bell, cx) {
                    return Poll::Ready(ended);
                }
                let step = stay.obey().or_else(|| overdue(timer.as_mut(), stay.due(), cx).then(|| stay.tire()));
                match step {
                    Some(Step::Close) => return Poll::Ready(Ok(())),
                    Some(Step::Finish) => http.graceful_shutdown(),
                    None if told.as_mut().poll(cx).is_pending() => return Poll::Pending,
                    None => told.set(member.told()),
                }
            }
        };
        poll_fn(|cx| bell.attend(cx, &mut poll)).await
    }
}

/// Takes in what has come, lets every call go on, and sends what they have to say; until nothing moves any more, or the
/// connection has ended.
fn turn<C: Future<Output = ()>>(
    http: &mut Connection<Screen<Stream>, Bytes>,
    calls: &mut FuturesUnordered<C>,
    begin: &impl Fn(Request<RecvStream>, SendResponse<Bytes>) -> C,
    bell: &Bell,
    cx: &mut Context<'_>,
) -> Poll<Result<(), Error>> {
    loop {
        bell.hush();
        // Writes what is to be written, and reads, before it is pending.
        while let Poll::Ready(accepted) = http.poll_accept(cx) {
            let Some(accepted) = accepted else { return Poll::Ready(Ok(())) };
            let (request, respond) = accepted?;
            calls.push(begin(request, respond));
        }
        let mut ended = false;
        while let Poll::Ready(Some(())) = calls.poll_next_unpin(cx) {
            ended = true;
        }
        if !ended {
            return Poll::Pending;
        }
    }
}

/// How long a connection may stay, and whether it was asked to go.
#[derive(Debug)]
struct Stay<'a> {
    member: &'a Member,
    limits: Limits,
    old: Instant,
    /// When it was told that it will be closed.
    leaving: Option<Instant>,
}

/// What a connection has to do now.
#[derive(Debug)]
enum Step {
    /// Close, whatever is in flight.
    Close,
    /// Tell the client to take new calls elsewhere, and close after those in flight.
    Finish,
}

impl<'a> Stay<'a> {
    fn new(member: &'a Member, limits: Limits) -> Self {
        Self { member, limits, old: Instant::now() + limits.age, leaving: None }
    }

    fn obey(&mut self) -> Option<Step> {
        match self.member.order() {
            Order::Stay => None,
            Order::Yield if self.member.busy() => {
                self.member.stay();
                None
            }
            Order::Yield | Order::Leave => self.leave(),
            Order::Cut => Some(Step::Close),
        }
    }

    fn leave(&mut self) -> Option<Step> {
        let first = self.leaving.is_none();
        self.leaving.get_or_insert_with(Instant::now);
        first.then_some(Step::Finish)
    }

    /// When it has taken too long, if nothing changes. Each call in flight has its own limit beside.
    fn due(&self) -> Instant {
        let (member, limits) = (self.member, &self.limits);
        match (self.leaving, member.busy(), member.hearing()) {
            (Some(leaving), true, _) => leaving + limits.request + FAREWELL,
            (Some(leaving), false, _) => leaving.max(member.since()) + FAREWELL,
            (None, true, _) => self.old,
            (None, false, true) => self.old.min(member.since() + limits.head),
            (None, false, false) if member.confided() => self.old.min(member.since() + limits.rest.min(limits.idle)),
            (None, false, false) => self.old.min(member.since() + limits.idle),
        }
    }

    /// What is due is due: a connection that is only idle or old is told, so that no call begins while it is closed.
    fn tire(&mut self) -> Step {
        let stuck = !self.member.busy() && self.member.hearing();
        if stuck && Instant::now() < self.old {
            return Step::Close;
        }
        self.leave().unwrap_or(Step::Close)
    }
}

/// One connection costs at most, beside what the service holds: 256 KiB of bodies that it has not taken, 2 MiB of
/// headers (128 lists of 16 KiB), 48 KiB of frames in and out, 8 KiB of HPACK tables; and of each answer, which is the
/// service's to bound, what the client has not taken yet.
fn http() -> Builder {
    let mut http = Builder::new();
    http.max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEADERS_MAX)
        .max_frame_size(FRAME_MAX)
        .header_table_size(TABLE_MAX)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(SEND_MAX)
        .max_concurrent_reset_streams(RESETS_KEPT)
        .data_frame_budget(FRAME_COST * FRAMES_UNREAD * STREAMS_MAX as usize)
        .max_pending_accept_reset_streams(RESETS_UNSEEN_MAX)
        .max_local_error_reset_streams(Some(ERRORS_MAX));
    http
}

/// For the client's answer to the word that the connection will be closed (the ping behind GOAWAY), and for closing its
/// side. A local client takes microseconds; a place that somebody waits for is free after it.
const FAREWELL: Duration = Duration::from_secs(1);
/// Calls at a time on one connection. kube-apiserver asks for as many as it has requests that read what it has not
/// cached; gRPC clients queue the rest themselves.
const STREAMS_MAX: u32 = 128;
/// Bytes of a request's header list, as RFC 9113 counts them. gRPC's are under 1 KiB. Over it, h2 answers 431.
const HEADERS_MAX: u32 = 16 * 1024;
/// Bytes of a frame's payload.
const FRAME_MAX: u32 = FRAME_BYTES_MAX as u32;
/// Bytes of the HPACK table: the RFC's default.
const TABLE_MAX: u32 = 4096;
/// Bytes of one body that may be under way: more than any message of a KMS provider but the largest v1 ciphertext.
const STREAM_WINDOW: u32 = 64 * 1024;
/// Bytes of all bodies of a connection that may be under way.
const CONNECTION_WINDOW: u32 = 256 * 1024;
/// What h2 counts for a small frame of a body that lies unread.
const FRAME_COST: usize = 256;
/// Small frames that may lie unread in each stream of a full connection, before the last of it. gRPC sends the five bytes
/// before a message apart from it at most. Over it, h2 ends the connection with ENHANCE_YOUR_CALM.
const FRAMES_UNREAD: usize = 4;
/// Bytes of one answer that h2 takes at a time.
const SEND_MAX: usize = 64 * 1024;
/// Streams that we reset and whose late frames are passed over: all that can be open at once.
const RESETS_KEPT: usize = STREAMS_MAX as usize;
/// Calls that were withdrawn before we saw them. Each costs an entry in a list; a client that was stopped for longer
/// than its deadline withdraws all it has at once. Over it, h2 ends the connection with ENHANCE_YOUR_CALM.
const RESETS_UNSEEN_MAX: usize = STREAMS_MAX as usize;
/// Streams reset for a client's mistakes, in the life of a connection: h2's default. Over it, likewise.
const ERRORS_MAX: usize = 1024;
