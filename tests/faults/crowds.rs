//! More connections than the process has descriptors for, and connections that dawdle. What a single one may do is in
//! `tests/hostile/sockets.rs`, `tests/listener.rs` and, for HTTP/2, `tests/http2.rs`.

use std::io::{ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpStream;
use tokio::time::{Instant, interval, sleep, timeout};

use super::scene::{MACHINE, Scene, Setting};
use super::traffic::{Traffic, once};
use super::vitals::{Vitals, Work};
use super::{LEASE, PROBE, SHORT, SLACK, emulator, have};

/// F14: 256 descriptors, and in fifteen seconds 1,500 connections that say nothing, each of which may stay for five.
#[tokio::test]
async fn f14_without_descriptors_the_kms_is_still_asked_everyone_is_served_and_nothing_spins() {
    if !have("prlimit", &["--nofile=256:256", "true"]) {
        return;
    }
    let _alone = MACHINE.write().await;
    let mine = getrlimit(Resource::Nofile);
    let most = Some(mine.maximum.unwrap_or(20_000).min(20_000));
    setrlimit(Resource::Nofile, Rlimit { current: most, maximum: mine.maximum }).unwrap();
    let (overseer, emulator) = emulator();
    let address = emulator.at("address").to_owned();
    let setting = Setting { upstream: "max_in_flight = 8", ..SHORT };
    let scene = Scene::started_by(&["prlimit", "--nofile=256:256"], emulator, &address, setting).under(overseer);
    let blobs = scene.warmed(&scene.key(), 8).await;
    let cold = scene.wrapped(&scene.key(), 8).await;
    let baseline = Traffic::start(&scene.tls, &blobs).stop_at(Instant::now() + LEASE).await;

    let begun = Instant::now();
    let traffic = Traffic::start(&scene.tls, &blobs);
    traffic.flows().await;
    let crowd = tokio::spawn(crowd(scene.tls.address.clone()));
    let (mut longest, mut held) = (Duration::ZERO, 0);
    for (blob, plaintext) in &cold {
        sleep(CROWDED / u32::try_from(cold.len()).unwrap()).await;
        held = held.max(Vitals::of(scene.proxy.id()).descriptors);
        let (outcome, took) = once(&scene.tls, blob).await;
        assert_eq!((outcome.0, &outcome.1["Plaintext"]), (200, &plaintext.as_str().into()), "{}", outcome.1);
        longest = longest.max(took);
    }
    let crowd = crowd.await.unwrap();
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
        "F14: {} connections, {held} descriptors: {:.1} % of a core without a call; {} calls, {:.2} % served, p99 \
         {:.2?}, without the crowd {:.2?}; a newcomer with a cold ciphertext is served within {longest:.2?}, and {back:.2?} \
         after the crowd has gone",
        crowded,
        busy * 100.0,
        history.0.len(),
        history.served() * 100.0,
        history.quantile(0.99),
        baseline.quantile(0.99)
    );
    assert!((50..256 - OWN).contains(&held), "the crowd has what is left, and not what is kept: {held}");
    // An accept loop that spins takes all of one.
    assert!(busy < 0.5, "{busy}");
    let outcomes = history.outcomes(begun, Instant::now());
    assert_eq!(outcomes.keys().collect::<Vec<_>>(), [&(200, String::new())], "everyone is served: {outcomes:?}");
    assert_eq!(outcome.0, 200);
    assert!(longest.max(back) <= Duration::from_secs(1) + SLACK, "{longest:?}, {back:?}");
    assert!(
        scene.proxy.log().contains("the limit of open files is 256, and kmsproxy keeps"),
        "it says so at the start"
    );
}

/// Connects again and again for as long as it is to be crowded, and keeps what it has.
async fn crowd(address: String) -> Vec<TcpStream> {
    let (end, mut pace, mut open) = (Instant::now() + CROWDED, interval(CONNECTING), Vec::new());
    while Instant::now() < end {
        pace.tick().await;
        open.push(timeout(ACCEPTED, TcpStream::connect(&address)).await.expect("room in the queue").unwrap());
    }
    open
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

const CROWDED: Duration = Duration::from_secs(15);
const CONNECTING: Duration = Duration::from_millis(10);
/// A connect on loopback that takes longer waits for a queue that is full.
const ACCEPTED: Duration = Duration::from_millis(500);
/// Twice eight questions, eight reads and eight probes: what one upstream may hold.
const OWN: usize = 48;
const HALVES: usize = 1000;
const HEAD: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(20);
