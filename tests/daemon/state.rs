//! What `dev` leaves on disk: who can read it, and what is not in it.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::client::Target;
use super::process::Daemon;

#[tokio::test]
async fn only_the_owner_reads_the_state_and_no_key_is_in_it_in_clear() {
    let dev = Daemon::dev(&[]);
    let state = Path::new(dev.at("ca_file")).parent().unwrap().to_owned();
    let mut client = Target::of(&dev).connect().await;
    let (status, made) = client.call("GenerateDataKey", &[("KeyId", dev.at("key_id"))]).await;
    assert_eq!(status, 200, "{made}");
    let blob = made["CiphertextBlob"].as_str().unwrap();
    for _ in 0..2 {
        let (status, body) = client.call("Decrypt", &[("CiphertextBlob", blob)]).await;
        assert_eq!((status, &body["Plaintext"]), (200, &made["Plaintext"]), "{body}");
    }

    let modes: BTreeMap<_, _> = walk(&state).into_iter().map(|path| (relative(&state, &path), mode(&path))).collect();
    let expected = [
        ("", 0o700),
        ("access-key.secret", 0o600),
        ("admin.sock", 0o600),
        ("ca.pem", 0o644),
        ("control.sock", 0o600),
        ("kms", 0o700),
        ("kms.sock", 0o660),
        ("kms/keys.sealed", 0o600),
        ("kms/root.key", 0o600),
        ("kmsproxy.toml", 0o600),
        ("lock", 0o600),
        ("server.key", 0o600),
        ("server.pem", 0o644),
    ];
    // Certificates are for everyone; how far everyone gets is the umask's affair, and the directory's. A socket's mode is
    // what the configuration says.
    let masked = |(path, mode): (&str, u32)| {
        let mode = if path.ends_with(".sock") { mode } else { mode & !umask() };
        (path.to_owned(), mode)
    };
    assert_eq!(modes, expected.map(masked).into_iter().collect());

    let dek = base64(made["Plaintext"].as_str().unwrap());
    let root = std::fs::read(state.join("kms/root.key")).unwrap();
    assert_eq!((dek.len(), root.len()), (32, 32));
    let log = dev.dir.path().join("log");
    for path in walk(&state).into_iter().chain([log]).filter(|path| path.is_file()) {
        let content = std::fs::read(&path).unwrap();
        assert!(!forms(&dek).iter().any(|form| within(form, &content)), "a DEK in {}", path.display());
        let own = path.ends_with("kms/root.key");
        assert!(own || !forms(&root).iter().any(|form| within(form, &content)), "the root key in {}", path.display());
    }
    let sealed = std::fs::read(state.join("kms/keys.sealed")).unwrap();
    assert!(!within(dev.at("key_id").as_bytes(), &sealed), "the keys are sealed");
}

/// How a secret may be written: as it is, in hex, in base64 at any offset.
fn forms(secret: &[u8]) -> Vec<Vec<u8>> {
    use ::base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
    let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut forms = vec![secret.to_vec(), hex.to_uppercase().into_bytes(), hex.into_bytes()];
    // Three bytes are four characters, so of three offsets one is at a boundary.
    forms.extend((0..3).map(|from| STANDARD_NO_PAD.encode(&secret[from..from + 27]).into_bytes()));
    forms
}

fn within(needle: &[u8], hay: &[u8]) -> bool {
    memchr::memmem::find(hay, needle).is_some()
}

fn base64(text: &str) -> Vec<u8> {
    use ::base64::{Engine, engine::general_purpose::STANDARD};
    STANDARD.decode(text).unwrap()
}

fn walk(dir: &Path) -> Vec<PathBuf> {
    let mut found = vec![dir.to_owned()];
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        found.extend(if path.is_dir() { walk(&path) } else { vec![path] });
    }
    found
}

fn relative(base: &Path, path: &Path) -> String {
    path.strip_prefix(base).unwrap().display().to_string()
}

fn mode(path: &Path) -> u32 {
    std::fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

fn umask() -> u32 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("Umask:")).unwrap();
    u32::from_str_radix(line.trim(), 8).unwrap()
}
