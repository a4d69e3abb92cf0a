//! The short way of brief requests: which way each takes, that both come to the same, and that each limit of a connection
//! holds on either.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use jiff::Timestamp;
use kmsproxy::claim::Peer;
use kmsproxy::kms::RequestId;
use kmsproxy::listener::{Confidential, Config, Limits, Listener, LocalAddress, Said, Service};
use kmsproxy::secret::Secret;
use kmsproxy::wire::brief;
use rustls::pki_types::ServerName;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{Certified, SHORT, SOON, answer, certified, client, closed, config, loopback};

/// What a service was asked, by which way, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Event {
    /// Past hyper.
    Brief(String),
    /// By way of hyper.
    Long(String),
    /// Nobody waits for the answer any more.
    Dropped,
}

use Event::{Brief, Dropped, Long};

/// Says back what it was asked, and does what the query says.
#[derive(Clone)]
struct Echo {
    events: mpsc::UnboundedSender<Event>,
    release: Arc<Notify>,
}

impl Service for Echo {
    type Heard = String;
    type Body = Full<Bytes>;

    fn answer(
        &self,
        _: Arc<Peer>,
        request: Request<Incoming>,
    ) -> impl Future<Output = Response<Full<Bytes>>> + Send + 'static {
        let this = self.clone();
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            let asked = asked(head.method.as_str(), head.uri.query().unwrap_or(""), &body);
            this.events.send(Long(asked.clone())).unwrap();
            by_hyper(this.say(asked).await)
        }
    }

    fn hear(&self, _: &Peer, request: &brief::Request<'_>) -> Option<String> {
        assert_ne!(request.query, "panic-at-once");
        let asked = asked(request.method.as_str(), request.query, request.body);
        (request.query != "long").then(|| {
            self.events.send(Brief(asked.clone())).unwrap();
            asked
        })
    }

    async fn answer_heard(&self, _: &Peer, heard: String) -> Said {
        self.say(heard).await
    }
}

impl Echo {
    async fn say(&self, asked: String) -> Said {
        let unheard = Unheard(self.events.clone());
        let does = |what: &str| asked.split(' ').nth(1) == Some(what);
        if does("wait") {
            self.release.notified().await;
        } else if does("never") {
            std::future::pending().await
        } else if does("panic") {
            panic!("as asked");
        }
        std::mem::forget(unheard);
        Said {
            status: if does("missing") { StatusCode::NOT_FOUND } else { StatusCode::OK },
            content_type: "text/plain",
            request_id: ("x-echo-id", RequestId::new(if does("evil") { "1\r\nx-evil: yes" } else { "1" })),
            closes: does("close"),
            confidential: does("confide"),
            body: if does("huge") { Secret::new(vec![b'0'; HUGE]) } else { Secret::new(asked.into_bytes()) },
            at: Timestamp::now(),
        }
    }
}

/// As every service that also answers brief requests has it.
fn by_hyper(said: Said) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::copy_from_slice(said.body.expose())));
    *response.status_mut() = said.status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, said.content_type.parse().unwrap());
    if let Ok(id) = said.request_id.1.text().parse() {
        headers.insert(said.request_id.0, id);
    }
    if said.closes {
        headers.insert(CONNECTION, "close".parse().unwrap());
    }
    if said.confidential {
        response.extensions_mut().insert(Confidential);
    }
    response
}

fn asked(method: &str, query: &str, body: &[u8]) -> String {
    format!("{method} {query} {}", String::from_utf8_lossy(body))
}

struct Unheard(mpsc::UnboundedSender<Event>);

impl Drop for Unheard {
    fn drop(&mut self) {
        // The test may be over.
        let _ = self.0.send(Dropped);
    }
}

/// A listener at work before [`Echo`].
struct Running {
    address: LocalAddress,
    certified: Option<Certified>,
    _folder: Option<TempDir>,
    shutdown: CancellationToken,
    release: Arc<Notify>,
    events: mpsc::UnboundedReceiver<Event>,
    ended: JoinHandle<std::io::Result<()>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Socket {
    Tcp,
    Unix,
    Tls,
}

const SOCKETS: [Socket; 3] = [Socket::Tcp, Socket::Unix, Socket::Tls];

trait Duplex: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Duplex for T {}
type Stream = Box<dyn Duplex>;

impl Running {
    fn start(socket: Socket, limits: Limits) -> Self {
        Self::limited(socket, 16, limits)
    }

    /// For at most so many connections.
    fn limited(socket: Socket, max_connections: usize, limits: Limits) -> Self {
        let folder = (socket == Socket::Unix).then(|| tempfile::tempdir().unwrap());
        let certified = (socket == Socket::Tls).then(certified);
        let base = folder
            .as_ref()
            .map_or_else(loopback, |it| config(&format!("unix:{}", it.path().join("echo.sock").display())));
        let tls = certified.as_ref().map(|it| it.tls.clone());
        let config = Config { max_connections, tls, ..base };
        let listener = Listener::bind(&config, None).unwrap().with_limits(limits);
        let (telling, events) = mpsc::unbounded_channel();
        let (shutdown, release) = (CancellationToken::new(), Arc::new(Notify::new()));
        let address = listener.local_address().clone();
        let echo = Echo { events: telling, release: Arc::clone(&release) };
        let ended = tokio::spawn(listener.run(echo, shutdown.clone()));
        Self { address, certified, _folder: folder, shutdown, release, events, ended }
    }

    async fn connect(&self) -> Stream {
        let tcp = match &self.address {
            LocalAddress::Unix(path) => return Box::new(UnixStream::connect(path).await.unwrap()),
            LocalAddress::Tcp(address) => TcpStream::connect(address).await.unwrap(),
        };
        match &self.certified {
            None => Box::new(tcp),
            Some(certified) => {
                let name = ServerName::try_from("127.0.0.1").unwrap();
                Box::new(client(certified.folder.path(), None).connect(name, tcp).await.unwrap())
            }
        }
    }

    /// What has happened since this was asked last. All of it has: the service is on this thread.
    fn told(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.events.try_recv().ok()).collect()
    }

    async fn next(&mut self) -> Event {
        timeout(SOON, self.events.recv()).await.expect("in time").unwrap()
    }

    /// Fails unless a newcomer is served.
    async fn assert_serves(&mut self) {
        assert_eq!(ask(&mut self.connect().await, "newcomer").await, "GET newcomer ");
        self.told();
    }

    /// Asks until that goes the short way.
    async fn until_brief(&mut self, stream: &mut Stream) {
        let begun = Instant::now();
        loop {
            sleep(SHORT * 2).await;
            assert_eq!(ask(stream, "again").await, "GET again ");
            match &self.told()[..] {
                [Brief(_)] => return,
                [Long(_)] => assert!(begun.elapsed() < SOON),
                other => panic!("{other:?}"),
            }
        }
    }
}

fn get(query: &str) -> String {
    format!("GET /?{query} HTTP/1.1\r\nhost: kms\r\n\r\n")
}

fn post(query: &str, body: &str) -> String {
    format!("POST /?{query} HTTP/1.1\r\nhost: kms\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

/// The body of the answer to a brief request.
async fn ask(stream: &mut Stream, query: &str) -> String {
    write(stream, &get(query)).await;
    answer(stream).await.2
}

async fn write(stream: &mut Stream, text: &str) {
    stream.write_all(text.as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
}

/// Writes each after what was written before has been read: the listener is on this thread.
async fn write_apart(stream: &mut Stream, parts: &[&str]) {
    for part in parts {
        write(stream, part).await;
        settle().await;
    }
}

/// Lets the listener, which is on this thread, do all that it can: the runtime looks at its sockets each time, however long it
/// was kept from doing so.
async fn settle() {
    for _ in 0..10 {
        sleep(SHORT / 20).await;
    }
}

/// How a connection ended over TLS: whether the end was told.
async fn end(stream: &mut Stream) -> Result<(), std::io::ErrorKind> {
    let read = timeout(SOON, stream.read(&mut [0])).await.expect("closed in time");
    read.map(|length| assert_eq!(length, 0)).map_err(|error| error.kind())
}

fn brief(asked: &str) -> Event {
    Brief(asked.to_owned())
}

fn long(asked: &str) -> Event {
    Long(asked.to_owned())
}

/// Does the same with each sort of socket, at once.
async fn over_each<F: Future<Output = ()>>(test: impl Fn(Socket) -> F) {
    tokio::join!(test(SOCKETS[0]), test(SOCKETS[1]), test(SOCKETS[2]));
}

#[tokio::test]
async fn brief_requests_go_past_hyper_over_any_socket() {
    over_each(|socket| async move {
        let mut running = Running::start(socket, Limits::default());
        let mut stream = running.connect().await;
        for (request, asked) in [
            (get("a=b"), "GET a=b "),
            (post("", "a body"), "POST  a body"),
            (post("missing", ""), "POST missing "),
            (get("a=b").replace("host: kms", "HOST:kms\r\nConnection: Keep-Alive"), "GET a=b "),
            (post(&"q".repeat(4000), &"b".repeat(4000)), &asked("POST", &"q".repeat(4000), &[b'b'; 4000])),
        ] {
            write(&mut stream, &request).await;
            assert_eq!(answer(&mut stream).await.2, asked, "{socket:?}");
            assert_eq!(running.told(), [brief(asked)], "{socket:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn whatever_is_not_brief_goes_by_way_of_hyper_and_what_is_so_after_a_rest_does_not() {
    let (whole, two) = (post("q", "body"), get("1") + &get("2"));
    let (big, chunked) = (post("q", &"b".repeat(9000)), "transfer-encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n");
    let chunked = format!("POST /?q HTTP/1.1\r\nhost: kms\r\n{chunked}");
    let old = get("old").replace("HTTP/1.1\r\n", "HTTP/1.0\r\nconnection: keep-alive\r\n");
    let put = post("q", "body").replace("POST", "PUT");
    let big_asked = asked("POST", "q", &[b'b'; 9000]);
    let cases: &[(&[&str], &[&str])] = &[
        (&[&whole[..9], &whole[9..]], &["POST q body"]),
        (&[&whole[..whole.len() - 4], &whole[whole.len() - 4..]], &["POST q body"]),
        (&[&whole[..whole.len() - 1], &whole[whole.len() - 1..]], &["POST q body"]),
        (&[&two], &["GET 1 ", "GET 2 "]),
        (&[&big], &[&big_asked]),
        (&[&chunked], &["POST q body"]),
        (&[&old], &["GET old "]),
        (&[&put], &["PUT q body"]),
        (&[&get("long")], &["GET long "]),
    ];
    over_each(|socket| async move {
        let mut running = Running::start(socket, Limits::default());
        let mut stream = running.connect().await;
        for (parts, expected) in cases {
            write_apart(&mut stream, parts).await;
            for asked in *expected {
                assert_eq!(answer(&mut stream).await.2, *asked, "{socket:?} {parts:?}");
            }
            let by_hyper: Vec<_> = expected.iter().copied().map(long).collect();
            assert_eq!(running.told(), by_hyper, "{socket:?} {parts:?}");
            running.until_brief(&mut stream).await;
        }
    })
    .await;
}

#[tokio::test]
async fn who_expects_100_continue_is_told_it_by_hyper() {
    over_each(|socket| async move {
        let mut running = Running::start(socket, Limits::default());
        let mut stream = running.connect().await;
        let request = post("q", "body").replace("host", "expect: 100-continue\r\nhost");
        let (head, body) = request.split_at(request.len() - 4);
        write(&mut stream, head).await;
        assert_eq!(answer(&mut stream).await.1, "HTTP/1.1 100 Continue\r\n\r\n");
        write(&mut stream, body).await;
        assert_eq!(answer(&mut stream).await.2, "POST q body");
        assert_eq!(running.told(), [long("POST q body")]);
        running.until_brief(&mut stream).await;
    })
    .await;
}

#[tokio::test]
async fn what_hyper_had_read_of_a_long_request_when_the_connection_came_to_rest_is_not_lost() {
    over_each(|socket| async move {
        let mut running = Running::start(socket, Limits::default());
        let mut stream = running.connect().await;
        let query: String = (0..4000).map(|number| format!("{number:04}")).collect();
        let (first, second) = (post("first", &"b".repeat(10_000)), get(&query));
        // More of the second than is read for a brief one comes with the end of the first.
        let (begun, rest) = second.split_at(13_000);
        write(&mut stream, &(first + begun)).await;
        assert_eq!(answer(&mut stream).await.0, "HTTP/1.1 200 OK");
        sleep(SHORT * 4).await;
        write(&mut stream, rest).await;
        assert_eq!(answer(&mut stream).await.2, format!("GET {query} "), "{socket:?}");
        running.told();
        running.until_brief(&mut stream).await;
    })
    .await;
}

/// The head of an answer without the time, sorted, and all that comes before its end where it closes.
async fn whole_answer(stream: &mut Stream) -> (Vec<String>, String, bool) {
    let (_, head, body) = answer(stream).await;
    let mut lines: Vec<_> = head.lines().map(str::to_owned).collect();
    let dates = lines.iter_mut().filter(|line| line.starts_with("date: "));
    let dates: Vec<_> = dates.map(|line| std::mem::replace(line, "date".to_owned())).collect();
    let [date] = &dates[..] else { panic!("{dates:?}") };
    let date = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(&date["date: ".len()..]).unwrap();
    assert!(Timestamp::now().duration_since(date).abs() < SOON.try_into().unwrap());
    lines.sort();
    let closes = lines.iter().any(|line| line == "connection: close");
    if closes {
        assert_eq!(closed(stream).await, b"");
    }
    (lines, body, closes)
}

#[tokio::test]
async fn both_ways_tell_the_same() {
    over_each(|socket| async move {
        for (age, query) in [(600, "q"), (600, "missing"), (600, "close"), (600, "evil"), (600, "confide"), (0, "q")] {
            let limits = Limits { age: Duration::from_secs(age), ..Limits::default() };
            let mut running = Running::start(socket, limits);
            let request = post(query, "body");
            let mut stream = running.connect().await;
            write(&mut stream, &request).await;
            let by_the_short = whole_answer(&mut stream).await;
            let mut stream = running.connect().await;
            write_apart(&mut stream, &[&request[..7], &request[7..]]).await;
            let by_hyper = whole_answer(&mut stream).await;
            let asked = asked("POST", query, b"body");
            assert_eq!(running.told(), [brief(&asked), long(&asked)]);
            assert_eq!(by_the_short, by_hyper, "{socket:?} {query}");
            let (head, body, closes) = by_hyper;
            assert_eq!((body, closes), (asked, query == "close" || age == 0));
            let fields = ["content-length: ", "content-type: text/plain", "date"];
            assert!(fields.iter().all(|field| head.iter().any(|line| line.starts_with(field))), "{head:?}");
            assert_eq!(head.iter().any(|line| line == "x-echo-id: 1"), query != "evil");
            assert!(!head.concat().contains("evil"), "{head:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn who_is_done_is_let_go_of_and_answered_before() {
    over_each(|socket| async move {
        let mut running = Running::start(socket, Limits::default());
        let mut stream = running.connect().await;
        ask(&mut stream, "q").await;
        stream.shutdown().await.unwrap();
        // Over TLS this end is told as well: otherwise it would be an error.
        assert_eq!(end(&mut stream).await, Ok(()), "{socket:?}");
        let mut stream = running.connect().await;
        write(&mut stream, &get("wait")).await;
        stream.shutdown().await.unwrap();
        assert_eq!([running.next().await, running.next().await], [brief("GET q "), brief("GET wait ")]);
        running.release.notify_one();
        assert_eq!(answer(&mut stream).await.2, "GET wait ");
        assert_eq!(end(&mut stream).await, Ok(()), "{socket:?}");
        // And before anything is said.
        let mut stream = running.connect().await;
        stream.shutdown().await.unwrap();
        assert_eq!(end(&mut stream).await, Ok(()), "{socket:?}");
        assert_eq!(running.told(), []);
    })
    .await;
}

#[tokio::test]
async fn an_answer_that_closes_ends_tls_as_it_should() {
    let mut running = Running::start(Socket::Tls, Limits::default());
    let mut stream = running.connect().await;
    ask(&mut stream, "close").await;
    assert_eq!((running.next().await, end(&mut stream).await), (brief("GET close "), Ok(())));
}

#[tokio::test]
async fn shutdown_lets_brief_requests_finish_and_closes_those_at_rest() {
    over_each(|socket| async move {
        let mut running = Running::start(socket, Limits::default());
        let (mut idle, mut busy, mut late) =
            (running.connect().await, running.connect().await, running.connect().await);
        ask(&mut idle, "q").await;
        ask(&mut late, "q").await;
        write(&mut busy, &get("wait")).await;
        running.events.recv().await.unwrap();
        running.shutdown.cancel();
        // No time passes: those at rest have heard of it, and stay for a moment yet.
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        // This question was on its way already.
        write(&mut late, &get("late")).await;
        assert!(answer(&mut late).await.1.contains("\r\nconnection: close\r\n"));
        assert_eq!(closed(&mut late).await, b"");
        closed_whatever_the_end(&mut idle).await;
        assert!(!running.ended.is_finished());
        running.release.notify_one();
        assert!(answer(&mut busy).await.1.contains("\r\nconnection: close\r\n"));
        assert_eq!(end(&mut busy).await, Ok(()));
        let told = running.told();
        timeout(SOON, running.ended).await.unwrap().unwrap().unwrap();
        assert!(told.iter().all(|event| matches!(event, Brief(_))) && told.contains(&brief("GET late ")), "{told:?}");
    })
    .await;
}

/// Over TLS perhaps without a word of its end.
async fn closed_whatever_the_end(stream: &mut Stream) {
    let read = timeout(SOON, stream.read(&mut [0])).await.expect("closed in time");
    assert!(!matches!(read, Ok(1..)), "{read:?}");
}

#[tokio::test]
async fn shutdown_cuts_a_brief_request_that_outlasts_the_drain_time() {
    let mut running = Running::start(Socket::Tcp, Limits { drain: SHORT, ..Limits::default() });
    let mut stuck = running.connect().await;
    write(&mut stuck, &get("never")).await;
    assert_eq!(running.next().await, brief("GET never "));
    running.shutdown.cancel();
    timeout(SOON, &mut running.ended).await.unwrap().unwrap().unwrap();
    assert_eq!(closed(&mut stuck).await, b"");
    assert_eq!(running.next().await, Dropped);
}

#[tokio::test]
async fn at_the_limit_who_rests_makes_room_and_a_brief_request_is_waited_for() {
    over_each(|socket| async move {
        let mut running = Running::limited(socket, 1, Limits::default());
        let mut resting = running.connect().await;
        ask(&mut resting, "q").await;
        let mut busy = running.connect().await;
        write(&mut busy, &get("wait")).await;
        assert_eq!([running.next().await, running.next().await], [brief("GET q "), brief("GET wait ")]);
        assert_eq!(end(&mut resting).await, Ok(()), "{socket:?}");
        {
            let mut newcomer = pin!(async { ask(&mut running.connect().await, "new").await });
            assert!(timeout(SHORT, &mut newcomer).await.is_err(), "{socket:?}");
            running.release.notify_one();
            assert_eq!(answer(&mut busy).await.2, "GET wait ");
            assert_eq!(timeout(SOON, newcomer).await.unwrap(), "GET new ");
        }
        assert_eq!(running.told(), [brief("GET new ")]);
    })
    .await;
}

#[tokio::test]
async fn who_does_not_take_a_brief_answer_is_cut() {
    over_each(|socket| async move {
        let limits = Limits { stall: SHORT, ..Limits::default() };
        let mut running = Running::limited(socket, 1, limits);
        let mut stream = running.connect().await;
        write(&mut stream, &get("huge")).await;
        assert_eq!(running.next().await, brief("GET huge "));
        running.assert_serves().await;
        drop(stream);
    })
    .await;
}

#[tokio::test]
async fn who_is_slow_to_take_a_brief_answer_gets_all_of_it() {
    over_each(|socket| async move {
        let limits = Limits { rest: SHORT / 2, ..Limits::default() };
        let mut running = Running::start(socket, limits);
        let mut stream = running.connect().await;
        write(&mut stream, &get("huge")).await;
        sleep(SHORT * 4).await;
        assert_eq!(answer(&mut stream).await.2.len(), HUGE);
        assert_eq!(ask(&mut stream, "q").await, "GET q ");
        assert_eq!(running.told(), [brief("GET huge "), brief("GET q ")]);
    })
    .await;
}

#[tokio::test]
async fn the_limits_of_time_hold_for_brief_requests() {
    let limits = Limits { request: SHORT, ..Limits::default() };
    let mut running = Running::start(Socket::Tcp, limits);
    let mut stream = running.connect().await;
    write(&mut stream, &get("never")).await;
    assert_eq!(closed(&mut stream).await, b"");
    assert_eq!(running.told(), [brief("GET never "), Dropped]);

    let mut running = Running::start(Socket::Tcp, Limits { head: SHORT, ..Limits::default() });
    let mut stream = running.connect().await;
    ask(&mut stream, "q").await;
    write(&mut stream, &get("half")[..9]).await;
    assert_eq!(closed(&mut stream).await, b"");
    assert_eq!(running.told(), [brief("GET q ")]);

    let limits = Limits { head: SHORT * 3, idle: SHORT * 20, ..Limits::default() };
    let mut running = Running::start(Socket::Tcp, limits);
    let mut stream = running.connect().await;
    ask(&mut stream, "q").await;
    sleep(SHORT * 6).await;
    ask(&mut stream, "q").await;
    let answered = Instant::now();
    assert_eq!(closed(&mut stream).await, b"");
    assert!(answered.elapsed() >= limits.idle - SHORT, "{:?}", answered.elapsed());
    assert_eq!(running.told(), [brief("GET q "), brief("GET q ")]);
}

#[tokio::test]
async fn over_tls_alone_a_brief_request_that_is_confidential_ends_its_connection_after_a_rest() {
    over_each(|socket| async move {
        let limits = Limits { rest: SHORT * 8, ..Limits::default() };
        let mut running = Running::start(socket, limits);
        let mut stream = running.connect().await;
        ask(&mut stream, "q").await;
        sleep(limits.rest * 2).await;
        ask(&mut stream, "confide").await;
        if socket == Socket::Tls {
            // In use it stays.
            ask(&mut stream, "q").await;
            closed_whatever_the_end(&mut stream).await;
        } else {
            sleep(limits.rest * 2).await;
            ask(&mut stream, "q").await;
        }
        assert_eq!(running.told(), [brief("GET q "), brief("GET confide "), brief("GET q ")], "{socket:?}");
        running.assert_serves().await;
    })
    .await;
}

#[tokio::test]
async fn a_panic_about_a_brief_request_ends_its_own_connection_only() {
    let mut running = Running::start(Socket::Tcp, Limits::default());
    let mut other = running.connect().await;
    ask(&mut other, "q").await;
    for (query, expected) in [("panic", vec![brief("GET panic "), Dropped]), ("panic-at-once", vec![])] {
        running.told();
        let mut stream = running.connect().await;
        write(&mut stream, &get(query)).await;
        assert_eq!(closed(&mut stream).await, b"");
        assert_eq!(running.told(), expected);
        assert_eq!(ask(&mut other, "q").await, "GET q ");
        assert_eq!(running.told(), [brief("GET q ")]);
        running.assert_serves().await;
    }
}

#[tokio::test]
async fn a_listener_that_is_watchful_drops_what_nobody_waits_for_and_no_other_does() {
    over_each(|socket| async move {
        let mut running = Running::start(socket, Limits::default().of_a_kms());
        let mut stream = running.connect().await;
        for request in [get("q"), get("never")] {
            write(&mut stream, &request).await;
            if request == get("q") {
                assert_eq!(answer(&mut stream).await.2, "GET q ");
            }
        }
        assert_eq!([running.next().await, running.next().await], [long("GET q "), long("GET never ")]);
        drop(stream);
        assert_eq!(running.next().await, Dropped, "{socket:?}");

        let mut running = Running::start(socket, Limits::default());
        let mut stream = running.connect().await;
        write(&mut stream, &get("wait")).await;
        drop(stream);
        assert_eq!(running.next().await, brief("GET wait "));
        sleep(SHORT).await;
        assert_eq!(running.told(), []);
        running.release.notify_one();
        running.assert_serves().await;
    })
    .await;
}

const HUGE: usize = 32 << 20;
