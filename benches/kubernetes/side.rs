//! One provider's calls, alone and while another provider of the same daemon floods, or has its key refused.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;

use crate::load::{self, Ask, Deks, Flood, Target};
use crate::process::{self, text};
use crate::processors::Processors;
use crate::table::Table;

/// In turns: alone, beside a flood of writes through another daemon and through the same, alone, beside a flood of reads
/// under a refused key. The KMS takes 20 ms.
pub(crate) fn by_side(rounds: usize, span: Duration) {
    let dir = tempfile::tempdir().unwrap();
    // A real one is on another machine: this one has what processor time the others leave.
    let (_kms, kms) = process::embedded("emulator", dir.path(), "19");
    let made = |alias| process::steer(&kms, "POST", "/keys", &format!(r#"{{"alias":"{alias}"}}"#));
    let [loud_key, banned_key] = ["alias/loud", "alias/banned"].map(made);
    let keys = [&loud_key, &banned_key].map(|key| text(key, "key_id"));
    let processors = Processors::parted();
    processors.for_servers();
    let apart = dir.path().join("apart");
    std::fs::create_dir(&apart).unwrap();
    let _daemons = [dir.path(), &apart].map(|dir| process::serve(dir, &config(&kms, keys, dir)));
    processors.for_client();
    let target = |dir: &Path, name| {
        let socket = dir.join(format!("{name}.sock"));
        Target { name, deks: Deks::encrypt(&socket, DEKS), socket }
    };
    let [calm, loud, banned] = ["calm", "loud", "banned"].map(|name| target(dir.path(), name));
    let loud_apart = target(&apart, "loud");
    process::steer(&kms, "PUT", "/behaviour", r#"{"latency":"20ms"}"#);
    let mut floods = Table::new("flooded", "alone");
    let mut shares = Table::new("shared", "apart");
    let mut refusals = Table::new("refused", "alone");
    for round in 0..rounds {
        println!("round {} of {rounds}", round + 1);
        measure(&mut floods, "alone", &calm, span);
        let told = beside(&loud_apart, Flood::Writes, || measure(&mut shares, "apart", &calm, span));
        println!("  the flood through another daemon: {} calls answered, {} refused", told.0, told.1);
        let told = beside(&loud, Flood::Writes, || {
            measure(&mut floods, "flooded", &calm, span);
            measure(&mut shares, "shared", &calm, span);
        });
        println!("  the flood: {} calls answered, {} refused", told.0, told.1);
        measure(&mut refusals, "alone", &calm, span);
        process::steer(&kms, "POST", &format!("/keys/{}/disable", keys[1]), "");
        banned.await_answers(false);
        let told = beside(&banned, Flood::Reads, || measure(&mut refusals, "refused", &calm, span));
        println!("  under the refused key: {} calls answered, {} refused", told.0, told.1);
        process::steer(&kms, "POST", &format!("/keys/{}/enable", keys[1]), "");
        banned.await_answers(true);
    }
    println!("\nanother provider floods the KMS with Encrypts, 256 at a time:");
    floods.print();
    println!("\nthe same flood, through this daemon and through a daemon of its own on the same machine:");
    shares.print();
    println!("\nanother provider's key is disabled, and it asks for 2,000 Decrypts a second:");
    refusals.print();
}

fn measure(table: &mut Table, condition: &str, calm: &Target, span: Duration) {
    let hits = load::open(calm, Ask::Hits, HITS_PER_SECOND, span);
    let writes = load::open(calm, Ask::Writes, WRITES_PER_SECOND, span);
    table.add("1,000 hits a second, p50 µs", condition, hits.percentile(0.50));
    table.add("1,000 hits a second, p99 µs", condition, hits.percentile(0.99));
    table.add("100 Encrypts a second, p50 µs", condition, writes.percentile(0.50));
    table.add("100 Encrypts a second, p99 µs", condition, writes.percentile(0.99));
}

/// Measures while a thread of its own floods.
fn beside(loud: &Target, flood: Flood, measure: impl FnOnce()) -> (u64, u64) {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let flooding = scope.spawn(|| load::flood(loud, flood, &stop));
        std::thread::sleep(SETTLING);
        measure();
        stop.store(true, Ordering::Relaxed);
        flooding.join().unwrap()
    })
}

fn config(kms: &Value, keys: [&str; 2], dir: &Path) -> String {
    let listener = |name: &str, alias: &str, key: &str| {
        format!(
            r#"
[[listener]]
name = "{name}"
face = "kubernetes"
address = "unix:{dir}/{name}.sock"
upstream = "kms"
key = "{alias}"
[[caller]]
name = "{name}"
listener = "{name}"
allow = [{{ actions = ["Encrypt"], keys = ["{alias}"] }}, {{ actions = ["Decrypt"], keys = ["{key}"] }}]
"#,
            dir = dir.display()
        )
    };
    format!(
        r#"
[upstream.kms]
kind = "aliyun"
endpoint = "https://{address}"
ca_file = "{ca}"
credentials = {{ source = "file", id = "{id}", secret_file = "{secret}" }}
{calm}{loud}{banned}"#,
        address = text(kms, "address"),
        ca = text(kms, "ca_file"),
        id = text(kms, "access_key_id"),
        secret = text(kms, "secret_file"),
        calm = listener("calm", "alias/kmsproxy-dev", text(kms, "key_id")),
        loud = listener("loud", "alias/loud", keys[0]),
        banned = listener("banned", "alias/banned", keys[1]),
    )
}

const DEKS: usize = 1000;
const HITS_PER_SECOND: f64 = 1000.0;
const WRITES_PER_SECOND: f64 = 100.0;
/// For the flood to fill what it can fill.
const SETTLING: Duration = Duration::from_millis(300);
