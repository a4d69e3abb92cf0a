//! Configurations that come and go under load, wrong ones among them.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::client::Target;
use super::process::write_private;
use super::scene::{MACHINE, Scene, Setting, until};
use super::strict::Strict;
use super::vitals::Vitals;

/// F16, as in the table.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f16_ten_reloads_a_second_a_fifth_of_them_wrong_fail_nobody_and_lose_nothing() {
    let _shared = MACHINE.read().await;
    let seconds = std::env::var("RELOAD_SECONDS").map_or(SECONDS, |text| text.parse().unwrap());
    let scene = Scene::new(Setting::default());
    let kept = scene.ciphertexts(&scene.key(), 16).await.into_iter().enumerate();
    let kept: Vec<_> = kept.map(|(number, blob)| (blob, format!("REVL{number:04}"))).collect();
    for (blob, _) in &kept {
        assert_eq!(scene.tls.call("Decrypt", &[("CiphertextBlob", blob)]).await.0, 200);
    }
    let asked = scene.counted("Decrypt", "ok").await;
    let file = scene.proxy.dir.path().join("kmsproxy.toml");
    let base = std::fs::read_to_string(&file).unwrap();
    let guest = Target { access_key: "LTAIguest".into(), page: None, ..scene.tls.clone() };
    let strict = Strict::start(8, &scene.tls, &kept);
    let before = Vitals::of(scene.proxy.id());
    let (mut good, mut wrong, mut next) = (0_u32, 0_u32, Instant::now());
    for turn in 0..seconds * 10 {
        let reloads = total(&scene.metrics().await);
        let is_wrong = turn % 5 == 4;
        let text = if is_wrong { mistaken(&base, turn) } else { another(&base, turn) };
        write_private(&file, &text);
        scene.proxy.signal("-HUP");
        until("it has looked", async || (total(&scene.metrics().await) > reloads).then_some(())).await;
        if is_wrong {
            wrong += 1;
        } else {
            good += 1;
            // A guest is known from every second good configuration on, until the next.
            let known = guest.call("ListKeys", &[]).await.1["Code"] != "InvalidAccessKeyId.NotFound";
            assert_eq!(known, turn.is_multiple_of(2), "the configuration of turn {turn} is not in force");
        }
        next += Duration::from_millis(100);
        sleep_until(next).await;
    }
    let tally = strict.stop().await;
    let after = Vitals::of(scene.proxy.id());
    let further = scene.counted("Decrypt", "ok").await - asked;
    eprintln!(
        "F16: {good} reloads and {wrong} refused, at {:.1} a second: {} served over {} connections, {:?} failed, longest \
         {:.0?}; {further} further Decrypts of the KMS; descriptors {} and {}",
        f64::from(good + wrong) / (f64::from(seconds * 10) * 0.1 + next.elapsed().as_secs_f64()),
        tally.served,
        tally.connections,
        tally.failed,
        tally.longest,
        before.descriptors,
        after.descriptors
    );
    tally.assert_all_served();
    assert_eq!(further, 0, "what is cached stays");
    assert_eq!(counted(&scene.metrics().await, "reloaded"), good);
    until("descriptors are as before", async || {
        (Vitals::of(scene.proxy.id()).descriptors <= before.descriptors + 2).then_some(())
    })
    .await;
}

/// A guest more or less, and a listener under load whose settings differ each time, so that its socket is handed on.
fn another(base: &str, turn: u32) -> String {
    let guest = r#"
[[caller]]
name = "guest"
listener = "tls"
access_key = { id = "LTAIguest", secret_file = "DIR/secret" }
allow = [{ actions = ["Decrypt"], keys = ["*"] }]
"#;
    let directory = base.split("\"unix:").nth(1).unwrap().split("/plugin.sock").next().unwrap();
    let guest = if turn.is_multiple_of(2) { guest.replace("DIR", directory) } else { String::new() };
    let handed_on = format!("name = \"tls\"\nmax_in_flight = {}\n", 500 + turn);
    format!("{}{guest}", base.replacen("name = \"tls\"\n", &handed_on, 1))
}

/// Not TOML, a mistake, or what only a restart changes.
fn mistaken(base: &str, turn: u32) -> String {
    match turn / 5 % 3 {
        0 => format!("{base}["),
        1 => base.replace("retries = 0", "retries = 99"),
        _ => format!("{base}\n[cache]\ncapacity = 7\n"),
    }
}

/// How often it has looked at its configuration.
fn total(metrics: &str) -> u32 {
    ["reloaded", "mistaken", "restart", "impossible"].iter().map(|outcome| counted(metrics, outcome)).sum()
}

fn counted(metrics: &str, outcome: &str) -> u32 {
    let series = format!("kmsproxy_reloads_total{{outcome=\"{outcome}\"}} ");
    metrics.lines().find_map(|line| line.strip_prefix(&series)).map_or(0, |value| value.parse().unwrap())
}

const SECONDS: u32 = 5;
