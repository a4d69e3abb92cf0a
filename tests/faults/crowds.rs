//! More connections than the process has descriptors for, and connections that dawdle. What a single one may do is in
//! `tests/hostile/sockets.rs`, `tests/listener.rs` and, for HTTP/2, `tests/http2.rs`.

use std::io::{ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use super::scene::{MACHINE, Scene};
use super::traffic::{Traffic, once};
use super::vitals::{Vitals, Work};
use super::{LEASE, PROBE, SHORT, SLACK, emulator, have};

/// F14, as in the table: 256 descriptors, 2,000 connections that say nothing.
#[tokio::test]
async fn f14_without_descriptors_it_does_not_spin_serves_whom_it_has_and_takes_newcomers_when_there_is_room() {
    if !have("prlimit", &["--nofile=256:256", "true"]) {
        return;
    }
    let _alone = MACHINE.write().await;
    let mine = getrlimit(Resource::Nofile);
    let most = Some(mine.maximum.unwrap_or(20_000).min(20_000));
    setrlimit(Resource::Nofile, Rlimit { current: most, maximum: mine.maximum }).unwrap();
    let (overseer, emulator) = emulator();
    let address = emulator.at("address").to_owned();
    let scene = Scene::started_by(&["prlimit", "--nofile=256:256"], emulator, &address, SHORT).under(overseer);
    let blobs = scene.warmed(&scene.key(), 8).await;
    let baseline = Traffic::start(&scene.tls, &blobs).stop_at(Instant::now() + LEASE).await;

    let begun = Instant::now();
    let traffic = Traffic::start(&scene.tls, &blobs);
    traffic.flows().await;
    let mut crowd = Vec::new();
    while crowd.len() < CROWD {
        match timeout(CONNECT, TcpStream::connect(&scene.tls.address)).await {
            Ok(stream) => crowd.push(stream.unwrap()),
            Err(_) => break,
        }
    }
    sleep(LEASE).await;
    let held = Vitals::of(scene.proxy.id()).descriptors;
    let history = traffic.stop().await;
    let work = Work::of(scene.proxy.id());
    sleep(Duration::from_secs(2)).await;
    let busy = work.share();
    let crowded = crowd.len();
    drop(crowd);
    let left = Instant::now();
    let (outcome, _) = once(&scene.tls, &blobs[0].0).await;
    let back = left.elapsed();
    eprintln!(
        "F14: {crowded} connections, {held} descriptors: {:.1} % of a core without a call; {} calls, {:.2} % served, p99 \
         {:.2?}, without the crowd {:.2?}; a newcomer is served {back:.2?} after the crowd has gone",
        busy * 100.0,
        history.0.len(),
        history.served() * 100.0,
        history.quantile(0.99),
        baseline.quantile(0.99)
    );
    assert!(held >= 250, "it was to run out: {held}");
    // An accept loop that spins takes all of one.
    assert!(busy < 0.5, "{busy}");
    // No connection to the KMS can be opened either, and idle ones are let go of after a second: where no probe comes in
    // between, the lease lapses, and whoever is there is told so.
    let outcomes = history.outcomes(begun, Instant::now());
    let told =
        |(status, code): &(u16, String)| *status == 200 || (*status, code.as_str()) == (409, "Rejected.Unavailable");
    assert!(outcomes.keys().all(told), "whoever was there is answered: {outcomes:?}");
    assert_eq!(outcome.0, 200);
    assert!(back <= Duration::from_secs(1) + SLACK, "{back:?}");
}

/// F23, for one life of a connection in place of ten minutes: 1,000 half heads, each of which gets a byte now and then.
#[tokio::test]
async fn f23_a_thousand_half_requests_are_closed_in_time_and_cost_the_honest_nothing() {
    let _alone = MACHINE.write().await;
    let mine = getrlimit(Resource::Nofile);
    let most = Some(mine.maximum.unwrap_or(20_000).min(20_000));
    setrlimit(Resource::Nofile, Rlimit { current: most, maximum: mine.maximum }).unwrap();
    let scene = Scene::new(SHORT);
    let blobs = scene.warmed(&scene.key(), 8).await;
    let baseline = Traffic::start(&scene.tls, &blobs).stop_at(Instant::now() + PROBE).await;
    let before = Vitals::of(scene.proxy.id());
    let path = Path::new(scene.unix.address.strip_prefix("unix:").unwrap()).to_owned();
    let begun = Instant::now();
    let traffic = Traffic::start(&scene.tls, &blobs);
    let flood = tokio::task::spawn_blocking(move || {
        let mut open = Vec::new();
        while open.len() < HALVES {
            let mut stream = UnixStream::connect(&path).unwrap();
            stream.set_nonblocking(true).unwrap();
            stream.write_all(b"GET /?Action=Decrypt HTTP/1.1\r\nhost: loc").unwrap();
            open.push((stream, Instant::now()));
        }
        let mut longest = Duration::ZERO;
        while !open.is_empty() && begun.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(100));
            open.retain_mut(|(stream, since)| match stream.write(b"x") {
                Err(error) if error.kind() != ErrorKind::WouldBlock => {
                    longest = longest.max(since.elapsed());
                    false
                }
                _ => true,
            });
        }
        (open.len(), longest)
    });
    sleep(HEAD / 2).await;
    let during = Vitals::of(scene.proxy.id());
    let (left, longest) = flood.await.unwrap();
    let history = traffic.stop().await;
    let grown = during.resident_kib.saturating_sub(before.resident_kib);
    eprintln!(
        "F23: {HALVES} half requests, closed after {longest:.2?} at most (limit {HEAD:?}), +{grown} KiB; {} honest \
         calls, {:.2} % served, p99 {:.2?}, without the flood {:.2?}",
        history.0.len(),
        history.served() * 100.0,
        history.quantile(0.99),
        baseline.quantile(0.99)
    );
    assert_eq!(left, 0, "not closed");
    assert!(longest <= HEAD + Duration::from_secs(1) + SLACK, "{longest:?}");
    assert_eq!(history.outcomes(begun, Instant::now()).len(), 1, "every honest call is served");
    assert!(grown <= 64 * u64::try_from(HALVES).unwrap(), "{grown} KiB");
}

const CROWD: usize = 2000;
/// A connect on loopback that takes longer waits for a queue that is full.
const CONNECT: Duration = Duration::from_millis(300);
const HALVES: usize = 1000;
const HEAD: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(20);
