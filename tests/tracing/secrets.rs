//! Secrets that would be recognised anywhere: in nothing that a collector was sent.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use serde_json::json;

use super::client::signed;
use super::grpc;
use super::scene::{SECRET, Scene, parent};
use super::sink::{Sink, TAKEN};

#[tokio::test]
async fn no_secret_of_a_request_is_in_what_a_collector_is_sent() {
    let sink = Sink::new(TAKEN);
    let scene = Scene::new(&format!("[tracing]\nendpoint = \"http://{}\"\nsample = 1\n", sink.address));
    let upstream = std::fs::read_to_string(scene.emulator.at("secret_file")).unwrap();
    let (plaintext, context) = (STANDARD.encode(DEK), json!({ "name": CONTEXT }).to_string());
    let blob = scene.wrapped(&plaintext, Some(&context)).await;
    let decrypt = [("CiphertextBlob", &*blob), ("EncryptionContext", &*context)];
    // A miss, a hit, what is made new; another context, other ciphertexts, keys and parameters, which are all refused.
    let mut statuses = Vec::new();
    for (action, parameters) in [
        ("Decrypt", &decrypt[..]),
        ("Decrypt", &decrypt[..]),
        ("Encrypt", &[("KeyId", scene.key()), ("Plaintext", &plaintext), ("EncryptionContext", &context)]),
        ("Decrypt", &decrypt[..1]),
        ("Decrypt", &[("CiphertextBlob", &plaintext)]),
        ("Encrypt", &[("KeyId", NAME), ("Plaintext", &plaintext)]),
        ("Encrypt", &[("KeyId", scene.key()), (NAME, &plaintext)]),
        (NAME, &decrypt[..]),
    ] {
        statuses.push(scene.ask(action, parameters, &[("traceparent", &parent(7, true))]).await.0);
    }
    assert_eq!(statuses[..3], [200; 3]);
    assert!(statuses[3..].iter().all(|&status| status >= 400), "{statuses:?}");
    let sound = signed(&scene.plugin, "Decrypt", &decrypt);
    let authorization = sound.headers()["authorization"].to_str().unwrap().to_owned();
    let signature = authorization.rsplit('=').next().unwrap().to_owned();
    assert_eq!(scene.plugin.connect().await.send(sound).await.0, 200);
    let mut forged = signed(&scene.plugin, "Decrypt", &decrypt);
    *forged.uri_mut() = format!("/?Signature={NAME}").parse().unwrap();
    assert!(scene.plugin.connect().await.send(forged).await.0 >= 400);
    let wrapped = grpc::round(scene.apiserver(), DEK.as_bytes(), &[(NAME, NAME)]).await;
    assert!(scene.proxy.stop("-TERM").success());

    let posted = sink.posted();
    let sent: Vec<u8> = posted.iter().flat_map(|posted| posted.body.to_vec()).collect();
    assert!(find(&sent, b"ack-kms-plugin") && find(&sent, b"v2.KeyManagementService/Decrypt"), "a control");
    let ciphertext = STANDARD.decode(&blob).unwrap();
    let canaries = [
        DEK.as_bytes(),
        CONTEXT.as_bytes(),
        NAME.as_bytes(),
        SECRET.as_bytes(),
        upstream.trim().as_bytes(),
        signature.as_bytes(),
        &ciphertext[..16],
        &ciphertext[ciphertext.len() - 16..],
        &wrapped[wrapped.len() - 16..],
    ];
    let heads = posted.iter().map(|posted| format!("{} {:?}", posted.line, posted.headers)).collect::<String>();
    for canary in canaries {
        for spelling in spellings(canary) {
            let shown = String::from_utf8_lossy(&spelling);
            assert!(!find(&sent, &spelling), "{shown} was sent");
            assert!(!find(heads.as_bytes(), &spelling), "{shown} is in a head");
        }
    }
}

/// As it is, in hexadecimal, and the middle of it in base64 of both alphabets, wherever it begins.
fn spellings(canary: &[u8]) -> Vec<Vec<u8>> {
    let hex: String = canary.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut all = vec![canary.to_vec(), hex.to_uppercase().into_bytes(), hex.into_bytes()];
    for shift in 0..3 {
        let shifted = [&b"xx"[..shift], canary].concat();
        for engine in [STANDARD_NO_PAD, URL_SAFE_NO_PAD] {
            let text = engine.encode(&shifted);
            all.push(text.as_bytes()[4..text.len() - 4].to_vec());
        }
    }
    all
}

fn find(text: &[u8], needle: &[u8]) -> bool {
    assert!(needle.len() >= 8);
    text.windows(needle.len()).any(|window| window == needle)
}

const DEK: &str = "canary-of-a-dek-that-is-32-long!";
const CONTEXT: &str = "canary-of-a-context";
const NAME: &str = "canary-of-a-made-up-name";
