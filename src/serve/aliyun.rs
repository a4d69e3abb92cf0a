//! The face of the Alibaba Cloud KMS OpenAPI: HTTP/1.1 requests in, answers and refusals of that dialect out.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Body, Incoming};
use jiff::Timestamp;

use super::{Hosts, Limits, Place, Places, screen, wiped};
use crate::auth::{Caller, CallerName, Door};
use crate::claim::Peer;
use crate::clock::{Clock, Deadline, Moment};
use crate::engine::Respond;
use crate::fault::{Fault, Kind};
use crate::kms::{Action, Answer, Call, RequestId};
use crate::listener::{Confidential, Said, Service};
use crate::metrics::{self, Requests};
use crate::secret::Secret;
use crate::trace::{Attribute, Span, Tracer};
use crate::wire::aliyun::{answer, refusal, request};
use crate::wire::brief;
use crate::wire::fields::Fields;

/// One listener's face. Shared by all its connections; holds nothing of a request once that is answered.
pub struct Face<R> {
    respond: Arc<R>,
    door: Arc<Door>,
    clock: Arc<dyn Clock>,
    hosts: Hosts,
    limits: Limits,
    places: Places,
    requests: Requests,
    tracer: Tracer,
}

impl<R: Respond> Face<R> {
    /// A face before `respond`, for callers whom `door` admits.
    #[must_use]
    pub fn new(respond: Arc<R>, door: Arc<Door>, clock: Arc<dyn Clock>, hosts: Hosts, limits: Limits) -> Self {
        Self {
            respond,
            door,
            clock,
            hosts,
            limits,
            places: Places::new(limits.in_flight),
            requests: Requests::of("aliyun", &Action::ALL.map(Action::name)),
            tracer: Tracer::off(),
        }
    }

    /// The same, whose requests are traced by `tracer`.
    #[must_use]
    pub fn traced(self, tracer: Tracer) -> Self {
        Self { tracer, ..self }
    }

    /// Answers one request. Never fails: what goes wrong is answered in the dialect, and where the rest of the request
    /// was not read the answer closes the connection.
    #[allow(
        clippy::manual_async_fn,
        reason = "an async fn moves what it is given once more, and its future holds it twice"
    )]
    pub fn serve<B: Body<Data = Bytes> + Unpin>(
        self: Arc<Self>,
        mut request: Request<B>,
        peer: Arc<Peer>,
    ) -> impl Future<Output = Response<Full<Bytes>>>
    where
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        async move {
            let mut heard = Heard::new(&*self.clock, self.tracer.begin(request.headers()));
            let asked = self.receive(&mut request, &peer, &mut heard.seen).await;
            // Here ends what was read: nothing of it lies in the connection's buffer while the KMS is asked.
            drop(request);
            respond(self.fulfil(&peer, heard, asked).await)
        }
    }

    /// What becomes of a request that has been read, counted and recorded.
    async fn fulfil(&self, peer: &Peer, heard: Heard, asked: Result<Asked, Fault>) -> Said {
        let Heard { seen, begun, wall } = heard;
        let result = match asked {
            Ok(Asked { caller, call, place: _place }) => {
                self.respond.respond(&caller, call, Deadline::after(begun, self.limits.timeout)).await
            }
            Err(fault) => Err(fault),
        };
        let took = self.clock.now().since(begun);
        let at = wall.saturating_add(took).unwrap_or(wall);
        self.conclude(result, seen, peer, took, at)
    }

    fn conclude(&self, result: Result<Answer, Fault>, seen: Seen, peer: &Peer, took: Duration, at: Timestamp) -> Said {
        let outcome = result.as_ref().map_or_else(|refused| refused.kind().label(), |_| metrics::OK);
        self.record(peer, &seen, outcome, took);
        let (status, request_id, body) = match result {
            Ok(answer) => (StatusCode::OK, answer.request_id.clone(), answer::encode(&answer)),
            Err(fault) => {
                super::tell(peer, seen.caller.as_ref(), seen.action.map(Action::name), &fault);
                refuse(&fault)
            }
        };
        if let Some(span) = seen.span {
            span.note(Attribute::HttpStatus(status.as_u16()));
            span.end(status.is_server_error());
        }
        Said {
            status,
            content_type: "application/json;charset=utf-8",
            request_id: ("x-acs-request-id", request_id),
            body,
            at,
            closes: seen.unread,
            // What goes out lies in nobody's buffer for long, and what comes in with other calls is no secret.
            confidential: seen.action == Some(Action::Encrypt),
        }
    }

    /// Who calls, what is asked, and a place for it.
    async fn receive<B: Body<Data = Bytes> + Unpin>(
        &self,
        request: &mut Request<B>,
        peer: &Peer,
        seen: &mut Seen,
    ) -> Result<Asked, Fault>
    where
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        self.screen(request.headers().into())?;
        aim(request)?;
        let body = super::body(request, request::BODY_BYTES_MAX).await?;
        let query = request.uri().query().unwrap_or("");
        let parse = || request::Request::parse(request.method(), query, request.headers(), &body);
        self.admit(parse, peer, seen, (self.clock.now(), self.clock.wall()))
    }

    /// The same of a brief request.
    fn take(&self, brief: &brief::Request<'_>, peer: &Peer, heard: &mut Heard) -> Result<Asked, Fault> {
        self.screen(brief.fields)?;
        let parse = || request::Request::parse(brief.method, brief.query, brief.fields, brief.body);
        self.admit(parse, peer, &mut heard.seen, (heard.begun, heard.wall))
    }

    /// What can be refused by the header alone.
    fn screen(&self, fields: Fields<'_>) -> Result<(), Fault> {
        screen(fields)?;
        if self.hosts.allow(fields) { Ok(()) } else { Err(Fault::caller(Kind::Forbidden)) }
    }

    /// Of a request that is read to its end. Authenticates first and decodes after: whoever has proven nothing learns
    /// nothing of what a call should be.
    fn admit<'r>(
        &self,
        parse: impl FnOnce() -> Result<request::Request<'r>, Fault>,
        peer: &Peer,
        seen: &mut Seen,
        (now, wall): (Moment, Timestamp),
    ) -> Result<Asked, Fault> {
        seen.unread = false;
        // Not before the body is there: one that drips shall hold its own connection, and no place.
        let place = self.places.take()?;
        let request = parse()?;
        let caller = self.door.admit(peer, &request.claim()?, now, wall)?;
        seen.caller = Some(caller.name().clone());
        let call = request.call()?;
        seen.action = Some(call.action());
        Ok(Asked { caller: caller.traced(seen.span.clone()), call, place })
    }

    /// The one record of a request: here it enters the log, and here it is counted. Never its URL.
    fn record(&self, peer: &Peer, seen: &Seen, outcome: &'static str, took: Duration) {
        self.requests.record(seen.action.map(Action::name), outcome, took);
        if let Some(span) = &seen.span {
            super::describe(span, "aliyun", peer, seen.caller.as_ref(), seen.action.map(Action::name), outcome);
        }
        tracing::debug!(
            listener = peer.listener.as_str(),
            caller = seen.caller.as_ref().map(CallerName::as_str),
            action = seen.action.map(Action::name),
            outcome,
            micros = took.as_micros(),
            "request"
        );
    }
}

impl<R: Respond + 'static> Service for Arc<Face<R>> {
    type Heard = (Heard, Result<Asked, Fault>);
    type Body = Full<Bytes>;

    fn answer(
        &self,
        peer: Arc<Peer>,
        request: Request<Incoming>,
    ) -> impl Future<Output = Response<Full<Bytes>>> + Send + 'static {
        Arc::clone(self).serve(request, peer)
    }

    /// Where requests are traced, their context is read from hyper's map.
    fn hear(&self, peer: &Peer, request: &brief::Request<'_>) -> Option<Self::Heard> {
        self.tracer.is_off().then(|| {
            let mut heard = Heard::new(&*self.clock, None);
            let asked = self.take(request, peer, &mut heard);
            (heard, asked)
        })
    }

    async fn answer_heard(&self, peer: &Peer, (heard, asked): Self::Heard) -> Said {
        self.fulfil(peer, heard, asked).await
    }
}

/// A request under way.
pub struct Heard {
    begun: Moment,
    wall: Timestamp,
    seen: Seen,
}

impl Heard {
    fn new(clock: &dyn Clock, span: Option<Span>) -> Self {
        let seen = Seen { caller: None, action: None, unread: true, span };
        Self { begun: clock.now(), wall: clock.wall(), seen }
    }
}

/// What a request asks, and a place for it.
pub struct Asked {
    caller: Caller,
    call: Call,
    place: Place,
}

/// What is known of a request so far.
struct Seen {
    caller: Option<CallerName>,
    action: Option<Action>,
    unread: bool,
    span: Option<Span>,
}

/// Whether it is for us to answer, by its method and its target.
fn aim<B>(request: &Request<B>) -> Result<(), Fault> {
    let uri = request.uri();
    let relative = uri.scheme().is_none() && uri.authority().is_none();
    if !relative || uri.path() != "/" || ![Method::GET, Method::POST].contains(request.method()) {
        return Err(Fault::caller(Kind::UnknownAction));
    }
    let long = uri.query().is_some_and(|query| query.len() > request::QUERY_BYTES_MAX);
    if long { Err(Fault::caller(Kind::TooLarge)) } else { Ok(()) }
}

fn refuse(fault: &Fault) -> (StatusCode, RequestId, Secret) {
    let request_id = fault.verbatim().map_or_else(RequestId::random, |said| said.request_id.clone());
    let (status, body) = refusal::encode(fault, &request_id);
    (status, request_id, Secret::new(body))
}

/// An answer by way of hyper.
fn respond(said: Said) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(wiped(said.body)));
    *response.status_mut() = said.status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(said.content_type));
    let (name, id) = said.request_id;
    if let Ok(id) = HeaderValue::from_str(&id.text()) {
        headers.insert(HeaderName::from_static(name), id);
    }
    if said.closes {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    if said.confidential {
        response.extensions_mut().insert(Confidential);
    }
    response
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::Mutex;

    use http::{HeaderMap, HeaderName};
    use http_body_util::BodyExt;
    use hyper_util::rt::TokioIo;
    use serde_json::Value;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    use super::*;
    use crate::auth::{Entry, Identity};
    use crate::claim::{ListenerName, PeerOrigin};
    use crate::clock::Manual;
    use crate::kms::{Decrypt, Decrypted, KeyId, KeyVersion, Reply};
    use crate::wire::aliyun::signature::{AccessKey, V3, v3_headers};

    /// Answers every Decrypt, and remembers who asked, with how much time.
    struct Kms(Manual, Mutex<Vec<(String, Call, Duration)>>);

    impl Respond for Kms {
        async fn respond(&self, caller: &Caller, call: Call, deadline: Deadline) -> Result<Answer, Fault> {
            let left = deadline.remaining(self.0.now());
            let action = call.action();
            self.1.lock().unwrap().push((caller.name().to_string(), call, left));
            if action != Action::Decrypt {
                return Err(Fault::proxy(Kind::Forbidden));
            }
            let (key, version) = (KeyId::new("key-1"), KeyVersion::new("v1"));
            let reply = Reply::Decrypted(Decrypted { plaintext: Secret::copied(b"test"), key, version });
            Ok(Answer { reply, request_id: RequestId::new("UPSTREAM-1") })
        }
    }

    struct Stage {
        face: Arc<Face<Kms>>,
        kms: Arc<Kms>,
    }

    fn stage() -> Stage {
        let wall = NOW.parse().unwrap();
        let kms = Arc::new(Kms(Manual::at(wall), Mutex::default()));
        let identity = Identity::AccessKey { id: "LTAIlocal".to_owned(), secret: Secret::copied(b"secret") };
        let name = CallerName::new("plugin");
        let door = Door::new(vec![Entry { name, listener: ListenerName::new("ack"), identity }]).unwrap();
        let (respond, clock) = (Arc::clone(&kms), Arc::new(Manual::at(wall)));
        let face = Face::new(respond, Arc::new(door), clock, Hosts::new(&[]), LIMITS);
        Stage { face: Arc::new(face), kms }
    }

    impl Stage {
        /// The client's end of a connection that the face serves.
        fn connect(&self) -> DuplexStream {
            let (ours, theirs) = tokio::io::duplex(1 << 16);
            let face = Arc::clone(&self.face);
            let origin = PeerOrigin::Tcp(SocketAddr::from(([127, 0, 0, 1], 9)));
            let peer = Peer { listener: ListenerName::new("ack"), origin, certificate_names: Arc::from([]) };
            let peer = Arc::new(peer);
            let service = hyper::service::service_fn(move |request| {
                let (face, peer) = (Arc::clone(&face), Arc::clone(&peer));
                async move { Ok::<_, std::convert::Infallible>(face.serve(request, peer).await) }
            });
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(theirs), service));
            ours
        }

        async fn ask(&self, request: Request<Full<Bytes>>) -> (u16, HeaderMap, Value) {
            let io = TokioIo::new(self.connect());
            let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
            tokio::spawn(connection);
            let (head, body) = sender.send_request(request).await.unwrap().into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            (head.status.as_u16(), head.headers, serde_json::from_slice(&body).unwrap())
        }

        async fn refused(&self, request: Request<Full<Bytes>>) -> (u16, String) {
            let (status, headers, body) = self.ask(request).await;
            assert_eq!(headers["x-acs-request-id"], body["RequestId"].as_str().unwrap());
            (status, body["Code"].as_str().unwrap().to_owned())
        }
    }

    fn signed(action: &str, form: &'static str) -> Request<Full<Bytes>> {
        let secret = Secret::copied(b"secret");
        let key = AccessKey { id: "LTAIlocal", secret: &secret, token: None };
        let (host, version, at) = ("127.0.0.1:8443", request::VERSION, NOW.parse().unwrap());
        let nonce = &uuid::Uuid::new_v4().to_string();
        let headers = v3_headers(&V3 { host, action, version, key, at, nonce, body: form.as_bytes() });
        let mut request = Request::post("/").body(Full::new(Bytes::from_static(form.as_bytes()))).unwrap();
        *request.headers_mut() = headers;
        request
    }

    fn with(name: &'static str, value: &'static str) -> Request<Full<Bytes>> {
        let mut request = signed("Decrypt", FORM);
        request.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        request
    }

    fn to(uri: &str) -> Request<Full<Bytes>> {
        let mut request = signed("Decrypt", FORM);
        *request.uri_mut() = uri.parse().unwrap();
        request
    }

    const LIMITS: Limits = Limits { timeout: Duration::from_secs(2), in_flight: 100 };
    const FORM: &str = "CiphertextBlob=QUI%3D";
    const NOW: &str = "2026-01-02T03:04:05Z";

    #[tokio::test]
    async fn a_signed_decrypt_is_answered_in_the_dialect() {
        let stage = stage();
        let (status, headers, body) = stage.ask(signed("Decrypt", FORM)).await;
        let expected = serde_json::json!({
            "KeyId": "key-1", "KeyVersionId": "v1", "Plaintext": "dGVzdA==", "RequestId": "UPSTREAM-1",
        });
        assert_eq!((status, body), (200, expected));
        assert_eq!(headers["x-acs-request-id"], "UPSTREAM-1");
        assert_eq!(headers["content-type"], "application/json;charset=utf-8");
        let ciphertext = crate::kms::Ciphertext::new(b"AB".to_vec());
        let decrypt =
            Decrypt { ciphertext, key: None, context: None, dry_run: false, extra: crate::kms::Extra::default() };
        let expected = ("plugin".to_owned(), Call::Decrypt(decrypt), Duration::from_secs(2));
        assert_eq!(*stage.kms.1.lock().unwrap(), [expected]);
    }

    #[tokio::test]
    async fn the_caller_is_proven_before_the_call_is_read() {
        let stage = stage();
        let unsound = signed("Decrypt", "CiphertextBlob=!");
        assert_eq!(stage.refused(unsound).await, (400, "InvalidParameter".to_owned()));
        let mut unproven = signed("Decrypt", "CiphertextBlob=!");
        let line = unproven.headers()["authorization"].to_str().unwrap().replace("Signature=", "Signature=0");
        unproven.headers_mut().insert("authorization", line.parse().unwrap());
        assert_eq!(stage.refused(unproven).await, (400, "IncompleteSignature".to_owned()));
        let unknown = signed("DisableKey", "KeyId=k");
        assert_eq!(stage.refused(unknown).await, (404, "InvalidApi.NotFound".to_owned()));
        let unparsable = signed("Decrypt", "%ff=1");
        assert_eq!(stage.refused(unparsable).await, (400, "ParseRequestParameterException".to_owned()));
        assert_eq!(*stage.kms.1.lock().unwrap(), []);
    }

    #[tokio::test]
    async fn what_is_no_kms_client_is_refused_by_its_head() {
        let stage = stage();
        let forbidden = (403, "Forbidden.NoPermission".to_owned());
        assert_eq!(stage.refused(with("origin", "https://evil.example")).await, forbidden);
        assert_eq!(stage.refused(with("x-forwarded-for", "10.0.0.1")).await, forbidden);
        assert_eq!(stage.refused(with("host", "evil.example")).await, forbidden);
        let encoded = stage.refused(with("content-encoding", "gzip")).await;
        assert_eq!(encoded, (400, "ParseRequestParameterException".to_owned()));
        let unknown = (404, "InvalidApi.NotFound".to_owned());
        assert_eq!(stage.refused(to("/v1")).await, unknown);
        assert_eq!(stage.refused(to("http://127.0.0.1:8443/")).await, unknown);
        let mut put = signed("Decrypt", FORM);
        *put.method_mut() = Method::PUT;
        assert_eq!(stage.refused(put).await, unknown);
        let long = format!("/?x={}", "y".repeat(33 << 10));
        assert_eq!(stage.refused(to(&long)).await, (413, "RequestTooLarge".to_owned()));
        assert_eq!(*stage.kms.1.lock().unwrap(), []);
    }

    #[tokio::test]
    async fn a_body_of_ten_megabytes_is_refused_unread_and_the_connection_closed() {
        let stage = stage();
        for length in ["content-length: 10485760\r\n\r\n", "transfer-encoding: chunked\r\n\r\nA00000\r\n"] {
            let mut client = stage.connect();
            let head = format!("POST / HTTP/1.1\r\nhost: localhost\r\n{length}");
            client.write_all(head.as_bytes()).await.unwrap();
            let chunk = [b'a'; 1 << 14];
            while client.write_all(&chunk).await.is_ok() {}
            let mut answer = Vec::new();
            drop(client.read_to_end(&mut answer).await);
            let answer = String::from_utf8(answer).unwrap();
            assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
            assert!(answer.contains("connection: close\r\n") && answer.contains("RequestTooLarge"), "{answer}");
        }
        assert_eq!(stage.ask(signed("Decrypt", FORM)).await.0, 200, "the next request is served");
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_is_given_up() {
        let stage = stage();
        let mut client = stage.connect();
        client.write_all(b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 10\r\n\r\nabc").await.unwrap();
        let (mut answer, begun) = (Vec::new(), tokio::time::Instant::now());
        client.read_to_end(&mut answer).await.unwrap();
        assert_eq!(begun.elapsed().as_secs(), 5);
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("did not come in time"), "{answer}");
    }

    #[tokio::test]
    async fn what_the_kms_refuses_keeps_the_connection() {
        let stage = stage();
        let (status, headers, body) = stage.ask(signed("ListKeys", "")).await;
        assert_eq!((status, &body["Code"]), (403, &Value::from("Forbidden.NoPermission")));
        assert_eq!(headers.get("connection"), None);
    }
}
