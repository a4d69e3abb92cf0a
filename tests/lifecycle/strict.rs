//! Clients that do what HTTP asks of them, and forgive nothing else: after `Connection: close` they use another connection,
//! what was never sent is sent elsewhere, and whatever else goes wrong is a failure.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::client::{Client, Target, signed};

/// Connections that decrypt the same ciphertexts in turn.
pub(crate) struct Strict {
    stop: watch::Sender<bool>,
    callers: JoinSet<Tally>,
}

/// What came of their calls.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) served: usize,
    /// What went wrong, each with how often.
    pub(crate) failed: BTreeMap<String, usize>,
    pub(crate) longest: Duration,
    pub(crate) connections: usize,
}

impl Strict {
    pub(crate) fn start(connections: usize, target: &Target, blobs: &[(String, String)]) -> Self {
        let (stop, mut callers) = (watch::Sender::new(false), JoinSet::new());
        for first in 0..connections {
            let blobs = blobs.iter().cycle().skip(first).take(blobs.len()).cloned().collect();
            callers.spawn(call(target.clone(), blobs, stop.subscribe()));
        }
        Self { stop, callers }
    }

    pub(crate) async fn stop(self) -> Tally {
        self.stop.send_replace(true);
        self.callers.join_all().await.into_iter().fold(Tally::default(), Tally::and)
    }
}

impl Tally {
    pub(crate) fn and(mut self, other: Self) -> Self {
        self.served += other.served;
        self.connections += other.connections;
        self.longest = self.longest.max(other.longest);
        for (what, times) in other.failed {
            *self.failed.entry(what).or_default() += times;
        }
        self
    }

    pub(crate) fn fail(&mut self, what: impl Into<String>) {
        *self.failed.entry(what.into()).or_default() += 1;
    }

    /// Fails its test unless everybody was served.
    pub(crate) fn assert_all_served(&self) {
        assert!(self.failed.is_empty() && self.served > 0, "{self:?}");
    }
}

async fn call(target: Target, blobs: Vec<(String, String)>, stop: watch::Receiver<bool>) -> Tally {
    let (mut client, mut tally) = (None, Tally::default());
    let mut pace = interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for (blob, plaintext) in blobs.iter().cycle() {
        if *stop.borrow() {
            break;
        }
        pace.tick().await;
        let begun = Instant::now();
        attempt(&target, &mut client, blob, plaintext, &mut tally).await;
        tally.longest = tally.longest.max(begun.elapsed());
    }
    tally
}

async fn attempt(target: &Target, held: &mut Option<Client>, blob: &str, plaintext: &str, tally: &mut Tally) {
    let parameters = [("CiphertextBlob", blob)];
    for _ in 0..ATTEMPTS {
        let client = match held.take().filter(|client| !client.is_closed()) {
            Some(client) => client,
            None => match target.reach().await {
                Ok(client) => {
                    tally.connections += 1;
                    client
                }
                Err(error) => return tally.fail(format!("connecting: {error}")),
            },
        };
        let client = held.insert(client);
        let asked = target.page.as_ref().map(|page| page.asks("Decrypt", &parameters));
        match client.try_send(signed(target, "Decrypt", &parameters)).await {
            Ok(outcome) => {
                if let Some(asked) = asked {
                    asked.hears(&outcome);
                }
                let is_right = outcome.0 == 200 && outcome.1["Plaintext"] == plaintext;
                return if is_right { tally.served += 1 } else { tally.fail(format!("{outcome:?}")) };
            }
            // It was closed as announced, and this call was never sent.
            Err(error) if error.is_canceled() || error.is_closed() => *held = None,
            Err(error) => {
                *held = None;
                return tally.fail(format!("broken: {error}"));
            }
        }
    }
    tally.fail("no connection that stays");
}

const PACE: Duration = Duration::from_millis(5);
const ATTEMPTS: usize = 5;
