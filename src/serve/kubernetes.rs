//! The face of the Kubernetes KMS provider API: gRPC calls of kube-apiserver in, answers and refusals of that dialect
//! out. v1beta1 and v2 on one socket.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use h2::RecvStream;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use tokio::time::timeout;

use super::{BODY_TIMEOUT, Limits, Places, wiped};
use crate::auth::{Caller, CallerName, Door};
use crate::claim::{Claim, Peer};
use crate::clock::{Clock, Deadline};
use crate::engine::{Primary, Provide};
use crate::fault::{Fault, Kind, Origin};
use crate::kms::{Call, Ciphertext, Decrypt, Encrypt, Encrypted, Extra, KeyId, KeyName, KeyVersion, Reply};
use crate::listener::{Answer, Confidential, Provider};
use crate::metrics::{self, Requests};
use crate::secret::Secret;
use crate::trace::{Attribute, Span, Tracer};
use crate::wire::kubernetes::key_id::{self, PublicKeyId};
use crate::wire::kubernetes::refusal::{Code, Refusal, Subject, grpc_message};
use crate::wire::kubernetes::{self as wire, ack_kms_plugin, answer, ciphertext, timeout as deadline};

/// One listener's face. Shared by all its connections; holds nothing of a call once that is answered.
pub struct Face<P> {
    provide: P,
    provider: Provider,
    door: Arc<Door>,
    clock: Arc<dyn Clock>,
    limits: Limits,
    places: Places,
    requests: Requests,
    tracer: Tracer,
}

impl<P: Provide> Face<P> {
    /// A face before `provide`, for callers whom `door` admits.
    #[must_use]
    pub fn new(provide: P, provider: Provider, door: Arc<Door>, clock: Arc<dyn Clock>, limits: Limits) -> Self {
        let places = Places::new(limits.in_flight);
        let requests = Requests::of("kubernetes", &wire::Method::ALL.map(wire::Method::name));
        Self { provide, provider, door, clock, limits, places, requests, tracer: Tracer::off() }
    }

    /// The same, whose calls are traced by `tracer`.
    #[must_use]
    pub fn traced(self, tracer: Tracer) -> Self {
        Self { tracer, ..self }
    }

    /// Answers one call. Never fails: what goes wrong is answered in the dialect.
    pub async fn serve(&self, request: Request<RecvStream>, peer: &Peer) -> Answer {
        let begun = self.clock.now();
        let mut seen = Seen { span: self.tracer.begin(request.headers()), ..Seen::default() };
        let (mut answer, outcome, code) = match screen(&request) {
            Err(status) => (no_grpc(status), Kind::Malformed("").label(), None),
            Ok(()) => match self.answer(request, peer, &mut seen).await {
                Ok(message) => (accept(message), metrics::OK, Some(Code::Ok)),
                Err(fault) => {
                    super::tell(peer, seen.caller.as_ref(), seen.method.map(wire::Method::name), &fault);
                    let refusal = Refusal::of(&fault, &self.subject(peer, &seen));
                    (refuse(&refusal), fault.kind().label(), Some(refusal.code))
                }
            },
        };
        self.record(peer, &seen, outcome, self.clock.now().since(begun));
        if let Some(span) = &seen.span {
            end(span, answer.response.status(), code);
        }
        if seen.method.is_some_and(wire::Method::is_confidential) {
            answer.response.extensions_mut().insert(Confidential);
        }
        answer
    }

    async fn answer(&self, request: Request<RecvStream>, peer: &Peer, seen: &mut Seen) -> Result<Bytes, Fault> {
        let (head, body) = request.into_parts();
        let method = wire::Method::of(head.uri.path()).filter(|method| self.provider.api.contains(&method.api()));
        let method = method.ok_or(Fault::caller(Kind::UnknownAction))?;
        seen.method = Some(method);
        let span = patience(&head.headers)?.map_or(self.limits.timeout, |span| span.min(self.limits.timeout));
        let deadline = Deadline::after(self.clock.now(), span);
        let frame = timeout(BODY_TIMEOUT.min(span), gather(body)).await;
        let frame = frame.unwrap_or(Err(Fault::caller(Kind::Malformed("its body did not come in time"))))?;
        // Not before the body is there: one that drips shall hold its own stream, and no place.
        let _place = self.places.take()?;
        let caller = self.door.admit(peer, &Claim::Anonymous, self.clock.now(), self.clock.wall())?;
        seen.caller = Some(caller.name().clone());
        let caller = caller.traced(seen.span.clone());
        let request = wire::Request::decode(method, &frame)?;
        drop(frame);
        self.act(&caller, request, deadline, seen).await
    }

    async fn act(
        &self,
        caller: &Caller,
        request: wire::Request,
        deadline: Deadline,
        seen: &mut Seen,
    ) -> Result<Bytes, Fault> {
        match request {
            wire::Request::Version => Ok(answer::version()),
            wire::Request::Status => {
                let Primary { key, version } = self.provide.primary()?;
                Ok(answer::status(self.provider.v2_version, &self.key_id(&key, &version)))
            }
            wire::Request::EncryptV1 { plaintext } => {
                let (encrypted, _) = self.encrypt(caller, plaintext, deadline).await?;
                let (form, blob) = (self.provider.v1_ciphertext, &encrypted.ciphertext);
                answer::encrypted_v1(&ciphertext::v1_encode(form, &encrypted.key, blob)?)
            }
            wire::Request::EncryptV2 { plaintext, uid: _ } => {
                let (encrypted, key_id) = self.encrypt(caller, plaintext, deadline).await?;
                let suffix = &self.provider.key_id_suffix;
                let annotations = key_id::annotations(&encrypted.key, &encrypted.version, suffix);
                answer::encrypted_v2(encrypted.ciphertext.bytes(), &key_id, &annotations)
            }
            wire::Request::DecryptV1 { ciphertext } => {
                let (key, ciphertext) = ciphertext::v1_decode(&ciphertext)?;
                seen.key.clone_from(&key);
                self.decrypt(caller, key, ciphertext, deadline).await
            }
            wire::Request::DecryptV2 { ciphertext, uid: _, key_id, annotations } => {
                let (key, ciphertext) = self.recognise(&key_id, &annotations, ciphertext)?;
                seen.key.clone_from(&key);
                let opened = self.decrypt(caller, key, ciphertext, deadline).await;
                opened.map_err(|fault| self.foreign_key(fault, seen.key.as_ref()))
            }
        }
    }

    async fn encrypt(
        &self,
        caller: &Caller,
        plaintext: Secret,
        deadline: Deadline,
    ) -> Result<(Encrypted, PublicKeyId), Fault> {
        let key = self.provider.key.clone();
        let call = Call::Encrypt(Encrypt { key, plaintext, context: None, dry_run: false, extra: Extra::default() });
        let answer = self.provide.respond(caller, call, deadline).await?;
        let Reply::Encrypted(encrypted) = answer.reply else { return Err(Fault::kms(Kind::Garbled)) };
        let key_id = self.key_id(&encrypted.key, &encrypted.version);
        Ok((encrypted, key_id))
    }

    async fn decrypt(
        &self,
        caller: &Caller,
        key: Option<KeyName>,
        ciphertext: Ciphertext,
        deadline: Deadline,
    ) -> Result<Bytes, Fault> {
        let call = Call::Decrypt(Decrypt { ciphertext, key, context: None, dry_run: false, extra: Extra::default() });
        let answer = self.provide.respond(caller, call, deadline).await?;
        let Reply::Decrypted(decrypted) = answer.reply else { return Err(Fault::kms(Kind::Garbled)) };
        Ok(wiped(answer::decrypted(&decrypted.plaintext)))
    }

    fn key_id(&self, key: &KeyId, version: &KeyVersion) -> PublicKeyId {
        PublicKeyId::of(key, version, &self.provider.key_id_suffix)
    }

    /// The key behind a `key_id`, if it is one that a provider of this configuration gives out, or that `ack-kms-plugin`
    /// gave out for a key by its id or for this listener's; and what it made. Asks nobody.
    fn recognise(
        &self,
        key_id: &str,
        annotations: &BTreeMap<String, Vec<u8>>,
        stored: Vec<u8>,
    ) -> Result<(Option<KeyName>, Ciphertext), Fault> {
        if let Ok((key, _)) = key_id::read(key_id, annotations) {
            return Ok((Some(KeyName::new(key.as_str())), Ciphertext::new(stored)));
        }
        if ack_kms_plugin::annotated(annotations) {
            let name = KeyName::new(key_id);
            let is_id = name.is_id();
            if is_id || name == self.provider.key {
                // An alias does not say which key it meant then; the answer will, and policy judges by that.
                return Ok((Some(name).filter(|_| is_id), ack_kms_plugin::decode(&stored)?));
            }
        }
        let mut past = self.provide.past().into_iter();
        if past.any(|primary| self.key_id(&primary.key, &primary.version).as_str() == key_id) {
            return Err(Fault::caller(Kind::InvalidParameter("annotations".into())));
        }
        Err(Fault::caller(Kind::KeyNotFound))
    }

    /// A key that was never this provider's and that policy does not give to the caller does not exist for it.
    fn foreign_key(&self, fault: Fault, key: Option<&KeyName>) -> Fault {
        let ours = |key: &KeyName| self.provide.past().iter().any(|primary| primary.key.as_str() == key.as_str());
        let foreign = key.is_some_and(|key| !ours(key));
        if *fault.kind() == Kind::Forbidden && fault.origin() == Origin::Proxy && foreign {
            return Fault::caller(Kind::KeyNotFound);
        }
        fault
    }

    fn subject<'a>(&'a self, peer: &'a Peer, seen: &'a Seen) -> Subject<'a> {
        Subject {
            listener: peer.listener.as_str(),
            caller: seen.caller.as_ref().map(CallerName::as_str),
            key: Some(seen.key.as_ref().unwrap_or(&self.provider.key).as_str()),
        }
    }

    /// The one record of a call: here it enters the log, and here it is counted.
    fn record(&self, peer: &Peer, seen: &Seen, outcome: &'static str, took: Duration) {
        let method = seen.method.map(wire::Method::name);
        self.requests.record(method, outcome, took);
        if let Some(span) = &seen.span {
            let full = seen.method.map(wire::Method::full_name);
            super::describe(span, "grpc", peer, seen.caller.as_ref(), full, outcome);
        }
        tracing::debug!(
            listener = peer.listener.as_str(),
            caller = seen.caller.as_ref().map(CallerName::as_str),
            method,
            outcome,
            micros = took.as_micros(),
            "call"
        );
    }
}

/// What is known of a call so far.
#[derive(Default)]
struct Seen {
    method: Option<wire::Method>,
    caller: Option<CallerName>,
    key: Option<KeyName>,
    span: Option<Span>,
}

/// Ends the span of a call that is answered by `code`, or, where it was no gRPC, by `status` alone.
#[cold]
fn end(span: &Span, status: StatusCode, code: Option<Code>) {
    match code {
        Some(code) => span.note(Attribute::GrpcStatus(code.constant())),
        None => span.note(Attribute::HttpStatus(status.as_u16())),
    }
    span.end(code.is_some_and(Code::is_of_the_server));
}

/// Refuses what is not gRPC at all, in HTTP's terms.
fn screen(request: &Request<RecvStream>) -> Result<(), StatusCode> {
    if request.method() != Method::POST {
        return Err(StatusCode::METHOD_NOT_ALLOWED);
    }
    let content_type = request.headers().get(CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    match content_type.strip_prefix(GRPC.as_bytes()) {
        Some([] | [b'+' | b';', ..]) => Ok(()),
        _ => Err(StatusCode::UNSUPPORTED_MEDIA_TYPE),
    }
}

/// Reads a body of at most [`wire::BODY_BYTES_MAX`] bytes. One that came in one piece, as small ones do, is not copied.
async fn gather(mut body: RecvStream) -> Result<Bytes, Fault> {
    let mut whole = BytesMut::new();
    let mut first = Bytes::new();
    while let Some(piece) = body.data().await {
        let piece = piece.map_err(|_| Fault::caller(Kind::Malformed("its body broke off")))?;
        // Fails only where the stream is gone, which the next read tells.
        let _ = body.flow_control().release_capacity(piece.len());
        if first.len() + whole.len() + piece.len() > wire::BODY_BYTES_MAX {
            return Err(Fault::caller(Kind::TooLarge));
        }
        if first.is_empty() && whole.is_empty() {
            first = piece;
            continue;
        }
        if whole.is_empty() {
            whole.reserve(wire::BODY_BYTES_MAX);
            whole.extend_from_slice(&std::mem::take(&mut first));
        }
        whole.extend_from_slice(&piece);
    }
    Ok(if whole.is_empty() { first } else { whole.freeze() })
}

/// How long the caller waits, if it says.
fn patience(headers: &HeaderMap) -> Result<Option<Duration>, Fault> {
    let Some(value) = headers.get(GRPC_TIMEOUT) else { return Ok(None) };
    let span = value.to_str().ok().and_then(deadline::parse);
    span.map(Some).ok_or(Fault::caller(Kind::InvalidParameter("grpc-timeout".into())))
}

fn accept(message: Bytes) -> Answer {
    let trailers = HeaderMap::from_iter([(GRPC_STATUS, HeaderValue::from_static("0"))]);
    Answer { response: grpc(message), trailers: Some(trailers) }
}

fn refuse(refusal: &Refusal) -> Answer {
    let mut response = grpc(Bytes::new());
    response.headers_mut().insert(GRPC_STATUS, HeaderValue::from_static(refusal.code.number()));
    response.headers_mut().insert(GRPC_MESSAGE, grpc_message(&refusal.message));
    Answer { response, trailers: None }
}

fn grpc(body: Bytes) -> Response<Bytes> {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(GRPC));
    response
}

fn no_grpc(status: StatusCode) -> Answer {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = status;
    Answer { response, trailers: None }
}

const GRPC: &str = "application/grpc";
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
