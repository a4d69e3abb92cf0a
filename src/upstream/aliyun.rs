//! Alibaba Cloud KMS, OpenAPI 2016-01-20: signed anew (V3), sent to one endpoint, tried again where that can help.

use std::fmt::{self, Debug};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Uri;
use serde::{Deserialize, Serialize};

use crate::clock::{Clock, Deadline};
use crate::fault::{Fault, Kind};
use crate::governor::{Governor, Limits, doubled, jittered};
use crate::kms::{Action, Answer, Call, KeyName, Reply};
use crate::policy::{Held, Permit};
use crate::upstream::credentials::{self, Credentials, Environment, Keeper, Lack, Ways};
use crate::upstream::transport::{self, Reach, Transport, Trust, shared};
use crate::upstream::{Asking, Upstream};
use crate::wire::aliyun::signature::{AccessKey, V3, v3_headers};
use crate::wire::aliyun::{answer, request};

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
    /// Calls in flight. 64 drain a quota of 1,000 calls a second (the shared gateway's) at up to 60 ms each; more
    /// only moves the queue into the KMS.
    #[serde(default = "default_max_in_flight")]
    pub max_in_flight: usize,
    /// Further attempts for one call.
    #[serde(default = "default_retries")]
    pub retries: u32,
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
    governor: Governor,
    keeper: Keeper,
    clock: Arc<dyn Clock>,
}

impl Aliyun {
    /// Sets it up without asking anybody.
    ///
    /// # Errors
    /// What in the configuration, the environment or a file it names is wrong.
    pub fn new(config: &Config, env: Environment<'_>, clock: &Arc<dyn Clock>) -> Result<Self, Error> {
        if config.max_in_flight == 0 || config.timeout.is_zero() {
            return Err(Error::Limit("max_in_flight and timeout must be above zero"));
        }
        let platform = Trust::platform();
        let trust = match &config.ca_file {
            Some(path) => platform.clone().with_file(path)?,
            None => platform.clone(),
        };
        let reach = if config.insecure { Reach::VerifiedOrLoopback } else { Reach::Verified };
        let transport = Transport::new(trust, reach, config.timeout / 2, Arc::clone(clock));
        let endpoint = transport.address(&config.endpoint)?;
        let host = plain_host(&endpoint)
            .ok_or_else(|| transport::Error::Address(config.endpoint.clone(), "it must end after host and port"))?;
        let ways = Ways::new(&platform, config.insecure, clock);
        let keeper = Keeper::new(credentials::source(&config.credentials, env, &ways)?, Arc::clone(clock));
        let limits = Limits { in_flight: config.max_in_flight, queued: QUEUED_MAX };
        Ok(Self {
            endpoint,
            host,
            timeout: config.timeout,
            retries: config.retries,
            transport,
            governor: Governor::new(limits, Arc::clone(clock)),
            keeper,
            clock: Arc::clone(clock),
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
    async fn relay(&self, call: &Call, deadline: Deadline) -> Result<Answer, Fault> {
        let body = shared(request::encode(call));
        self.governor.called();
        let mut tries = Tries { retries_left: self.retries, retried: 0, renewed: false };
        let mut last = None;
        let mut credentials = self.keeper.current(deadline).await?;
        loop {
            let pass = match self.governor.admit(deadline).await {
                Ok(pass) => pass,
                Err(shed) => return Err(last.unwrap_or(shed)),
            };
            let outcome = self.attempt(call, &body, &credentials, deadline).await;
            drop(pass);
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
        self.learn(&outcome);
        record_attempt(call.action(), &outcome, self.clock.now().since(sent));
        outcome
    }

    /// Tells the governor how the KMS is.
    fn learn(&self, outcome: &Result<Answer, Fault>) {
        match outcome.as_ref().map_err(Fault::kind) {
            Err(Kind::Throttled(after)) => self.governor.throttled(*after),
            Ok(_) => self.governor.answered(),
            // Neither a refusal nor silence says anything about the quota.
            Err(_) => {}
        }
    }

    async fn next(&self, fault: &Fault, used: &Credentials, tries: &mut Tries, deadline: Deadline) -> Next {
        if *fault.kind() == Kind::Credentials && !tries.renewed {
            tries.renewed = true;
            return self.keeper.renewed(used, deadline).await.map_or(Next::GiveUp, Next::As);
        }
        if !fault.retryable() || tries.retries_left == 0 {
            return Next::GiveUp;
        }
        let pause = jittered(doubled(BACKOFF_FIRST, tries.retried, BACKOFF_MAX)).max(self.governor.pause());
        if pause + USEFUL_MIN > deadline.remaining(self.clock.now()) || !self.governor.may_retry() {
            return Next::GiveUp;
        }
        tries.retries_left -= 1;
        tries.retried += 1;
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
            self.relay(call, deadline).await.map(Held::new)
        })
    }

    fn identity(&self) -> Arc<str> {
        self.keeper.principal()
    }
}

impl Debug for Aliyun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Aliyun({})", self.host)
    }
}

struct Tries {
    retries_left: u32,
    retried: u32,
    renewed: bool,
}

enum Next {
    GiveUp,
    Again,
    As(Arc<Credentials>),
}

/// Whether `reply` can be the answer to `call`: of its kind, and about its key where it names one by id. Behind an
/// alias or an ARN (of another account, or of an alias) only the KMS knows which id there is.
fn answers(call: &Call, reply: &Reply) -> bool {
    let is_asked_key = |asked: &KeyName, key: &crate::kms::KeyId| {
        let by_id = asked.as_str() == asked.bare() && !asked.bare().starts_with("alias/");
        !by_id || asked.as_str() == key.as_str()
    };
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

/// Where every attempt is counted.
fn record_attempt(action: Action, outcome: &Result<Answer, Fault>, took: Duration) {
    let label = outcome.as_ref().map_or_else(|fault| fault.kind().label(), |_| "ok");
    tracing::debug!(action = action.name(), outcome = label, ms = took.as_millis(), "attempt");
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

/// Callers that wait for a place in the window. At 1,000 calls a second this is more than any deadline lets through.
const QUEUED_MAX: usize = 16_384;
const BACKOFF_FIRST: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_millis(400);
/// An attempt with less time than this is not worth its place in the quota.
const USEFUL_MIN: Duration = Duration::from_millis(10);
