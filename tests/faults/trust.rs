//! Certificates of the KMS that expire, name somebody else, or come from another authority; and their mending.
//! That a stranger hears no byte from the start on is in `tests/hostile/upstream.rs`.

use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::{PrivateKeyDer, pem::PemObject};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::time::Instant;

use super::kms::{Act, Kms, honest, wrapped};
use super::stage::{Setup, Stage, one};
use super::{LEASE, SLACK};

/// F7, for a lease and a half each. Without a reload (there is none yet) a CA can be rotated by trusting both in time.
#[test]
fn f07_a_certificate_that_does_not_hold_costs_the_lease_and_no_byte_and_mends_without_a_restart() {
    let ours = authority();
    let good = certified(&ours, "127.0.0.1", Valid::Now);
    thread::scope(|scope| {
        for (what, bad) in [
            ("expired", certified(&ours, "127.0.0.1", Valid::Once)),
            ("wrong name", certified(&ours, "kms.cn-hangzhou.aliyuncs.com", Valid::Now)),
            ("unknown CA", certified(&authority(), "127.0.0.1", Valid::Now)),
        ] {
            let (ca, good) = (ours.pem(), Arc::clone(&good));
            scope.spawn(move || spoiled(what, ca, &good, bad));
        }
    });
    let next = authority();
    let (stage, shown) = stage(ours.pem() + &next.pem(), &good);
    let blob = wrapped("key-1", "ZGVr", "");
    assert_eq!(stage.decrypt(&one(), &blob).status, 200);
    *shown.lock().unwrap() = certified(&next, "127.0.0.1", Valid::Now);
    stage.assert_serves();
    eprintln!("F7: a CA rotated while both were trusted: no call failed");
}

fn spoiled(what: &str, ca: String, good: &Arc<CertifiedKey>, bad: Arc<CertifiedKey>) {
    let (stage, shown) = stage(ca, good);
    let blob = wrapped("key-1", "ZGVr", "");
    assert_eq!(stage.decrypt(&one(), &blob).status, 200);
    *shown.lock().unwrap() = bad;
    let (spoiled, bytes, connections) = (Instant::now(), stage.kms.bytes(), stage.kms.connections());
    let mut last = Duration::ZERO;
    while spoiled.elapsed() < LEASE * 3 / 2 {
        let sent = spoiled.elapsed();
        let heard = stage.decrypt(&one(), &blob);
        if heard.status == 200 {
            assert!(sent <= LEASE, "{what}: served {sent:?} after");
            last = spoiled.elapsed();
        } else {
            assert_eq!(heard.refusal(), (409, "Rejected.Unavailable".to_owned()), "{what}");
        }
        thread::sleep(Duration::from_millis(20));
    }
    assert!(last >= LEASE / 2, "{what}: silence, and no refusal: {last:?}");
    let tries = stage.kms.connections() - connections;
    assert!(tries >= 3, "{what}: it was tried");
    assert_eq!(stage.kms.bytes(), bytes, "{what}: bytes of a request");
    *shown.lock().unwrap() = Arc::clone(good);
    let mended = Instant::now();
    while stage.decrypt(&one(), &blob).status != 200 {
        assert!(mended.elapsed() < Duration::from_secs(2) + SLACK, "{what}");
        thread::sleep(Duration::from_millis(20));
    }
    eprintln!(
        "F7: {what}: {tries} handshakes, 0 bytes; last plaintext {last:.2?} after, first {:.2?} after mending",
        mended.elapsed()
    );
    stage.assert_serves();
}

/// A daemon before a KMS that closes after each answer, so that the certificate is shown anew for each.
fn stage(ca: String, first: &Arc<CertifiedKey>) -> (Stage, Shown) {
    let shown = Shown::new(Mutex::new(Arc::clone(first)));
    let kms = Kms::tls(server(&shown));
    kms.plays(|asked| {
        let Act::Say(status, headers, body) = honest(asked) else { unreachable!("honest says") };
        Act::Say(status, headers + "connection: close\r\n", body)
    });
    let setup = Setup {
        endpoint: format!("https://{}", kms.address),
        ca: Some(ca),
        lease: r#"{ duration = "3s", probe = "1s" }"#,
        timeout: "1s",
        ..Setup::plain(&kms)
    };
    (Stage::set_up(kms, &setup), shown)
}

fn server(shown: &Shown) -> Arc<ServerConfig> {
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Show(Arc::clone(shown))));
    Arc::new(config)
}

type Shown = Arc<Mutex<Arc<CertifiedKey>>>;

#[derive(Debug)]
struct Show(Shown);

impl ResolvesServerCert for Show {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.lock().unwrap()))
    }
}

enum Valid {
    Now,
    Once,
}

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut parameters = CertificateParams::new(Vec::new()).unwrap();
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(parameters, KeyPair::generate().unwrap()).unwrap()
}

fn certified(authority: &Authority, name: &str, valid: Valid) -> Arc<CertifiedKey> {
    let key = KeyPair::generate().unwrap();
    let mut parameters = CertificateParams::new(vec![name.to_owned()]).unwrap();
    if let Valid::Once = valid {
        (parameters.not_before, parameters.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
    }
    let certificate = parameters.signed_by(&key, authority).unwrap();
    let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
    let key = ring::sign::any_supported_type(&key).unwrap();
    Arc::new(CertifiedKey::new(vec![certificate.der().clone()], key))
}

/// A server that calls itself `name`, and that nobody believes.
pub(super) fn stranger(name: &str) -> Arc<ServerConfig> {
    let shown = Shown::new(Mutex::new(certified(&authority(), name, Valid::Now)));
    server(&shown)
}
