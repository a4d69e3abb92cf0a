//! Names that do not resolve, never resolve, or resolve to somebody else. The daemon has files of its own for the
//! system's resolver: in a mount namespace, which takes root or what stands in for it.

use std::fs;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::client::{Outcome, Target};
use super::kms::Kms;
use super::line::Line;
use super::scene::{MACHINE, Scene, until};
use super::traffic::{Traffic, Wrapped, once, word};
use super::vitals::Vitals;
use super::{DEADLINE, LEASE, SHORT, SLACK, emulator, have, trust};

/// F8, for a lease and a half each. The KMS is `localhost`, which the daemon's own `/etc/hosts` has or has not.
#[tokio::test]
async fn f08_names_that_do_not_resolve_or_lead_to_a_stranger_are_silence_and_never_a_refusal() {
    if !have("unshare", &["--mount", "mount", "--bind", "/etc/hosts", "/etc/hosts"]) {
        return;
    }
    let _shared = MACHINE.read().await;
    let (overseer, emulator) = emulator();
    let line = Line::to(emulator.at("address")).await;
    let port = line.address.rsplit_once(':').unwrap().1.to_owned();
    let resolver = Resolver::new();
    let prefix = resolver.prefix();
    let prefix: Vec<&str> = prefix.iter().map(String::as_str).collect();
    let scene = Scene::started_by(&prefix, emulator, &format!("localhost:{port}"), SHORT).under(overseer);
    let key = scene.key();
    let cold = scene.wrapped(&key, 48).await;
    let blobs = scene.warmed(&key, 8).await;
    let impostor = Kms::tls_at(&format!("127.0.0.2:{port}"), trust::stranger("localhost"));

    let before = Vitals::of(scene.proxy.id()).threads;
    resolver.knows(None);
    let connections = line.connections();
    let (outcome, _) = once(&scene.tls, &cold[0].0).await;
    assert_eq!(outcome.1["Plaintext"], *cold[0].1, "live connections need no name");
    assert_eq!(line.connections(), connections);

    for (what, change) in [
        ("no such name", &(|| resolver.knows(None)) as &dyn Fn()),
        ("a resolver that says nothing", &|| resolver.is_mute()),
        ("somebody else's address", &|| resolver.knows(Some("127.0.0.2"))),
    ] {
        let traffic = Traffic::start(&scene.tls, &blobs);
        traffic.flows().await;
        change();
        line.hangs_up();
        let lost = Instant::now();
        sleep(DEADLINE).await;
        let (outcome, took) = once(&scene.tls, &cold[1].0).await;
        assert_eq!(word(&outcome), (409, "Rejected.Unavailable".to_owned()), "{what}");
        for (outcome, took) in all_at_once(&scene.tls, &cold[2..]).await {
            assert_eq!(word(&outcome), (409, "Rejected.Unavailable".to_owned()), "{what}");
            assert!(took <= DEADLINE + SLACK, "{what}: {took:?}");
        }
        sleep_until(lost + LEASE * 3 / 2).await;
        let threads = Vitals::of(scene.proxy.id()).threads;
        resolver.knows(Some("127.0.0.1"));
        let found = Instant::now();
        let history = traffic.stop_at(found + LEASE).await;
        let (last, first) = (history.last_plaintext(lost, found), history.first_plaintext(found));
        eprintln!(
            "F8: {what}: a cold call waits {took:.2?}, last plaintext {last:.2?} after, first {first:.2?} after \
             mending; {threads} threads"
        );
        // A lookup that hangs keeps its thread, whoever has given up.
        assert!(threads <= before + LOOKUPS, "{what}: {threads} threads, {before} before");
        let seen = history.outcomes(lost, found);
        assert!(last >= LEASE / 2 && last <= LEASE + SLACK, "{what}: {last:?}");
        assert!(took.max(history.longest()) <= DEADLINE + SLACK, "{what}: {took:?}");
        assert!(seen.keys().all(|outcome| [200, 409].contains(&outcome.0) && outcome.1 != "Rejected.Disabled"));
        assert!(!history.outcomes(lost + LEASE, found - DEADLINE).keys().any(|(status, _)| *status == 200), "{what}");
        assert!(first <= Duration::from_secs(2), "{what}: {first:?}");
        until("served", async || (once(&scene.tls, &blobs[0].0).await.0.0 == 200).then_some(())).await;
    }
    assert!(impostor.connections() > 0);
    assert_eq!(impostor.bytes(), 0, "bytes of a request");
}

/// What comes of Decrypts on a connection each.
async fn all_at_once(target: &Target, blobs: &[Wrapped]) -> Vec<(Outcome, Duration)> {
    let mut asking = JoinSet::new();
    for (blob, _) in blobs {
        let (target, blob) = (target.clone(), blob.clone());
        asking.spawn(async move { once(&target, &blob).await });
    }
    asking.join_all().await
}

/// Of one name, at a time.
const LOOKUPS: u64 = 12;

/// The files that the daemon's resolver reads.
struct Resolver {
    folder: TempDir,
    /// Where questions go that the files do not answer; nobody answers there either.
    mute: UdpSocket,
}

impl Resolver {
    fn new() -> Self {
        let [_, b, c, d] = std::process::id().to_be_bytes();
        let mute = UdpSocket::bind((Ipv4Addr::new(127, b | 0x80, c, d | 1), 53)).unwrap();
        let resolver = Self { folder: tempfile::tempdir().unwrap(), mute };
        fs::write(resolver.file("resolv"), format!("nameserver {}\n", resolver.mute.local_addr().unwrap().ip()))
            .unwrap();
        resolver.knows(Some("127.0.0.1"));
        resolver
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What makes them the daemon's.
    fn prefix(&self) -> Vec<String> {
        let bind = |from: &Path, to: &str| format!("mount --bind {} {to}", from.display());
        let mounts = [
            bind(&self.file("hosts"), "/etc/hosts"),
            bind(&self.file("nsswitch"), "/etc/nsswitch.conf"),
            bind(&self.file("resolv"), "/etc/resolv.conf"),
            "exec \"$@\"".to_owned(),
        ];
        ["unshare", "--mount", "sh", "-c", &mounts.join(" && "), "sh"].map(str::to_owned).to_vec()
    }

    /// From now on, what `localhost` is, and nothing else.
    fn knows(&self, address: Option<&str>) {
        let hosts = address.map_or_else(String::new, |address| format!("{address} localhost\n"));
        fs::write(self.file("nsswitch"), "hosts: files\n").unwrap();
        fs::write(self.file("hosts"), hosts).unwrap();
    }

    /// From now on, every question goes where nobody answers.
    fn is_mute(&self) {
        fs::write(self.file("hosts"), "").unwrap();
        fs::write(self.file("nsswitch"), "hosts: files dns\n").unwrap();
    }
}
