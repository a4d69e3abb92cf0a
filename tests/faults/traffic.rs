//! Callers that decrypt without end, and what they got.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::client::{Client, Outcome, Target, signed};
use super::scene::until;

/// One Decrypt. `outcome` is none where the connection broke, and another as well.
pub(crate) struct Seen {
    pub(crate) sent: Instant,
    pub(crate) received: Instant,
    pub(crate) outcome: Option<Outcome>,
}

/// A ciphertext, and what is in it.
pub(crate) type Wrapped = (String, String);

/// Connections that decrypt the same ciphertexts in turn, and hold every plaintext against what was encrypted.
pub(crate) struct Traffic {
    stop: watch::Sender<bool>,
    served: Arc<AtomicUsize>,
    callers: JoinSet<Vec<Seen>>,
}

impl Traffic {
    pub(crate) fn start(target: &Target, blobs: &[Wrapped]) -> Self {
        Self::of(CONNECTIONS, target, blobs)
    }

    pub(crate) fn of(connections: usize, target: &Target, blobs: &[Wrapped]) -> Self {
        let (stop, served) = (watch::Sender::new(false), Arc::new(AtomicUsize::new(0)));
        let mut callers = JoinSet::new();
        for first in 0..connections {
            let blobs = blobs.iter().cycle().skip(first).take(blobs.len()).cloned().collect();
            callers.spawn(call(target.clone(), blobs, stop.subscribe(), Arc::clone(&served)));
        }
        Self { stop, served, callers }
    }

    /// Waits for the next plaintext.
    pub(crate) async fn flows(&self) {
        let before = self.served.load(Ordering::Relaxed);
        until("a plaintext", async || (self.served.load(Ordering::Relaxed) > before).then_some(())).await;
    }

    pub(crate) async fn stop(self) -> History {
        self.stop.send_replace(true);
        History(self.callers.join_all().await.into_iter().flatten().collect())
    }

    pub(crate) async fn stop_at(self, end: Instant) -> History {
        sleep_until(end).await;
        self.stop().await
    }
}

async fn call(target: Target, blobs: Vec<Wrapped>, stop: watch::Receiver<bool>, served: Arc<AtomicUsize>) -> Vec<Seen> {
    let (mut client, mut seen): (Option<Client>, _) = (None, Vec::new());
    let mut pace = interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for (blob, plaintext) in blobs.iter().cycle() {
        if *stop.borrow() {
            break;
        }
        pace.tick().await;
        let sent = Instant::now();
        let outcome = attempt(&target, &mut client, blob).await;
        let received = Instant::now();
        if let Some((200, body)) = &outcome {
            assert_eq!(body["Plaintext"], *plaintext, "a wrong plaintext");
            served.fetch_add(1, Ordering::Relaxed);
        }
        seen.push(Seen { sent, received, outcome });
    }
    seen
}

/// As an honest client does: a connection that was closed before its answer says nothing, and is asked again on another;
/// so once.
async fn attempt(target: &Target, client: &mut Option<Client>, blob: &str) -> Option<Outcome> {
    for _ in 0..2 {
        if client.is_none() {
            *client = target.reach().await.ok();
        }
        match decrypt(target, client.as_mut()?, blob).await {
            Ok(outcome) => return Some(outcome),
            Err(_) => *client = None,
        }
    }
    None
}

/// One Decrypt over a connection to `target` that may break.
pub(crate) async fn decrypt(target: &Target, client: &mut Client, blob: &str) -> hyper::Result<Outcome> {
    let asked = target.page.as_ref().map(|page| page.asks("Decrypt", &[("CiphertextBlob", blob)]));
    let outcome = client.try_send(request(target, blob)).await?;
    if let Some(asked) = asked {
        asked.hears(&outcome);
    }
    Ok(outcome)
}

/// As `target` wants it: signed, or where it has no access key, not.
fn request(target: &Target, blob: &str) -> http::Request<Full<Bytes>> {
    if !target.access_key.is_empty() {
        return signed(target, "Decrypt", &[("CiphertextBlob", blob)]);
    }
    let blob = percent_encoding::utf8_percent_encode(blob, percent_encoding::NON_ALPHANUMERIC);
    let uri = format!("/?Action=Decrypt&Version=2016-01-20&Format=JSON&CiphertextBlob={blob}");
    http::Request::get(uri).header("host", "localhost").body(Full::default()).unwrap()
}

/// One Decrypt on a connection of its own, or on another where that is closed before its answer: what came of it, and how
/// long it took.
pub(crate) async fn once(target: &Target, blob: &str) -> (Outcome, Duration) {
    let begun = Instant::now();
    let outcome = attempt(target, &mut None, blob).await.expect("an answer over one of two connections");
    (outcome, begun.elapsed())
}

/// Status and code of a refusal; the code is empty for what is none.
pub(crate) fn word(outcome: &Outcome) -> (u16, String) {
    (outcome.0, outcome.1["Code"].as_str().unwrap_or_default().to_owned())
}

/// Everything that callers got.
pub(crate) struct History(pub(crate) Vec<Seen>);

impl History {
    /// How long after `start` the last plaintext arrived of those that came before `end`.
    pub(crate) fn last_plaintext(&self, start: Instant, end: Instant) -> Duration {
        let plaintexts = self.0.iter().filter(|seen| seen.is_served() && seen.received < end);
        plaintexts.map(|seen| seen.received.saturating_duration_since(start)).max().expect("a plaintext")
    }

    /// How long after `start` the first plaintext arrived.
    pub(crate) fn first_plaintext(&self, start: Instant) -> Duration {
        let plaintexts = self.0.iter().filter(|seen| seen.is_served() && seen.received >= start);
        plaintexts.map(|seen| seen.received - start).min().expect("a plaintext")
    }

    /// As what those calls ended that were sent from `start` to `end`.
    pub(crate) fn outcomes(&self, start: Instant, end: Instant) -> BTreeMap<(u16, String), usize> {
        let mut counts = BTreeMap::new();
        for seen in self.0.iter().filter(|seen| seen.sent >= start && seen.sent < end) {
            let outcome = seen.outcome.as_ref().map_or((0, "broken".to_owned()), word);
            *counts.entry(outcome).or_default() += 1;
        }
        counts
    }

    /// The share of all calls that got their plaintext.
    #[allow(clippy::cast_precision_loss, reason = "counts of one test")]
    pub(crate) fn served(&self) -> f64 {
        self.0.iter().filter(|seen| seen.is_served()).count() as f64 / self.0.len() as f64
    }

    /// How long a call took that took longer than the `share` of all.
    pub(crate) fn quantile(&self, share: f64) -> Duration {
        let mut spans: Vec<_> = self.0.iter().map(|seen| seen.received - seen.sent).collect();
        spans.sort();
        #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let at = (spans.len() as f64 * share) as usize;
        spans[at.min(spans.len() - 1)]
    }

    pub(crate) fn longest(&self) -> Duration {
        self.quantile(1.0)
    }
}

impl Seen {
    pub(crate) fn is_served(&self) -> bool {
        self.outcome.as_ref().is_some_and(|(_, body)| body["Plaintext"] != Value::Null)
    }
}

const CONNECTIONS: usize = 8;
const PACE: Duration = Duration::from_millis(5);
