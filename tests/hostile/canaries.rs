//! Secrets that would be recognised anywhere, and nowhere are: everything that can be read of a run at the most
//! talkative level.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE};
use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use kmsproxy::auth::Identity;
use kmsproxy::config::Environment;
use kmsproxy::kms::{
    Answer, Call, Ciphertext, Context, ContextForm, DataKey, Decrypt, Decrypted, Encrypt, Extra, KeyId, KeyName,
    KeyVersion, Reply, RequestId,
};
use kmsproxy::seal::AtRest;
use kmsproxy::secret::Secret;
use kmsproxy::upstream::credentials::Credentials;
use kmsproxy::wire::aliyun::signature::{AccessKey, V3, v3_headers};
use kmsproxy::wire::kubernetes::Request;
use serde_json::json;

use super::http::{self, Heard, Raw};
use super::kms::{Act, Kms, html, said, wrapped};
use super::process::{BINARY, Daemon};
use super::provider::{self, Stored};
use super::signer::{Pairs, Signer, encoded, hex};
use super::stage::{AUDIT_SECRET, Setup, Stage, one};
use super::upstream::certified;

#[test]
fn no_secret_is_in_anything_that_is_said_or_written() {
    run("text");
}

#[test]
fn no_secret_is_in_anything_that_is_written_as_json() {
    run("json");
}

fn run(log_format: &'static str) {
    let (ca, tls) = certified(&["127.0.0.1"]);
    let kms = Kms::tls(tls);
    let setup = Setup {
        endpoint: format!("https://{}", kms.address),
        ca: Some(ca),
        lease: r#"{ duration = "3s", probe = "1s" }"#,
        local_secret: LOCAL,
        credentials: Some(format!(r#"{{ source = "uri", uri = "{}" }}"#, grants())),
        log_format,
        more: MORE,
        ..Setup::plain(&kms)
    };
    let stage = Stage::set_up(kms, &setup);
    let context = json!({ "name": CONTEXT }).to_string();
    let blob = wrapped("key-1", &STANDARD.encode(DEK), &context);
    let bodies = provoke(&stage, &blob, &context);
    let grpc = provoke_as_apiserver(&stage);
    await_probes(&stage);

    let (bare, encoded_dek) = (wrapped("key-1", &STANDARD.encode(DEK), ""), STANDARD.encode(DEK));
    let canaries = [LOCAL, UPSTREAM, TOKEN, AUDIT_SECRET, DEK, &encoded_dek, CONTEXT, &context, &blob, &bare];
    let log = stage.daemon.log();
    let mut places = vec![
        ("log".to_owned(), log.clone()),
        ("metrics".to_owned(), stage.metrics()),
        ("error bodies".to_owned(), bodies.join("\n")),
        ("heads and trailers of gRPC".to_owned(), grpc),
    ];
    for file in ["cmdline", "environ"] {
        let bytes = std::fs::read(format!("/proc/{}/{file}", stage.daemon.id())).unwrap();
        places.push((file.to_owned(), String::from_utf8_lossy(&bytes).into_owned()));
    }
    places.extend(commands(&stage));
    places.extend(written(&stage));
    for (place, text) in &places {
        assert!(!text.is_empty(), "{place} is empty");
        for canary in canaries {
            assert_eq!(found(text, canary), None, "{canary} in {place}");
        }
    }
    // The log was indeed talkative.
    for word in ["TRACE", "request", "attempt", "invalid_parameter", "bad_signature", "garbled", "v2/Encrypt", "h2::"] {
        assert!(log.contains(word), "{word} is not in the log");
    }
    let names: Vec<_> = places.iter().map(|(place, text)| format!("{place} ({})", text.len())).collect();
    eprintln!("{} lines of log, {} error bodies; bytes of {}", log.lines().count(), bodies.len(), names.join(", "));
}

/// What the other commands say of this daemon and of its configuration.
fn commands(stage: &Stage) -> Vec<(String, String)> {
    let (config, socket) = (stage.daemon.dir.path().join("kmsproxy.toml"), stage.daemon.dir.path().join("admin.sock"));
    let (config, socket) = (config.to_str().unwrap(), socket.to_str().unwrap());
    let commands: [&[&str]; 3] = [
        &["status", "--socket", socket],
        &["status", "--socket", socket, "--json"],
        // Its addresses are taken, by the daemon.
        &["check", "--print", "--root", "/", "--config", config],
    ];
    let said = commands.into_iter().map(|arguments| {
        let output = Command::new(BINARY).args(arguments).env("KMSPROXY_LOG", "trace").output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        let said = [output.stdout, output.stderr].concat();
        (arguments.join(" "), String::from_utf8_lossy(&said).into_owned())
    });
    said.collect()
}

/// Every file that the daemon has in its hands or has made, but for those that it was given.
fn written(stage: &Stage) -> Vec<(String, String)> {
    let at = |name: &str| stage.daemon.dir.path().join(name);
    let given = ["local.secret", "upstream.secret", "audit.secret", "server.key"].map(at);
    let beside = std::fs::read_dir(stage.daemon.dir.path()).unwrap().map(|entry| entry.unwrap().path());
    let open = std::fs::read_dir(format!("/proc/{}/fd", stage.daemon.id())).unwrap();
    let open = open.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
    let files = beside.chain(open).filter(|path| path.is_file() && !given.contains(path));
    let files: BTreeSet<_> = files.filter(|path| path.metadata().unwrap().len() > 0).collect();
    assert!(["log", "audit.jsonl"].iter().all(|name| files.contains(&at(name))), "{files:?}");
    let read = |path: PathBuf| {
        (path.display().to_string(), String::from_utf8_lossy(&std::fs::read(&path).unwrap()).into_owned())
    };
    files.into_iter().map(read).collect()
}

/// The same as kube-apiserver would do it; returns all that it would hear.
fn provoke_as_apiserver(stage: &Stage) -> String {
    let socket = stage.daemon.dir.path().join("k8s.sock");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut client = provider::Client::connect(&socket).await;
        for _ in 0..2 {
            for v2 in [false, true] {
                insist(&mut client, v2).await;
            }
        }
        let Some(Stored::V2(blob, key_id, annotations)) = client.encrypt_v2(DEK.as_bytes()).await else { panic!() };
        let bad = [
            Stored::V1(DEK.as_bytes().to_vec()),
            Stored::V1([&[1, 3][..], b"no-", DEK.as_bytes()].concat()),
            Stored::V2(DEK.as_bytes().to_vec(), key_id.clone(), annotations.clone()),
            Stored::V2(blob.clone(), DEK.to_owned(), annotations),
            Stored::V2(blob, key_id, [(CONTEXT.to_owned(), DEK.as_bytes().to_vec())].into()),
        ];
        for stored in &bad {
            assert_eq!(client.decrypt(stored).await, None);
        }
        let html = format!("<html>{UPSTREAM} {TOKEN} {DEK}</html>").into_bytes();
        for act in [Act::Say(200, String::new(), html), said(500, "InternalFailure"), said(409, "Rejected.Disabled")] {
            stage.kms.says(act);
            assert!(client.encrypt_v1(DEK.as_bytes()).await.is_none());
            assert!(client.encrypt_v2(DEK.as_bytes()).await.is_none());
        }
        stage.kms.is_honest();
        client.heard
    })
}

/// Encrypts and decrypts. The key was refused a moment ago: one trial a second is let through, and a refusal that the
/// KMS said earlier may still be under way.
async fn insist(client: &mut provider::Client, v2: bool) {
    for _ in 0..100 {
        let stored = if v2 { client.encrypt_v2(DEK.as_bytes()).await } else { client.encrypt_v1(DEK.as_bytes()).await };
        let opened = match stored {
            Some(stored) => client.decrypt(&stored).await,
            None => None,
        };
        match opened {
            Some(opened) => return assert_eq!(opened, DEK.as_bytes()),
            None => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
    panic!("no good answer within ten seconds: {}", client.heard)
}

/// Where credentials with a session token are had.
fn grants() -> String {
    let grant = json!({ "AccessKeyId": "STS.upstream", "AccessKeySecret": UPSTREAM, "SecurityToken": TOKEN,
        "Expiration": "2100-01-01T00:00:00Z", "Code": "Success" });
    let source = Kms::plain();
    source.says(Act::Say(200, String::new(), grant.to_string().into_bytes()));
    format!("http://{}/", source.address)
}

#[test]
fn no_secret_is_in_debug_output() {
    let (dek, token, blob) = (|| Secret::copied(DEK.as_bytes()), Secret::copied(TOKEN.as_bytes()), DEK.as_bytes());
    let (key, version) = (KeyId::new("key-1"), KeyVersion::new("v1"));
    let pairs = [(CONTEXT.into(), DEK.into())].into_iter().collect();
    let context = Context::new(ContextForm::Json, CONTEXT, pairs);
    let form = format!("Plaintext={}", encoded(DEK));
    let (secret, at) = (Secret::copied(UPSTREAM.as_bytes()), jiff::Timestamp::now());
    let access_key = AccessKey { id: "id", secret: &secret, token: Some(&token) };
    let signing =
        V3 { host: "kms", action: "Encrypt", version: "1", key: access_key, at, nonce: "n", body: form.as_bytes() };
    let encrypt = Encrypt {
        key: KeyName::new("key-1"),
        plaintext: dek(),
        context: context.clone(),
        dry_run: false,
        extra: Extra::default(),
    };
    let ciphertext = Ciphertext::new(blob.to_vec());
    let decrypt =
        Decrypt { ciphertext: ciphertext.clone(), key: None, context, dry_run: false, extra: Extra::default() };
    let data_key = DataKey { plaintext: Some(dek()), ciphertext, key: key.clone(), version: version.clone() };
    let decrypted = Decrypted { plaintext: dek(), key, version };
    let request_id = || RequestId::new("R");
    let shown = [
        format!("{:?} {:?}", dek(), AtRest::new(&dek()).unwrap()),
        format!("{access_key:?} {:?}", v3_headers(&signing)),
        format!("{:?} {:?}", Call::Encrypt(encrypt), Call::Decrypt(decrypt)),
        format!("{:?}", Answer { reply: Reply::DataKey(data_key), request_id: request_id() }),
        format!("{:?}", Answer { reply: Reply::Decrypted(decrypted), request_id: request_id() }),
        format!("{:?}", Identity::AccessKey { id: "id".to_owned(), secret: Secret::copied(LOCAL.as_bytes()) }),
        format!(
            "{:?}",
            Credentials { id: "id".to_owned(), secret, token: Some(token), expires: None, principal: "p".into() }
        ),
        format!("{:?}", Environment::of([("TOKEN".into(), TOKEN.into())])),
        format!("{:?} {:?}", Request::EncryptV1 { plaintext: dek() }, Request::DecryptV1 { ciphertext: blob.to_vec() }),
    ];
    for text in &shown {
        for canary in [LOCAL, UPSTREAM, TOKEN, DEK, CONTEXT] {
            assert_eq!(found(text, canary), None, "{canary} in {text}");
        }
    }
}

#[test]
fn a_development_daemon_says_and_writes_nothing_of_what_passes_through_it() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::dev_on(&dir.path().join("state"), &[]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut client = provider::Client::connect(Path::new(daemon.at("kubernetes_socket"))).await;
        let stored = [client.encrypt_v1(DEK.as_bytes()).await, client.encrypt_v2(DEK.as_bytes()).await];
        for stored in stored {
            assert_eq!(client.decrypt(&stored.unwrap()).await.as_deref(), Some(DEK.as_bytes()));
        }
    });
    let secret = std::fs::read_to_string(daemon.at("secret_file")).unwrap();
    let (mut files, mut left) = (Vec::new(), vec![dir.path().to_owned()]);
    while let Some(at) = left.pop() {
        for entry in std::fs::read_dir(at).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() {
                left.push(entry)
            } else if entry.is_file() {
                files.push(entry)
            }
        }
    }
    assert!(files.len() >= 4, "{files:?}");
    for file in files {
        let text = String::from_utf8_lossy(&std::fs::read(&file).unwrap()).into_owned();
        assert_eq!(found(&text, DEK), None, "in {}", file.display());
        let its_place = file.as_path() == Path::new(daemon.at("secret_file"));
        assert_eq!(found(&text, secret.trim()).is_some(), its_place, "the access key's secret in {}", file.display());
    }
    for text in [daemon.log(), daemon.ready.to_string()] {
        for canary in [DEK, secret.trim()] {
            assert_eq!(found(&text, canary), None, "{canary} in {text}");
        }
    }
}

/// Good requests, and bad ones of every sort that carry the canaries; returns the bodies of the refusals.
fn provoke(stage: &Stage, blob: &str, context: &str) -> Vec<String> {
    let decrypt = [("Action", "Decrypt"), ("CiphertextBlob", blob), ("EncryptionContext", context)];
    let plaintext = STANDARD.encode(DEK);
    let encrypt = [("KeyId", "key-1"), ("Plaintext", &*plaintext), ("EncryptionContext", context)];
    for _ in 0..2 {
        let heard = stage.ask(&me().v1("GET", &decrypt, &[]));
        assert_eq!((heard.status, heard.json()["Plaintext"].as_str()), (200, Some(&*plaintext)));
    }
    let heard = stage.ask(&me().v3("POST", "Encrypt", &encrypt, &[]));
    assert_eq!((heard.status, heard.json()["CiphertextBlob"].as_str()), (200, Some(blob)));
    let mut tls = stage.connect_tls();
    let secure = Signer { secret: LOCAL, ..Signer::new("LTAIsecure", LOCAL) };
    tls.write_all(&secure.v1("POST", &decrypt, &[]).bytes()).unwrap();
    assert_eq!(http::answer(&mut tls).unwrap().status, 200);

    let forger = || Signer { secret: "forged", ..one() };
    let wrong_context = [decrypt[0], decrypt[1], ("EncryptionContext", r#"{"other":"context"}"#)];
    let broken_context = [decrypt[0], decrypt[1], ("EncryptionContext", &context[1..])];
    let doubled = [&decrypt[..], &decrypt[1..2]].concat();
    let named: Vec<_> = decrypt.into_iter().chain([(blob, CONTEXT), (CONTEXT, "")]).collect();
    let odd = [("Action", CONTEXT), ("CiphertextBlob", blob)];
    let plain = me().v1("POST", &decrypt, &[]);
    let bad_path = format!("/{}?{}", encoded(blob), plain.target.trim_start_matches("/?"));
    let broken = format!("{}&{}=%FF", plain.target, encoded(CONTEXT));
    let requests = [
        forger().v1("POST", &decrypt, &[]),
        forger().v1("POST", &odd, &[]),
        forger().v3("POST", "Encrypt", &encrypt, &[]),
        forger().v3("POST", "Encrypt", &[], &encrypt),
        me().v1("POST", &wrong_context, &[]),
        me().v1("POST", &broken_context, &[]),
        me().v1("POST", &doubled, &[]),
        me().v1("POST", &odd, &[]),
        me().v1("POST", &[("Action", "Encrypt"), ("KeyId", "key-2"), encrypt[1], encrypt[2]], &[]),
        plain.clone().to(&bad_path),
        plain.clone().with("host", "evil.example"),
        plain.clone().and("origin", "https://evil.example"),
        Raw { method: "PUT".to_owned(), ..plain.clone() },
        plain.clone(),
        plain.clone(),
    ];
    let mut refusals: Vec<Heard> =
        requests.iter().map(|raw| stage.ask(raw)).filter(|heard| heard.status != 200).collect();
    assert_eq!(refusals.len(), requests.len() - 1, "all but the one that was good the first time");
    // The parser names what it cannot read; its name is the caller's own word, cut to 128 bytes.
    let unreadable = stage.ask(&plain.to(&broken));
    assert_eq!(unreadable.refusal(), (400, "InvalidParameter".to_owned()));
    let relayed = stage.ask(&me().v1("POST", &named, &[]));
    assert_eq!(relayed.status, 200, "{relayed:?}");

    refusals.extend(lie(stage, &decrypt, &encrypt));
    assert!(refusals.iter().all(|heard| heard.status != 200));
    refusals.into_iter().map(|heard| heard.head + &heard.body).collect()
}

/// What a KMS says of a wrong signature quotes what we sent, and a portal may quote anything.
fn lie(stage: &Stage, decrypt: Pairs<'_>, encrypt: Pairs<'_>) -> Vec<Heard> {
    let mut refusals = Vec::new();
    let (blob, context) = (decrypt[1].1, decrypt[2].1);
    let quoted = format!("Specified signature is not matched. server string to sign is:POST {DEK} {blob} {context}");
    let body = json!({ "Code": "SignatureDoesNotMatch", "Message": quoted, "RequestId": "R" }).to_string();
    for act in [
        Act::Say(400, String::new(), body.into_bytes()),
        Act::Say(200, format!("x-echo: {DEK}\r\n"), format!("<html>{UPSTREAM} {DEK} {blob} {context}</html>").into()),
        Act::Blurt(format!("{DEK} {blob} {context} {UPSTREAM}\r\n\r\n").into_bytes()),
        html(403),
        said(500, "InternalFailure"),
        said(409, "Rejected.Disabled"),
    ] {
        stage.kms.says(act);
        refusals.push(stage.ask(&me().v3("POST", "Encrypt", &[], encrypt)));
        refusals.push(stage.ask(&me().v1("POST", &[decrypt, &[("DryRun", "true")]].concat(), &[])));
    }
    stage.kms.is_honest();
    refusals
}

fn me() -> Signer {
    Signer { secret: LOCAL, ..one() }
}

/// Waits until some probes were made, so that they are in the log, too.
fn await_probes(stage: &Stage) {
    let before = stage.kms.count();
    for _ in 0..400 {
        if stage.kms.count() > before + 1 {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("no probe");
}

/// In which spelling `text` holds `canary`.
fn found(text: &str, canary: &str) -> Option<String> {
    spellings(canary).into_iter().find(|spelling| text.contains(spelling.as_str()))
}

fn spellings(canary: &str) -> Vec<String> {
    let bytes = canary.as_bytes();
    let decimal = bytes.iter().map(u8::to_string).collect::<Vec<_>>();
    let mut all = vec![
        canary.to_owned(),
        encoded(canary),
        encoded(&encoded(canary)),
        hex(bytes),
        hex(bytes).to_uppercase(),
        format!("{canary:?}").trim_matches('"').to_owned(),
        URL_SAFE.encode(bytes),
        decimal.join(", "),
        decimal.join(","),
    ];
    for shift in 0..3 {
        // In the middle of something longer: what does not depend on its neighbours.
        let shifted = STANDARD_NO_PAD.encode([&b"xx"[..shift], bytes].concat());
        let core = shifted.get([0, 2, 3][shift]..shifted.len() - 2).unwrap().to_owned();
        all.extend([encoded(&core), core]);
    }
    all
}

#[test]
fn a_canary_is_found_in_every_spelling() {
    let spelled = [
        format!("at {DEK}."),
        format!("Bytes({:?})", DEK.as_bytes()),
        STANDARD.encode(DEK),
        STANDARD.encode(format!("a{DEK}b")),
        encoded(&STANDARD.encode(format!("ab{DEK}"))),
        hex(DEK.as_bytes()),
        encoded(DEK),
    ];
    for text in spelled {
        assert!(found(&text, DEK).is_some(), "{text}");
    }
    assert_eq!(found("nothing of the sort", DEK), None);
}

const LOCAL: &str = "canary+local/secret=0f3a";
const UPSTREAM: &str = "canary+upstream/secret=77b1";
const TOKEN: &str = "canary+session/token=c2e8";
const DEK: &str = "canary+plaintext/dek=93cd";
const CONTEXT: &str = "canary+context/value=41ee";
const MORE: &str = r#"
[audit]
sink = "file"
path = "DIR/audit.jsonl"
secret_file = "DIR/audit.secret"
[admin]
address = "unix:DIR/admin.sock"
[[listener]]
name = "k8s"
face = "kubernetes"
address = "unix:DIR/k8s.sock"
upstream = "fake"
key = "key-1"
[[caller]]
name = "apiserver"
listener = "k8s"
allow = [{ actions = ["Encrypt", "Decrypt"], keys = ["key-1"] }]
"#;
