//! `kmsproxy top` on a real terminal, which is a pseudo-terminal of `script`.

use std::io::{Read as _, Write as _};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use super::admin::busy;
use super::process::Daemon;

/// A `kmsproxy top` on a terminal of 100 by 30, and what it writes there.
struct Top {
    script: Child,
    written: mpsc::Receiver<Vec<u8>>,
    seen: Vec<u8>,
}

impl Top {
    fn of(daemon: &Daemon) -> Self {
        let command = format!(
            "stty rows 30 cols 100; echo pid=$$.; exec {} top --socket {}",
            env!("CARGO_BIN_EXE_kmsproxy"),
            daemon.at("admin_socket")
        );
        let mut script = Command::new("script")
            .args(["--quiet", "--return", "--flush", "--command", &command, "/dev/null"])
            .env("TERM", "xterm")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut out = script.stdout.take().unwrap();
        let (write, written) = mpsc::channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = out.read(&mut buffer) {
                if write.send(buffer[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self { script, written, seen: Vec::new() }
    }

    /// Waits until `text` was written.
    fn shows(&mut self, text: &str) {
        // It draws once a second.
        for _ in 0..PIECES_MAX {
            if String::from_utf8_lossy(&self.seen).contains(text) {
                return;
            }
            match self.written.recv_timeout(Duration::from_secs(30)) {
                Ok(bytes) => self.seen.extend(bytes),
                Err(_) => break,
            }
        }
        panic!("no {text:?} in {}", String::from_utf8_lossy(&self.seen));
    }

    /// How it ended, once the terminal is as it was.
    fn ended(mut self) -> Option<i32> {
        self.shows("\u{1b}[?1049l");
        self.script.wait().unwrap().code()
    }
}

#[tokio::test]
async fn top_shows_a_daemon_and_leaves_the_terminal_as_it_was() {
    let (daemon, _client, _) = busy(3).await;
    let mut top = Top::of(&daemon);
    top.shows("\u{1b}[?1049h");
    top.shows("ready");
    top.shows(daemon.at("key_id"));
    top.script.stdin.as_mut().unwrap().write_all(b"q").unwrap();
    assert_eq!(top.ended(), Some(0));

    let mut top = Top::of(&daemon);
    top.shows(daemon.at("key_id"));
    let seen = String::from_utf8_lossy(&top.seen).into_owned();
    let id = seen.split_once("pid=").unwrap().1.split_once('.').unwrap().0.to_owned();
    assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    assert_eq!(top.ended(), Some(0));
}

#[test]
fn top_says_where_there_is_nobody_before_it_touches_the_terminal() {
    let output = Command::new(env!("CARGO_BIN_EXE_kmsproxy"))
        .args(["top", "--socket", "/nowhere/admin.sock"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(70));
    assert_eq!(output.stdout, b"");
    assert!(String::from_utf8(output.stderr).unwrap().contains("nothing listens there"));
}

const PIECES_MAX: usize = 100;
