//! kmsproxy in front of a KMS with as many keys as there are trials.

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

use crate::dek::{Dek, Line};
use crate::process::{self, Running, text};

pub(crate) struct Scene {
    pub(crate) deks: Vec<Dek>,
    /// The client's. One thread: the machine is for the servers.
    pub(crate) runtime: Runtime,
    kms: Value,
    // In the order in which they are to end.
    _daemon: Running,
    _kms: Running,
    dir: TempDir,
}

/// An instant at the KMS, from outside: it lies between the two.
#[derive(Clone, Copy)]
pub(crate) struct Began {
    /// When it was told.
    pub(crate) told: Instant,
    /// When it had answered.
    pub(crate) answered: Instant,
}

impl Scene {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Not of lower priority than the daemon: how long its answers take is part of what is measured.
        let (kms_runs, kms) = process::embedded("emulator", dir.path(), "0");
        let mut keys = vec![text(&kms, "key_id").to_owned()];
        keys.extend((1..TRIALS).map(|_| text(&process::steer(&kms, "POST", "/keys", ""), "key_id").to_owned()));
        let daemon = process::serve(dir.path(), &config(&kms, dir.path()));
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let deks = runtime.block_on(async {
            let mut line = Line::open(&dir.path().join(SOCKET)).await;
            let mut deks = Vec::new();
            for key in &keys {
                deks.push(Dek::encrypt(&mut line, key).await);
            }
            deks
        });
        Self { deks, runtime, kms, _daemon: daemon, _kms: kms_runs, dir }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join(SOCKET)
    }

    pub(crate) fn disable(&self, dek: &Dek) -> Began {
        self.began("POST", &format!("/keys/{}/disable", dek.key), "")
    }

    pub(crate) fn enable_all(&self) {
        for dek in &self.deks {
            process::steer(&self.kms, "POST", &format!("/keys/{}/enable", dek.key), "");
        }
    }

    /// From here on the KMS takes every question and answers none.
    pub(crate) fn silence(&self) -> Began {
        self.began("PUT", "/behaviour", r#"{"stall": true}"#)
    }

    /// The keys by whose leases the daemon serves, and nothing of the others.
    pub(crate) fn serving(&self) -> Vec<String> {
        let status = process::ask(&self.dir.path().join(ADMIN), "GET", "/status", "");
        let keys = status["upstreams"][0]["keys"].as_array().unwrap().iter();
        let serving = keys.filter(|key| ["serving", "serving_by_grace"].contains(&text(key, "lease")));
        serving.map(|key| text(key, "key").to_owned()).collect()
    }

    fn began(&self, method: &str, path: &str, body: &str) -> Began {
        let told = Instant::now();
        process::steer(&self.kms, method, path, body);
        Began { told, answered: Instant::now() }
    }
}

/// Nothing in it shortens or lengthens what is measured: leases, probes, timeouts and retries are as they are shipped.
fn config(kms: &Value, dir: &Path) -> String {
    format!(
        r#"
[upstream.kms]
kind = "aliyun"
endpoint = "https://{address}"
ca_file = "{ca}"
credentials = {{ source = "file", id = "{id}", secret_file = "{secret}" }}
[[listener]]
name = "plugin"
face = "aliyun"
address = "unix:{dir}/{SOCKET}"
upstream = "kms"
[[caller]]
name = "plugin"
listener = "plugin"
allow = [{{ actions = ["Encrypt", "Decrypt"], keys = ["*"] }}]
[admin]
address = "unix:{dir}/{ADMIN}"
"#,
        address = text(kms, "address"),
        ca = text(kms, "ca_file"),
        id = text(kms, "access_key_id"),
        secret = text(kms, "secret_file"),
        dir = dir.display(),
    )
}

/// As many keys as the embedded KMS has room for.
const TRIALS: usize = 200;
const SOCKET: &str = "plugin.sock";
const ADMIN: &str = "admin.sock";
