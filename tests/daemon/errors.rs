//! Errors of the KMS arrive as the KMS wrote them: status, and every field of the body.

use serde_json::json;

use super::client::Outcome;
use super::process::Daemon;
use super::scene::{Scene, Setting};
use super::tap::Tap;

#[tokio::test]
async fn errors_arrive_as_the_kms_wrote_them() {
    let emulator = Daemon::emulator(&[]);
    let tap = Tap::before(&emulator).await;
    let scene = Scene::through(emulator, &tap.address, Setting::default());

    let disabled = scene.new_key().await;
    let blob = scene.ciphertexts(&disabled, 1).await.remove(0);
    scene.disable(&disabled).await;
    same(&tap, &decrypt(&scene, &blob).await, 409, "Rejected.Disabled");

    let doomed = scene.new_key().await;
    let blob = scene.ciphertexts(&doomed, 1).await.remove(0);
    scene.steer("POST", &format!("/keys/{doomed}/schedule-deletion?days=7"), "").await;
    same(&tap, &decrypt(&scene, &blob).await, 409, "Rejected.PendingDeletion");

    same(&tap, &decrypt(&scene, "bm8gY2lwaGVydGV4dA==").await, 400, "InvalidParameter");

    let unknown = [("KeyId", "key-hzz0000000000000"), ("Plaintext", "aGVsbG8=")];
    same(&tap, &scene.tls.call("Encrypt", &unknown).await, 404, "Forbidden.KeyNotFound");

    let blob = scene.ciphertext().await;
    scene.behave(&json!({ "error_rate": 1.0 })).await;
    same(&tap, &decrypt(&scene, &blob).await, 500, "InternalFailure");

    let blob = scene.ciphertext_while_well().await;
    scene.behave(&json!({ "quota": 0 })).await;
    same(&tap, &decrypt(&scene, &blob).await, 429, "Rejected.Throttling");
}

impl Scene {
    async fn ciphertext_while_well(&self) -> String {
        self.behave(&json!({})).await;
        self.ciphertext().await
    }
}

async fn decrypt(scene: &Scene, blob: &str) -> Outcome {
    scene.tls.call("Decrypt", &[("CiphertextBlob", blob)]).await
}

fn same(tap: &Tap, came: &Outcome, status: u16, code: &str) {
    assert_eq!(*came, tap.last(), "{code}");
    assert_eq!((came.0, came.1["Code"].as_str()), (status, Some(code)));
    assert!(came.1["RequestId"].is_string(), "{}", came.1);
}
