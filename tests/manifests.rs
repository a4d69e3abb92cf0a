//! What `config/kubernetes/` ships: each file parses, says nothing that its reader would not know, and agrees with the
//! others about paths, names and users. Kubernetes' own types judge the manifests in `tests/kubernetes`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::de::DeserializeOwned;

#[path = "manifests/shape.rs"]
mod shape;

use shape::{Container, EncryptionConfiguration, Pod, Provider, Volume};

/// Each pod stands beside the configuration that it mounts.
const PODS: [&str; 2] = ["ack-kms-plugin-sidecar", "kmsproxy-static-pod"];
const CONFIG_MOUNT: &str = "/etc/kmsproxy";

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config/kubernetes")
}

fn text(name: &str) -> String {
    fs::read_to_string(folder().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn yaml<T: DeserializeOwned>(name: &str) -> T {
    serde_saphyr::from_str(&text(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn pod(stem: &str) -> (Pod, toml::Table) {
    (yaml(&format!("{stem}.yaml")), text(&format!("{stem}.toml")).parse().expect("TOML"))
}

fn kmsproxy(pod: &Pod) -> &Container {
    pod.spec.containers.iter().find(|container| container.name == "kmsproxy").expect("a container called kmsproxy")
}

/// Every text of a configuration, with the name before it.
fn leaves(name: &str, value: &toml::Value) -> Vec<(String, String)> {
    match value {
        toml::Value::String(text) => vec![(name.to_owned(), text.clone())],
        toml::Value::Array(items) => items.iter().flat_map(|item| leaves(name, item)).collect(),
        toml::Value::Table(table) => table.iter().flat_map(|(name, value)| leaves(name, value)).collect(),
        toml::Value::Boolean(_) | toml::Value::Datetime(_) | toml::Value::Float(_) | toml::Value::Integer(_) => vec![],
    }
}

fn all_of(config: &toml::Table) -> Vec<(String, String)> {
    leaves("", &toml::Value::Table(config.clone()))
}

/// The paths of the sockets that a configuration makes.
fn sockets(config: &toml::Table) -> Vec<String> {
    let addresses = all_of(config).into_iter().filter(|(name, _)| name == "address");
    addresses.filter_map(|(_, address)| address.strip_prefix("unix:").map(str::to_owned)).collect()
}

#[test]
fn every_file_has_its_test() {
    let names: BTreeSet<String> = fs::read_dir(folder())
        .expect("the folder is there")
        .map(|entry| entry.expect("readable").file_name().into_string().expect("UTF-8"))
        .collect();
    let pods = PODS.iter().flat_map(|stem| [format!("{stem}.yaml"), format!("{stem}.toml")]);
    let others = ["Containerfile", "README.md", "encryption-configuration-v1.yaml", "encryption-configuration-v2.yaml"];
    let tested = pods.chain(others.map(str::to_owned)).chain(["kmsproxy-tmpfiles.conf".to_owned()]);
    assert_eq!(names, tested.collect());
    for name in names {
        assert!(name == "README.md" || text("README.md").contains(&name), "README.md does not mention {name}");
    }
}

#[test]
fn each_configuration_passes_the_check() {
    let machine = tempfile::tempdir().expect("a temporary directory");
    let at = |path: &str| machine.path().join(path.trim_start_matches('/'));
    for stem in PODS {
        let (_, config) = pod(stem);
        for (name, path) in all_of(&config) {
            if name.ends_with("_file") {
                fs::create_dir_all(at(&path).parent().expect("a parent")).expect("a directory");
                fs::write(at(&path), "s3cret\n").expect("a file");
                fs::set_permissions(at(&path), fs::Permissions::from_mode(0o600)).expect("a mode");
            }
        }
        fs::create_dir_all(at("/run/kmsproxy")).expect("a directory");
        let output = Command::new(env!("CARGO_BIN_EXE_kmsproxy"))
            .env_clear()
            .args(["check", "--root"])
            .arg(machine.path())
            .arg("--config")
            .arg(folder().join(format!("{stem}.toml")))
            .output()
            .expect("the binary runs");
        assert!(output.status.success(), "{stem}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn each_encryption_configuration_names_the_socket_of_the_static_pod_and_ends_with_identity() {
    let (pod, config) = pod("kmsproxy-static-pod");
    let listeners = config["listener"].as_array().expect("a list");
    let listener = listeners.iter().find(|listener| listener["face"].as_str() == Some("kubernetes"));
    let address = listener.and_then(|listener| listener["address"].as_str()).expect("a Kubernetes listener");
    let mut names = BTreeSet::new();
    for (version, file) in [("v1", "encryption-configuration-v1.yaml"), ("v2", "encryption-configuration-v2.yaml")] {
        let whole: EncryptionConfiguration = yaml(file);
        let kind = (whole.api_version.as_str(), whole.kind.as_str());
        assert_eq!(kind, ("apiserver.config.k8s.io/v1", "EncryptionConfiguration"), "{file}");
        let [secrets] = &whole.resources[..] else { panic!("{file}: one list of resources") };
        assert_eq!(secrets.resources, ["secrets"], "{file}");
        let [Provider::Kms(kms), Provider::Identity(_)] = &secrets.providers[..] else {
            panic!("{file}: kms first, identity last")
        };
        assert_eq!(kms.api_version, version, "{file}");
        // `unix:///run/x` there is `unix:/run/x` here.
        assert_eq!(kms.endpoint.strip_prefix("unix://"), address.strip_prefix("unix:"), "{file}");
        assert_eq!(kms.timeout, "3s", "{file}");
        // kube-apiserver refuses it with v2, and 0 with v1.
        assert_eq!(kms.cachesize.is_some_and(|size| size != 0), version == "v1", "{file}");
        assert!(
            !kms.name.contains(':') && names.insert(kms.name.clone()),
            "{file}: the name of the other, or with a colon"
        );
    }
    let folder = Path::new(address.trim_start_matches("unix:")).parent().expect("a parent");
    assert!(kmsproxy(&pod).mount(folder).is_some_and(|mount| !mount.read_only), "{}", folder.display());
}

#[test]
fn a_pod_mounts_what_its_configuration_refers_to_at_the_same_path_as_on_the_node() {
    for stem in PODS {
        let (pod, config) = pod(stem);
        let volumes: BTreeMap<&str, &Volume> =
            pod.spec.volumes.iter().map(|volume| (volume.name.as_str(), volume)).collect();
        assert_eq!(volumes.len(), pod.spec.volumes.len(), "{stem}: a name twice");
        let mut mounted = BTreeSet::new();
        for mount in pod.spec.containers.iter().flat_map(|container| &container.volume_mounts) {
            let volume = volumes.get(mount.name.as_str()).unwrap_or_else(|| panic!("{stem}: no volume {}", mount.name));
            assert_eq!(volume.host_path.path, mount.mount_path, "{stem}");
            mounted.insert(mount.name.as_str());
        }
        assert_eq!(mounted, volumes.into_keys().collect(), "{stem}: volumes that nobody mounts");

        let container = kmsproxy(&pod);
        for (name, path) in all_of(&config).into_iter().filter(|(name, _)| name.ends_with("_file")) {
            let mount = container.mount(Path::new(&path)).unwrap_or_else(|| panic!("{stem}: {name} is not mounted"));
            assert!(mount.read_only, "{stem}: {name} may be written");
        }
        for socket in sockets(&config) {
            let mount = container.mount(Path::new(&socket)).unwrap_or_else(|| panic!("{stem}: {socket} is nowhere"));
            assert!(!mount.read_only, "{stem}: {socket} cannot be made");
        }
        let config_mount = container.mount(Path::new("/etc/kmsproxy/kmsproxy.toml"));
        assert!(config_mount.is_some_and(|mount| mount.read_only && mount.mount_path == CONFIG_MOUNT), "{stem}");
    }
}

#[test]
fn kmsproxy_runs_without_any_privilege() {
    for stem in PODS {
        let (pod, _) = pod(stem);
        let (container, whole) = (kmsproxy(&pod), &pod.spec.security_context);
        let own = container.security_context.as_ref().expect("a security context");
        assert_eq!(own.run_as_user.or(whole.run_as_user), Some(user()), "{stem}");
        assert_eq!(own.run_as_group.or(whole.run_as_group), Some(user()), "{stem}");
        assert_eq!(own.run_as_non_root, Some(true), "{stem}");
        assert_eq!(own.allow_privilege_escalation, Some(false), "{stem}");
        assert_eq!(own.privileged, Some(false), "{stem}");
        assert_eq!(own.read_only_root_filesystem, Some(true), "{stem}");
        assert_eq!(own.capabilities.as_ref().map(|capabilities| &capabilities.drop[..]), Some(&["ALL".to_owned()][..]));
        assert_eq!(whole.seccomp_profile.kind, "RuntimeDefault", "{stem}");
        assert!(!pod.spec.automount_service_account_token && !pod.spec.enable_service_links, "{stem}");
    }
}

#[test]
fn a_pod_starts_before_the_cluster_does_and_is_the_last_to_go() {
    for stem in PODS {
        let (pod, _) = pod(stem);
        assert_eq!((pod.api_version.as_str(), pod.kind.as_str()), ("v1", "Pod"), "{stem}");
        assert_eq!(pod.metadata.namespace, "kube-system", "{stem}");
        assert!(pod.metadata.labels.contains_key("app.kubernetes.io/name"), "{stem}");
        assert_eq!(pod.spec.priority_class_name, "system-node-critical", "{stem}");
        assert_eq!(pod.spec.restart_policy, "Always", "{stem}");
        assert!(pod.spec.host_network, "{stem}: there is no pod network yet");
        assert_eq!(pod.spec.dns_policy, "Default", "{stem}: there is no cluster DNS yet");
    }
}

#[test]
fn the_probes_ask_where_the_configuration_answers() {
    for stem in PODS {
        let (pod, config) = pod(stem);
        let container = kmsproxy(&pod);
        let address = config["metrics"]["address"].as_str().expect("an address");
        for (probe, path) in [(&container.liveness_probe, "/livez"), (&container.readiness_probe, "/readyz")] {
            let probe = probe.as_ref().unwrap_or_else(|| panic!("{stem}: no probe of {path}"));
            let asked = &probe.http_get;
            assert_eq!(
                (format!("{}:{}", asked.host, asked.port).as_str(), asked.path.as_str()),
                (address, path),
                "{stem}"
            );
            // A slow answer or two must not kill what the control plane hangs on.
            assert!(probe.failure_threshold >= 3 && probe.timeout_seconds < probe.period_seconds, "{stem}");
        }
        let resources = container.resources.as_ref().expect("resources");
        assert!(resources.requests.contains_key("cpu") && resources.requests.contains_key("memory"), "{stem}");
        assert_eq!(resources.limits.keys().collect::<Vec<_>>(), ["memory"], "{stem}: throttled, it would answer late");
    }
}

#[test]
fn the_plugin_is_sent_to_the_listener_with_the_callers_key() {
    let (pod, config) = pod("ack-kms-plugin-sidecar");
    let plugin = pod.spec.containers.iter().find(|container| container.name == "ack-kms-plugin").expect("the plugin");
    let value =
        |name: &str| plugin.env.iter().find(|variable| variable.name == name).map(|variable| &variable.value[..]);
    assert_eq!(value("ACK_KMS_DOMAIN"), config["listener"][0]["address"].as_str());
    assert_eq!(value("ACK_KMS_REGION_ID"), config["upstream"]["kms"]["region"].as_str());
    assert_eq!(value("ACCESS_KEY_ID"), config["caller"][0]["access_key"]["id"].as_str());
    assert!(value("ACCESS_KEY_SECRET").is_some());
    let authority = value("SSL_CERT_FILE").expect("the plugin knows no other authority");
    assert!(plugin.mount(Path::new(authority)).is_some_and(|mount| mount.read_only));
    let command = plugin.command.join(" ");
    let key = config["caller"][0]["allow"][0]["keys"][0].as_str().expect("a key");
    assert!(command.contains(&format!("--key-id={key} ")), "{command}");
    let (_, socket) = command.split_once("--path-to-unix-socket=").expect("a socket");
    assert!(plugin.mount(Path::new(socket)).is_some_and(|mount| !mount.read_only));
    // Nothing of kmsproxy's own is within the plugin's reach.
    assert!(plugin.mount(Path::new("/etc/kmsproxy/ack.secret")).is_none());
}

#[test]
fn the_directory_of_the_sockets_is_made_for_the_pods_user() {
    let lines = text("kmsproxy-tmpfiles.conf");
    let lines: Vec<&str> = lines.lines().filter(|line| !line.starts_with('#')).collect();
    let user = user();
    assert_eq!(lines, [format!("d /run/kmsproxy 0750 {user} {user} -")]);
    let (pod, config) = pod("kmsproxy-static-pod");
    let volume = pod.spec.volumes.iter().find(|volume| volume.host_path.path == "/run/kmsproxy").expect("a volume");
    assert_eq!(volume.host_path.kind, "Directory");
    assert!(sockets(&config).iter().all(|socket| Path::new(socket).parent() == Some(Path::new("/run/kmsproxy"))));
}

#[test]
fn the_image_is_built_of_one_static_binary_from_nothing_and_for_the_pods_user() {
    let lines = text("Containerfile");
    let lines: Vec<Vec<&str>> = lines
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|words| words.first().is_some_and(|word| !word.starts_with('#')))
        .collect();
    let of = |instruction: &str| -> Vec<&[&str]> {
        lines.iter().filter(|line| line[0] == instruction).map(|line| &line[1..]).collect()
    };
    assert_eq!((of("FROM"), of("RUN")), (vec![&["scratch"][..]], vec![]), "nothing is fetched, and nothing runs");
    let copied = of("COPY");
    let made = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd/debian/package"));
    let made = made.expect("what makes the binary");
    for copy in &copied {
        assert!(made.contains(&format!("\"$stage/{}\"", copy[0])), "COPY {}: nobody makes it", copy[0]);
    }
    let binary = copied.iter().find(|copy| copy[0] == "kmsproxy").expect("the binary is copied");
    assert_eq!(of("ENTRYPOINT"), [[format!("[\"{}\"]", binary[1])]]);
    assert!(
        copied.iter().any(|copy| copy[1] == "/etc/ssl/certs/ca-certificates.crt"),
        "no authority for TLS to the KMS"
    );
    let user = user();
    assert_eq!(of("USER"), [[format!("{user}:{user}")]]);
}

#[test]
fn the_pods_run_the_image_of_this_version() {
    for stem in PODS {
        let (pod, _) = pod(stem);
        let tag = format!("/kmsproxy:{}", env!("CARGO_PKG_VERSION"));
        assert!(kmsproxy(&pod).image.ends_with(&tag), "{stem}: {}", kmsproxy(&pod).image);
        assert_eq!(kmsproxy(&pod).image_pull_policy, "IfNotPresent", "{stem}");
    }
    assert!(text("Containerfile").contains(&format!("-t kmsproxy:{} ", env!("CARGO_PKG_VERSION"))));
}

/// The user that the image says, and that everything else must agree with.
fn user() -> u32 {
    let lines = text("Containerfile");
    let line = lines.lines().find_map(|line| line.strip_prefix("USER ")).expect("a USER");
    let user = line.split(':').next().and_then(|user| user.parse().ok()).expect("a number: the image knows no names");
    assert_ne!(user, 0, "root");
    user
}
