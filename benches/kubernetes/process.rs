//! The servers, each a process of its own.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

/// Ends its process when dropped.
pub(crate) struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A provider of its own process.
pub(crate) struct Server {
    running: Running,
    pub(crate) socket: PathBuf,
}

impl Server {
    /// What its threads have used of the processors so far.
    pub(crate) fn cpu_micros(&self) -> f64 {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.running.0.id())).unwrap();
        let nanos = |thread: std::fs::DirEntry| {
            // A thread may just have ended.
            let stat = std::fs::read_to_string(thread.path().join("schedstat")).unwrap_or_default();
            stat.split(' ').next().and_then(|nanos| nanos.parse::<f64>().ok()).unwrap_or(0.0)
        };
        threads.map(|thread| nanos(thread.unwrap())).sum::<f64>() / 1000.0
    }
}

/// kmsproxy in front of the embedded KMS, as it is shipped but for its log.
pub(crate) fn dev(dir: &Path) -> Server {
    let (running, ready) = embedded("dev", dir, "0");
    Server { running, socket: text(&ready, "kubernetes_socket").into() }
}

/// The KMS alone; and what it says of itself. A real one is on another machine: this one has what processor time the
/// others leave.
pub(crate) fn emulator(dir: &Path) -> (Running, Value) {
    embedded("emulator", dir, "19")
}

/// `kmsproxy serve` with `config`, and the file `secret` beside it.
pub(crate) fn serve(dir: &Path, config: &str) -> Running {
    let path = dir.join("kmsproxy.toml");
    write(&path, config);
    write(&dir.join("secret"), "localsecret");
    start("0", &["serve", "--json", "--log", "warn", "--config", path.to_str().unwrap()]).0
}

/// The yardstick.
pub(crate) fn echo(dir: &Path) -> Server {
    let socket = dir.join("echo.sock");
    let child = Command::new(std::env::current_exe().unwrap()).arg("--echo").arg(&socket).spawn().unwrap();
    let running = Running(child);
    while UnixStream::connect(&socket).is_err() {
        std::thread::sleep(Duration::from_millis(5));
    }
    Server { running, socket }
}

/// Asks the control socket of an embedded KMS.
pub(crate) fn steer(emulator: &Value, method: &str, path: &str, body: &str) -> Value {
    let mut stream = UnixStream::connect(text(emulator, "control_address").strip_prefix("unix:").unwrap()).unwrap();
    let length = body.len();
    let head =
        format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
    stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 "), "{method} {path}: {answer}");
    serde_json::from_str(body).unwrap()
}

/// A member of what a server said.
pub(crate) fn text<'a>(ready: &'a Value, name: &str) -> &'a str {
    ready[name].as_str().unwrap_or_else(|| panic!("{name} in {ready}"))
}

fn embedded(command: &str, dir: &Path, niceness: &str) -> (Running, Value) {
    let state = dir.join("state");
    let state = state.to_str().unwrap();
    start(niceness, &[command, "--json", "--listen", "127.0.0.1:0", "--log", "warn", "--state-dir", state])
}

fn start(niceness: &str, arguments: &[&str]) -> (Running, Value) {
    let mut child = Command::new("nice")
        .args(["-n", niceness, env!("CARGO_BIN_EXE_kmsproxy")])
        .args(arguments)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let ready = serde_json::from_str(&line).unwrap();
    (Running(child), ready)
}

fn write(path: &Path, text: &str) {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true).mode(0o600).open(path).unwrap().write_all(text.as_bytes()).unwrap();
}
