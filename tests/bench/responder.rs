//! A KMS that keeps nothing: its ciphertexts are the plaintexts. It speaks HTTP/1.1 on a unix socket, and in a manner of
//! its own.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tempfile::TempDir;

/// How it answers Decrypts.
#[derive(Clone, Copy)]
pub(crate) enum Manner {
    Honest,
    /// With one wrong bit, from some call on.
    Lies {
        after: u64,
    },
    /// All callers wait, after every so many calls.
    Stalls {
        every: u64,
        pause: Duration,
    },
}

pub(crate) struct Responder {
    dir: TempDir,
    calls: Arc<AtomicU64>,
}

impl Responder {
    pub(crate) fn start(manner: Manner) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("kms.sock")).unwrap();
        let (calls, turn) = (Arc::new(AtomicU64::new(0)), Arc::new(Mutex::new(())));
        let counted = Arc::clone(&calls);
        // It ends with the process of the test.
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (calls, turn) = (Arc::clone(&counted), Arc::clone(&turn));
                std::thread::spawn(move || converse(stream, manner, &calls, &turn));
            }
        });
        Self { dir, calls }
    }

    pub(crate) fn address(&self) -> String {
        format!("unix:{}", self.dir.path().join("kms.sock").display())
    }

    pub(crate) fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }
}

fn converse(stream: UnixStream, manner: Manner, calls: &AtomicU64, turn: &Mutex<()>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut stream = stream;
    while let Some((action, form)) = read(&mut reader) {
        let call = calls.fetch_add(1, Ordering::Relaxed) + 1;
        let parameter = |name: &str| {
            let value = form.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
            percent_encoding::percent_decode_str(value.unwrap()).decode_utf8().unwrap().into_owned()
        };
        let mut body = if action == "Encrypt" {
            let text = parameter("Plaintext");
            format!(r#"{{"KeyId":"k","KeyVersionId":"v","CiphertextBlob":"{text}","RequestId":"r"}}"#)
        } else {
            let text = parameter("CiphertextBlob");
            format!(r#"{{"KeyId":"k","KeyVersionId":"v","Plaintext":"{text}","RequestId":"r"}}"#)
        };
        let waiting = turn.lock().unwrap();
        match manner {
            Manner::Lies { after } if call > after && action == "Decrypt" => {
                // The last bit of 32 bytes that end in A5.
                body = body.replacen("paU=", "paQ=", 1);
            }
            Manner::Stalls { every, pause } if call.is_multiple_of(every) => std::thread::sleep(pause),
            Manner::Honest | Manner::Lies { .. } | Manner::Stalls { .. } => {}
        }
        drop(waiting);
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
        if stream.write_all((head + &body).as_bytes()).is_err() {
            return;
        }
    }
}

/// Action and form of the next request.
fn read(reader: &mut BufReader<UnixStream>) -> Option<(String, String)> {
    let (mut action, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        match line.trim_end().split_once(": ") {
            Some(("x-acs-action", value)) => action = value.to_owned(),
            Some(("content-length", value)) => length = value.parse().unwrap(),
            Some(_) => {}
            None if line.trim_end().is_empty() => break,
            None => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some((action, String::from_utf8(body).unwrap()))
}
