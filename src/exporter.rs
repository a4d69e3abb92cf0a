//! Sends spans to an OpenTelemetry collector, by OTLP over HTTP. Away from the data path, on the thread of metrics and
//! control: whoever answers a request puts its span into a bounded list and knows nothing of collectors.
//!
//! Whatever a collector does, or does not do, ends here: spans that it does not take are lost, and counted.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{StatusCode, Uri};
use metrics::Counter;
use prost::Message as _;
use serde::{Deserialize, Serialize};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::chance;
use crate::clock::Clock;
use crate::fault::{Fault, Kind};
use crate::guard::Full;
use crate::seal::AtRest;
use crate::secret::Secret;
use crate::trace::{BATCH, Spans};
use crate::upstream::transport::{self, Reach, Transport, Trust};
use crate::wire::otlp::ExportTraceServiceResponse;

mod batch;

use batch::Source;

/// The `[tracing]` table.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where spans go: a collector, by OTLP over HTTP. Without a path, `/v1/traces` there. None: nowhere, and there are none.
    pub endpoint: Option<String>,
    /// CAs to believe besides the platform's.
    pub ca_file: Option<PathBuf>,
    /// A private file with headers for the collector, `Name: value`, one on each line.
    pub headers_file: Option<PathBuf>,
    /// What we are called there.
    pub service_name: String,
    /// Of the requests that belong to no trace, the share (0 to 1) that begin one.
    pub sample: f64,
    /// How long one attempt to send may take.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub timeout: Duration,
    /// How many spans may wait to be sent.
    pub queue: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            endpoint: None,
            ca_file: None,
            headers_file: None,
            service_name: "kmsproxy".to_owned(),
            sample: 0.01,
            timeout: Duration::from_secs(5),
            queue: 4 * BATCH,
        }
    }
}

/// Tracing as it is to be: `[tracing]`, everything looked up.
#[derive(Debug)]
pub struct Terms {
    /// Where to, the path included.
    pub endpoint: String,
    /// See [`Config::ca_file`].
    pub ca_file: Option<PathBuf>,
    /// See [`Config::headers_file`]: what is in it, which [`headers`] has accepted.
    pub headers: Option<Secret>,
    /// See [`Config::service_name`].
    pub service_name: String,
    /// See [`Config::sample`].
    pub sample: f64,
    /// See [`Config::timeout`].
    pub timeout: Duration,
    /// See [`Config::queue`].
    pub queue: usize,
}

/// Why spans cannot be sent. For the operator; holds nothing secret.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Endpoint or CA file.
    #[error(transparent)]
    Transport(#[from] transport::Error),
    /// There is nowhere to keep the headers.
    #[error(transparent)]
    Full(#[from] Full),
}

/// How sending goes, in numbers.
pub struct Meters {
    /// Spans that a collector has taken.
    pub exported: Counter,
    /// Spans that no collector has taken.
    pub lost: Counter,
}

/// What sends.
pub struct Exporter {
    spans: Arc<Spans>,
    source: Source,
    transport: Transport,
    endpoint: Uri,
    headers: Option<AtRest>,
    timeout: Duration,
    meters: Meters,
    /// Spans that were taken out of the list, and of which it is not known yet what becomes of them.
    in_hand: AtomicUsize,
}

impl Exporter {
    /// Sets it up, without asking anybody.
    ///
    /// # Errors
    /// What is wrong with the endpoint or the CA file.
    pub fn new(terms: &Terms, spans: Arc<Spans>, meters: Meters, clock: Arc<dyn Clock>) -> Result<Self, Error> {
        let platform = Trust::platform();
        let trust = match &terms.ca_file {
            Some(path) => platform.with_file(path)?,
            None => platform,
        };
        // Nothing that is sent is a secret, but for the headers, and those are the operator's to send.
        let transport = Transport::new(trust, Reach::VerifiedOrLoopback, terms.timeout / 2, clock);
        let endpoint = transport.address(&terms.endpoint)?;
        let headers = terms.headers.as_ref().map(AtRest::new).transpose()?;
        let source = Source::new(&terms.service_name);
        let (timeout, in_hand) = (terms.timeout, AtomicUsize::new(0));
        Ok(Self { spans, source, transport, endpoint, headers, timeout, meters, in_hand })
    }

    /// Sends what there is, once a second or whenever there is enough, until `stop`; then what is left, within [`FLUSH`].
    pub async fn run(self, stop: CancellationToken) {
        let late = async {
            stop.cancelled().await;
            sleep(FLUSH).await;
        };
        tokio::select! {
            () = self.work(&stop) => {}
            () = late => {}
        }
        let left = self.in_hand.load(Ordering::Relaxed) + self.spans.len();
        if left > 0 {
            self.meters.lost.increment(left as u64);
            warn!(left, "spans were not sent before the end");
        }
    }

    async fn work(&self, stop: &CancellationToken) {
        while !stop.is_cancelled() {
            tokio::select! {
                () = self.spans.wait(INTERVAL) => {}
                () = stop.cancelled() => {}
            }
            self.empty(stop).await;
        }
        // Those that came while the last were being sent.
        self.empty(stop).await;
    }

    async fn empty(&self, stop: &CancellationToken) {
        loop {
            let batch = self.spans.take(BATCH);
            if batch.is_empty() {
                return;
            }
            self.in_hand.store(batch.len(), Ordering::Relaxed);
            self.deliver(&batch::encoded(&self.source, &batch), batch.len(), stop).await;
            self.in_hand.store(0, Ordering::Relaxed);
        }
    }

    /// Sends one batch, some times if need be.
    async fn deliver(&self, body: &Bytes, count: usize, stop: &CancellationToken) {
        let mut pause = PAUSE_FIRST;
        for left in (0..ATTEMPTS_MAX).rev() {
            let why = match self.send(body.clone()).await {
                Ok(rejected) => {
                    let rejected = rejected.min(count);
                    self.meters.exported.increment((count - rejected) as u64);
                    self.meters.lost.increment(rejected as u64);
                    if rejected > 0 {
                        warn!(rejected, "the collector has rejected spans");
                    }
                    return;
                }
                Err(why) => why,
            };
            debug!(%why, left, "spans were not taken");
            if left == 0 || !why.may_pass() {
                self.meters.lost.increment(count as u64);
                warn!(%why, spans = count, "spans are lost: the collector does not take them");
                return;
            }
            tokio::select! {
                () = sleep(pause.mul_f64(0.5 + chance::share() / 2.0)) => {}
                () = stop.cancelled() => {}
            }
            pause *= 4;
        }
    }

    /// Sends one batch once; how many of it were rejected.
    async fn send(&self, body: Bytes) -> Result<usize, Untaken> {
        let opened = self.headers.as_ref().map(AtRest::open);
        let mut all = opened.as_ref().and_then(headers).unwrap_or_default();
        all.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
        let received = self.transport.post(&self.endpoint, all, body, self.timeout).await.map_err(Untaken::Silence)?;
        if received.status != StatusCode::OK {
            return Err(Untaken::Refused(received.status));
        }
        let answer = ExportTraceServiceResponse::decode(received.body.expose());
        let answer = answer.map_err(|_| Untaken::Silence(Fault::kms(Kind::Garbled)))?;
        Ok(answer.partial_success.map_or(0, |partial| usize::try_from(partial.rejected_spans).unwrap_or(0)))
    }
}

/// Why a collector has not taken a batch. Nothing that it said: that may be anything.
#[derive(Debug, thiserror::Error)]
enum Untaken {
    #[error("it answers {0}")]
    Refused(StatusCode),
    #[error("{0}")]
    Silence(Fault),
}

impl Untaken {
    /// Whether the same batch may be taken later, by the words of OTLP.
    fn may_pass(&self) -> bool {
        match self {
            Self::Refused(status) => matches!(status.as_u16(), 429 | 502..=504),
            // Whoever answers in another language than OTLP has perhaps taken them, and will not learn it meanwhile.
            Self::Silence(fault) => *fault.kind() != Kind::Garbled,
        }
    }
}

/// The headers in a text of lines, `Name: value`; empty lines and those that begin with `#` are none. None where a line is
/// no header, is one that a message of ours has anyway, or there are more than `HEADERS_MAX`.
#[must_use]
pub fn headers(text: &Secret) -> Option<HeaderMap> {
    let mut all = HeaderMap::new();
    for line in text.expose().split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii) {
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        let colon = line.iter().position(|&byte| byte == b':')?;
        let name = HeaderName::from_bytes(line[..colon].trim_ascii()).ok()?;
        let mut value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).ok()?;
        if OURS.contains(&name.as_str()) || all.len() == HEADERS_MAX {
            return None;
        }
        value.set_sensitive(true);
        all.append(name, value);
    }
    Some(all)
}

impl std::fmt::Debug for Exporter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Exporter({:?})", self.spans)
    }
}

/// What says how a message is to be read is not the operator's to say.
const OURS: [&str; 6] =
    ["connection", "content-encoding", "content-length", "content-type", "host", "transfer-encoding"];
const HEADERS_MAX: usize = 16;
/// Spans are sent this often, when there are any.
const INTERVAL: Duration = Duration::from_secs(1);
/// The list fills meanwhile, so that a long patience would only lose others.
const ATTEMPTS_MAX: u32 = 3;
const PAUSE_FIRST: Duration = Duration::from_millis(500);
/// How long an end waits for spans to be sent.
pub const FLUSH: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<Vec<(String, String)>> {
        let all = headers(&Secret::copied(text.as_bytes()))?;
        Some(all.iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned())).collect())
    }

    #[test]
    fn headers_are_lines_and_show_nothing() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let expected = vec![pair("authorization", "Bearer s3cret: x"), pair("x-tenant", "7")];
        assert_eq!(read("# ours\nAuthorization: Bearer s3cret: x\r\n\nX-Tenant:7"), Some(expected));
        assert_eq!(read(""), Some(Vec::new()));
        let shown = format!("{:?}", headers(&Secret::copied(b"authorization: s3cret")).unwrap());
        assert!(!shown.contains("s3cret"), "{shown}");
    }

    #[test]
    fn what_is_no_header_and_what_is_ours_to_say_is_refused() {
        for text in ["no colon", "bad name: x", "x: \u{1}", "Content-Type: text/plain", "HOST: x", "Connection: close"]
        {
            assert_eq!(read(text), None, "{text}");
        }
        assert_eq!(read(&"a: b\n".repeat(HEADERS_MAX)).map(|all| all.len()), Some(HEADERS_MAX));
        assert_eq!(read(&"a: b\n".repeat(HEADERS_MAX + 1)), None);
    }
}
