//! Alibaba Cloud KMS, OpenAPI 2016-01-20: signed anew (V3), sent to one endpoint, tried again where that can help.

use std::fmt::{self, Debug};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Uri;
use serde::{Deserialize, Serialize};

use crate::auth::CallerName;
use crate::clock::{Clock, Deadline};
use crate::fault::{Fault, Kind, Retry};
use crate::governor::{Governor, Limits, PROBE_PLACES, Pass, Priority, Quota, doubled, jittered};
use crate::kms::{Action, Answer, Call, KeyName, Reply};
use crate::metrics::{self, Attempts};
use crate::policy::{Held, Permit};
use crate::stamp::Stamp;
use crate::upstream::credentials::{self, Credentials, Environment, Fetch, Keeper, Lack, Ways};
use crate::upstream::transport::{self, Reach, Transport, Trust, shared};
use crate::upstream::{Asking, Upstream};
use crate::wire::aliyun::signature::{AccessKey, V3, v3_headers};
use crate::wire::aliyun::{answer, request};

mod believed;
mod queue;

use believed::Believed;
use queue::Queue;

/// The fields of an `[upstream.NAME]` with `kind = "aliyun"`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// `https://kms-vpc.cn-hangzhou.aliyuncs.com`, or a KMS instance's own name.
    pub endpoint: String,
    /// The endpoint's region, for the eyes of operators and the names of scopes; it is not sent.
    pub region: Option<String>,
    /// CAs to believe besides the platform's: a KMS instance has one of its own. For the endpoint only.
    pub ca_file: Option<PathBuf>,
    /// Allows plain HTTP to loopback addresses, for tests.
    #[serde(default)]
    pub insecure: bool,
    /// As whom to ask.
    #[serde(default)]
    pub credentials: credentials::Config,
    /// For one attempt; the request's own deadline bounds all of them.
    #[serde(default = "default_timeout", with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub timeout: Duration,
    /// Cryptographic calls in flight, up to eight reads aside. 64 drain a quota of 1,000 calls a second (the
    /// shared gateway's) at up to 60 ms each; more only moves the queue into the KMS.
    #[serde(default = "default_max_in_flight")]
    pub max_in_flight: usize,
    /// Encrypts, Decrypts and GenerateDataKeys a second: the KMS counts them together, for the whole account and region.
    #[serde(default)]
    pub quota: Option<Quota>,
    /// Reads of keys, aliases and versions a second, which the KMS counts for themselves.
    #[serde(default)]
    pub read_quota: Option<Quota>,
    /// Further attempts for one call.
    #[serde(default = "default_retries")]
    pub retries: u32,
}

impl Config {
    /// Connections to the KMS at a time: for each call one, and a second that races it to another address or came too late
    /// and rests.
    #[must_use]
    pub const fn connections_max(&self) -> usize {
        self.max_in_flight.saturating_add(READS_IN_FLIGHT + 2 * PROBE_PLACES).saturating_mul(2)
    }
}

/// Why an upstream cannot be set up. For the operator; holds nothing secret.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Endpoint or CA file.
    #[error(transparent)]
    Transport(#[from] transport::Error),
    /// Credentials.
    #[error("credentials: {0}")]
    Credentials(#[from] Lack),
    /// A number that cannot be.
    #[error("{0}")]
    Limit(&'static str),
}

/// One endpoint of Alibaba Cloud KMS, asked as one identity.
pub struct Aliyun {
    endpoint: Uri,
    host: Box<str>,
    timeout: Duration,
    retries: u32,
    transport: Transport,
    believed: Option<Believed>,
    /// For what is counted as cryptography.
    crypto: Arc<Queue>,
    /// For what is counted as reading.
    reads: Arc<Queue>,
    keeper: Keeper,
    clock: Arc<dyn Clock>,
    attempts: Attempts,
}

impl Aliyun {
    /// Sets it up as the upstream `name`, without asking anybody.
    ///
    /// # Errors
    /// What in the configuration, the environment or a file it names is wrong.
    pub fn new(name: &str, config: &Config, env: Environment<'_>, clock: &Arc<dyn Clock>) -> Result<Self, Error> {
        let platform = Trust::platform();
        let stamp = config.ca_file.as_deref().and_then(Stamp::of);
        let trust = match &config.ca_file {
            Some(path) => platform.clone().with_file(path)?,
            None => platform.clone(),
        };
        let reach = if config.insecure { Reach::VerifiedOrLoopback } else { Reach::Verified };
        let transport = Transport::new(trust, reach, config.timeout / 2, Arc::clone(clock));
        let ways = Ways::new(&platform, config.insecure, clock);
        let source = credentials::source(&config.credentials, env, &ways)?;
        let believed = config.ca_file.as_deref().map(|path| Believed::new(path, stamp));
        Ok(Self { believed, ..Self::over(transport, name, config, source, clock)? })
    }

    /// As [`Aliyun::new`], over a given transport and with credentials from `source`.
    ///
    /// # Errors
    /// What is wrong with the endpoint or a number.
    pub fn over(
        transport: Transport,
        name: &str,
        config: &Config,
        source: Box<dyn Fetch>,
        clock: &Arc<dyn Clock>,
    ) -> Result<Self, Error> {
        if config.max_in_flight == 0 || config.timeout.is_zero() {
            return Err(Error::Limit("max_in_flight and timeout must be above zero"));
        }
        let endpoint = transport.address(&config.endpoint)?;
        let host = plain_host(&endpoint)
            .ok_or_else(|| transport::Error::Address(config.endpoint.clone(), "it must end after host and port"))?;
        let keeper = Keeper::new(name, source, Arc::clone(clock));
        let crypto = Limits { in_flight: config.max_in_flight, queued: QUEUED_MAX, quota: config.quota };
        let reads = Limits { in_flight: READS_IN_FLIGHT, queued: READS_QUEUED_MAX, quota: config.read_quota };
        Ok(Self {
            endpoint,
            host,
            timeout: config.timeout,
            retries: config.retries,
            transport,
            crypto: Arc::new(Queue::new(name, "crypto", crypto, clock)),
            reads: Arc::new(Queue::new(name, "read", reads, clock)),
            believed: None,
            keeper,
            clock: Arc::clone(clock),
            attempts: Attempts::of(name),
        })
    }

    /// Fetches credentials ahead of the first call, so that the first caller does not wait and [`Upstream::identity`]
    /// is known.
    ///
    /// # Errors
    /// What the source lacks.
    pub async fn prime(&self, deadline: Deadline) -> Result<(), Lack> {
        match self.keeper.current(deadline).await {
            Ok(_) => Ok(()),
            Err(fault) => Err(self.keeper.trouble().unwrap_or_else(|| Lack::Failed(fault.to_string()))),
        }
    }

    /// Asks until an answer comes, or a failure that another attempt cannot mend or has no time for. What comes back
    /// then is the KMS's last word, where it spoke at all.
    ///
    /// Every action here may be repeated: reads change nothing, and a repeated `Encrypt` or `GenerateDataKey` makes a
    /// second ciphertext or key of which the caller never hears of the first.
    async fn relay(&self, call: &Call, lane: &Lane, deadline: Deadline) -> Result<Answer, Fault> {
        let body = shared(request::encode(call));
        let governor = &self.queue(call.action()).governor;
        governor.called(lane);
        let mut tries = Tries { governor, lane, retries_left: self.retries, retried: 0, renewed: false };
        let mut last = None;
        let mut credentials = self.keeper.current(deadline).await?;
        loop {
            let pass = match governor.admit(lane, deadline).await {
                Ok(pass) => pass,
                Err(turned_away) => return Err(last.unwrap_or(turned_away)),
            };
            let outcome = self.attempt(call, &body, &credentials, deadline).await;
            learn(pass, &outcome);
            let fault = match outcome {
                Ok(answer) => return Ok(answer),
                Err(fault) => fault,
            };
            match self.next(&fault, &credentials, &mut tries, deadline).await {
                Next::GiveUp => return Err(fault),
                Next::Again => last = Some(fault),
                Next::As(other) => (credentials, last) = (other, Some(fault)),
            }
        }
    }

    async fn attempt(
        &self,
        call: &Call,
        body: &Bytes,
        credentials: &Credentials,
        deadline: Deadline,
    ) -> Result<Answer, Fault> {
        let sent = self.clock.now();
        let timeout = self.timeout.min(deadline.remaining(sent));
        if timeout.is_zero() {
            return Err(Fault::proxy(Kind::TimedOut));
        }
        let nonce = uuid::Uuid::new_v4().simple().to_string();
        let headers = v3_headers(&V3 {
            host: &self.host,
            action: call.action().name(),
            version: request::VERSION,
            key: AccessKey { id: &credentials.id, secret: &credentials.secret, token: credentials.token.as_ref() },
            at: self.clock.wall(),
            nonce: &nonce,
            body,
        });
        let received = self.transport.post(&self.endpoint, headers, body.clone(), timeout).await;
        let outcome = received.and_then(|received| {
            let body = received.body.expose();
            let answer = answer::decode(call.action(), received.status, &received.headers, body)?;
            if answers(call, &answer.reply) { Ok(answer) } else { Err(Fault::kms(Kind::Garbled)) }
        });
        self.record(call.action(), &outcome, self.clock.now().since(sent));
        outcome
    }

    fn record(&self, action: Action, outcome: &Result<Answer, Fault>, took: Duration) {
        let label = outcome.as_ref().map_or_else(|fault| fault.kind().label(), |_| metrics::OK);
        self.attempts.record(action, label, took);
        tracing::debug!(action = action.name(), outcome = label, ms = took.as_millis(), "attempt");
    }

    fn queue(&self, action: Action) -> &Queue {
        match action {
            Action::Decrypt | Action::Encrypt | Action::GenerateDataKey | Action::GenerateDataKeyWithoutPlaintext => {
                &self.crypto
            }
            Action::DescribeKey
            | Action::DescribeKeyVersion
            | Action::ListAliases
            | Action::ListAliasesByKeyId
            | Action::ListKeyVersions
            | Action::ListKeys => &self.reads,
        }
    }

    async fn next(&self, fault: &Fault, used: &Credentials, tries: &mut Tries<'_>, deadline: Deadline) -> Next {
        match fault.consequence().retry {
            Retry::Renewed if !tries.renewed => {
                tries.renewed = true;
                return self.keeper.renewed(used, deadline).await.map_or(Next::GiveUp, Next::As);
            }
            Retry::Later if tries.retries_left > 0 => {}
            Retry::Later | Retry::Never | Retry::Renewed => return Next::GiveUp,
        }
        let pause = jittered(doubled(BACKOFF_FIRST, tries.retried, BACKOFF_MAX)).max(tries.governor.pause());
        if pause + USEFUL_MIN > deadline.remaining(self.clock.now()) || !tries.governor.may_retry(tries.lane) {
            return Next::GiveUp;
        }
        tries.retries_left -= 1;
        tries.retried += 1;
        self.attempts.retried();
        tokio::time::sleep(pause).await;
        Next::Again
    }
}

impl Upstream for Aliyun {
    fn ask<'a>(&'a self, permit: &'a Permit, call: &'a Call, deadline: Deadline) -> Asking<'a> {
        Box::pin(async move {
            if permit.action() != call.action() {
                return Err(Fault::proxy(Kind::Forbidden));
            }
            let outcome = self.relay(call, &lane(permit), deadline).await;
            self.queue(call.action()).publish();
            outcome.map(Held::new)
        })
    }

    fn identity(&self) -> Arc<str> {
        self.keeper.principal()
    }

    fn recycle(&self) {
        self.transport.recycle();
    }
}

impl Debug for Aliyun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Aliyun({})", self.host)
    }
}

/// Tells the governor how the KMS is.
fn learn(pass: Pass<'_, CallerName>, outcome: &Result<Answer, Fault>) {
    match outcome.as_ref().map_err(Fault::kind) {
        Err(Kind::Throttled(after)) => pass.throttled(*after),
        Ok(_) => pass.answered(),
        // Neither a refusal nor silence says anything about the quota.
        Err(_) => {}
    }
}

struct Tries<'a> {
    governor: &'a Governor<CallerName>,
    lane: &'a Lane,
    retries_left: u32,
    retried: u32,
    renewed: bool,
}

enum Next {
    GiveUp,
    Again,
    As(Arc<Credentials>),
}

/// Callers that share their answers share a lane: they wait for each other's flights anyway.
type Lane = Priority<CallerName>;

fn lane(permit: &Permit) -> Lane {
    match (permit.share(), permit.action()) {
        (Some(share), Action::Encrypt | Action::GenerateDataKey | Action::GenerateDataKeyWithoutPlaintext) => {
            Priority::Write(share.clone())
        }
        (Some(share), _) => Priority::Call(share.clone()),
        (None, _) if permit.is_urgent() => Priority::Probe,
        (None, _) if permit.is_idle() => Priority::WarmUp,
        (None, _) => Priority::Refresh,
    }
}

/// Whether `reply` can be the answer to `call`: of its kind, and about its key where it names one by id, in an ARN or
/// not. Behind an alias only the KMS knows which id there is.
fn answers(call: &Call, reply: &Reply) -> bool {
    let is_asked_key = |asked: &KeyName, key: &crate::kms::KeyId| asked.id().is_none_or(|id| id == key.as_str());
    match (call, reply) {
        (Call::Decrypt(_), Reply::Decrypted(_)) => true,
        (Call::Encrypt(asked), Reply::Encrypted(reply)) => is_asked_key(&asked.key, &reply.key),
        (Call::GenerateDataKey(asked), Reply::DataKey(reply)) => {
            asked.plaintext == reply.plaintext.is_some() && is_asked_key(&asked.key, &reply.key)
        }
        (Call::Read(asked), Reply::Document(reply)) => match (&asked.key, &reply.described) {
            (Some(asked), Some((key, _))) => is_asked_key(asked, key),
            (None, _) | (_, None) => true,
        },
        (Call::Decrypt(_) | Call::Encrypt(_) | Call::GenerateDataKey(_) | Call::Read(_), _) => false,
    }
}

/// The host as it is signed and sent; `None` where the address goes on after it.
fn plain_host(endpoint: &Uri) -> Option<Box<str>> {
    let ends_there = matches!(endpoint.path(), "" | "/") && endpoint.query().is_none();
    ends_there.then(|| endpoint.authority().map(|authority| authority.as_str().into()))?
}

fn default_timeout() -> Duration {
    Duration::from_secs(2)
}

fn default_max_in_flight() -> usize {
    64
}

fn default_retries() -> u32 {
    2
}

/// Callers that wait for their turn. At 1,000 calls a second this is more than any deadline lets through.
const QUEUED_MAX: usize = 16_384;
/// Reads are few, and their quota is small.
const READS_IN_FLIGHT: usize = 8;
const READS_QUEUED_MAX: usize = 1024;
const BACKOFF_FIRST: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_millis(400);
/// An attempt with less time than this is not worth its place in the quota.
const USEFUL_MIN: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::auth::{Door, Entry, Identity};
    use crate::claim::{Claim, ListenerName, Peer, PeerOrigin};
    use crate::clock::System;
    use crate::kms::{Ciphertext, Decrypt, Decrypted, Encrypt, Extra, KeyId, KeyVersion, Read};
    use crate::policy::{Grant, Policy, Rule};
    use crate::secret::Secret;
    use crate::upstream::rehearsal::{Act, Asked, Server, answer as http, soon};

    const GOOD: &str = r#"{"KeyId":"key-1","KeyVersionId":"v1","Plaintext":"c2VjcmV0","RequestId":"R"}"#;

    fn said(code: &str) -> String {
        format!(r#"{{"Code":"{code}","Message":"m","RequestId":"R"}}"#)
    }

    fn decrypt() -> Call {
        let ciphertext = Ciphertext::new(b"blob".to_vec());
        Call::Decrypt(Decrypt { ciphertext, key: None, context: None, dry_run: false, extra: Extra::default() })
    }

    fn encrypt(key: &str) -> Call {
        Call::Encrypt(Encrypt {
            key: KeyName::new(key),
            plaintext: Secret::copied(b"dek"),
            context: None,
            dry_run: false,
            extra: Extra::default(),
        })
    }

    fn config(server: &Server) -> Config {
        Config {
            endpoint: server.url(),
            region: None,
            ca_file: None,
            insecure: true,
            credentials: credentials::Config { source: credentials::Source::Env, ..Default::default() },
            timeout: Duration::from_secs(1),
            max_in_flight: 8,
            quota: None,
            read_quota: None,
            retries: 2,
        }
    }

    fn anyone() -> Lane {
        Priority::Call(CallerName::new("anyone"))
    }

    fn static_key(name: &str) -> Option<String> {
        match name {
            "ALIBABA_CLOUD_ACCESS_KEY_ID" => Some("LTAItest".into()),
            "ALIBABA_CLOUD_ACCESS_KEY_SECRET" => Some("testsecret".into()),
            _ => None,
        }
    }

    fn upstream(config: &Config) -> Aliyun {
        let clock: Arc<dyn Clock> = Arc::new(System);
        Aliyun::new("test", config, &static_key, &clock).unwrap()
    }

    async fn kms(play: impl Fn(usize, &Asked) -> Act + Send + Sync + 'static) -> (Server, Aliyun) {
        let server = Server::play(play).await;
        let upstream = upstream(&config(&server));
        (server, upstream)
    }

    async fn kind(upstream: &Aliyun, call: &Call) -> Kind {
        upstream.relay(call, &anyone(), soon()).await.unwrap_err().kind().clone()
    }

    #[tokio::test]
    async fn a_call_is_signed_as_us_sent_as_a_form_and_its_answer_decoded() {
        let (server, upstream) = kms(|_, _| http(200, "", GOOD)).await;
        assert_eq!(&*upstream.identity(), "");
        let answer = upstream.relay(&decrypt(), &anyone(), soon()).await.unwrap();
        let plaintext = Secret::copied(b"secret");
        let expected = Decrypted { plaintext, key: KeyId::new("key-1"), version: KeyVersion::new("v1") };
        assert_eq!(answer.reply, Reply::Decrypted(expected));
        assert_eq!(&*upstream.identity(), "LTAItest");
        let asked = server.asked();
        assert_eq!(asked.len(), 1);
        assert_eq!(asked[0].line, "POST / HTTP/1.1");
        assert_eq!(asked[0].body, "CiphertextBlob=YmxvYg%3D%3D");
        assert_eq!(asked[0].header("host"), Some(server.address.to_string().as_str()));
        assert_eq!(asked[0].header("x-acs-action"), Some("Decrypt"));
        assert_eq!(asked[0].header("user-agent"), Some(concat!("kmsproxy/", env!("CARGO_PKG_VERSION"))));
        let authorization = asked[0].header("authorization").unwrap();
        assert!(authorization.starts_with("ACS3-HMAC-SHA256 Credential=LTAItest,SignedHeaders="), "{authorization}");
    }

    #[tokio::test]
    async fn html_and_truncated_json_are_garbled_and_not_asked_again() {
        for body in ["<html>Sign in to continue</html>", r#"{"KeyId":"key-1","#] {
            for status in [200, 403] {
                let (server, upstream) = kms(move |_, _| http(status, "", body)).await;
                assert_eq!(kind(&upstream, &decrypt()).await, Kind::Garbled);
                assert_eq!(server.asked().len(), 1, "{status} {body}");
            }
        }
    }

    #[tokio::test]
    async fn a_kms_that_never_answers_times_out_with_the_attempt() {
        let server = Server::play(|_, _| Act::Hang).await;
        let upstream = upstream(&Config { timeout: Duration::from_millis(50), ..config(&server) });
        assert_eq!(kind(&upstream, &decrypt()).await, Kind::TimedOut);
        assert_eq!(server.asked().len(), 1);
    }

    #[tokio::test]
    async fn the_deadline_bounds_an_attempt_that_may_take_longer() {
        let server = Server::play(|_, _| Act::Hang).await;
        let upstream = upstream(&Config { timeout: Duration::from_secs(60), ..config(&server) });
        let started = System.now();
        let deadline = Deadline::after(started, Duration::from_millis(50));
        let fault = upstream.relay(&decrypt(), &anyone(), deadline).await.unwrap_err();
        assert_eq!(fault.kind(), &Kind::TimedOut);
        let patience = Deadline::after(System.now(), Duration::ZERO);
        assert!(deadline < patience && patience < Deadline::after(started, Duration::from_secs(30)));
    }

    #[tokio::test]
    async fn a_kms_failure_and_a_closed_connection_are_tried_again_under_a_fresh_nonce() {
        let (server, upstream) = kms(|number, _| match number {
            0 => http(500, "", &said("InternalFailure")),
            1 => Act::SayAndLeave(Vec::new()),
            _ => http(200, "", GOOD),
        })
        .await;
        upstream.relay(&decrypt(), &anyone(), soon()).await.unwrap();
        let asked = server.asked();
        let mut nonces: Vec<_> = asked.iter().map(|it| it.header("x-acs-signature-nonce").unwrap()).collect();
        nonces.sort_unstable();
        nonces.dedup();
        assert_eq!((asked.len(), nonces.len()), (3, 3));
    }

    #[tokio::test]
    async fn when_retries_are_used_up_the_caller_gets_the_last_word_of_the_kms() {
        let (server, upstream) = kms(|_, _| http(503, "", &said("ServiceUnavailableTemporary"))).await;
        let fault = upstream.relay(&decrypt(), &anyone(), soon()).await.unwrap_err();
        assert_eq!(fault.verbatim().map(|said| said.code.as_str()), Some("ServiceUnavailableTemporary"));
        assert_eq!(server.asked().len(), 3);
    }

    #[tokio::test]
    async fn each_error_is_asked_again_as_the_table_of_consequences_says() {
        let codes = [
            (409, "Rejected.Disabled", Retry::Never),
            (403, "Forbidden.InDebt", Retry::Never),
            (403, "Forbidden.NoPermission", Retry::Never),
            (400, "InvalidParameter", Retry::Never),
            (404, "InvalidApi.NotFound", Retry::Never),
            (400, "InvalidTimeStamp.Expired", Retry::Never),
            // The key is written down: there are no others to ask with.
            (400, "InvalidSecurityToken.Expired", Retry::Renewed),
            (429, "Rejected.Throttling", Retry::Later),
            (400, "Throttling.User", Retry::Later),
            (500, "InternalFailure", Retry::Later),
            (502, "Unheard.Of", Retry::Later),
        ];
        for (status, code, retry) in codes {
            let (server, upstream) = kms(move |_, _| http(status, "x-acs-retry-after: 1\r\n", &said(code))).await;
            let fault = upstream.relay(&decrypt(), &anyone(), soon()).await.unwrap_err();
            let asked = if retry == Retry::Later { 3 } else { 1 };
            assert_eq!((fault.consequence().retry, server.asked().len()), (retry, asked), "{code}");
        }
    }

    #[tokio::test]
    async fn a_refusal_is_not_asked_for_twice() {
        let (server, upstream) = kms(|_, _| http(409, "", &said("Rejected.Disabled"))).await;
        assert_eq!(kind(&upstream, &decrypt()).await, Kind::KeyDisabled);
        assert_eq!(server.asked().len(), 1);
    }

    #[tokio::test]
    async fn throttling_pauses_and_is_tried_again_when_the_pause_fits_the_deadline() {
        let (server, upstream) = kms(|number, _| match number {
            0 => http(429, "x-acs-retry-after: 30\r\n", &said("Rejected.Throttling")),
            _ => http(200, "", GOOD),
        })
        .await;
        let before = System.now();
        upstream.relay(&decrypt(), &anyone(), soon()).await.unwrap();
        assert!(System.now().since(before) >= Duration::from_millis(30));
        assert_eq!(server.asked().len(), 2);
    }

    #[tokio::test]
    async fn while_a_long_pause_lasts_nobody_asks() {
        let throttled = |_: usize, _: &Asked| http(429, "x-acs-retry-after: 9000\r\n", &said("Rejected.Throttling"));
        let (server, upstream) = kms(throttled).await;
        let fault = upstream.relay(&decrypt(), &anyone(), soon()).await.unwrap_err();
        assert_eq!(fault.verbatim().map(|said| said.status), Some(429));
        let fault = upstream.relay(&decrypt(), &anyone(), soon()).await.unwrap_err();
        assert!(matches!(fault.kind(), Kind::Throttled(Some(_))), "{fault}");
        assert_eq!(server.asked().len(), 1);
    }

    #[tokio::test]
    async fn reads_that_are_throttled_pause_no_cryptography() {
        let (server, upstream) = kms(|_, asked| match asked.header("x-acs-action") {
            Some("DescribeKey") => http(429, "x-acs-retry-after: 9000\r\n", &said("Rejected.Throttling")),
            _ => http(200, "", GOOD),
        })
        .await;
        let describe = Call::Read(Read { action: Action::DescribeKey, key: None, extra: Extra::default() });
        assert_eq!(kind(&upstream, &describe).await, Kind::Throttled(Some(Duration::from_secs(9))));
        assert!(upstream.relay(&decrypt(), &anyone(), soon()).await.is_ok());
        assert!(matches!(kind(&upstream, &describe).await, Kind::Throttled(Some(_))));
        assert_eq!(server.asked().len(), 2);
    }

    #[test]
    fn each_call_waits_in_the_lane_of_its_caller_and_urgency() {
        let (listener, name) = (ListenerName::new("l"), CallerName::new("a"));
        let entry = Entry { name: name.clone(), listener: listener.clone(), identity: Identity::Listener };
        let peer = Peer { listener, origin: PeerOrigin::Unix(None), certificate_names: Arc::from([]) };
        let door = Door::new(vec![entry]).unwrap();
        let caller = door.admit(&peer, &Claim::Anonymous, System.now(), System.wall()).unwrap();
        let rules = vec![Rule { actions: Action::ALL.to_vec(), keys: vec!["*".to_owned()] }];
        let share = CallerName::new("group");
        let policy = Policy::new(HashMap::from([(name, Grant { rules, share: share.clone() })]));
        let of = |call: &Call| lane(&policy.permit(&caller, call).unwrap());
        assert_eq!(of(&decrypt()), Priority::Call(share.clone()));
        assert_eq!(of(&encrypt("key-1")), Priority::Write(share));
        let ours = [policy.probe(), policy.follow(&KeyName::new("key-1")), policy.upkeep()];
        assert_eq!(ours.each_ref().map(lane), [Priority::Probe, Priority::Probe, Priority::Refresh]);
    }

    #[tokio::test]
    async fn a_hundred_calls_to_an_ill_kms_are_at_most_a_hundred_and_twenty_attempts() {
        let (server, upstream) = kms(|_, _| http(500, "", &said("InternalFailure"))).await;
        let upstream = Arc::new(upstream);
        let mut calls = tokio::task::JoinSet::new();
        for _ in 0..100 {
            let upstream = Arc::clone(&upstream);
            calls.spawn(async move { upstream.relay(&decrypt(), &anyone(), soon()).await.unwrap_err() });
        }
        while let Some(fault) = calls.join_next().await {
            assert_eq!(fault.unwrap().kind(), &Kind::KmsFailure);
        }
        let attempts = server.asked().len();
        assert!((101..=120).contains(&attempts), "{attempts}");
    }

    #[tokio::test]
    async fn credentials_that_the_kms_refuses_are_fetched_once_more_and_the_call_repeated_as_the_new_ones() {
        let server = Server::play(|number, asked| match (number, asked.line.as_str()) {
            (_, "GET /creds HTTP/1.1") => {
                let id = if number == 0 { "STS.old" } else { "STS.new" };
                let end = "2999-01-01T00:00:00Z";
                let body = format!(
                    r#"{{"AccessKeyId":"{id}","AccessKeySecret":"s","SecurityToken":"t","Expiration":"{end}"}}"#
                );
                http(200, "", &body)
            }
            (1, _) => http(400, "", &said("InvalidSecurityToken.Expired")),
            _ => http(200, "", GOOD),
        })
        .await;
        let credentials = credentials::Config {
            source: credentials::Source::Uri,
            uri: Some(format!("{}/creds", server.url())),
            ..Default::default()
        };
        let upstream = upstream(&Config { credentials, ..config(&server) });
        upstream.relay(&decrypt(), &anyone(), soon()).await.unwrap();
        let signed: Vec<_> = server.asked().iter().filter_map(|it| it.header("authorization").map(id_of)).collect();
        assert_eq!(signed, ["STS.old", "STS.new"]);
    }

    fn id_of(authorization: &str) -> String {
        authorization.split(['=', ',']).nth(1).unwrap().to_owned()
    }

    #[tokio::test]
    async fn a_static_key_that_the_kms_refuses_is_not_tried_twice() {
        let (server, upstream) = kms(|_, _| http(404, "", &said("InvalidAccessKeyId.NotFound"))).await;
        let fault = upstream.relay(&decrypt(), &anyone(), soon()).await.unwrap_err();
        assert_eq!(fault.kind(), &Kind::Credentials);
        assert_eq!(fault.verbatim().map(|said| said.code.as_str()), Some("InvalidAccessKeyId.NotFound"));
        assert_eq!(server.asked().len(), 1);
    }

    #[tokio::test]
    async fn an_answer_about_another_key_than_the_one_asked_for_by_id_is_garbled() {
        let wrapped = r#"{"KeyId":"key-1","KeyVersionId":"v","CiphertextBlob":"YQ==","RequestId":"R"}"#;
        let (_server, upstream) = kms(move |_, _| http(200, "", wrapped)).await;
        assert_eq!(kind(&upstream, &encrypt("key-2")).await, Kind::Garbled);
        for name in ["key-1", "alias/a", "acs:kms:cn-hangzhou:1:key/key-1", "acs:kms:cn-hangzhou:1:alias/a"] {
            assert!(upstream.relay(&encrypt(name), &anyone(), soon()).await.is_ok(), "{name}");
        }
    }

    #[test]
    fn an_answer_to_another_action_answers_nothing() {
        let reply = || {
            Reply::Decrypted(Decrypted {
                plaintext: Secret::default(),
                key: KeyId::new("key-1"),
                version: KeyVersion::new("v"),
            })
        };
        assert!(answers(&decrypt(), &reply()));
        assert!(!answers(&encrypt("key-1"), &reply()));
    }

    #[test]
    fn an_endpoint_is_https_and_nothing_but_host_and_port() {
        let clock: Arc<dyn Clock> = Arc::new(System);
        let base: Config = serde_json::from_str(r#"{"endpoint":"https://kms.example"}"#).unwrap();
        let built = |endpoint: &str, insecure| {
            let config = Config { endpoint: endpoint.into(), insecure, ..base.clone() };
            Aliyun::new("test", &config, &static_key, &clock).map(|upstream| upstream.host.to_string()).ok()
        };
        assert_eq!(built("https://kms.example", false).as_deref(), Some("kms.example"));
        assert_eq!(built("https://kms.example:8443/", false).as_deref(), Some("kms.example:8443"));
        for wrong in ["http://kms.example", "http://127.0.0.1:1", "https://kms.example/kms", "https://kms.example/?a"] {
            assert_eq!(built(wrong, false), None, "{wrong}");
        }
        assert_eq!(built("http://127.0.0.1:1", true).as_deref(), Some("127.0.0.1:1"));
        assert_eq!(built("http://kms.example", true), None);
    }

    #[test]
    fn the_configuration_has_the_documented_defaults_and_no_other_keys() {
        let config: Config = serde_json::from_str(r#"{"endpoint":"https://kms.example"}"#).unwrap();
        let expected = Config {
            endpoint: "https://kms.example".into(),
            region: None,
            ca_file: None,
            insecure: false,
            credentials: credentials::Config::default(),
            timeout: Duration::from_secs(2),
            max_in_flight: 64,
            quota: None,
            read_quota: None,
            retries: 2,
        };
        assert_eq!(config, expected);
        assert!(serde_json::from_str::<Config>(r#"{"endpoint":"https://kms.example","retry":1}"#).is_err());
        let spelled: Config = serde_json::from_str(r#"{"endpoint":"e","timeout":"1500ms"}"#).unwrap();
        assert_eq!(spelled.timeout, Duration::from_millis(1500));
    }
}
