//! The official SDKs, unchanged but for endpoint and credentials, through kmsproxy and straight to the emulator.
//!
//! They are installed by this test into `target/clients`, from their registries. A runtime that is missing is skipped
//! with a line that says so; with `CI=true` that is a failure.

#![allow(clippy::unwrap_used)]

#[path = "daemon/process.rs"]
#[allow(dead_code)]
mod process;

use std::path::{Path, PathBuf};
use std::process::Command;

use process::Daemon;
use serde_json::{Map, Value, json};

const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients");
const PYTHON_V1: [&str; 2] = ["aliyun-python-sdk-core==2.16.1", "aliyun-python-sdk-kms==2.16.5"];
const PYTHON_V3: [&str; 2] = ["alibabacloud-kms20160120==2.4.0", "alibabacloud-tea-openapi==0.4.6"];
const NODE: [&str; 2] = ["@alicloud/kms20160120@1.2.0", "@alicloud/rpc-client@1.3.2"];

#[test]
fn python_sdk_v1_gets_from_kmsproxy_what_it_gets_from_the_emulator() {
    let Some(python) = python("v1", &PYTHON_V1) else { return };
    compare(&|| command(&python, "python_v1.py"));
}

#[test]
fn python_sdk_v3_gets_from_kmsproxy_what_it_gets_from_the_emulator() {
    let Some(python) = python("v3", &PYTHON_V3) else { return };
    compare(&|| command(&python, "python_v3.py"));
}

#[test]
fn node_sdk_gets_from_kmsproxy_what_it_gets_from_the_emulator() {
    let Some(modules) = node() else { return };
    compare(&|| {
        let mut command = command(Path::new("node"), "node_v1.js");
        command.env("NODE_PATH", &modules);
        command
    });
}

fn compare(client: &dyn Fn() -> Command) {
    let emulator = Daemon::emulator(&[]);
    let straight = outcomes(client(), &emulator.ready);
    check(&straight);

    let dev = Daemon::dev(&[]);
    assert_same(&straight, &outcomes(client(), &dev.ready), "kmsproxy dev");

    let (proxy, target) = in_front_of(&emulator);
    assert_same(&straight, &outcomes(client(), &target), "kmsproxy serve in front of the emulator");
    drop(proxy);
}

/// `kmsproxy serve` with the emulator as its upstream, and the target line for a client of it.
fn in_front_of(emulator: &Daemon) -> (Daemon, Value) {
    let dir = Path::new(emulator.at("ca_file")).parent().unwrap().display().to_string();
    let config = format!(
        r#"
[upstream.emulator]
kind = "aliyun"
endpoint = "https://{address}"
region = "cn-hangzhou"
ca_file = "{ca}"
credentials = {{ source = "file", id = "{id}", secret_file = "{secret}" }}
[[listener]]
name = "sdk"
face = "aliyun"
address = "127.0.0.1:0"
tls = {{ certificate_file = "{dir}/server.pem", key_file = "{dir}/server.key" }}
upstream = "emulator"
[[caller]]
name = "sdk"
listener = "sdk"
access_key = {{ id = "LTAIlocal", secret_file = "DIR/secret" }}
allow = [{{ actions = ["Encrypt", "Decrypt", "GenerateDataKey", "DescribeKey"], keys = ["*"] }}]
"#,
        address = emulator.at("address"),
        ca = emulator.at("ca_file"),
        id = emulator.at("access_key_id"),
        secret = emulator.at("secret_file"),
    );
    let proxy = Daemon::serve(&config, &[("secret", "localsecret")]);
    let mut target = emulator.ready.clone();
    target["address"] = proxy.ready["listeners"]["sdk"].clone();
    target["access_key_id"] = json!("LTAIlocal");
    target["secret_file"] = json!(proxy.dir.path().join("secret"));
    (proxy, target)
}

fn outcomes(mut command: Command, target: &Value) -> Map<String, Value> {
    let output = command
        .env("KMSPROXY_TARGET", target.to_string())
        .env("NODE_EXTRA_CA_CERTS", target["ca_file"].as_str().unwrap())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let mut outcomes: Map<String, Value> = serde_json::from_slice(&output.stdout).unwrap();
    // Each server makes a key of its own.
    let key = target["key_id"].as_str().unwrap();
    for outcome in outcomes.values_mut() {
        if outcome["KeyId"] == key {
            outcome["KeyId"] = json!("the key");
        }
    }
    outcomes
}

/// What every SDK must see, whoever answers.
fn check(outcomes: &Map<String, Value>) {
    assert_eq!(outcomes["decrypt"]["Plaintext"], "YSBkYXRhIGVuY3J5cHRpb24ga2V5IG9mIDMyIGJ5dGU=");
    assert_eq!(outcomes["decrypt"]["KeyId"], "the key");
    assert_eq!(outcomes["decrypt again"], outcomes["decrypt"]);
    assert_eq!(outcomes["decrypt with context"]["Plaintext"], outcomes["decrypt"]["Plaintext"]);
    assert_eq!(outcomes["encrypt"]["fields"], json!(["CiphertextBlob", "KeyId", "KeyVersionId", "RequestId"]));
    for (step, code) in [
        ("encrypt under a disabled key", "Rejected.Disabled"),
        ("encrypt under no key", "Forbidden.KeyNotFound"),
        ("throttled", "Rejected.Throttling"),
        ("failing", "InternalFailure"),
        ("another access key", "InvalidAccessKeyId.NotFound"),
        ("decrypt garbage", "InvalidParameter"),
        ("decrypt with another context", "InvalidParameter"),
        ("decrypt without its context", "InvalidParameter"),
    ] {
        let seen = outcomes[step]["code"].as_str().unwrap_or_else(|| panic!("{step}: {}", outcomes[step]));
        // The Node SDK appends "Error" to every code.
        assert_eq!(seen.trim_end_matches("Error"), code.trim_end_matches("Error"), "{step}");
    }
}

fn assert_same(straight: &Map<String, Value>, through: &Map<String, Value>, what: &str) {
    for (step, outcome) in straight {
        assert_eq!(through.get(step), Some(outcome), "{what}: {step}");
    }
    assert_eq!(straight.len(), through.len());
}

fn command(program: &Path, script: &str) -> Command {
    let mut command = Command::new(program);
    command.arg(format!("{SCRIPTS}/{script}")).env("PYTHONPATH", SCRIPTS).env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

/// A Python with `packages`, in an environment of its own.
fn python(name: &str, packages: &[&str]) -> Option<PathBuf> {
    if !runs("python3", &["-m", "venv", "--help"]) {
        return skipped("python3 with venv is not installed");
    }
    let home = installed(name, packages, &|home| {
        must(Command::new("python3").args(["-m", "venv"]).arg(home));
        must(Command::new(home.join("bin/pip")).args(["install", "--quiet"]).args(packages));
    });
    Some(home.join("bin/python"))
}

/// A folder of Node modules.
fn node() -> Option<PathBuf> {
    if !runs("node", &["--version"]) || !runs("npm", &["--version"]) {
        return skipped("Node.js with npm is not installed");
    }
    let home = installed("node", &NODE, &|home| {
        std::fs::create_dir_all(home).unwrap();
        must(Command::new("npm").arg("--prefix").arg(home).args(["install", "--silent", "--no-save"]).args(NODE));
    });
    Some(home.join("node_modules"))
}

/// Installs once: a stamp says which packages are there.
fn installed(name: &str, packages: &[&str], install: &dyn Fn(&Path)) -> PathBuf {
    let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join("clients").join(name);
    let (stamp, wanted) = (home.join("stamp"), packages.join("\n"));
    if std::fs::read_to_string(&stamp).is_ok_and(|found| found == wanted) {
        return home;
    }
    let _ = std::fs::remove_dir_all(&home);
    std::fs::create_dir_all(home.parent().unwrap()).unwrap();
    install(&home);
    std::fs::write(stamp, wanted).unwrap();
    home
}

fn must(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}\n{}", String::from_utf8_lossy(&output.stderr));
}

fn runs(program: &str, arguments: &[&str]) -> bool {
    Command::new(program).args(arguments).output().is_ok_and(|output| output.status.success())
}

fn skipped<T>(why: &str) -> Option<T> {
    assert!(std::env::var("CI").as_deref() != Ok("true"), "skipped in CI: {why}");
    eprintln!("SKIPPED: {why}");
    None
}
