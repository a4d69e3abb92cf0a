//! A daemon that is killed, again and again.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use super::client::Target;
use super::process::Daemon;
use super::scene::MACHINE;
use super::traffic::{decrypt, once};
use super::{SLACK, client::plain};

/// F18, as in the table.
#[tokio::test]
async fn f18_killed_a_hundred_times_it_is_there_again_each_time_with_its_old_socket_in_place() {
    let _shared = MACHINE.read().await;
    let (emulator, run) = (Daemon::emulator(&[]), tempfile::tempdir().unwrap());
    let config = CONFIG
        .replace("RUN", run.path().to_str().unwrap())
        .replace("ADDRESS", emulator.at("address"))
        .replace("CA", emulator.at("ca_file"))
        .replace("ID", emulator.at("access_key_id"))
        .replace("SECRET", emulator.at("secret_file"));
    let socket = format!("unix:{}/plugin.sock", run.path().display());
    let target =
        Target { address: socket, ca_file: None, access_key: String::new(), secret: String::new(), page: None };
    let straight = Target::of(&emulator);
    let parameters = [("KeyId", emulator.at("key_id")), ("Plaintext", "aGVsbG8=")];
    let blob = straight.call("Encrypt", &parameters).await.1["CiphertextBlob"].as_str().unwrap().to_owned();
    let slow = json!({ "latency": "40ms" }).to_string();
    assert_eq!(plain(&emulator.control(), "PUT", "/behaviour", &slow).await.0, 200);

    let (mut ready, mut broken) = (Vec::new(), 0);
    for _ in 0..DEATHS {
        let begun = Instant::now();
        let daemon = Daemon::serve(&config, &[]);
        ready.push(begun.elapsed());
        let (asking, held) = (target.clone(), blob.clone());
        // On its way to the KMS when the daemon is killed; whoever asked then asks again.
        let mut client = target.connect().await;
        let flight = tokio::spawn(async move { decrypt(&asking, &mut client, &held).await.is_err() });
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert_eq!(daemon.stop("-KILL").code(), None);
        broken += usize::from(flight.await.unwrap());
    }
    let _daemon = Daemon::serve(&config, &[]);
    let (outcome, _) = once(&target, &blob).await;
    assert_eq!(outcome.1["Plaintext"], "aGVsbG8=");
    ready.sort();
    eprintln!(
        "F18: killed {DEATHS} times, {broken} calls in flight broke; ready after {:.0?} (median), {:.0?} (longest)",
        ready[DEATHS / 2],
        ready[DEATHS - 1]
    );
    assert!(ready[DEATHS - 1] <= Duration::from_secs(2) + SLACK, "{:?}", ready[DEATHS - 1]);
}

const DEATHS: usize = 100;
const CONFIG: &str = r#"
[upstream.emulator]
kind = "aliyun"
endpoint = "https://ADDRESS"
ca_file = "CA"
credentials = { source = "file", id = "ID", secret_file = "SECRET" }
retries = 0
[[listener]]
name = "plugin"
face = "aliyun"
address = "unix:RUN/plugin.sock"
upstream = "emulator"
[[caller]]
name = "plugin"
listener = "plugin"
allow = [{ actions = ["Decrypt"], keys = ["*"] }]
"#;
