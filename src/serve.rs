//! What speaks to callers: one face for each dialect, and what they share.

use std::future::poll_fn;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http::header::CONTENT_LENGTH;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Body;
use tokio::time::timeout;

use crate::auth::CallerName;
use crate::claim::Peer;
use crate::fault::{Fault, Kind, Origin};
use crate::metrics;
use crate::secret::Secret;
use crate::trace::{self, Attribute, Span};
use crate::wire::fields::{Fields, text};

pub mod aliyun;
pub mod control;
pub mod kubernetes;

/// The names by which a listener may be called. A browser that was lured to a name of the attacker's (DNS rebinding)
/// sends that name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hosts(Vec<Box<str>>);

impl Hosts {
    /// `names` with or without a port; one without stands for every port. Without any name, `localhost` and literal
    /// addresses are allowed: nobody can rebind those.
    #[must_use]
    pub fn new(names: &[String]) -> Self {
        Self(names.iter().map(|name| name.to_ascii_lowercase().into()).collect())
    }

    /// Whether the `Host` header is there, once, and on the list.
    #[must_use]
    pub fn allow<'r>(&self, fields: impl Into<Fields<'r>>) -> bool {
        let mut hosts = fields.into().all("host");
        let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
        text(host).is_some_and(|host| self.allow_name(host))
    }

    fn allow_name(&self, host: &str) -> bool {
        let listed = |name: &str| self.0.iter().any(|listed| listed.eq_ignore_ascii_case(name));
        if self.0.is_empty() {
            let name = without_port(host);
            return name.eq_ignore_ascii_case("localhost") || is_literal(name);
        }
        listed(host) || listed(without_port(host))
    }
}

fn without_port(host: &str) -> &str {
    match host.bytes().rposition(|byte| !byte.is_ascii_digit()) {
        Some(at) if host.as_bytes()[at] == b':' && !host[..at].ends_with(':') => &host[..at],
        _ => host,
    }
}

fn is_literal(name: &str) -> bool {
    let six = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
    name.parse::<Ipv4Addr>().is_ok() || six.is_some_and(|name| name.parse::<Ipv6Addr>().is_ok())
}

/// Refuses what no KMS client sends: the marks of browsers and of proxies (a page or a gateway would lend its reach to
/// whoever is behind it), and compressed bodies.
///
/// # Errors
/// [`Kind::Forbidden`] or [`Kind::Malformed`].
pub fn screen<'r>(fields: impl Into<Fields<'r>>) -> Result<(), Fault> {
    let fields = fields.into();
    if fields.iter().any(|(name, _)| is_foreign(name)) {
        return Err(Fault::caller(Kind::Forbidden));
    }
    if fields.all("content-encoding").next().is_some() {
        return Err(Fault::caller(Kind::Malformed("its body is encoded")));
    }
    Ok(())
}

fn is_foreign(name: &str) -> bool {
    let begins = |with: &str| name.get(..with.len()).is_some_and(|begun| begun.eq_ignore_ascii_case(with));
    match name.as_bytes().first().map(u8::to_ascii_lowercase) {
        Some(b'f') => name.eq_ignore_ascii_case("forwarded"),
        Some(b'o') => name.eq_ignore_ascii_case("origin"),
        Some(b'r') => name.eq_ignore_ascii_case("referer"),
        Some(b's') => begins("sec-fetch-"),
        Some(b'v') => name.eq_ignore_ascii_case("via"),
        Some(b'x') => begins("x-forwarded-"),
        _ => false,
    }
}

/// Says in the log that a request was refused, and why: who asked for what, what went wrong and who said so, and the
/// KMS's code and request id. Nothing of what stood in the request. A flood of refusals makes few lines: the log holds
/// back what repeats.
fn tell(peer: &Peer, caller: Option<&CallerName>, action: Option<&'static str>, fault: &Fault) {
    // How the KMS answers every dry run.
    if *fault.kind() == Kind::DryRun {
        return;
    }
    let by = match fault.origin() {
        Origin::Caller | Origin::Proxy => "kmsproxy",
        Origin::Kms => "kms",
    };
    let said = fault.verbatim();
    tracing::warn!(
        listener = peer.listener.as_str(),
        caller = caller.map(CallerName::as_str),
        action,
        outcome = fault.kind().label(),
        by,
        code = said.map(|said| said.code.as_str()),
        kms_request = said.map(|said| said.request_id.text()).as_deref(),
        "request refused"
    );
}

/// Tells the span of a request what its log line says: who asked for what, and why it was refused if it was.
#[cold]
fn describe(
    span: &Span,
    system: &'static str,
    peer: &Peer,
    caller: Option<&CallerName>,
    method: Option<&'static str>,
    outcome: &'static str,
) {
    span.note(Attribute::System(system));
    span.note(Attribute::Listener(peer.listener.clone()));
    if let Some(caller) = caller {
        span.note(Attribute::Caller(caller.text()));
    }
    span.note(Attribute::Method(method.unwrap_or(trace::UNNAMED)));
    if let Some(method) = method {
        span.name(method);
    }
    if outcome != metrics::OK {
        span.note(Attribute::Outcome("refused"));
        span.note(Attribute::Reason(outcome));
    }
}

/// Reads a body of at most `limit` bytes within five seconds; of a longer one, no more than that.
///
/// # Errors
/// [`Kind::TooLarge`] at once where the declared length is over the limit, [`Kind::Malformed`] where the body breaks
/// off or dawdles. The connection is of no more use then.
pub async fn body<B: Body<Data = Bytes> + Unpin>(request: &mut Request<B>, limit: usize) -> Result<Bytes, Fault>
where
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let length = request.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > u64::try_from(limit).unwrap_or(u64::MAX)) {
        return Err(Fault::caller(Kind::TooLarge));
    }
    let mut collecting = Limited::new(request.body_mut(), limit).collect();
    // It nearly always came with its head: nothing is set up to wait for one that is there.
    let collected = match poll_fn(|cx| Poll::Ready(Pin::new(&mut collecting).poll(cx))).await {
        Poll::Ready(collected) => Ok(collected),
        Poll::Pending => Box::pin(timeout(BODY_TIMEOUT, collecting)).await,
    };
    match collected {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Fault::caller(Kind::TooLarge)),
        Ok(Err(_)) => Err(Fault::caller(Kind::Malformed("its body broke off"))),
        Err(_) => Err(Fault::caller(Kind::Malformed("its body did not come in time"))),
    }
}

/// What one listener gives a request, and how many requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// From the head of a request to its answer.
    pub timeout: Duration,
    /// Requests at a time; one more is refused at once, as throttled.
    pub in_flight: usize,
}

/// The requests that one listener has in flight.
#[derive(Debug)]
struct Places {
    taken: Arc<AtomicUsize>,
    most: usize,
}

/// One request in flight, until it is dropped.
#[derive(Debug)]
struct Place(Arc<AtomicUsize>);

impl Places {
    fn new(most: usize) -> Self {
        Self { taken: Arc::default(), most }
    }

    /// # Errors
    /// [`Kind::Overloaded`] where there is none left; nobody waits for one.
    fn take(&self) -> Result<Place, Fault> {
        let place = Place(Arc::clone(&self.taken));
        let before = self.taken.fetch_add(1, Ordering::Relaxed);
        if before < self.most { Ok(place) } else { Err(Fault::proxy(Kind::Overloaded)) }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A response body that is wiped when the connection lets go of it.
#[must_use]
pub fn wiped(secret: Secret) -> Bytes {
    Bytes::from_owner(Wiped(secret))
}

struct Wiped(Secret);

impl AsRef<[u8]> for Wiped {
    fn as_ref(&self) -> &[u8] {
        self.0.expose()
    }
}

const BODY_TIMEOUT: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderName, HeaderValue};

    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for &(name, value) in pairs {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        headers
    }

    fn allowed(listed: &[&str], host: &'static str) -> bool {
        let listed: Vec<String> = listed.iter().map(|&name| name.to_owned()).collect();
        Hosts::new(&listed).allow(&headers(&[("host", host)]))
    }

    #[test]
    fn there_are_so_many_places_and_one_that_is_left_is_there_again() {
        let places = Places::new(2);
        let (one, _other) = (places.take().unwrap(), places.take().unwrap());
        assert_eq!(places.take().unwrap_err(), Fault::proxy(Kind::Overloaded));
        drop(one);
        let _one = places.take().unwrap();
        assert_eq!(places.take().unwrap_err(), Fault::proxy(Kind::Overloaded));
    }

    #[test]
    fn a_listed_host_is_allowed_at_its_port_or_at_any() {
        let listed = ["kms.local", "KMS.cn-hangzhou.aliyuncs.com:8443", "[::1]"];
        for host in ["kms.local", "KMS.LOCAL:1", "kms.cn-hangzhou.aliyuncs.com:8443", "[::1]:8443", "[::1]"] {
            assert!(allowed(&listed, host), "{host}");
        }
        for host in ["evil.example", "kms.local.evil.example", "kms.cn-hangzhou.aliyuncs.com", "127.0.0.1", "", ":"] {
            assert!(!allowed(&listed, host), "{host}");
        }
    }

    #[test]
    fn without_a_list_only_names_that_nobody_can_rebind_are_allowed() {
        for host in ["localhost", "LOCALHOST:8443", "127.0.0.1:8443", "10.0.0.1", "[::1]:8443"] {
            assert!(allowed(&[], host), "{host}");
        }
        for host in ["evil.example", "localhost.evil.example:8443", "::1", "1", "127.0.0.1.evil.example", ""] {
            assert!(!allowed(&[], host), "{host}");
        }
    }

    #[test]
    fn a_missing_or_doubled_host_is_not_allowed() {
        let hosts = Hosts::new(&[]);
        assert!(!hosts.allow(&headers(&[])));
        assert!(!hosts.allow(&headers(&[("host", "localhost"), ("host", "localhost")])));
    }

    #[test]
    fn the_marks_of_browsers_and_proxies_are_refused() {
        let marks = [
            "origin",
            "referer",
            "sec-fetch-mode",
            "sec-fetch-site",
            "x-forwarded-for",
            "x-forwarded-host",
            "forwarded",
            "via",
        ];
        for name in marks {
            assert_eq!(screen(&headers(&[(name, "x")])), Err(Fault::caller(Kind::Forbidden)), "{name}");
        }
        assert!(matches!(screen(&headers(&[("content-encoding", "gzip")])).unwrap_err().kind(), Kind::Malformed(_)));
        assert_eq!(screen(&headers(&[("user-agent", "x"), ("accept-encoding", "identity")])), Ok(()));
    }
}
