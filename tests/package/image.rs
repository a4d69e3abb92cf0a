//! The container image: built from the Containerfile, and used as the user that it names. By buildah, which needs neither a
//! daemon nor a registry for an image from nothing; as root, since it changes root directories.
//!
//! In it is the static binary that `systemd/debian/package --static` has built, and nothing is lent to that; or where it has
//! not, the binary of this build, to which a run lends the machine's libc. `KMSPROXY_IMAGE` names another.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::os::unix::fs::chown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use rustix::net::sockopt::socket_peercred;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::client::Target;
use super::process::Daemon;
use super::tool::have;
use super::{here, is_root};

#[tokio::test]
async fn the_image_holds_no_shell_and_checks_and_serves_as_its_own_user() {
    if !is_root() || !have("buildah") {
        return;
    }
    let image = Image::build();
    assert_eq!(
        image.files(),
        ["etc/ssl/certs/ca-certificates.crt", "usr/bin/kmsproxy", "usr/share/doc/kmsproxy/kmsproxy.cdx.json"]
    );
    let emulator = Daemon::emulator(&[]);
    let ca = fs::read_to_string(emulator.at("ca_file")).unwrap();
    let secret = fs::read_to_string(emulator.at("secret_file")).unwrap();
    let files = [("ca.pem", ca.as_str()), ("upstream", &secret), ("secret", SECRET)];
    let config = CONFIG.replace("ENDPOINT", emulator.at("address")).replace("KEY", emulator.at("access_key_id"));
    let daemon = Daemon::serve_as(&config, &files, |path| {
        let folder = path.parent().unwrap();
        for file in fs::read_dir(folder).unwrap() {
            chown(file.unwrap().path(), Some(USER), Some(USER)).unwrap();
        }
        chown(folder, Some(USER), Some(USER)).unwrap();
        let checked = image.run(folder, &["check", "--config", path.to_str().unwrap()]).output().unwrap();
        assert!(checked.status.success(), "{checked:?}");
        image.run(folder, &["serve", "--config", path.to_str().unwrap(), "--json"])
    });
    let socket = daemon.dir.path().join("plugin.sock");
    let contained = Contained::behind(&socket);
    assert_eq!(contained.user, USER);

    let address = format!("unix:{}", socket.display());
    let secret = SECRET.to_owned();
    let target = Target { address, ca_file: None, access_key: "LTAIplugin".into(), secret, page: None };
    let mut client = target.connect().await;
    let parameters = [("KeyId", emulator.at("key_id")), ("Plaintext", "YSBkYXRhIGVuY3J5cHRpb24ga2V5")];
    let (status, wrapped) = client.call("Encrypt", &parameters).await;
    assert_eq!(status, 200, "{wrapped}\n{}", daemon.log());
    for _ in 0..2 {
        let blob = wrapped["CiphertextBlob"].as_str().unwrap();
        let (status, unwrapped) = client.call("Decrypt", &[("CiphertextBlob", blob)]).await;
        assert_eq!((status, &unwrapped["Plaintext"]), (200, &parameters[1].1.into()), "{unwrapped}");
    }
    drop(client);
    contained.signal(Signal::TERM);
    assert!(daemon.stop("-CONT").success(), "buildah ends as what it ran");
}

/// An image, in a store of its own, and a container of it.
struct Image {
    store: TempDir,
    container: String,
    lent: Vec<String>,
}

impl Image {
    fn build() -> Self {
        let named = env::var_os("KMSPROXY_IMAGE").map(PathBuf::from);
        let built = || Some(PathBuf::from(STATIC)).filter(|built| built.exists());
        let binary = named.or_else(built).unwrap_or_else(|| env!("CARGO_BIN_EXE_kmsproxy").into());
        let context = tempfile::tempdir().unwrap();
        fs::copy(&binary, context.path().join("kmsproxy")).unwrap();
        fs::copy("/etc/ssl/certs/ca-certificates.crt", context.path().join("ca-certificates.crt")).unwrap();
        fs::write(context.path().join("kmsproxy.cdx.json"), "{}").unwrap();
        let mut image = Self { store: tempfile::tempdir().unwrap(), container: String::new(), lent: lent(&binary) };
        eprintln!("the image of {}, which is lent {:?}", binary.display(), image.lent);
        let file = here().join("config/kubernetes/Containerfile");
        let paths = [file.to_str().unwrap(), context.path().to_str().unwrap()];
        image.buildah(&["build", "--isolation", "chroot", "-f", paths[0], "-t", "kmsproxy", paths[1]]);
        image.container = image.buildah(&["from", "kmsproxy"]);
        image
    }

    /// Every file in it.
    fn files(&self) -> Vec<String> {
        let root = PathBuf::from(self.buildah(&["mount", &self.container]));
        let output = Command::new("find").arg(&root).args(["!", "-type", "d", "-printf", "%P\\n"]).output().unwrap();
        self.buildah(&["umount", &self.container]);
        let mut files: Vec<_> = told(&output).lines().map(str::to_owned).collect();
        files.sort();
        files
    }

    /// `kmsproxy` with `arguments`, in the container, with `folder` in the same place as here.
    fn run(&self, folder: &Path, arguments: &[&str]) -> Command {
        let mut command = self.command();
        command.args(["run", "--isolation", "chroot", "--volume", &format!("{0}:{0}:rw", folder.display())]);
        command.args(self.lent.iter().map(|directory| format!("--volume={directory}:{directory}:ro")));
        command.args([&self.container, "--", "/usr/bin/kmsproxy"]).args(arguments);
        command
    }

    fn command(&self) -> Command {
        let mut command = Command::new("buildah");
        let (root, run) = (self.store.path().join("root"), self.store.path().join("run"));
        command.arg("--root").arg(root).arg("--runroot").arg(run).args(["--storage-driver", "vfs"]);
        command
    }

    fn buildah(&self, arguments: &[&str]) -> String {
        told(&self.command().args(arguments).output().unwrap()).trim().to_owned()
    }
}

/// The directories of the libraries that `binary` is linked to; none if it is static.
fn lent(binary: &Path) -> Vec<String> {
    let output = Command::new("ldd").arg(binary).output().unwrap();
    let told = String::from_utf8(output.stdout).unwrap();
    let libraries = told.split_whitespace().filter(|word| word.starts_with('/') && !word.ends_with(':'));
    let directories: BTreeSet<_> = libraries.filter_map(|library| Path::new(library).parent()?.to_str()).collect();
    directories.into_iter().map(str::to_owned).collect()
}

fn told(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The process that listens at a socket, which is killed when this goes.
struct Contained {
    process: Pid,
    user: u32,
}

impl Contained {
    fn behind(socket: &Path) -> Self {
        let peer = socket_peercred(UnixStream::connect(socket).unwrap()).unwrap();
        Self { process: peer.pid, user: peer.uid.as_raw() }
    }

    fn signal(&self, signal: Signal) {
        kill_process(self.process, signal).unwrap();
    }
}

impl Drop for Contained {
    fn drop(&mut self) {
        // It has mostly ended by itself.
        let _ = kill_process(self.process, Signal::KILL);
    }
}

const STATIC: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/../x86_64-unknown-linux-musl/release/kmsproxy");
const SECRET: &str = "a-secret-of-the-test";
const USER: u32 = 65532;
const CONFIG: &str = r#"
[upstream.emulator]
kind = "aliyun"
endpoint = "https://ENDPOINT"
ca_file = "DIR/ca.pem"
credentials = { source = "file", id = "KEY", secret_file = "DIR/upstream" }
[[listener]]
name = "plugin"
face = "aliyun"
address = "unix:DIR/plugin.sock"
upstream = "emulator"
[[caller]]
name = "plugin"
listener = "plugin"
access_key = { id = "LTAIplugin", secret_file = "DIR/secret" }
allow = [{ actions = ["Encrypt", "Decrypt"], keys = ["*"] }]
"#;
