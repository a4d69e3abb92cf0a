//! A scene whose configuration changes while it runs.

use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;

use super::client::plain;
use super::process::{BINARY, write_private};
use super::scene::{Scene, Setting, until};

/// With an admin socket.
pub(crate) const SETTING: Setting = Setting {
    lease: "30s",
    probe: "10s",
    retries: 0,
    timeout: "2s",
    upstream: "",
    audit: "[admin]\naddress = \"unix:DIR/admin.sock\"",
};

impl Scene {
    pub(crate) fn config_file(&self) -> PathBuf {
        self.proxy.dir.path().join("kmsproxy.toml")
    }

    pub(crate) fn config(&self) -> String {
        std::fs::read_to_string(self.config_file()).unwrap()
    }

    /// Writes another configuration, without a word to the daemon.
    pub(crate) fn write(&self, config: &str) {
        let text = config.replace("DIR", self.proxy.dir.path().to_str().unwrap());
        write_private(&self.config_file(), &text);
    }

    /// Writes `to` in the place of `from`.
    pub(crate) fn rewrite(&self, from: &str, to: &str) {
        let config = self.config();
        assert!(config.contains(from), "{from}");
        self.write(&config.replace(from, to));
    }

    pub(crate) fn admin_socket(&self) -> PathBuf {
        self.proxy.dir.path().join("admin.sock")
    }

    /// Has the daemon reload; status and verdict.
    pub(crate) async fn reload(&self) -> (u16, Value) {
        plain(&self.admin_socket(), "POST", "/reload", "").await
    }

    /// Has it reload what must be right; what has changed.
    pub(crate) async fn reloaded(&self) -> Vec<String> {
        let (status, verdict) = self.reload().await;
        assert_eq!((status, verdict["outcome"].as_str()), (200, Some("reloaded")), "{verdict}");
        verdict["changes"].as_array().unwrap().iter().map(|line| line.as_str().unwrap().to_owned()).collect()
    }

    /// Sees that everything of `kept` is unwrapped again, after `before` Decrypts, without being asked for.
    pub(crate) async fn is_warm(&self, kept: &[(String, String)], before: u64) {
        let all = before + kept.len() as u64;
        until("it is warm", async || (self.counted("Decrypt", "ok").await >= all).then_some(())).await;
        for (blob, plaintext) in kept {
            let (status, body) = self.tls.call("Decrypt", &[("CiphertextBlob", blob)]).await;
            assert_eq!((status, &body["Plaintext"]), (200, &plaintext.as_str().into()), "{body}");
        }
        assert_eq!(self.counted("Decrypt", "ok").await, all, "from memory");
    }

    /// So many ciphertexts under the first key that the daemon has in its cache, and what is in them.
    pub(crate) async fn kept(&self, count: usize) -> Vec<(String, String)> {
        let mut kept = Vec::new();
        for (number, blob) in self.ciphertexts(&self.key(), count).await.into_iter().enumerate() {
            let plaintext = format!("REVL{number:04}");
            let (status, body) = self.tls.call("Decrypt", &[("CiphertextBlob", &blob)]).await;
            assert_eq!((status, &body["Plaintext"]), (200, &plaintext.as_str().into()), "{body}");
            kept.push((blob, plaintext));
        }
        kept
    }
}

/// Runs `kmsproxy` with `arguments` to its end.
pub(crate) fn kmsproxy(arguments: &[&str]) -> Output {
    Command::new(BINARY).args(arguments).output().unwrap()
}
