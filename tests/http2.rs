//! HTTP/2 listeners over real sockets: what gRPC clients may name them, what they survive, and how they say goodbye.
#![allow(clippy::unwrap_used, reason = "a test may; clippy's own exception ends at the test function")]

use std::future::{pending, poll_fn};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use h2::client::SendRequest;
use http::{HeaderMap, Request, Response};
use kmsproxy::claim::Peer;
use kmsproxy::listener::{Answer, Confidential, Config, FaceName, Limits, Listener};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

/// Long enough for anything that is to happen, on the slowest machine.
const SOON: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(100);

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

const NO_ERROR: u32 = 0;
const PROTOCOL_ERROR: u32 = 1;
const INTERNAL_ERROR: u32 = 2;
const FRAME_SIZE_ERROR: u32 = 6;
const REFUSED_STREAM: u32 = 7;
const CANCEL: u32 = 8;
const ENHANCE_YOUR_CALM: u32 = 11;

/// A listener at work, and a service that does what the path says.
struct Running {
    address: String,
    shutdown: CancellationToken,
    release: Arc<Notify>,
    /// The paths of calls that have come.
    arrived: mpsc::UnboundedReceiver<String>,
    /// The paths of calls that have ended, or were dropped.
    left: mpsc::UnboundedReceiver<String>,
    ended: JoinHandle<io::Result<()>>,
    _folder: TempDir,
}

/// Tells of its end.
struct Leaving(String, mpsc::UnboundedSender<String>);

impl Drop for Leaving {
    fn drop(&mut self) {
        let _ = self.1.send(std::mem::take(&mut self.0));
    }
}

impl Running {
    fn start(limits: Limits) -> Self {
        Self::with(limits, 16)
    }

    fn with(limits: Limits, max_connections: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let address = format!("unix:{}", folder.path().join("kms.sock").display());
        Self::at(&address, folder, limits, max_connections)
    }

    fn at(address: &str, folder: TempDir, limits: Limits, max_connections: usize) -> Self {
        let config = Config { max_connections, ..Config::new("test", FaceName::Kubernetes, address) };
        let listener = Listener::bind(&config, None).unwrap().with_limits(limits);
        let (arriving, arrived) = mpsc::unbounded_channel();
        let (leaving, left) = mpsc::unbounded_channel();
        let (shutdown, release) = (CancellationToken::new(), Arc::new(Notify::new()));
        let released = Arc::clone(&release);
        let service = move |_: Arc<Peer>, request: Request<RecvStream>| {
            let path = request.uri().path().to_owned();
            arriving.send(path.clone()).unwrap();
            let (leaving, released) = (Leaving(path, leaving.clone()), Arc::clone(&released));
            async move {
                let answer = answer(request, &released).await;
                drop(leaving);
                answer
            }
        };
        let ended = tokio::spawn(listener.run_http2(service, shutdown.clone()));
        let address = address.strip_prefix("unix:").unwrap().replace('@', "\0");
        Self { address, shutdown, release, arrived, left, ended, _folder: folder }
    }

    async fn connect(&self) -> UnixStream {
        UnixStream::connect(&self.address).await.unwrap()
    }

    async fn raw(&self) -> Raw {
        Raw::hello(self.connect().await, &[]).await
    }

    /// Fails unless a newcomer is served.
    async fn assert_serves(&self) {
        let mut client = client(self.connect().await).await;
        assert_eq!(ask(&mut client, "/", b"hello").await, "/ - hello");
    }

    async fn arrives(&mut self, path: &str) {
        assert_eq!(timeout(SOON, self.arrived.recv()).await.unwrap().unwrap(), path);
    }

    async fn leaves(&mut self, path: &str) {
        assert_eq!(timeout(SOON, self.left.recv()).await.unwrap().unwrap(), path);
    }

    async fn assert_ends(self) {
        timeout(SOON, self.ended).await.unwrap().unwrap().unwrap();
    }
}

async fn answer(request: Request<RecvStream>, released: &Notify) -> Answer {
    let (head, mut body) = request.into_parts();
    let mut said = Vec::new();
    match head.uri.path() {
        "/panic" => panic!("as asked"),
        "/wait" => released.notified().await,
        "/never" => pending().await,
        "/huge" => said = vec![b'.'; 32 << 20],
        path => {
            let note = head.headers.get("x-note").map_or("-", |note| note.to_str().unwrap());
            said.extend_from_slice(format!("{path} {note} ").as_bytes());
            while let Some(Ok(part)) = body.data().await {
                body.flow_control().release_capacity(part.len()).unwrap();
                said.extend_from_slice(&part);
            }
        }
    }
    let trailers = HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())]);
    let mut response = Response::new(Bytes::from(said));
    if head.uri.path() == "/confide" {
        response.extensions_mut().insert(Confidential);
    }
    Answer { response, trailers: Some(trailers) }
}

async fn client(stream: UnixStream) -> SendRequest<Bytes> {
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    client
}

/// Makes a call and returns the body of its answer.
async fn ask(client: &mut SendRequest<Bytes>, path: &str, body: &'static [u8]) -> String {
    let request = Request::post(format!("http://localhost{path}")).body(()).unwrap();
    poll_fn(|cx| client.poll_ready(cx)).await.unwrap();
    let (response, mut sending) = client.send_request(request, false).unwrap();
    sending.send_data(Bytes::from_static(body), true).unwrap();
    let response = timeout(SOON, response).await.expect("an answer in time").unwrap();
    assert_eq!(response.status(), 200);
    let (mut said, mut body) = (Vec::new(), response.into_body());
    while let Some(part) = body.data().await {
        let part = part.unwrap();
        body.flow_control().release_capacity(part.len()).unwrap();
        said.extend_from_slice(&part);
    }
    assert_eq!(body.trailers().await.unwrap().unwrap().get("grpc-status").unwrap(), "0");
    String::from_utf8(said).unwrap()
}

/// A client that writes its frames by hand.
struct Raw {
    stream: UnixStream,
    /// All that it was sent.
    frames: Vec<Frame>,
}

#[derive(Clone, Debug, PartialEq)]
struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

impl Frame {
    fn number(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }
}

impl Raw {
    async fn hello(mut stream: UnixStream, settings: &[u8]) -> Self {
        let hello = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &frame(SETTINGS, 0, 0, settings)[..]].concat();
        stream.write_all(&hello).await.unwrap();
        Self { stream, frames: Vec::new() }
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    async fn begin(&mut self, stream: u32, path: &str) {
        self.send(&frame(HEADERS, END_HEADERS | END_STREAM, stream, &head(path))).await;
    }

    /// The next frame; `None` when the listener has closed.
    async fn next(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        if let Err(error) = timeout(SOON, self.stream.read_exact(&mut head)).await.expect("a frame in time") {
            assert!(matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset), "{error}");
            return None;
        }
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        self.stream.read_exact(&mut payload).await.ok()?;
        let stream = u32::from_be_bytes(head[5..].try_into().unwrap());
        let frame = Frame { kind: head[3], flags: head[4], stream, payload };
        self.frames.push(frame.clone());
        Some(frame)
    }

    /// The next frame of a kind; others are passed over.
    async fn next_of(&mut self, kind: u8) -> Frame {
        loop {
            let frame = self.next().await.unwrap_or_else(|| panic!("closed before a frame of kind {kind}"));
            if frame.kind == kind {
                return frame;
            }
        }
    }

    /// What the listener says until the trailers of a stream.
    async fn answer(&mut self, stream: u32) -> String {
        let mut said = Vec::new();
        loop {
            let frame = self.next().await.expect("closed before the answer");
            assert!(frame.kind != RST_STREAM || frame.stream != stream, "{frame:?}");
            if frame.kind == DATA && frame.stream == stream {
                said.extend_from_slice(&frame.payload);
            }
            if frame.kind == HEADERS && frame.stream == stream && frame.flags & END_STREAM != 0 {
                return String::from_utf8(said).unwrap();
            }
        }
    }

    /// Waits for the other side to close, and returns the reason of its last GOAWAY, if any.
    async fn closed(&mut self) -> Option<u32> {
        while self.next().await.is_some() {}
        self.frames.iter().rev().find(|frame| frame.kind == GOAWAY).map(|frame| frame.number(4))
    }

    /// Answers the ping that comes with a GOAWAY of somebody who means well.
    async fn acknowledge(&mut self) {
        let ping = self.next_of(PING).await;
        self.send(&frame(PING, ACK, 0, &ping.payload)).await;
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A field whose name and value are written out; `0x40` to be remembered, `0` not.
fn field(form: u8, name: &str, value: &str) -> Vec<u8> {
    assert!(name.len() < 127 && value.len() < 127);
    let (name_length, value_length) = (u8::try_from(name.len()).unwrap(), u8::try_from(value.len()).unwrap());
    [&[form, name_length], name.as_bytes(), &[value_length], value.as_bytes()].concat()
}

fn head(path: &str) -> Vec<u8> {
    let fields = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "localhost")];
    fields.iter().flat_map(|(name, value)| field(0, name, value)).collect()
}

/// Does as grpc-go: writes the first request's fields out, and later sends references to them.
async fn assert_calls(running: &Running, authority: &str) {
    let mut raw = running.raw().await;
    let fields =
        [(":method", "POST"), (":scheme", "http"), (":path", "/v2"), (":authority", authority), ("x-note", "n")];
    let first: Vec<u8> = fields.iter().flat_map(|(name, value)| field(0x40, name, value)).collect();
    raw.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &first)).await;
    assert_eq!(raw.answer(1).await, "/v2 n ", "{authority}");
    for stream in [3, 5] {
        let later = [0x80 | 66, 0x80 | 65, 0x80 | 64, 0x80 | 63, 0x80 | 62];
        raw.send(&frame(HEADERS, END_HEADERS | END_STREAM, stream, &later)).await;
        assert_eq!(raw.answer(stream).await, "/v2 n ", "{authority}");
    }
    // Never to be remembered, as for what a proxy must not index; in one piece with the body, and in many.
    let mut again: Vec<u8> = [0x80 | 66, 0x80 | 65, 0x80 | 64].to_vec();
    again.extend(field(0x10, ":authority", authority));
    again.push(0x80 | 62);
    let whole = [frame(HEADERS, END_HEADERS, 7, &again), frame(DATA, END_STREAM, 7, b"body")].concat();
    raw.send(&whole).await;
    assert_eq!(raw.answer(7).await, "/v2 n body", "{authority}");
    let dripped = [frame(HEADERS, END_HEADERS, 9, &again), frame(DATA, END_STREAM, 9, b"body")].concat();
    for byte in dripped {
        raw.send(&[byte]).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(raw.answer(9).await, "/v2 n body", "{authority}");
}

#[tokio::test]
async fn every_era_of_authority_is_served_on_a_file_socket() {
    let running = Running::start(Limits::default());
    let escaped = running.address.replace('/', "%2F");
    for authority in [&*running.address, &*escaped, "localhost"] {
        assert_calls(&running, authority).await;
    }
}

#[tokio::test]
async fn every_era_of_authority_is_served_on_an_abstract_socket() {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("kmsproxy-http2-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let folder = tempfile::tempdir().unwrap();
    let running = Running::at(&format!("unix:@{name}"), folder, Limits::default(), 16);
    for authority in [format!("@{name}"), format!("%40{name}"), format!("/@{name}"), "localhost".to_owned()] {
        assert_calls(&running, &authority).await;
    }
}

#[tokio::test]
async fn ten_thousand_calls_of_a_client_that_keeps_to_the_limit_are_answered() {
    let running = Running::start(Limits::default());
    let client = client(running.connect().await).await;
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let mut client = client.clone();
        calls.spawn(async move {
            for _ in 0..100 {
                assert_eq!(ask(&mut client, "/v2", b"body").await, "/v2 - body");
            }
        });
    }
    while let Some(done) = calls.join_next().await {
        done.unwrap();
    }
}

#[tokio::test]
async fn of_ten_thousand_streams_at_once_few_are_taken_and_the_next_caller_is_served() {
    let mut running = Running::start(Limits::default());
    let (mut reading, mut writing) = running.raw().await.stream.into_split();
    let flood = tokio::spawn(async move {
        for nth in 0..10_000 {
            // It may be closed before all of it is sent.
            let begin = frame(HEADERS, END_HEADERS | END_STREAM, nth * 2 + 1, &head("/never"));
            if writing.write_all(&begin).await.is_err() {
                break;
            }
        }
        writing
    });
    let mut said = Vec::new();
    let _ = timeout(SOON, reading.read_to_end(&mut said)).await.expect("closed in time");
    drop(flood.await.unwrap());
    let refused = said
        .windows(13)
        .filter(|bytes| bytes[..4] == [0, 0, 4, RST_STREAM] && bytes[9..] == REFUSED_STREAM.to_be_bytes());
    assert!(refused.count() > 500);
    let mut taken = 0;
    while running.arrived.try_recv().is_ok() {
        taken += 1;
    }
    assert_eq!(taken, 128);
    running.assert_serves().await;
    for _ in 0..taken {
        running.leaves("/never").await;
    }
}

/// Begins 128 calls that nobody reads yet, with `pieces` small frames of body in each.
async fn dribble(running: &mut Running, pieces: usize) -> Raw {
    let mut raw = running.raw().await;
    for nth in 0..128 {
        let piece = frame(DATA, 0, nth * 2 + 1, b"x");
        raw.send(&[frame(HEADERS, END_HEADERS, nth * 2 + 1, &head("/wait")), piece.repeat(pieces)].concat()).await;
    }
    for _ in 0..128 {
        running.arrives("/wait").await;
    }
    raw
}

#[tokio::test]
async fn bodies_in_small_pieces_on_every_stream_may_lie_unread() {
    let mut running = Running::start(Limits::default());
    let mut raw = dribble(&mut running, 4).await;
    let last: Vec<u8> = (0..128).flat_map(|nth| frame(DATA, END_STREAM, nth * 2 + 1, b"x")).collect();
    raw.send(&last).await;
    let mut answered = 0;
    while answered < 128 {
        running.release.notify_one();
        let frame = raw.next_of(HEADERS).await;
        answered += u32::from(frame.flags & END_STREAM != 0);
    }
    raw.begin(257, "/after").await;
    assert_eq!(raw.answer(257).await, "/after - ");
}

#[tokio::test]
async fn bodies_in_very_many_small_pieces_end_their_connection() {
    let mut running = Running::start(Limits::default());
    let mut raw = dribble(&mut running, 4).await;
    for nth in 0..16 {
        raw.send(&frame(DATA, 0, nth * 2 + 1, b"x")).await;
    }
    assert_eq!(raw.closed().await, Some(ENHANCE_YOUR_CALM));
    running.assert_serves().await;
}

#[tokio::test]
async fn a_reset_drops_its_call_and_frees_its_place() {
    let mut running = Running::start(Limits::default());
    let mut raw = running.raw().await;
    for nth in 0..300 {
        raw.begin(nth * 2 + 1, "/never").await;
        running.arrives("/never").await;
        raw.send(&frame(RST_STREAM, 0, nth * 2 + 1, &CANCEL.to_be_bytes())).await;
        running.leaves("/never").await;
    }
    raw.begin(601, "/after").await;
    assert_eq!(raw.answer(601).await, "/after - ");
}

#[tokio::test]
async fn streams_that_are_reset_at_once_end_their_connection() {
    let running = Running::start(Limits::default());
    let mut raw = running.raw().await;
    let mut flood = Vec::new();
    for nth in 0..10_000 {
        flood.extend(frame(HEADERS, END_HEADERS | END_STREAM, nth * 2 + 1, &head("/never")));
        flood.extend(frame(RST_STREAM, 0, nth * 2 + 1, &CANCEL.to_be_bytes()));
    }
    let _ = timeout(SOON, raw.stream.write_all(&flood)).await.expect("taken or closed in time");
    running.assert_serves().await;
    if let Some(reason) = raw.closed().await {
        assert_eq!(reason, ENHANCE_YOUR_CALM);
    }
}

#[tokio::test]
async fn a_flood_of_continuations_ends_its_connection() {
    let running = Running::start(Limits::default());
    let mut raw = running.raw().await;
    let mut flood = frame(HEADERS, END_STREAM, 1, &head("/"));
    for _ in 0..1000 {
        flood.extend(frame(CONTINUATION, 0, 1, &field(0, "x", "y")));
    }
    let _ = raw.stream.write_all(&flood).await;
    assert_eq!(raw.closed().await, Some(ENHANCE_YOUR_CALM));
    running.assert_serves().await;
}

#[tokio::test]
async fn a_header_list_over_sixteen_kibibytes_is_refused_and_the_connection_goes_on() {
    let running = Running::start(Limits::default());
    let mut client = client(running.connect().await).await;
    let request = |size: usize| Request::post("http://localhost/").header("x-long", "v".repeat(size)).body(()).unwrap();
    let (response, _) = client.send_request(request(15 << 10), true).unwrap();
    assert_eq!(timeout(SOON, response).await.unwrap().unwrap().status(), 200);
    let (response, _) = client.send_request(request(17 << 10), true).unwrap();
    assert_eq!(timeout(SOON, response).await.unwrap().unwrap().status(), 431);
    assert_eq!(ask(&mut client, "/", b"").await, "/ - ");
}

#[tokio::test]
async fn a_frame_over_the_limit_ends_its_connection() {
    let running = Running::start(Limits::default());
    for kind in [DATA, HEADERS, 0xee] {
        let mut raw = running.raw().await;
        raw.send(&frame(kind, END_HEADERS, 1, &vec![0; (16 << 10) + 1])[..9 + 100]).await;
        assert_eq!(raw.closed().await, Some(FRAME_SIZE_ERROR));
    }
    running.assert_serves().await;
}

#[tokio::test]
async fn garbage_ends_its_connection() {
    let running = Running::start(Limits { head: SHORT, ..Limits::default() });
    for garbage in [&[0xff; 64][..], &[0; 64], &frame(DATA, 0, 0, b"x"), &frame(HEADERS, END_HEADERS, 1, &[0xff; 32])] {
        let mut raw = running.raw().await;
        raw.send(garbage).await;
        raw.closed().await;
        running.assert_serves().await;
    }
}

#[tokio::test]
async fn an_unfit_header_block_is_told_as_a_protocol_error() {
    let running = Running::start(Limits::default());
    let mut raw = running.raw().await;
    raw.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &field(0, ":path", "/x"))).await;
    assert_eq!(raw.next_of(RST_STREAM).await.number(0), PROTOCOL_ERROR);
    raw.begin(3, "/after").await;
    assert_eq!(raw.answer(3).await, "/after - ");
}

#[tokio::test]
async fn a_request_in_http_1_is_closed() {
    let running = Running::start(Limits::default());
    let mut stream = running.connect().await;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: kms\r\n\r\n").await.unwrap();
    let mut said = Vec::new();
    let _ = timeout(SOON, stream.read_to_end(&mut said)).await.expect("closed in time");
    running.assert_serves().await;
}

#[tokio::test]
async fn a_client_that_never_sends_or_stops_in_the_preface_is_closed() {
    let running = Running::start(Limits { head: SHORT, ..Limits::default() });
    for begun in [&b""[..], b"PRI * HTTP/2.0\r\n"] {
        let mut stream = running.connect().await;
        stream.write_all(begun).await.unwrap();
        let mut said = Vec::new();
        let _ = timeout(SOON, stream.read_to_end(&mut said)).await.expect("closed in time");
    }
    running.assert_serves().await;
}

#[tokio::test]
async fn half_a_frame_is_closed_even_after_a_whole_call() {
    let running = Running::start(Limits { head: SHORT, ..Limits::default() });
    let begun = frame(HEADERS, END_HEADERS, 3, &head("/"));
    for half in [&begun[..5], &begun[..20], &frame(HEADERS, 0, 3, &head("/"))] {
        let mut raw = running.raw().await;
        raw.begin(1, "/").await;
        raw.answer(1).await;
        raw.send(half).await;
        assert_eq!(raw.closed().await, None);
    }
}

#[tokio::test]
async fn whole_frames_that_are_no_calls_do_not_count_as_half_a_call() {
    let running = Running::start(Limits { head: SHORT, ..Limits::default() });
    let mut raw = running.raw().await;
    raw.send(&frame(PING, 0, 0, b"are you?")).await;
    raw.next_of(PING).await;
    sleep(SHORT * 4).await;
    raw.begin(1, "/").await;
    assert_eq!(raw.answer(1).await, "/ - ");
}

#[tokio::test]
async fn a_client_that_never_reads_loses_its_place() {
    let mut running = Running::with(Limits { stall: SHORT, ..Limits::default() }, 1);
    let unbounded = [&[0, 4][..], &(u32::MAX >> 1).to_be_bytes()].concat();
    let mut raw = Raw::hello(running.connect().await, &unbounded).await;
    raw.send(&frame(WINDOW_UPDATE, 0, 0, &((1_u32 << 31) - 1 - 65535).to_be_bytes())).await;
    raw.begin(1, "/huge").await;
    running.arrives("/huge").await;
    running.assert_serves().await;
}

#[tokio::test]
async fn an_answer_that_the_window_has_no_room_for_is_reset_in_time() {
    let mut running = Running::start(Limits { request: SHORT, ..Limits::default() });
    let mut raw = Raw::hello(running.connect().await, &[0, 4, 0, 0, 0, 0]).await;
    raw.begin(1, "/").await;
    running.arrives("/").await;
    let reset = raw.next_of(RST_STREAM).await;
    assert_eq!((reset.stream, reset.number(0)), (1, CANCEL));
    // With room, the same connection goes on.
    raw.send(&[frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 1, 0]), frame(PING, 0, 0, b"12345678")].concat()).await;
    raw.next_of(PING).await;
    raw.begin(3, "/room").await;
    assert_eq!(raw.answer(3).await, "/room - ");
}

#[tokio::test]
async fn an_answer_waits_for_the_window_and_is_sent_in_parts() {
    let running = Running::start(Limits::default());
    let mut raw = Raw::hello(running.connect().await, &[0, 4, 0, 0, 0, 2]).await;
    raw.begin(1, "/abc").await;
    assert_eq!(raw.next_of(DATA).await.payload, b"/a");
    raw.send(&frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 100])).await;
    assert_eq!(raw.answer(1).await, "bc - ");
}

#[tokio::test]
async fn a_body_that_drips_and_a_call_without_an_answer_are_reset_in_time() {
    let mut running = Running::start(Limits { request: SHORT * 3, head: SHORT / 10, ..Limits::default() });
    let mut raw = running.raw().await;
    raw.send(&frame(HEADERS, END_HEADERS, 1, &head("/drip"))).await;
    raw.begin(3, "/never").await;
    running.arrives("/drip").await;
    for _ in 0..10 {
        raw.send(&frame(DATA, 0, 1, b"x")).await;
        sleep(SHORT / 5).await;
    }
    let mut ended = [raw.next_of(RST_STREAM).await, raw.next_of(RST_STREAM).await];
    ended.sort_by_key(|reset| reset.stream);
    assert_eq!(ended.map(|reset| (reset.stream, reset.number(0))), [(1, CANCEL), (3, CANCEL)]);
    raw.begin(5, "/after").await;
    assert_eq!(raw.answer(5).await, "/after - ");
}

#[tokio::test]
async fn a_panic_ends_its_own_call_only() {
    let mut running = Running::start(Limits::default());
    let mut raw = running.raw().await;
    raw.begin(1, "/wait").await;
    running.arrives("/wait").await;
    raw.begin(3, "/panic").await;
    let reset = raw.next_of(RST_STREAM).await;
    assert_eq!((reset.stream, reset.number(0)), (3, INTERNAL_ERROR));
    running.release.notify_one();
    raw.answer(1).await;
}

/// Reads the farewell of a connection on which `last` was the last call, and the client's part in it.
async fn farewell(raw: &mut Raw, last: u32) {
    let goaway = raw.next_of(GOAWAY).await;
    assert_eq!((goaway.number(0), goaway.number(4)), (u32::MAX >> 1, NO_ERROR));
    raw.acknowledge().await;
    let goaway = raw.next_of(GOAWAY).await;
    assert_eq!((goaway.number(0), goaway.number(4)), (last, NO_ERROR));
}

#[tokio::test]
async fn an_idle_connection_says_goodbye_and_still_answers_a_call_that_was_under_way() {
    let running = Running::start(Limits { idle: SHORT, ..Limits::default() });
    let mut raw = running.raw().await;
    raw.begin(1, "/").await;
    raw.answer(1).await;
    let goaway = raw.next_of(GOAWAY).await;
    assert_eq!((goaway.number(0), goaway.number(4)), (u32::MAX >> 1, NO_ERROR));
    raw.begin(3, "/late").await;
    assert_eq!(raw.frames.last().unwrap().kind, GOAWAY);
    raw.acknowledge().await;
    assert_eq!(raw.answer(3).await, "/late - ");
    assert_eq!(raw.closed().await, Some(NO_ERROR));
    running.assert_serves().await;
}

#[tokio::test]
async fn what_was_confided_does_not_rest_in_the_buffers_of_a_connection() {
    let running = Running::start(Limits { rest: SHORT, ..Limits::default() });
    let mut raw = running.raw().await;
    raw.begin(1, "/").await;
    raw.answer(1).await;
    sleep(SHORT * 3).await;
    raw.begin(3, "/confide").await;
    raw.answer(3).await;
    let answered = Instant::now();
    farewell(&mut raw, 3).await;
    assert!(answered.elapsed() >= SHORT / 2, "{:?}", answered.elapsed());
    assert_eq!(raw.closed().await, Some(NO_ERROR));
    running.assert_serves().await;
}

#[tokio::test]
async fn an_idle_connection_that_does_not_answer_the_goodbye_is_closed() {
    let running = Running::start(Limits { idle: SHORT, ..Limits::default() });
    let began = Instant::now();
    let mut raw = running.raw().await;
    assert_eq!(raw.closed().await, Some(NO_ERROR));
    assert!(began.elapsed() >= Duration::from_secs(1), "{:?}", began.elapsed());
}

#[tokio::test]
async fn pings_keep_no_connection_open() {
    let running = Running::start(Limits { idle: SHORT * 2, ..Limits::default() });
    let mut raw = running.raw().await;
    for _ in 0..24 {
        // It may be closed already.
        let _ = raw.stream.write_all(&frame(PING, 0, 0, b"are you?")).await;
        sleep(SHORT / 4).await;
    }
    let _ = raw.stream.write_all(&frame(PING, 0, 0, b"the last")).await;
    while raw.next().await.is_some_and(|frame| frame.payload != b"the last") {}
    assert!(raw.frames.iter().any(|frame| frame.kind == GOAWAY && frame.number(4) == NO_ERROR));
}

#[tokio::test]
async fn an_old_connection_says_goodbye_and_finishes_the_call_in_flight() {
    let mut running = Running::start(Limits { age: SHORT, ..Limits::default() });
    let mut raw = running.raw().await;
    raw.begin(1, "/wait").await;
    running.arrives("/wait").await;
    farewell(&mut raw, 1).await;
    running.release.notify_one();
    raw.answer(1).await;
    assert_eq!(raw.closed().await, Some(NO_ERROR));
}

#[tokio::test]
async fn shutdown_finishes_the_call_in_flight_and_takes_no_new_ones() {
    let mut running = Running::start(Limits::default());
    let (mut idle, mut busy) = (running.raw().await, running.raw().await);
    idle.begin(1, "/idle").await;
    idle.answer(1).await;
    running.arrives("/idle").await;
    busy.begin(1, "/wait").await;
    running.arrives("/wait").await;
    running.shutdown.cancel();
    farewell(&mut idle, 1).await;
    assert_eq!(idle.closed().await, Some(NO_ERROR));
    farewell(&mut busy, 1).await;
    busy.begin(3, "/late").await;
    assert!(!running.ended.is_finished());
    running.release.notify_one();
    busy.answer(1).await;
    assert_eq!(busy.closed().await, Some(NO_ERROR));
    assert!(busy.frames.iter().all(|frame| frame.stream != 3));
    assert!(running.arrived.try_recv().is_err());
    running.assert_ends().await;
}

#[tokio::test]
async fn shutdown_cuts_what_outlasts_the_drain_time() {
    let mut running = Running::start(Limits { drain: SHORT, ..Limits::default() });
    let mut raw = running.raw().await;
    raw.begin(1, "/never").await;
    running.arrives("/never").await;
    running.shutdown.cancel();
    farewell(&mut raw, 1).await;
    raw.closed().await;
    running.assert_ends().await;
}

#[tokio::test]
async fn at_the_limit_a_newcomer_replaces_the_idle_and_waits_for_the_busy() {
    let mut running = Running::with(Limits::default(), 1);
    let mut raw = running.raw().await;
    for stream in [1, 3] {
        raw.begin(stream, "/wait").await;
        running.arrives("/wait").await;
    }
    // One of two calls ends: the other still holds the connection's place.
    running.release.notify_one();
    running.leaves("/wait").await;
    let newcomer = running.connect().await;
    let mut newcomer = Raw::hello(newcomer, &[]).await;
    assert!(timeout(SHORT * 3, newcomer.stream.read_u8()).await.is_err());
    raw.send(&frame(PING, 0, 0, b"are you?")).await;
    raw.next_of(PING).await;
    assert!(raw.frames.iter().all(|frame| frame.kind != GOAWAY), "asked to go with a call in flight");
    running.release.notify_one();
    running.leaves("/wait").await;
    farewell(&mut raw, 3).await;
    assert_eq!(raw.closed().await, Some(NO_ERROR));
    newcomer.stream.read_u8().await.unwrap();
}
