//! Certificates and authorities that change on disk while everything runs.

use std::path::Path;

use jiff::Timestamp;
use kmsproxy::tls::authority::Authority;

use super::client::Target;
use super::process::{Daemon, write_private};
use super::scene::{Scene, config, until};
use super::stage::SETTING;
use super::strict::Strict;

/// Puts a file in the place of another, as certificate managers do.
fn put(folder: &Path, name: &str, text: &str) {
    write_private(&folder.join("fresh"), text);
    std::fs::rename(folder.join("fresh"), folder.join(name)).unwrap();
}

/// A certificate of an authority of its own, whose name is in `ca.pem`s for clients.
fn issue(folder: &Path, ca: &str) {
    let authority = Authority::generate(Timestamp::now(), &[]).unwrap();
    put(folder, ca, authority.ca_pem());
    put(folder, "server.key", std::str::from_utf8(authority.key_pem().expose()).unwrap());
    put(folder, "server.pem", authority.certificate_pem());
}

#[tokio::test]
async fn a_certificate_is_exchanged_under_load_without_a_reload_and_a_broken_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    issue(folder.path(), "first.pem");
    let emulator = Daemon::emulator(&[]);
    let theirs = Path::new(emulator.at("ca_file")).parent().unwrap().display().to_string();
    let text = config(&emulator, emulator.at("address"), SETTING);
    let text = text.replace(&format!("{theirs}/server"), &format!("{}/server", folder.path().display()));
    let proxy = Daemon::serve(&text, &[("secret", "localsecret")]);
    let listener = |name: &str| proxy.ready["listeners"][name].as_str().unwrap().to_owned();
    let at = |ca: &str| Target {
        address: listener("tls"),
        ca_file: Some(folder.path().join(ca).display().to_string()),
        access_key: "LTAIlocal".into(),
        secret: "localsecret".into(),
        page: None,
    };
    let (first, second) = (at("first.pem"), at("second.pem"));
    let unix = Target { address: listener("unix"), ca_file: None, ..first.clone() };
    let scene = Scene { emulator, proxy, tls: first.clone(), unix, overseer: None };
    let kept = scene.kept(4).await;
    // On connections that began under the first, and stay.
    let strict = Strict::start(4, &first, &kept);
    issue(folder.path(), "second.pem");
    let roots = second.ca_file.clone().unwrap();
    let address = second.address.clone();
    let shakes = async || {
        let tcp = tokio::net::TcpStream::connect(&address).await.unwrap();
        super::client::tls(&roots).connect("localhost".try_into().unwrap(), tcp).await.is_ok()
    };
    until("the second certificate", async || shakes().await.then_some(())).await;
    assert_eq!(second.call("Decrypt", &[("CiphertextBlob", &kept[0].0)]).await.0, 200);
    strict.stop().await.assert_all_served();

    let refused = "kmsproxy_certificates_refused{of=\"listener.tls\"}";
    assert_eq!(scene.metric(refused).await, Some(0.0));
    put(folder.path(), "server.pem", "not a certificate\n");
    until("it is noticed", async || (scene.metric(refused).await == Some(1.0)).then_some(())).await;
    assert!(shakes().await, "the one before is kept");
    assert!(scene.proxy.log().contains("do not serve"), "and somebody is told");
}

#[tokio::test]
async fn the_authorities_of_the_kms_are_taken_anew_when_their_file_changes() {
    let folder = tempfile::tempdir().unwrap();
    let stranger = Authority::generate(Timestamp::now(), &[]).unwrap();
    put(folder.path(), "ca.pem", stranger.ca_pem());
    let emulator = Daemon::emulator(&[]);
    let theirs = std::fs::read_to_string(emulator.at("ca_file")).unwrap();
    let text = config(&emulator, emulator.at("address"), SETTING);
    let trusted = format!("ca_file = \"{}/ca.pem\"", folder.path().display());
    let text = text.replace(&format!("ca_file = \"{}\"", emulator.at("ca_file")), &trusted);
    let proxy = Daemon::serve(&text, &[("secret", "localsecret")]);
    let address = proxy.ready["listeners"]["unix"].as_str().unwrap().to_owned();
    let unix = Target { address, ca_file: None, access_key: String::new(), secret: String::new(), page: None };
    let scene = Scene { emulator, proxy, tls: unix.clone(), unix, overseer: None };
    let blob = scene.ciphertext().await;
    let ask = async || {
        let uri = percent_encoding::utf8_percent_encode(&blob, percent_encoding::NON_ALPHANUMERIC);
        let uri = format!("/?Action=Decrypt&Version=2016-01-20&Format=JSON&CiphertextBlob={uri}");
        let request = http::Request::get(uri).header("host", "localhost").body(Default::default()).unwrap();
        scene.unix.connect().await.send(request).await.0
    };
    assert_ne!(ask().await, 200, "a stranger's word");
    put(folder.path(), "ca.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    let refused = "kmsproxy_certificates_refused{of=\"upstream.emulator\"}";
    until("it is noticed", async || (scene.metric(refused).await == Some(1.0)).then_some(())).await;
    put(folder.path(), "ca.pem", &theirs);
    until("the KMS is believed", async || (ask().await == 200).then_some(())).await;
    assert_eq!(scene.metric(refused).await, Some(0.0));
}
