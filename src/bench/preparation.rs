//! Making DEKs that a target can decrypt: by handing them in, as its clients do.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::deks::{Deks, PLAIN_BYTES, plaintext};
use super::endpoint::Endpoint;
use super::line::{Line, Reply};
use super::progress::Progress;
use super::speech::{Speech, Terms, wrapped};
use crate::clock::{Clock as _, System};

/// What is to be handed in.
pub(super) struct Preparation<'a> {
    pub(super) terms: &'a Terms,
    pub(super) endpoint: &'a Arc<Endpoint>,
    /// Makes the plaintexts of this run its own.
    pub(super) run: u64,
    /// The number of the first one.
    pub(super) first: u64,
    pub(super) count: usize,
    /// For how long, at most.
    pub(super) limit: Duration,
    pub(super) progress: &'a Progress,
    pub(super) interrupted: &'a AtomicBool,
}

struct Handed {
    index: usize,
    tries: u32,
}

impl Preparation<'_> {
    /// Encrypts all; each is tried a few times.
    ///
    /// # Errors
    /// What stands in the way.
    pub(super) fn run(&self) -> Result<Deks, String> {
        let (start, mut speech) = (System.now(), Speech::new(self.terms));
        let mut lines = self.lines()?;
        let mut wires: Vec<Vec<u8>> = vec![Vec::new(); self.count];
        let (mut next, mut done, mut again) = (0, 0, Vec::new());
        self.progress.begin("encrypting");
        while done < self.count {
            let mut moved = false;
            let mut trouble: Option<Cow<'static, str>> = None;
            for line in &mut lines {
                while line.has_room() && line.under_way() < IN_FLIGHT {
                    let handed = match again.pop() {
                        Some(handed) => handed,
                        None if next < self.count => Handed { index: next, tries: 0 },
                        None => break,
                    };
                    next += usize::from(handed.tries == 0);
                    let request = speech.encrypt(&self.plain(handed.index));
                    line.begin(&request, handed).map_err(|(_, error)| self.unreached(&error))?;
                }
                let mut ended = |handed: Handed, reply: Reply<'_>| {
                    moved = true;
                    match wrapped(self.terms.face, &reply) {
                        Ok(wire) => {
                            wires[handed.index] = wire;
                            done += 1;
                        }
                        Err(_) if handed.tries < TRIES => again.push(Handed { tries: handed.tries + 1, ..handed }),
                        Err(class) => trouble = Some(class),
                    }
                };
                line.flush(&mut ended);
                line.listen(&mut ended);
            }
            let elapsed = System.now().since(start);
            if let Some(class) = trouble {
                return Err(format!("{}: Encrypt fails: {class}{}", self.endpoint, remedy(&class)));
            }
            if elapsed > self.limit || self.interrupted.load(Ordering::Relaxed) {
                return Err(format!("{}: {done} of {} Encrypts were answered in time", self.endpoint, self.count));
            }
            if !moved {
                std::thread::sleep(PAUSE);
                self.progress.made(done, self.count);
            }
        }
        let mut deks = Deks::default();
        (0..self.count).for_each(|index| deks.push(&wires[index], self.plain(index)));
        Ok(deks)
    }

    fn lines(&self) -> Result<Vec<Line<Handed>>, String> {
        let count = if self.terms.face.api().is_some() { 1 } else { self.count.clamp(1, LINES) };
        let lines: Result<_, _> = (0..count).map(|_| Line::open(self.terms.face, self.endpoint)).collect();
        lines.map_err(|error| self.unreached(&error))
    }

    fn plain(&self, index: usize) -> [u8; PLAIN_BYTES] {
        plaintext(self.run, self.first + index as u64)
    }

    fn unreached(&self, error: &std::io::Error) -> String {
        format!("{}: {error}", self.endpoint)
    }
}

/// What often helps.
fn remedy(class: &str) -> &'static str {
    match class {
        "MissingParameter" | "IncompleteSignature" | "InvalidAccessKeyId.NotFound" | "SignatureDoesNotMatch" => {
            "\n  remedy: give --credentials FILE, or another --face"
        }
        "Forbidden.KeyNotFound" | "Forbidden.NoPermission" | "Forbidden.AliasNotFound" | "PermissionDenied" => {
            "\n  remedy: give --key KEY, one that may Encrypt and Decrypt"
        }
        _ => "",
    }
}

const LINES: usize = 64;
const IN_FLIGHT: usize = 64;
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_micros(100);
