//! The program of Kubernetes' own packages beside this file: built, started, told what to do.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::OnceLock;

use serde_json::{Value, json};
use tempfile::TempDir;

/// Which kube-apiserver: they differ in the `:authority` that they send to a v2 provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Era {
    /// Up to 1.31: the socket's path, as every version sends it to a v1 provider.
    Kube1_31,
    /// Since 1.32: `localhost`.
    Latest,
}

/// A running one, killed when dropped. It keeps its connections, and nothing of it outlives it.
pub(crate) struct Apiserver {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
    dir: TempDir,
}

/// What one order brought.
#[derive(Debug)]
pub(crate) struct Outcome {
    order: String,
    answer: Value,
}

impl Era {
    /// A new process; `None`, with a line that says so, where Go is not installed.
    pub(crate) fn start(self) -> Option<Apiserver> {
        let program = self.program()?;
        let dir = tempfile::tempdir().unwrap();
        let mut child = Command::new(program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(dir.path().join("log")).unwrap())
            .spawn()
            .unwrap();
        let (orders, answers) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Some(Apiserver { child, orders, answers, dir })
    }

    /// Built once; Go knows what of it is still good.
    fn program(self) -> Option<&'static Path> {
        static BUILT: [OnceLock<Option<PathBuf>>; 2] = [const { OnceLock::new() }; 2];
        let (place, name, modules) = match self {
            Self::Kube1_31 => (0, "kube-1.31", "kube-1.31.mod"),
            Self::Latest => (1, "kube-latest", "go.mod"),
        };
        BUILT[place].get_or_init(|| super::go::build("kubernetes", modules, name)).as_deref()
    }
}

impl Apiserver {
    /// One order, and what came of it.
    pub(crate) fn order(&mut self, order: &Value) -> Outcome {
        writeln!(self.orders, "{order}").unwrap();
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        let answer = serde_json::from_str(&line).unwrap_or_else(|error| {
            let log = std::fs::read_to_string(self.dir.path().join("log")).unwrap();
            panic!("no answer to {order} ({error}): {line}\n{log}")
        });
        let mut order = order.to_string();
        order.truncate(400);
        Outcome { order, answer }
    }

    /// Reads an EncryptionConfiguration with one provider for each `(resource, version, socket)`, as kube-apiserver
    /// does when it starts.
    pub(crate) fn load(&mut self, providers: &[(&str, &str, &Path)]) {
        let resources: Vec<_> = providers
            .iter()
            .map(|(resource, version, socket)| {
                let endpoint = format!("unix://{}", socket.display());
                let name = resource.replace('.', "-");
                let kms = json!({ "apiVersion": version, "name": name, "endpoint": endpoint, "timeout": "3s" });
                json!({ "resources": [resource], "providers": [{ "kms": kms }] })
            })
            .collect();
        let config = json!({
            "apiVersion": "apiserver.config.k8s.io/v1",
            "kind": "EncryptionConfiguration",
            "resources": resources,
        });
        let path = self.dir.path().join("encryption.yaml");
        std::fs::write(&path, config.to_string()).unwrap();
        self.order(&json!({ "do": "load", "config": path })).ok();
    }

    /// What its health checks complain of.
    pub(crate) fn complaints(&mut self) -> Value {
        self.order(&json!({ "do": "health" })).ok()
    }

    /// Writes so many more objects to the file that stands for etcd.
    pub(crate) fn write(&mut self, resource: &str, etcd: &Path, count: u64) -> Outcome {
        self.order(&json!({ "do": "write", "resource": resource, "etcd": etcd, "count": count, "workers": 8 }))
    }

    /// Reads all of them and compares each with what was written.
    pub(crate) fn read(&mut self, resource: &str, etcd: &Path) -> Value {
        self.order(&json!({ "do": "read", "resource": resource, "etcd": etcd, "workers": 8 })).ok()
    }

    /// Opens one of its gRPC clients alone, with kube-apiserver's default timeout.
    pub(crate) fn open(&mut self, name: &str, version: &str, socket: &Path) {
        let endpoint = format!("unix://{}", socket.display());
        let order = json!({ "do": "open", "name": name, "api": version, "endpoint": endpoint, "timeout": "3s" });
        self.order(&order).ok();
    }

    pub(crate) fn status(&mut self, name: &str) -> Outcome {
        self.statuses(name, 1)
    }

    /// So many times; more than one answer is an error.
    pub(crate) fn statuses(&mut self, name: &str, count: u64) -> Outcome {
        self.order(&json!({ "do": "status", "name": name, "count": count }))
    }

    /// The `key_id` that Status shows.
    pub(crate) fn key_id(&mut self, name: &str) -> String {
        self.status(name).ok()["key_id"].as_str().unwrap().to_owned()
    }

    /// `plaintext` is base64, as are the bytes of what comes back.
    pub(crate) fn encrypt(&mut self, name: &str, plaintext: &str) -> Outcome {
        self.order(&json!({ "do": "encrypt", "name": name, "plaintext": plaintext, "uid": "a-uid" }))
    }

    /// Decrypts what `encrypt` brought, or what was made of that.
    pub(crate) fn decrypt(&mut self, name: &str, encrypted: &Value) -> Outcome {
        let mut order = encrypted.clone();
        order["do"] = json!("decrypt");
        order["name"] = json!(name);
        order["uid"] = json!("a-uid");
        self.order(&order)
    }

    /// Reads a manifest of a Pod.
    pub(crate) fn pod(&mut self, path: &Path) -> Outcome {
        self.order(&json!({ "do": "pod", "path": path }))
    }
}

impl Drop for Apiserver {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Outcome {
    /// What it brought; panics where it failed.
    pub(crate) fn ok(&self) -> Value {
        assert!(self.answer["code"].is_null(), "{}: {}", self.order, self.answer);
        self.answer["ok"].clone()
    }

    /// The gRPC code that it failed with, `None` where it did not fail.
    pub(crate) fn code(&self) -> Option<&str> {
        self.answer["code"].as_str()
    }

    pub(crate) fn message(&self) -> &str {
        self.answer["message"].as_str().unwrap_or_default()
    }

    pub(crate) fn millis(&self) -> f64 {
        self.answer["millis"].as_f64().unwrap()
    }
}
