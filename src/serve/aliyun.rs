//! The face of the Alibaba Cloud KMS OpenAPI: HTTP/1.1 requests in, answers and refusals of that dialect out.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, HeaderValue};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Body;

use super::{Hosts, screen, wiped};
use crate::auth::{Caller, CallerName, Door};
use crate::claim::Peer;
use crate::clock::{Clock, Deadline};
use crate::engine::Respond;
use crate::fault::{Fault, Kind};
use crate::kms::{Action, Answer, Call, RequestId};
use crate::metrics::{self, Requests};
use crate::secret::Secret;
use crate::wire::aliyun::{answer, refusal, request};

/// One listener's face. Shared by all its connections; holds nothing of a request once that is answered.
pub struct Face<R> {
    respond: Arc<R>,
    door: Arc<Door>,
    clock: Arc<dyn Clock>,
    hosts: Hosts,
    timeout: Duration,
    requests: Requests,
}

impl<R: Respond> Face<R> {
    /// A face before `respond`, for callers whom `door` admits. `timeout` is what a request has from its head to its
    /// answer.
    #[must_use]
    pub fn new(respond: Arc<R>, door: Arc<Door>, clock: Arc<dyn Clock>, hosts: Hosts, timeout: Duration) -> Self {
        Self { respond, door, clock, hosts, timeout, requests: Requests::of("aliyun") }
    }

    /// Answers one request. Never fails: what goes wrong is answered in the dialect, and where the rest of the request
    /// was not read the answer closes the connection.
    pub async fn serve<B: Body<Data = Bytes>>(&self, request: Request<B>, peer: &Peer) -> Response<Full<Bytes>>
    where
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let begun = self.clock.now();
        let deadline = Deadline::after(begun, self.timeout);
        let mut seen = Seen::default();
        let result = self.answer(request, peer, deadline, &mut seen).await;
        let outcome = result.as_ref().map_or_else(|refused| refused.kind().label(), |_| metrics::OK);
        self.record(peer, &seen, outcome, self.clock.now().since(begun));
        match result {
            Ok(answer) => accept(&answer),
            Err(fault) => refuse(&fault, seen.unread),
        }
    }

    async fn answer<B: Body<Data = Bytes>>(
        &self,
        request: Request<B>,
        peer: &Peer,
        deadline: Deadline,
        seen: &mut Seen,
    ) -> Result<Answer, Fault>
    where
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (head, body) = request.into_parts();
        self.screen(&head)?;
        let body = super::body(&head.headers, body, request::BODY_BYTES_MAX).await?;
        seen.unread = false;
        let (caller, call) = self.admit(&head, &body, peer, seen)?;
        drop((head, body));
        self.respond.respond(&caller, call, deadline).await
    }

    /// What can be refused by the head alone.
    fn screen(&self, head: &Parts) -> Result<(), Fault> {
        screen(&head.headers)?;
        if !self.hosts.allow(&head.headers) {
            return Err(Fault::caller(Kind::Forbidden));
        }
        let relative = head.uri.scheme().is_none() && head.uri.authority().is_none();
        if !relative || head.uri.path() != "/" || ![Method::GET, Method::POST].contains(&head.method) {
            return Err(Fault::caller(Kind::UnknownAction));
        }
        if head.uri.query().is_some_and(|query| query.len() > request::QUERY_BYTES_MAX) {
            return Err(Fault::caller(Kind::TooLarge));
        }
        Ok(())
    }

    /// Authenticates first and decodes after: whoever has proven nothing learns nothing of what a call should be.
    fn admit(&self, head: &Parts, body: &[u8], peer: &Peer, seen: &mut Seen) -> Result<(Caller, Call), Fault> {
        let query = head.uri.query().unwrap_or("");
        let request = request::Request::parse(&head.method, query, &head.headers, body)?;
        let caller = self.door.admit(peer, &request.claim()?, self.clock.now(), self.clock.wall())?;
        seen.caller = Some(caller.name().clone());
        let call = request.call()?;
        seen.action = Some(call.action());
        Ok((caller, call))
    }

    /// The one record of a request: here it enters the log, and here it is counted. Never its URL.
    fn record(&self, peer: &Peer, seen: &Seen, outcome: &'static str, took: Duration) {
        self.requests.record(seen.action, outcome, took);
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

/// What is known of a request so far.
struct Seen {
    caller: Option<CallerName>,
    action: Option<Action>,
    unread: bool,
}

impl Default for Seen {
    fn default() -> Self {
        Self { caller: None, action: None, unread: true }
    }
}

fn accept(answer: &Answer) -> Response<Full<Bytes>> {
    response(StatusCode::OK, &answer.request_id, answer::encode(answer))
}

fn refuse(fault: &Fault, unread: bool) -> Response<Full<Bytes>> {
    let request_id = fault.verbatim().map_or_else(RequestId::random, |said| said.request_id.clone());
    let (status, body) = refusal::encode(fault, &request_id);
    let mut response = response(status, &request_id, Secret::new(body));
    if unread {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

fn response(status: StatusCode, request_id: &RequestId, body: Secret) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(wiped(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json;charset=utf-8"));
    if let Ok(id) = HeaderValue::from_str(request_id.as_str()) {
        response.headers_mut().insert(X_ACS_REQUEST_ID, id);
    }
    response
}

const X_ACS_REQUEST_ID: &str = "x-acs-request-id";
