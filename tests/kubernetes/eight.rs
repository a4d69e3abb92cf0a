//! One daemon is eight providers at once: four sockets, each with both versions, on two keys; and two Alibaba Cloud
//! faces beside them.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::SEED;
use super::apiserver::{Apiserver, Era};
use super::objects::{READY, all_well, serve};
use super::process::Daemon;
use super::stage::{BRISK, POLL, Stage, steer, until};

#[tokio::test]
async fn of_eight_providers_only_those_of_the_refused_key_fail() {
    let Some(mut server) = Era::Latest.start() else { return };
    let emulator = Daemon::emulator(&[]);
    let second = steer(&emulator, "POST", "/keys", r#"{"alias":"alias/second"}"#).await;
    let keys = [emulator.at("key_id").to_owned(), second["key_id"].as_str().unwrap().to_owned()];
    let stage = Stage::with(emulator, BRISK, &listeners(&keys));
    let providers = providers(&stage);
    serve(&mut server, &providers.iter().map(Provider::entry).collect::<Vec<_>>()).await;
    write_at_once(&stage, &providers).await;
    for provider in &providers {
        assert_eq!(provider.read(&mut server, &stage), all_well(EACH), "{}", provider.name);
    }

    let mut sealed = Vec::new();
    for provider in &providers {
        server.open(&provider.name, provider.version, &provider.socket);
        sealed.push(server.encrypt(&provider.name, SEED).ok());
    }
    let blobs = [blob(&stage, 0, &keys).await, blob(&stage, 1, &keys).await];

    stage.disable(&keys[0]).await;
    until("only what the second key sealed is opened", READY, || {
        standing(&mut server, &providers, &sealed, [Some("FailedPrecondition"), None])
    })
    .await;
    assert_eq!(open(&stage, 0, &blobs).await, json!("Rejected.Disabled"));
    assert_eq!(open(&stage, 1, &blobs).await, json!(SEED));
    // What an apiserver that starts now can read: v1 needs Decrypt alone, v2 an Encrypt before.
    let mut cold = Era::Latest.start().unwrap();
    cold.load(&providers.iter().map(Provider::entry).collect::<Vec<_>>());
    for provider in &providers {
        let seen = provider.read(&mut cold, &stage);
        let failed = if provider.key == 0 { EACH } else { 0 };
        assert_eq!(seen["failed"], failed, "{}: {seen}", provider.name);
    }

    stage.enable(&keys[0]).await;
    until("all of them open", READY, || standing(&mut server, &providers, &sealed, [None, None])).await;
    // A refusal of exactly this ciphertext is remembered for a moment.
    let begun = Instant::now();
    while open(&stage, 0, &blobs).await != json!(SEED) {
        assert!(begun.elapsed() < READY, "it is still refused");
        sleep(POLL).await;
    }
}

/// One entry of an EncryptionConfiguration.
struct Provider {
    name: String,
    version: &'static str,
    socket: PathBuf,
    /// Which of the two.
    key: usize,
}

impl Provider {
    fn entry(&self) -> (&str, &str, &Path) {
        (&self.name, self.version, &self.socket)
    }

    fn read(&self, server: &mut Apiserver, stage: &Stage) -> Value {
        server.read(&self.name, &stage.file(&self.name))
    }
}

fn providers(stage: &Stage) -> Vec<Provider> {
    let each = |socket: usize| {
        ["v1", "v2"].map(|version| Provider {
            name: format!("{version}s.of-{socket}.test"),
            version,
            socket: stage.socket(&format!("k8s-{socket}")),
            key: socket / 2,
        })
    };
    (0..4).flat_map(each).collect()
}

/// An apiserver for each provider, all of them writing at once.
async fn write_at_once(stage: &Stage, providers: &[Provider]) {
    let mut writers: Vec<_> = providers.iter().map(|_| Era::Latest.start().unwrap()).collect();
    for (writer, provider) in writers.iter_mut().zip(providers) {
        serve(writer, &[provider.entry()]).await;
    }
    std::thread::scope(|scope| {
        for (writer, provider) in writers.iter_mut().zip(providers) {
            scope.spawn(move || writer.write(&provider.name, &stage.file(&provider.name), EACH).ok());
        }
    });
}

/// Whether a Decrypt by every provider ends as its key's entry in `codes` says, and Status of v2 with it.
fn standing(
    server: &mut Apiserver,
    providers: &[Provider],
    sealed: &[Value],
    codes: [Option<&str>; 2],
) -> Result<(), String> {
    for (provider, sealed) in providers.iter().zip(sealed) {
        let mut outcomes = vec![server.decrypt(&provider.name, sealed)];
        if provider.version == "v2" {
            outcomes.push(server.status(&provider.name));
        }
        let expected = codes[provider.key];
        if let Some(other) = outcomes.iter().find(|outcome| outcome.code() != expected) {
            return Err(format!("{}: {other:?}", provider.name));
        }
    }
    Ok(())
}

/// A ciphertext made through one of the Alibaba Cloud faces.
async fn blob(stage: &Stage, face: usize, keys: &[String]) -> String {
    let parameters = [("KeyId", keys[face].as_str()), ("Plaintext", SEED)];
    let (status, made) = stage.aliyun(&format!("aliyun-{face}")).call("Encrypt", &parameters).await;
    assert_eq!(status, 200, "{made}");
    made["CiphertextBlob"].as_str().unwrap().to_owned()
}

/// What that face says of it: its plaintext, or the code of the refusal.
async fn open(stage: &Stage, face: usize, blobs: &[String]) -> Value {
    let (status, said) =
        stage.aliyun(&format!("aliyun-{face}")).call("Decrypt", &[("CiphertextBlob", &blobs[face])]).await;
    said[if status == 200 { "Plaintext" } else { "Code" }].clone()
}

fn listeners(keys: &[String]) -> String {
    let mut text = String::new();
    for socket in 0..4 {
        let (alias, key) = (["alias/kmsproxy-dev", "alias/second"][socket / 2], &keys[socket / 2]);
        text += &format!(
            r#"
[[listener]]
name = "k8s-{socket}"
face = "kubernetes"
address = "unix:RUN/k8s-{socket}.sock"
upstream = "kms"
key = "{alias}"
[[caller]]
name = "k8s-{socket}"
listener = "k8s-{socket}"
allow = [{{ actions = ["Encrypt"], keys = ["{alias}"] }}, {{ actions = ["Decrypt"], keys = ["{key}"] }}]
"#
        );
    }
    for (face, key) in keys.iter().enumerate() {
        text += &format!(
            r#"
[[listener]]
name = "aliyun-{face}"
face = "aliyun"
address = "unix:RUN/aliyun-{face}.sock"
upstream = "kms"
[[caller]]
name = "aliyun-{face}"
listener = "aliyun-{face}"
access_key = {{ id = "LTAIlocal", secret_file = "DIR/secret" }}
allow = [{{ actions = ["Encrypt", "Decrypt"], keys = ["{key}"] }}]
"#
        );
    }
    text
}

const EACH: u64 = 50;
