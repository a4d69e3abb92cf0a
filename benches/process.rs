//! kmsproxy and its embedded KMS, each a process of its own. Shared by the benchmarks.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

/// Ends its process when dropped.
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `command`, which has an embedded KMS, and what it says of itself. The niceness is that of `nice`.
pub(crate) fn embedded(command: &str, dir: &Path, niceness: &str) -> (Running, Value) {
    let state = dir.join("state");
    let state = state.to_str().unwrap();
    start(niceness, &[command, "--json", "--listen", "127.0.0.1:0", "--log", "warn", "--state-dir", state])
}

/// `kmsproxy serve` with `config`. It does not log warnings: what is refused here is refused on purpose.
pub(crate) fn serve(dir: &Path, config: &str) -> Running {
    let path = dir.join("kmsproxy.toml");
    let mut options = std::fs::OpenOptions::new();
    let file = options.write(true).create_new(true).mode(0o600).open(&path);
    file.unwrap().write_all(config.as_bytes()).unwrap();
    start("0", &["serve", "--json", "--log", "error", "--config", path.to_str().unwrap()]).0
}

/// Asks the control socket of an embedded KMS.
pub(crate) fn steer(emulator: &Value, method: &str, path: &str, body: &str) -> Value {
    let socket = text(emulator, "control_address").strip_prefix("unix:").unwrap();
    ask(Path::new(socket), method, path, body)
}

/// Asks a control socket of either sort.
pub(crate) fn ask(socket: &Path, method: &str, path: &str, body: &str) -> Value {
    let mut stream = UnixStream::connect(socket).unwrap();
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
