//! Clients: each a task that asks now for this and now for that, and several times at once now and then.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::Uri;
use kmsproxy::clock::Clock;
use kmsproxy::secret::Secret;
use kmsproxy::upstream::local::Digest;
use kmsproxy::upstream::transport::Transport;
use kmsproxy::wire::aliyun::signature::{AccessKey, V3, v3_headers};
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::diary::Telling;
use super::oracle::history::{DECRYPT, OK, Told, context_digest, digest};
use super::plan::Dice;
use super::world::{Blob, CALLERS, PROXY_PORT, SECRET, World, context_text};

/// Runs every client until [`END`].
pub(crate) async fn run(world: Arc<World>, seed: u64) -> turmoil::Result {
    let mut clients = JoinSet::new();
    for (number, (caller, _)) in CALLERS.into_iter().enumerate() {
        let dice = Dice::new(seed ^ (u64::try_from(number)? << 32) ^ 0x10AD);
        let client = Client { world: Arc::clone(&world), caller, transport: world.client(), uri: address() };
        clients.spawn_local(Rc::new(client).live(dice));
    }
    while let Some(ended) = clients.join_next().await {
        ended?;
    }
    Ok(())
}

struct Client {
    world: Arc<World>,
    caller: &'static str,
    transport: Transport,
    uri: Uri,
}

impl Client {
    async fn live(self: Rc<Self>, mut dice: Dice) {
        // A call that takes its time does not keep the next one waiting.
        let mut calls = JoinSet::new();
        while turmoil::elapsed() < END {
            let at_once = if dice.roll(8) == 0 { 4 } else { 1 };
            let (kind, which) = (dice.roll(20), usize::try_from(dice.roll(64)).unwrap());
            for _ in 0..at_once {
                calls.spawn_local(Rc::clone(&self).call(kind, which));
            }
            sleep(dice.between(Duration::from_millis(40), Duration::from_millis(460))).await;
        }
        calls.join_all().await;
    }

    async fn call(self: Rc<Self>, kind: u64, which: usize) {
        let blobs = &self.world.blobs;
        let key = &self.world.keys[which % self.world.keys.len()];
        match kind {
            0 => self.make("Encrypt", &[("KeyId", key), ("Plaintext", "REVL")]).await,
            1 => self.make("GenerateDataKey", &[("KeyId", key)]).await,
            2 => self.make("DescribeKey", &[("KeyId", key)]).await,
            _ => self.decrypt(&blobs[which % blobs.len()]).await,
        }
    }

    async fn decrypt(&self, blob: &Blob) {
        let text = STANDARD.encode(&blob.bytes);
        let context = blob.context.map(context_text);
        let mut parameters = vec![("CiphertextBlob", text.as_str())];
        parameters.extend(context.as_deref().map(|context| ("EncryptionContext", context)));
        let mut told = self.ask(DECRYPT, None);
        told.told.ciphertext = Some(digest(&blob.bytes));
        told.told.context = blob.context.map(|value| context_digest([("ns", value)]));
        self.answer(told, &parameters).await;
    }

    async fn make(&self, action: &'static str, parameters: &[(&str, &str)]) {
        let told = self.ask(action, Some(parameters[0].1));
        self.answer(told, parameters).await;
    }

    fn ask(&self, action: &'static str, key: Option<&str>) -> Telling<'_> {
        let (caller, key) = (self.caller.to_owned(), key.map(str::to_owned));
        Telling::new(&self.world.diary, &self.world.clock, Told { caller, action, key, ..Told::default() })
    }

    async fn answer(&self, mut asked: Telling<'_>, parameters: &[(&str, &str)]) {
        let told = &mut asked.told;
        let body = form(parameters);
        let secret = Secret::copied(SECRET.as_bytes());
        let headers = v3_headers(&V3 {
            host: &format!("proxy:{PROXY_PORT}"),
            action: told.action,
            version: "2016-01-20",
            key: AccessKey { id: self.caller, secret: &secret, token: None },
            at: self.world.clock.wall(),
            nonce: &uuid::Uuid::new_v4().simple().to_string(),
            body: body.as_bytes(),
        });
        match self.transport.post(&self.uri, headers, Bytes::from(body), PATIENCE).await {
            Err(fault) => fault.kind().label().clone_into(&mut told.outcome),
            Ok(received) => {
                let answer: Value = serde_json::from_slice(received.body.expose()).unwrap();
                let bytes = |name: &str| STANDARD.decode(answer[name].as_str()?).ok();
                let of = |bytes: Vec<u8>| Digest::of(&bytes).to_string();
                if received.status != 200 {
                    word(answer["Code"].as_str().unwrap_or("none")).clone_into(&mut told.outcome);
                    return;
                }
                OK.clone_into(&mut told.outcome);
                told.key = answer["KeyId"].as_str().map(str::to_owned).or_else(|| told.key.take());
                told.plaintext = bytes("Plaintext").map(of);
                told.ciphertext = told.ciphertext.take().or_else(|| bytes("CiphertextBlob").map(of));
            }
        }
    }
}

fn word(code: &str) -> &str {
    match code {
        "Rejected.Disabled" => "key_disabled",
        "Rejected.PendingDeletion" => "key_pending_deletion",
        other => other,
    }
}

fn form(parameters: &[(&str, &str)]) -> String {
    let encoded = |text| percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string();
    parameters.iter().map(|(name, value)| format!("{}={}", encoded(name), encoded(value))).collect::<Vec<_>>().join("&")
}

fn address() -> Uri {
    format!("https://proxy:{PROXY_PORT}").parse().unwrap()
}

const PATIENCE: Duration = Duration::from_secs(3);
/// When nobody asks any more; the last fault is over some seconds before.
const END: Duration = Duration::from_millis(11_500);
