//! Starting the real binary, and stopping it.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

#[path = "canary.rs"]
pub(crate) mod canary;

/// A running `kmsproxy`, killed when dropped; what it has written until then holds no secret.
pub(crate) struct Daemon {
    child: Child,
    /// The line that it printed when it was ready.
    pub(crate) ready: Value,
    /// Its directory.
    pub(crate) dir: TempDir,
}

impl Daemon {
    /// `kmsproxy dev` on a port of its own.
    pub(crate) fn dev(arguments: &[&str]) -> Self {
        Self::embedded("dev", arguments)
    }

    /// `kmsproxy emulator` on a port of its own.
    pub(crate) fn emulator(arguments: &[&str]) -> Self {
        Self::embedded("emulator", arguments)
    }

    fn embedded(command: &str, arguments: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        Self::embedded_in(dir, command, &state, arguments)
    }

    /// `kmsproxy dev` on a state directory that outlives it.
    pub(crate) fn dev_on(state: &Path, arguments: &[&str]) -> Self {
        Self::embedded_in(tempfile::tempdir().unwrap(), "dev", state, arguments)
    }

    fn embedded_in(dir: TempDir, command: &str, state: &Path, arguments: &[&str]) -> Self {
        let mut all = vec![command, "--state-dir", state.to_str().unwrap(), "--listen", "127.0.0.1:0", "--json"];
        all.extend(arguments);
        Self::start(dir, invocation(&[], &all))
    }

    /// `kmsproxy emulator` on a state directory that outlives it, started by `prefix`.
    #[allow(dead_code, reason = "few tests need it")]
    pub(crate) fn emulator_on(prefix: &[&str], state: &Path, arguments: &[&str]) -> Self {
        let all = ["emulator", "--state-dir", state.to_str().unwrap(), "--listen", "127.0.0.1:0", "--json"];
        Self::start(tempfile::tempdir().unwrap(), invocation(prefix, &[&all, arguments].concat()))
    }

    /// `kmsproxy serve` with `config`, in which `DIR` stands for a directory of its own.
    pub(crate) fn serve(config: &str, files: &[(&str, &str)]) -> Self {
        Self::serve_by(&[], config, files)
    }

    /// The same, started by `prefix`: a program that becomes the one whose command line follows its own words, such as
    /// `prlimit --nofile=256`.
    pub(crate) fn serve_by(prefix: &[&str], config: &str, files: &[(&str, &str)]) -> Self {
        Self::serve_as(config, files, |path| {
            invocation(prefix, &["serve", "--config", path.to_str().unwrap(), "--json"])
        })
    }

    /// The same by a command of the test's own, which is given the path of the configuration.
    pub(crate) fn serve_as(config: &str, files: &[(&str, &str)], command: impl FnOnce(&Path) -> Command) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            write_private(&dir.path().join(name), text);
        }
        let path = dir.path().join("kmsproxy.toml");
        write_private(&path, &config.replace("DIR", dir.path().to_str().unwrap()));
        Self::start(dir, command(&path))
    }

    fn start(dir: TempDir, mut command: Command) -> Self {
        let log = std::fs::File::create(dir.path().join("log")).unwrap();
        let mut child = command
            .env("KMSPROXY_LOG", "trace")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        // Whatever runs it may have a word to say before.
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let line = lines.find(|line| line.starts_with('{')).unwrap_or_default();
        let ready = serde_json::from_str(&line).unwrap_or_else(|error| {
            let log = std::fs::read_to_string(dir.path().join("log")).unwrap();
            panic!("not ready ({error}): {line}\n{log}")
        });
        Self { child, ready, dir }
    }

    /// One member of the ready line.
    pub(crate) fn at(&self, name: &str) -> &str {
        self.ready[name].as_str().unwrap_or_else(|| panic!("{name} in {}", self.ready))
    }

    /// Where its control socket is.
    pub(crate) fn control(&self) -> PathBuf {
        self.at("control_address").strip_prefix("unix:").unwrap().into()
    }

    /// All that it has logged.
    #[allow(dead_code, reason = "not every test that starts a daemon reads its log")]
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap()
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal, such as `-TERM`.
    pub(crate) fn signal(&self, signal: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<std::process::ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Asks it to stop, and returns how it ended.
    pub(crate) fn stop(mut self, signal: &str) -> std::process::ExitStatus {
        self.signal(signal);
        self.child.wait().unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if !std::thread::panicking() {
            canary::look_for(self.dir.path());
        }
    }
}

/// The daemon as it is shipped.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_kmsproxy");

fn invocation(prefix: &[&str], arguments: &[&str]) -> Command {
    let words = [prefix, &[BINARY], arguments].concat();
    let mut command = Command::new(words[0]);
    command.args(&words[1..]);
    command
}

/// A file that only its owner can read.
pub(crate) fn write_private(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}
