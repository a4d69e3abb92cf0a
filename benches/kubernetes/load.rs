//! The client's loads: closed loop, open loop, and what another client does meanwhile.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::poll::ppoll;
use nix::sys::time::TimeSpec;

use crate::echo::PLAINTEXT;
use crate::line::Line;
use crate::wire::{DecryptRequest, DecryptResponse, EncryptRequest, EncryptResponse, framed, unframed};

#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) name: &'static str,
    pub(crate) socket: PathBuf,
    pub(crate) deks: Deks,
}

impl Target {
    /// Asks ten times a second until the first DEK is served, or is refused.
    pub(crate) fn await_answers(&self, served: bool) {
        let mut line = Line::open(&self.socket);
        loop {
            line.begin(DECRYPT, &self.deks.at(0).0, ());
            let mut got = None;
            drain(&mut line, |(), message| got = Some(message.is_some()));
            if got == Some(served) {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// Requests, each with the plaintext that must come back.
#[derive(Clone)]
pub(crate) struct Deks(Arc<[(Vec<u8>, [u8; 32])]>);

impl Deks {
    /// Encrypts `count` DEKs and reads each of them once.
    pub(crate) fn encrypt(socket: &Path, count: usize) -> Self {
        let mut line = Line::open(socket);
        let mut deks = Vec::new();
        while deks.len() < count {
            let wave = deks.len()..count.min(deks.len() + WAVE);
            for index in wave.clone() {
                line.begin(ENCRYPT, &encrypt(&plaintext(index)), index);
            }
            let mut sealed = Vec::new();
            drain(&mut line, |index, message| {
                let EncryptResponse { cipher } = unframed(&message.expect("a ciphertext"));
                let request = DecryptRequest { version: "v1beta1".to_owned(), cipher };
                sealed.push((index, framed(&request)));
            });
            sealed.sort_unstable();
            deks.extend(sealed.into_iter().map(|(index, request)| (request, plaintext(index))));
            for index in wave {
                line.begin(DECRYPT, &deks[index].0, index);
            }
            drain(&mut line, |index, message| check(message, &deks[index].1));
        }
        Self(deks.into())
    }

    /// The same requests for who answers a constant.
    pub(crate) fn echoed(&self) -> Self {
        Self(self.0.iter().map(|(request, _)| (request.clone(), PLAINTEXT)).collect())
    }

    fn at(&self, index: usize) -> &(Vec<u8>, [u8; 32]) {
        // A step that is prime to most counts: not the order in which they were made.
        &self.0[index.wrapping_mul(7919) % self.0.len()]
    }
}

/// How long each call took, and all of them together.
pub(crate) struct Measured {
    times: Vec<Duration>,
    took: Duration,
}

impl Measured {
    pub(crate) fn count(&self) -> f64 {
        self.times.len() as f64
    }

    pub(crate) fn per_second(&self) -> f64 {
        self.count() / self.took.as_secs_f64()
    }

    /// In microseconds.
    pub(crate) fn percentile(&self, share: f64) -> f64 {
        let mut times = self.times.clone();
        times.sort_unstable();
        let at = ((times.len() - 1) as f64 * share) as usize;
        times[at].as_secs_f64() * 1e6
    }
}

/// Closed loop: `streams` calls at a time on each of `connections`, the next when one is answered. Each connection has a
/// thread, which sleeps while it waits.
pub(crate) fn closed(target: &Target, connections: usize, streams: usize, span: Duration) -> Measured {
    let begun = Instant::now();
    let call = |connection: usize| {
        let mut line = Line::open(&target.socket);
        let (mut times, mut next) = (Vec::new(), connection * 1_000_003);
        loop {
            let goes_on = begun.elapsed() < span;
            while goes_on && line.under_way() < streams && line.has_room(BODY_MAX) {
                let (request, plain) = target.deks.at(next);
                line.begin(DECRYPT, request, (Instant::now(), plain));
                next += 1;
            }
            if line.under_way() == 0 {
                return times;
            }
            line.flush();
            line.listen(|(sent, plain), message| {
                times.push(sent.elapsed());
                check(message, plain);
            });
        }
    };
    let times = std::thread::scope(|scope| {
        let callers: Vec<_> = (0..connections).map(|connection| scope.spawn(move || call(connection))).collect();
        callers.into_iter().flat_map(|caller| caller.join().unwrap()).collect()
    });
    Measured { times, took: begun.elapsed() }
}

/// What is asked in open loop.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ask {
    /// DEKs that are cached.
    Hits,
    /// Encrypts: each is a call of the KMS.
    Writes,
}

/// Open loop: a call leaves when the schedule says, whatever became of those before; time counts from the schedule. One
/// thread, which sleeps only where there is time for that.
pub(crate) fn open(target: &Target, ask: Ask, per_second: f64, span: Duration) -> Measured {
    let mut lines = lines(&target.socket);
    let (start, mut times, mut sent) = (Instant::now(), Vec::new(), 0);
    let write = encrypt(&[0x77; 32]);
    loop {
        let elapsed = start.elapsed();
        let due = (elapsed.min(span).as_secs_f64() * per_second) as usize + 1;
        for line in &mut lines {
            while sent < due && line.has_room(BODY_MAX) {
                let planned = start + Duration::from_secs_f64(sent as f64 / per_second);
                match ask {
                    Ask::Hits => {
                        let (request, plain) = target.deks.at(sent);
                        line.begin(DECRYPT, request, (planned, Some(plain)));
                    }
                    Ask::Writes => line.begin(ENCRYPT, &write, (planned, None)),
                }
                sent += 1;
                // The next call takes the next line.
                if sent % 2 == 0 {
                    break;
                }
            }
            line.flush();
            line.listen(|(planned, plain): (Instant, Option<&[u8; 32]>), message| {
                times.push(planned.elapsed());
                match plain {
                    Some(plain) => check(message, plain),
                    None => assert!(message.is_some(), "an Encrypt was refused"),
                }
            });
        }
        if elapsed >= span && sent >= due && lines.iter().all(|line| line.under_way() == 0) {
            return Measured { times, took: start.elapsed() };
        }
        let next = start + Duration::from_secs_f64(sent as f64 / per_second);
        let spare = next.saturating_duration_since(Instant::now()).saturating_sub(WAKING);
        if !spare.is_zero() {
            let mut awaited = lines.each_ref().map(Line::awaited);
            ppoll(&mut awaited, Some(TimeSpec::from(spare)), None).unwrap();
        }
    }
}

/// What another provider's client does meanwhile.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flood {
    /// As many Encrypts as are answered, 256 at a time.
    Writes,
    /// 2,000 Decrypts a second, whatever they are answered.
    Reads,
}

/// Floods until told to stop; returns how many calls were answered with a message, and how many with a refusal.
pub(crate) fn flood(target: &Target, flood: Flood, stop: &AtomicBool) -> (u64, u64) {
    // It shall cost the daemon, and not the client that is measured beside it.
    rustix::process::nice(10).unwrap();
    let mut lines = lines(&target.socket);
    let (start, mut sent, mut answered, mut refused) = (Instant::now(), 0, 0, 0);
    let write = encrypt(&[0x33; 32]);
    while !stop.load(Ordering::Relaxed) {
        for line in &mut lines {
            let due = (start.elapsed().as_secs_f64() * 2000.0) as usize;
            while match flood {
                Flood::Writes => line.under_way() < 64 && line.has_room(BODY_MAX),
                Flood::Reads => sent < due && line.has_room(BODY_MAX),
            } {
                let (path, body) = match flood {
                    Flood::Writes => (ENCRYPT, &write),
                    Flood::Reads => (DECRYPT, &target.deks.at(sent).0),
                };
                line.begin(path, body, ());
                sent += 1;
            }
            line.flush();
            line.listen(|(), message| if message.is_some() { answered += 1 } else { refused += 1 });
        }
        std::thread::sleep(Duration::from_micros(500));
    }
    (answered, refused)
}

fn lines<T>(socket: &Path) -> [Line<T>; 4] {
    std::array::from_fn(|_| {
        let mut line = Line::open(socket);
        line.waits(false);
        line
    })
}

fn drain<T>(line: &mut Line<T>, mut ended: impl FnMut(T, Option<Vec<u8>>)) {
    line.flush();
    while line.under_way() > 0 {
        line.listen(&mut ended);
        line.flush();
    }
}

fn plaintext(index: usize) -> [u8; 32] {
    let mut plain = [0xA5; 32];
    plain[..8].copy_from_slice(&(index as u64).to_be_bytes());
    plain
}

fn encrypt(plain: &[u8; 32]) -> Vec<u8> {
    framed(&EncryptRequest { version: "v1beta1".to_owned(), plain: plain.to_vec() })
}

fn check(message: Option<Vec<u8>>, plain: &[u8; 32]) {
    let DecryptResponse { plain: came } = unframed(&message.expect("a plaintext, not a refusal"));
    assert_eq!(came, plain, "a wrong plaintext");
}

const DECRYPT: &str = "/v1beta1.KeyManagementService/Decrypt";
const ENCRYPT: &str = "/v1beta1.KeyManagementService/Encrypt";
/// Calls at a time while DEKs are made.
const WAVE: usize = 64;
/// How late the kernel may wake who sleeps.
const WAKING: Duration = Duration::from_micros(200);
/// Bytes of the longest request here.
const BODY_MAX: usize = 512;
