//! The status page: who is shown it, and what a browser makes of it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use super::admin::busy;
use super::client::{bare, get, plain};
use super::process::Daemon;

/// The status, headers and body of `method` `path` as asked of `host`.
async fn fetched(address: &str, method: &str, path: &str, host: &str) -> (u16, http::HeaderMap, String) {
    let (mut sender, connection) = handshake(TokioIo::new(TcpStream::connect(address).await.unwrap())).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::builder().method(method).uri(path).header("host", host);
    let answer = sender.send_request(request.body(Full::<Bytes>::default()).unwrap()).await.unwrap();
    let (parts, body) = answer.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    (parts.status.as_u16(), parts.headers, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn the_page_is_read_only_and_for_this_machine_and_lets_nothing_else_in() {
    let daemon = Daemon::dev(&[]);
    let address = daemon.at("metrics_address");
    for (path, host) in [("/", "localhost"), ("/live", "127.0.0.1:1"), ("/", address)] {
        let (status, headers, body) = fetched(address, "GET", path, host).await;
        assert_eq!(status, 200, "{path} of {host}: {body}");
        let policy = headers["content-security-policy"].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'; style-src 'sha256-"), "{policy}");
        assert!(!policy.contains("unsafe"), "{policy}");
        assert_eq!(headers["cache-control"], "no-store");
        assert_eq!(headers["x-content-type-options"], "nosniff");
    }
    for path in ["/", "/live"] {
        for host in ["example.org", "localhost.example.org:9643", "10.0.0.1"] {
            let (status, _, body) = fetched(address, "GET", path, host).await;
            assert_eq!(status, 403, "{path} of {host}: {body}");
        }
        for method in ["POST", "PUT", "DELETE", "HEAD", "PATCH", "OPTIONS"] {
            assert_eq!(bare(address, method, path).await.0, 405, "{method} {path}");
        }
    }
    // What changes something is not here.
    for command in kmsproxy::admin::COMMANDS.iter().filter(|command| command.path != "/live") {
        assert_ne!(bare(address, command.method.as_str(), command.path).await.0, 200, "{}", command.path);
    }
    assert_eq!(get(address, "/livez").await, (200, json!("ok\n")));
}

/// What Chromium has of a page after some seconds, as text, and what it said meanwhile.
fn browsed(address: &str, more: &[&str]) -> Option<(String, String)> {
    let browser = ["chromium", "chromium-browser"]
        .into_iter()
        .find(|name| Command::new(name).arg("--version").output().is_ok_and(|output| output.status.success()));
    let Some(browser) = browser else {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "nothing may be skipped in CI");
        eprintln!("skipped: chromium is not installed");
        return None;
    };
    let profile = tempfile::tempdir().unwrap();
    let output = Command::new("timeout")
        .args(["120", browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
        .args(["--no-first-run", "--disable-extensions", "--enable-logging=stderr", "--hide-scrollbars"])
        .args(["--timeout=8000", "--virtual-time-budget=6000"])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .args(more)
        .arg(format!("http://{address}/"))
        .output()
        .unwrap();
    let [out, said] = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    assert!(output.status.success(), "{said}");
    Some((out, said))
}

/// The text of the element of that id.
fn shown(page: &str, id: &str) -> String {
    let (_, rest) = page.split_once(&format!("id=\"{id}\"")).unwrap_or_else(|| panic!("no {id} in {page}"));
    rest.split_once('>').unwrap().1.split('<').next().unwrap().to_owned()
}

#[tokio::test]
async fn a_browser_shows_the_numbers_of_the_daemon_and_has_nothing_to_complain_of() {
    let (daemon, mut client, blobs) = busy(3).await;
    for _ in 0..20 {
        assert_eq!(client.call("Decrypt", &[("CiphertextBlob", &blobs[0])]).await.0, 200);
    }
    assert_eq!(client.call("Decrypt", &[("CiphertextBlob", "AAAA")]).await.0, 400);
    let address = daemon.at("metrics_address").to_owned();
    let browsing = tokio::task::spawn_blocking(move || browsed(&address, &["--dump-dom"]));
    let Some((page, said)) = browsing.await.unwrap() else { return };
    let (_, status) = plain(Path::new(daemon.at("admin_socket")), "GET", "/live", "").await;
    assert_eq!(shown(&page, "state"), "ready", "{said}");
    assert_eq!(shown(&page, "version"), env!("CARGO_PKG_VERSION"));
    assert_eq!(shown(&page, "memory"), status["memory"].as_str().unwrap());
    assert_eq!(shown(&page, "cache"), "3 of 100000 DEKs");
    assert_eq!(shown(&page, "total"), "26 answered, 1 not");
    assert_eq!(shown(&page, "decrypted"), "20 hits, 3 misses");
    let leases = page.split_once("id=\"leases\"").unwrap().1.split_once("</tbody>").unwrap().0;
    for told in [daemon.at("key_id"), ">serving<", ">3<", ">local<"] {
        assert!(leases.contains(told), "{told} in {leases}");
    }
    let refusals = page.split_once("id=\"refusals\"").unwrap().1.split_once("</tbody>").unwrap().0;
    assert!(refusals.contains(">invalid_ciphertext"), "{refusals}");
    let complaints: Vec<_> = said.lines().filter(|line| line.contains("CONSOLE")).collect();
    assert_eq!(complaints, Vec::<&str>::new(), "nothing is said on the console, of the policy or otherwise");
    for secret in [&blobs[0], "REVL0000"] {
        assert!(!page.contains(secret));
    }
}

/// `PICTURES=DIR` has pictures taken of the page under load and with a refused key, to be looked at.
#[tokio::test]
async fn pictures_are_taken_where_somebody_wants_to_look_at_them() {
    let Some(directory) = std::env::var_os("PICTURES").map(PathBuf::from) else { return };
    let (daemon, mut client, blobs) = busy(20).await;
    let address = daemon.at("metrics_address").to_owned();
    let loading = async {
        for round in 0_u32.. {
            for blob in &blobs {
                client.call("Decrypt", &[("CiphertextBlob", blob)]).await;
            }
            if round % 7 == 0 {
                client.call("Decrypt", &[("CiphertextBlob", "AAAA")]).await;
                let parameters = [("KeyId", daemon.at("key_id")), ("Plaintext", "REVL")];
                client.call("Encrypt", &parameters).await;
            }
            tokio::time::sleep(Duration::from_millis(u64::from(5 + round % 11))).await;
        }
    };
    let taking = async {
        for (name, size, scheme) in [
            ("wide-dark", "1600,1250", "--blink-settings=preferredColorScheme=0"),
            ("wide-light", "1600,1250", "--blink-settings=preferredColorScheme=1"),
            ("narrow", "400,2400", "--blink-settings=preferredColorScheme=0"),
            ("refused", "1200,1300", "--blink-settings=preferredColorScheme=1"),
        ] {
            if name == "refused" {
                let disable = format!("/keys/{}/disable", daemon.at("key_id"));
                let (status, answer): (u16, Value) = plain(&daemon.control(), "POST", &disable, "").await;
                assert_eq!(status, 200, "{answer}");
            }
            let (address, picture) = (address.clone(), directory.join(format!("{name}.png")));
            let more =
                [format!("--screenshot={}", picture.display()), format!("--window-size={size}"), scheme.to_owned()];
            tokio::task::spawn_blocking(move || {
                browsed(&address, &more.each_ref().map(String::as_str));
            })
            .await
            .unwrap();
        }
    };
    tokio::select! {
        () = loading => {}
        () = taking => {}
    }
}
