//! Every secret that a test has used is a canary: none of them may be in anything that a daemon has said or written by the
//! time that it ends, at the most talkative level.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use memchr::memmem;

/// Plaintexts that were sent or received by any test of this process, as they are written in a call.
static PLAINTEXTS: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// A plaintext is used from now on, in base64.
#[allow(dead_code, reason = "some tests have callers of their own")]
pub(crate) fn learn(plaintext: &str) {
    let mut known = PLAINTEXTS.lock().unwrap_or_else(PoisonError::into_inner);
    if known.len() < PLAINTEXTS_MAX && plaintext.len() >= BYTES_MIN {
        known.insert(plaintext.to_owned());
    }
}

/// Fails where a file in `dir` that was not given to the daemon holds a secret.
pub(crate) fn look_for(dir: &Path) {
    let (given, written): (Vec<_>, Vec<_>) = files(dir).into_iter().partition(|path| is_given(path));
    let mut canaries: BTreeSet<Vec<u8>> = BTreeSet::new();
    for path in given.iter().filter(|path| named(path).contains("secret")) {
        canaries.insert(std::fs::read(path).unwrap_or_default().trim_ascii().to_vec());
    }
    for plaintext in &*PLAINTEXTS.lock().unwrap_or_else(PoisonError::into_inner) {
        canaries.extend(STANDARD.decode(plaintext).ok());
        canaries.insert(plaintext.as_bytes().to_vec());
    }
    canaries.retain(|canary| canary.len() >= BYTES_MIN);
    for path in written {
        let bytes = std::fs::read(&path).unwrap_or_default();
        for canary in &canaries {
            let found = memmem::find(&bytes, canary).map(|at| excerpt(&bytes, at));
            assert_eq!(found, None, "{} is in {}", canary.escape_ascii(), path.display());
        }
    }
}

/// What the daemon was given, or the embedded KMS keeps for itself.
fn is_given(path: &Path) -> bool {
    let name = named(path);
    name.contains("secret") || name.ends_with(".key") || path.parent().is_some_and(|parent| parent.ends_with("kms"))
}

fn named(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let (mut files, mut left) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(dir) = left.pop() {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            // A link may lead anywhere.
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => left.push(entry.path()),
                Ok(kind) if kind.is_file() => files.push(entry.path()),
                Ok(_) | Err(_) => {}
            }
        }
    }
    files
}

fn excerpt(bytes: &[u8], at: usize) -> String {
    bytes[at.saturating_sub(160)..(at + 80).min(bytes.len())].escape_ascii().to_string()
}

/// Shorter ones are found by chance.
const BYTES_MIN: usize = 8;
/// More of them say nothing more, and each is looked for in every log.
const PLAINTEXTS_MAX: usize = 32;
