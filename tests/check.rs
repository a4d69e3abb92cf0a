//! `kmsproxy check` as an operator meets it: the real binary, its exit code, and what it says where.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

#[path = "check/descriptors.rs"]
mod descriptors;
#[path = "check/provider.rs"]
mod provider;

/// A directory that plays the machine, with everything that the shipped configurations refer to.
struct Machine(TempDir);

#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Machine {
    fn new() -> Self {
        let machine = Self(tempfile::tempdir().expect("a temporary directory"));
        for directory in ["run/kmsproxy", "var/lib/kmsproxy", "var/log/kmsproxy"] {
            fs::create_dir_all(machine.at(directory)).expect("a directory");
        }
        for secret in ["ack.secret", "upstream.secret", "plugin-a.secret", "tls/server.key", "credentials.ini"] {
            machine.write(&format!("etc/kmsproxy/{secret}"), "s3cret\n", 0o600);
        }
        for public in ["kms-instance-ca.pem", "tls/server.pem", "tls/client-ca.pem"] {
            machine.write(&format!("etc/kmsproxy/{public}"), "PEM\n", 0o644);
        }
        machine.write("run/credentials/kmsproxy/upstream.secret", "s3cret\n", 0o440);
        for audit in ["etc/kmsproxy/audit.secret", "run/credentials/kmsproxy/audit.secret"] {
            machine.write(audit, "0123456789abcdef0123456789abcdef\n", 0o400);
        }
        machine
    }

    fn at(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn write(&self, path: &str, text: &str, mode: u32) {
        let path = self.at(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        fs::write(&path, text).expect("a file");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("a mode");
    }

    /// Checks `config` with this machine as `/`.
    fn check(&self, config: &Path, arguments: &[&str]) -> Outcome {
        let root = ["--root", self.0.path().to_str().expect("UTF-8")];
        run(&[&["check", "--config", config.to_str().expect("UTF-8")][..], &root, arguments].concat(), &[])
    }

    /// Writes `text` as a configuration and checks it. What it says comes back without the path of the file.
    fn judge(&self, text: &str) -> Outcome {
        self.write("kmsproxy.toml", text, 0o644);
        let path = self.at("kmsproxy.toml");
        let outcome = self.check(&path, &[]);
        Outcome { err: outcome.err.replace(path.to_str().expect("UTF-8"), "FILE"), ..outcome }
    }
}

fn run(arguments: &[&str], variables: &[(&str, &str)]) -> Outcome {
    let output = Command::new(env!("CARGO_BIN_EXE_kmsproxy"))
        .args(arguments)
        .env_clear()
        .envs([("PLUGIN_B_SECRET", "s3cret"), ("CREDENTIALS_DIRECTORY", "/run/credentials/kmsproxy")])
        .envs(variables.iter().copied())
        .output()
        .expect("the binary runs");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    Outcome { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

fn shipped() -> Vec<PathBuf> {
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let list = |directory: &Path| -> Vec<PathBuf> {
        let entries = fs::read_dir(directory).expect("the directory is there");
        let paths = entries.map(|entry| entry.expect("readable").path());
        paths.filter(|path| path.extension().is_some_and(|extension| extension == "toml")).collect()
    };
    let mut all = list(&config);
    all.extend(list(&config.join("examples")));
    all.extend(list(&Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd/debian")));
    all
}

/// The setting that a line holds if it is commented out: `#key = value`, no space after the `#`.
fn commented(line: &str) -> Option<&str> {
    line.strip_prefix('#').filter(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase()))
}

fn uncommented(text: &str, takes: impl Fn(&str) -> bool) -> String {
    let line = |line| commented(line).filter(|_| takes(line)).unwrap_or(line);
    text.lines().flat_map(|text| [line(text), "\n"]).collect()
}

fn reference() -> (PathBuf, String) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/kmsproxy.toml");
    let text = fs::read_to_string(&path).expect("config/kmsproxy.toml is there");
    (path, text)
}

#[test]
fn every_shipped_configuration_is_valid() {
    let machine = Machine::new();
    let valid = Outcome { code: Some(0), out: "configuration is valid\n".to_owned(), err: String::new() };
    assert_eq!(shipped().len(), 9);
    for path in shipped() {
        assert_eq!(machine.check(&path, &[]), valid, "{}", path.display());
    }
}

#[test]
fn a_commented_default_is_the_default() {
    let machine = Machine::new();
    let (path, text) = reference();
    let defaults = uncommented(&text, |line| !line.contains("# no default"));
    assert_ne!(defaults, text);
    machine.write("defaults.toml", &defaults, 0o644);
    let without = machine.check(&path, &["--print"]);
    assert_eq!(without.code, Some(0), "{}", without.err);
    assert_eq!(machine.check(&machine.at("defaults.toml"), &["--print"]), without);
}

#[test]
fn the_effective_configuration_reads_back_to_itself_and_holds_no_secret() {
    let machine = Machine::new();
    for path in shipped() {
        let printed = machine.check(&path, &["--print"]);
        machine.write("printed.toml", &printed.out, 0o644);
        assert_eq!(machine.check(&machine.at("printed.toml"), &["--print"]), printed, "{}", path.display());
        assert!(!printed.out.contains("s3cret"));
    }
}

#[test]
fn every_setting_stands_in_the_commented_configuration() {
    let machine = Machine::new();
    let (_, text) = reference();
    let everything = uncommented(&text, |_| true);
    // A setting that does not exist, at the head of each table, makes the binary list those that do.
    let tables = [
        "[upstream.hangzhou]",
        "[upstream.hangzhou.credentials]",
        "[upstream.hangzhou.lease]",
        "[upstream.trial]",
        "[[listener]]",
        "[[caller]]",
        "[cache]",
        "[metrics]",
        "[memory]",
        "[audit]",
        "[tracing]",
        "[admin]",
        "tls",
        "access_key",
    ];
    let planted = everything.lines().flat_map(|line| {
        let head = tables.contains(&line).then_some("\nqqqqqqqqqq = 0");
        let tail = ["tls.key_file", "access_key.id"].iter().find(|name| line.starts_with(**name));
        let inner = tail.map(|name| format!("\n{}.qqqqqqqqqq = 0", name.split('.').next().expect("a table")));
        [line.to_owned(), head.unwrap_or_default().to_owned(), inner.unwrap_or_default(), "\n".to_owned()]
    });
    let planted: String = planted.collect();
    let outcome = machine.judge(&planted);
    let written: toml::Value = toml::from_str(&everything).expect("uncommented, it is TOML");
    let told: Vec<&str> = outcome.err.lines().collect();
    let lists = told.windows(2).filter_map(|two| Some((two[0].strip_suffix(".qqqqqqqqqq: unknown setting")?, two[1])));
    for (place, remedy) in lists {
        let (_, key) = place.rsplit_once(": ").expect("a place and a key");
        let shown = everywhere(&written, key);
        let (_, known) = remedy.split_once("; there are: ").expect("a list");
        for name in known.split(", ") {
            assert!(shown.iter().any(|table| table.get(name).is_some()), "kmsproxy.toml does not show {name} in {key}");
        }
    }
    assert!(tables.iter().all(|table| everything.contains(table)));
    // And nothing that does not exist.
    let wrong = outcome.err.matches("unknown setting").count();
    assert_eq!(wrong, planted.matches("qqqqqqqqqq").count(), "{}", outcome.err);
}

/// What stands at `key` in any item of the lists that it passes through.
fn everywhere<'v>(whole: &'v toml::Value, key: &str) -> Vec<&'v toml::Value> {
    let steps = key.split(['.', '[', ']']).filter(|step| step.parse::<usize>().is_err() && !step.is_empty());
    steps.fold(vec![whole], |values, step| {
        let inner = values.iter().filter_map(|value| value.get(step));
        inner.flat_map(|value| value.as_array().map_or_else(|| vec![value], |items| items.iter().collect())).collect()
    })
}

const BASE: &str = r#"[upstream.kms]
kind = "aliyun"
endpoint = "https://kms.cn-hangzhou.aliyuncs.com"
credentials = { source = "env" }
timeout = "2s"
lease = { duration = "30s", probe = "10s" }

[[listener]]
name = "ack"
face = "aliyun"
address = "127.0.0.1:8443"
tls = { certificate_file = "/etc/kmsproxy/tls/server.pem", key_file = "/etc/kmsproxy/tls/server.key" }
upstream = "kms"

[[caller]]
name = "plugin"
listener = "ack"
access_key = { id = "LTAIlocal", secret_file = "/etc/kmsproxy/ack.secret" }
allow = [{ actions = ["Decrypt"], keys = ["key-1"] }]

[cache]
capacity = 5
"#;

/// One mistake: what of `BASE` becomes what, where the finger points, what is said.
struct Case {
    was: &'static str,
    is: &'static str,
    at: &'static str,
    says: &'static str,
}

impl Case {
    fn judge(&self, machine: &Machine, base: &str) {
        let text = base.replacen(self.was, self.is, 1);
        assert_ne!(text, base, "{}", self.was);
        let offset = text.rfind(self.at).expect("the finger points somewhere");
        let line = text[..offset].matches('\n').count() + 1;
        let column = offset - text[..offset].rfind('\n').map_or(0, |newline| newline + 1) + 1;
        let err = format!("error: FILE:{line}:{column}: {}\n1 mistake in the configuration\n", self.says);
        assert_eq!(machine.judge(&text), Outcome { code: Some(78), out: String::new(), err });
    }
}

#[test]
fn the_base_of_the_cases_is_valid() {
    assert_eq!(Machine::new().judge(BASE).code, Some(0));
}

#[test]
fn each_mistake_is_told_with_its_line_and_its_remedy() {
    let machine = Machine::new();
    machine.write("etc/open.key", "key\n", 0o644);
    machine.write("etc/empty.secret", "\n", 0o600);
    for case in CASES {
        case.judge(&machine, BASE);
    }
}

#[test]
fn all_mistakes_are_told_at_once_in_the_order_of_reading() {
    let text = BASE
        .replace("capacity = 5", "capacity = \"many\"\nmaxage = \"24h\"")
        .replace("upstream = \"kms\"", "upstream = \"kmss\"\ntimeout = 5")
        .replace("/etc/kmsproxy/ack.secret", "/etc/kmsproxy/none.secret")
        .replace("source = \"env\"", "source = \"enw\"");
    let outcome = Machine::new().judge(&text);
    let places: Vec<&str> = outcome.err.lines().filter_map(|line| line.strip_prefix("error: ")).collect();
    assert_eq!(
        places,
        [
            "FILE:4:17: upstream.kms.credentials.source: `enw` is not known here",
            "FILE:14:1: listener[0].timeout: is 5, not a time with a unit, such as \"30s\"",
            "FILE:23:1: cache.capacity: is text, not a whole number, not negative",
            "FILE:24:1: cache.maxage: unknown setting",
            "FILE:19:34: caller[0].access_key.secret_file: /etc/kmsproxy/none.secret does not exist",
        ]
    );
}

#[test]
fn broken_toml_is_told_without_repeating_the_line() {
    let outcome = Machine::new().judge("[cache]\nsecret = \"hunter2\ncapacity = 5\n");
    assert_eq!(outcome.code, Some(78));
    assert!(outcome.err.starts_with("error: FILE:2:"), "{}", outcome.err);
    assert!(!outcome.err.contains("hunter2"), "{}", outcome.err);
}

#[test]
fn a_secret_in_the_wrong_place_is_never_repeated() {
    for line in ["secret = \"hunter2\"", "password = \"hunter2\"", "capacity = \"hunter2\""] {
        let outcome = Machine::new().judge(&BASE.replace("capacity = 5", line));
        assert_eq!(outcome.code, Some(78), "{line}");
        assert!(!outcome.err.contains("hunter2"), "{}", outcome.err);
    }
    let inline = "access_key = { id = \"LTAIlocal\", secret = \"hunter2\" }";
    let written = "access_key = { id = \"LTAIlocal\", secret_file = \"/etc/kmsproxy/ack.secret\" }";
    let outcome = Machine::new().judge(&BASE.replace(written, inline));
    let problem = "error: FILE:18:34: caller[0].access_key.secret: a secret does not stand in a configuration\n";
    assert!(outcome.err.starts_with(problem), "{}", outcome.err);
    assert!(outcome.err.contains("secret_file") && outcome.err.ends_with("1 mistake in the configuration\n"));
}

#[test]
fn a_missing_file_and_a_missing_credential_are_bad_configurations() {
    let outcome = run(&["check", "--config", "/nonexistent/kmsproxy.toml"], &[]);
    let err = "error: /nonexistent/kmsproxy.toml: this configuration file does not exist\n  remedy: write it, or name \
               another with --config; `kmsproxy dev` needs none\n1 mistake in the configuration\n";
    assert_eq!(outcome, Outcome { code: Some(78), out: String::new(), err: err.to_owned() });
    assert_eq!(run(&["serve", "--config", "/nonexistent/kmsproxy.toml"], &[]).err, err);
}

#[test]
fn the_environment_and_the_command_line_are_named_where_they_are_wrong() {
    let machine = Machine::new();
    machine.write("kmsproxy.toml", BASE, 0o644);
    let (path, root) = (machine.at("kmsproxy.toml"), machine.0.path().to_str().expect("UTF-8"));
    let check = |variable: (&str, &str), set: &[&str]| {
        let base = ["check", "--print", "--root", root, "--config", path.to_str().expect("UTF-8")];
        run(&[&base, set].concat(), &[variable])
    };
    let variable = check(("KMSPROXY_CACHE__CAPACITY", "0"), &[]);
    assert!(variable.err.starts_with("error: environment variable KMSPROXY_CACHE__CAPACITY: cache.capacity: is 0\n"));
    let flag = check(("KMSPROXY_CACHE__CAPACITY", "0"), &["--set", "cache.capcity=7"]);
    let said = "error: --set cache.capcity: cache.capcity: unknown setting\n  remedy: did you mean `capacity`?\n";
    assert!(flag.err.contains(said), "{}", flag.err);
    let joined = check(("KMSPROXY_CACHE_CAPACITY", "7"), &[]);
    assert!(joined.err.starts_with("error: environment variable KMSPROXY_CACHE_CAPACITY: names no setting"));
    let listed = check(("KMSPROXY_LISTENER__0__NAME", "x"), &[]);
    assert!(listed.err.contains("listener: a list is set in the file only"), "{}", listed.err);
}

#[test]
fn the_later_layer_wins_and_variables_of_kubernetes_are_no_settings() {
    let machine = Machine::new();
    machine.write("kmsproxy.toml", BASE, 0o644);
    let (path, root) = (machine.at("kmsproxy.toml"), machine.0.path().to_str().expect("UTF-8"));
    let base = ["check", "--print", "--root", root, "--config", path.to_str().expect("UTF-8")];
    let variables =
        [("KMSPROXY_CACHE__CAPACITY", "6"), ("KMSPROXY_CACHE__MAX_AGE", "1h"), ("KMSPROXY_PORT", "tcp://10.0.0.1:443")];
    let outcome = run(&[&base[..], &["--set", "cache.capacity=7"]].concat(), &variables);
    assert_eq!(outcome.code, Some(0), "{}", outcome.err);
    assert!(outcome.out.contains("[cache]\ncapacity = 7\nmax_age = \"1h\"\n"), "{}", outcome.out);
}

#[test]
fn a_taken_address_has_its_own_exit_code_and_an_address_of_another_machine_is_a_mistake() {
    let machine = Machine::new();
    let holder = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = holder.local_addr().expect("an address");
    let files = machine.at("etc").to_str().expect("UTF-8").to_owned();
    let real = BASE.replace("\"/etc", &format!("\"{files}"));
    machine.write("kmsproxy.toml", &real.replace("127.0.0.1:8443", &address.to_string()), 0o644);
    let path = machine.at("kmsproxy.toml");
    let file = path.to_str().expect("UTF-8");
    for command in ["check", "serve"] {
        let taken = run(&[command, "--config", file], &[]);
        assert_eq!(taken.code, Some(75), "{}", taken.err);
        let remedy = "remedy: stop what listens there (ss -ltnp shows it) or choose another port";
        assert_eq!(taken.err, format!("error: {file}:11:1: {address} is taken\n  {remedy}\n"));
    }
    machine.write("kmsproxy.toml", &real.replace("127.0.0.1:8443", "192.0.2.1:8443"), 0o644);
    let away = run(&["check", "--config", file], &[]);
    let remedy = "remedy: write one of its own (`ip address` lists them), or 127.0.0.1";
    let err = format!(
        "error: {file}:11:1: 192.0.2.1:8443 is not an address of this machine\n  {remedy}\n1 mistake in the configuration\n"
    );
    assert_eq!(away, Outcome { code: Some(78), out: String::new(), err });
}

#[test]
fn a_wrong_command_line_ends_with_64_and_help_with_0() {
    for wrong in
        [&["chekc"][..], &["serve", "--confg", "x"], &["dev", "--kms-latency", "20"], &[], &["check", "--log", "a=b=c"]]
    {
        assert_eq!(run(wrong, &[]).code, Some(64), "{wrong:?}");
    }
    for asked in [&["--help"][..], &["serve", "--help"], &["--version"]] {
        assert_eq!(run(asked, &[]).code, Some(0), "{asked:?}");
    }
    assert_eq!(run(&["check"], &[("KMSPROXY_LOG_FORMAT", "xml")]).code, Some(64));
    assert_eq!(
        run(&["dev"], &[]).err,
        "error: neither XDG_STATE_HOME nor HOME is set\n  remedy: give --state-dir DIR\n"
    );
}

const CASES: &[Case] = &[
    Case {
        was: "timeout = \"2s\"",
        is: "timeout = \"2s\"\nquota = 1000",
        at: "quota",
        says: "upstream.kms.quota: is 1000, not a number of calls per second, such as \"1000/s\"\n  remedy: write a number of \
               calls per second, such as \"1000/s\"",
    },
    Case {
        was: "timeout = \"2s\"",
        is: "timeout = \"2s\"\nread_quota = \"3000/min\"",
        at: "read_quota",
        says: "upstream.kms.read_quota: is text, not a number of calls per second, such as \"1000/s\"\n  remedy: write a \
               number of calls per second, such as \"1000/s\"",
    },
    Case {
        was: "timeout = \"2s\"",
        is: "timeout = \"2s\"\nquota = \"4/s\"",
        at: "quota",
        says: "upstream.kms.quota: 4/s is too little: probes need their part of it\n  remedy: write at least \"5/s\", or leave \
               it out to go by what the KMS throttles",
    },
    Case {
        was: "capacity = 5",
        is: "capacity = 5\n[audit]\nsink = \"file\"",
        at: "audit]",
        says: "audit: `path` is missing\n  remedy: add path = \"/var/log/kmsproxy/audit.jsonl\"",
    },
    Case {
        was: "capacity = 5",
        is: "capacity = 5\n[audit]\nsink = \"file\"\npath = \"audit.jsonl\"",
        at: "path =",
        says: "audit.path: audit.jsonl is not an absolute path\n  remedy: write the path from / on",
    },
    Case {
        was: "capacity = 5",
        is: "capacity = 5\n[audit]\nsink = \"file\"\npath = \"/var/none/audit.jsonl\"",
        at: "path =",
        says: "audit.path: the directory /var/none does not exist\n  remedy: create it: mkdir -p /var/none (systemd: \
               RuntimeDirectory=, StateDirectory=)",
    },
    Case {
        was: "capacity = 5",
        is: "capacity = 5\n[audit]\nsink = \"file\"\npath = \"/etc/open.key\"",
        at: "path =",
        says: "audit.path: /etc/open.key can be read by others or written by its group (mode 0644)\n  remedy: chmod 600 \
               /etc/open.key",
    },
    Case {
        was: "capacity = 5",
        is: "capacity = 5\n[audit]\nsink = \"file\"\npath = \"/var/log\"",
        at: "path =",
        says: "audit.path: /var/log is a directory\n  remedy: name a file in it",
    },
    Case {
        was: "capacity = 5",
        is: "capacity = 5\n[audit]\nsink = \"stdout\"\npath = \"/var/log/kmsproxy/audit.jsonl\"",
        at: "path =",
        says: "audit.path: is for sink = \"file\" only\n  remedy: remove it, or write sink = \"file\"",
    },
    Case {
        was: "capacity = 5",
        is: "capacity = 5\n[audit]\nsink = \"journal\"\nsecret_file = \"/etc/kmsproxy/ack.secret\"",
        at: "audit]",
        says: "audit: its secret is shorter than 32 bytes\n  remedy: make one: openssl rand -hex 32",
    },
    Case {
        was: "capacity = 5",
        is: "capacity = 5\n[audit]\nqueue = 0",
        at: "queue",
        says: "audit.queue: is 0, which would let nothing through\n  remedy: write at least 1, or leave it out for the \
               default",
    },
    Case {
        was: "capacity = 5",
        is: "capacity = 5\n[tracing]\nendpoint = \"collector:4318\"",
        at: "endpoint",
        says: "tracing.endpoint: has no https://\n  remedy: write it as \"https://collector.example:4318\" or \
               \"http://127.0.0.1:4318\"",
    },
    Case {
        was: "capacity = 5",
        is: "capacity = 5\n[tracing]\nendpoint = \"http://10.0.0.7:4318\"",
        at: "endpoint",
        says: "tracing.endpoint: is plain HTTP to another machine\n  remedy: write https://",
    },
    Case {
        was: "capacity = 5",
        is: "capacity = 5\n[tracing]\nendpoint = \"https://me:s3cret@collector.example\"",
        at: "endpoint",
        says: "tracing.endpoint: carries a user name or password\n  remedy: put what the collector asks for into headers_file",
    },
    Case {
        was: "capacity = 5",
        is: "capacity = 5\n[tracing]\nendpoint = \"https://collector.example/v1/traces?api-key=s3cret\"",
        at: "endpoint",
        says: "tracing.endpoint: has a query\n  remedy: put what the collector asks for into headers_file",
    },
    Case {
        was: "capacity = 5",
        is: "capacity = 5\n[tracing]\nendpoint = \"http://[::1]:4318\"\nheaders_file = \"/etc/kmsproxy/ack.secret\"",
        at: "headers_file",
        says: "tracing.headers_file: holds a line that is no header for the collector\n  remedy: write `Name: value`, one on \
               each line, 16 at most; Host and Content-Type are not yours to say",
    },
    Case {
        was: "capacity = 5",
        is: "capacity = 5\n[tracing]\nheaders_file = \"/etc/open.key\"\nendpoint = \"http://127.0.0.1:4318\"",
        at: "headers_file",
        says: "tracing.headers_file: /etc/open.key is open to group or others (mode 0644)\n  remedy: chmod 600 /etc/open.key",
    },
    Case {
        was: "capacity = 5",
        is: "capacity = 5\n[tracing]\nca_file = \"/etc/kmsproxy/tls/server.pem\"",
        at: "tracing]",
        says: "tracing: `endpoint` is missing, without which nothing is sent\n  remedy: add endpoint = \
               \"http://127.0.0.1:4318\", or remove the others",
    },
    Case {
        was: "capacity = 5",
        is: "capacity = 5\n[tracing]\nsample = 1.5",
        at: "sample",
        says: "tracing.sample: is no share\n  remedy: write a number from 0 to 1: 0.01 is one request in a hundred",
    },
    Case {
        was: "capacity = 5",
        is: "capacity = 5\n[tracing]\nqueue = 100000",
        at: "queue",
        says: "tracing.queue: is more than 65536\n  remedy: write less; a span takes about 1 KiB",
    },
    Case {
        was: "capacity = 5",
        is: "capacity = 5\n[tracing]\ntimeout = \"0s\"",
        at: "timeout = \"0s\"",
        says: "tracing.timeout: is zero\n  remedy: write a longer time, such as \"2s\"",
    },
    Case {
        was: "capacity = 5",
        is: "capacity = 5\n[tracing]\nservice_name = \"\"",
        at: "service_name",
        says: "tracing.service_name: is empty\n  remedy: write a name, or leave it out for \"kmsproxy\"",
    },
    Case {
        was: "capacity = 5",
        is: "capacty = 5",
        at: "capacty",
        says: "cache.capacty: unknown setting\n  remedy: did you mean `capacity`?",
    },
    Case {
        was: "{ actions = [\"Decrypt\"], keys = [\"key-1\"] }",
        is: "[[\"Decrypt\"], [\"key-1\"]]",
        at: "[[\"Decrypt\"]",
        says: "caller[0].allow[0]: is a list, not a table\n  remedy: write its settings by name",
    },
    Case { was: "[cache]", is: "[cach]", at: "cach]", says: "cach: unknown setting\n  remedy: did you mean `cache`?" },
    Case {
        was: "key_file = \"/etc/kmsproxy/tls/server.key\"",
        is: "key_file = \"/etc/open.key\"",
        at: "key_file",
        says: "listener[0].tls.key_file: /etc/open.key is open to group or others (mode 0644)\n  remedy: chmod 600 \
               /etc/open.key",
    },
    Case {
        was: "tls/server.pem",
        is: "tls/none.pem",
        at: "certificate_file",
        says: "listener[0].tls.certificate_file: /etc/kmsproxy/tls/none.pem does not exist\n  remedy: create \
               /etc/kmsproxy/tls/none.pem or correct the path",
    },
    Case {
        was: "secret_file = \"/etc/kmsproxy/ack.secret\"",
        is: "secret_file = \"/etc/empty.secret\"",
        at: "secret_file",
        says: "caller[0].access_key.secret_file: /etc/empty.secret is empty\n  remedy: write the secret into \
               /etc/empty.secret",
    },
    Case {
        was: "secret_file = \"/etc/kmsproxy/ack.secret\"",
        is: "secret_env = \"NOT_SET\"",
        at: "secret_env",
        says: "caller[0].access_key.secret_env: the environment variable NOT_SET is unset or empty\n  remedy: set NOT_SET",
    },
    Case {
        was: "secret_file = \"/etc/kmsproxy/ack.secret\"",
        is: "secret_credential = \"ack\"",
        at: "secret_credential",
        says: "caller[0].access_key.secret_credential: the systemd credential ack is missing\n  remedy: start it by \
               systemd with LoadCredential=ack:FILE",
    },
    Case {
        was: ", secret_file = \"/etc/kmsproxy/ack.secret\"",
        is: "",
        at: "access_key",
        says: "caller[0].access_key: refers to no secret\n  remedy: add secret_file = \"/path\" (or secret_env, \
               secret_credential)",
    },
    Case {
        was: "127.0.0.1:8443",
        is: "unix:/run/none/ack.sock",
        at: "address",
        says: "listener[0].address: the directory /run/none does not exist\n  remedy: create it: mkdir -p /run/none \
               (systemd: RuntimeDirectory=, StateDirectory=)",
    },
    Case {
        was: "127.0.0.1:8443",
        is: "localhost:8443",
        at: "address",
        says: "listener[0].address: `localhost:8443` is not an address\n  remedy: write an address and a port \
               (\"127.0.0.1:8443\"), \"unix:/run/kmsproxy/NAME.sock\", \"unix:@NAME\" or \"systemd:NAME\"",
    },
    Case {
        was: "tls = { certificate_file = \"/etc/kmsproxy/tls/server.pem\", key_file = \"/etc/kmsproxy/tls/server.key\" }\n",
        is: "",
        at: "address",
        says: "listener[0].address: TCP without TLS: keys would cross it in clear, readable by anything with \
               CAP_NET_RAW\n  remedy: add tls = { certificate_file = …, key_file = … }, use a unix: address, or write \
               insecure = true",
    },
    Case {
        was: "upstream = \"kms\"",
        is: "upstream = \"kns\"",
        at: "upstream = \"kns\"",
        says: "listener[0].upstream: there is no upstream `kns`\n  remedy: did you mean `kms`?",
    },
    Case {
        was: "listener = \"ack\"",
        is: "listener = \"acks\"",
        at: "listener = \"acks\"",
        says: "caller[0].listener: there is no listener `acks`\n  remedy: did you mean `ack`?",
    },
    Case {
        was: "access_key = { id = \"LTAIlocal\", secret_file = \"/etc/kmsproxy/ack.secret\" }",
        is: "certificate_name = \"a.b\"",
        at: "certificate_name",
        says: "caller[0].certificate_name: the listener `ack` asks for no client certificate\n  remedy: give its tls \
               table a client_ca_file",
    },
    Case {
        was: "access_key = { id = \"LTAIlocal\", secret_file = \"/etc/kmsproxy/ack.secret\" }",
        is: "uid = 1000",
        at: "uid",
        says: "caller[0].uid: the listener is TCP, where the kernel does not say who asks\n  remedy: listen on a unix: \
               address, or use access_key or certificate_name",
    },
    Case {
        was: "access_key = { id = \"LTAIlocal\", secret_file = \"/etc/kmsproxy/ack.secret\" }\n",
        is: "",
        at: "[[caller]]",
        says: "caller[0]: nothing proves who it is: the listener `ack` is TCP, which anybody can reach\n  remedy: add \
               access_key = { id = …, secret_file = … } or certificate_name, or use a unix: address",
    },
    Case {
        was: "\"key-1\"",
        is: "\"alias/a\", \"acs:kms:cn-hangzhou:1:alias/b\"",
        at: "{ actions",
        says: "caller[0].allow[0]: Decrypt with aliases only allows nothing\n  remedy: list the key id: a Decrypt answer \
               names the id",
    },
    Case {
        was: "\"Decrypt\"",
        is: "\"Decrpyt\"",
        at: "\"Decrpyt\"",
        says: "caller[0].allow[0].actions[0]: `Decrpyt` is not known here\n  remedy: did you mean `Decrypt`?",
    },
    Case {
        was: "\"Decrypt\"",
        is: "\"ListKeys\"",
        at: "{ actions",
        says: "caller[0].allow[0]: ListKeys is about the whole account and not about these keys\n  remedy: give it a \
               line of its own with keys = [\"*\"]",
    },
    Case {
        was: "probe = \"10s\"",
        is: "probe = \"30s\"",
        at: "probe",
        says: "upstream.kms.lease.probe: 30s is not shorter than the lease of 30s\n  remedy: write about a third of the \
               duration, so that one lost probe does no harm",
    },
    Case {
        was: "probe = \"10s\"",
        is: "outage_grace = \"61m\"",
        at: "outage_grace",
        says: "upstream.kms.lease.outage_grace: 1h 1m is too long: a revoked key would go on being served\n  remedy: \
               write at most \"1h\"",
    },
    Case {
        was: "capacity = 5",
        is: "capacity = 0",
        at: "capacity",
        says: "cache.capacity: is 0\n  remedy: write at least 1; the default of 100000 DEKs takes about 100 MB",
    },
    Case {
        was: "timeout = \"2s\"",
        is: "timeout = \"3s\"",
        at: "[[listener]]",
        says: "listener[0].timeout: 2s 500ms is shorter than the upstream's timeout of 3s: its answers would come too \
               late\n  remedy: write at least \"3s\", or shorten the upstream's",
    },
    Case {
        was: "https://",
        is: "http://",
        at: "endpoint",
        says: "upstream.kms.endpoint: is plain HTTP\n  remedy: write https://, or insecure = true for a KMS on loopback",
    },
    Case {
        was: "source = \"env\"",
        is: "source = \"role\"",
        at: "credentials",
        says: "upstream.kms.credentials: this source needs `role_arn`\n  remedy: add role_arn = \"…\", or set \
               ALIBABA_CLOUD_ROLE_ARN",
    },
    Case {
        was: "source = \"env\"",
        is: "source = \"file\", id = \"LTAI\", secret_file = \"/etc/open.key\"",
        at: "secret_file = \"/etc/open.key\"",
        says: "upstream.kms.credentials.secret_file: /etc/open.key is open to group or others (mode 0644)\n  remedy: \
               chmod 600 /etc/open.key",
    },
    Case {
        was: "[cache]",
        is: "[metrics]\naddress = \"127.0.0.1:8443\"\n\n[cache]",
        at: "address",
        says: "metrics.address: 127.0.0.1:8443 is that of listener[0].address already\n  remedy: give each its own address",
    },
    Case {
        was: "[cache]",
        is: "[admin]\npage = true\n\n[cache]",
        at: "page",
        says: "admin.page: is served at metrics.address, and there is none\n  remedy: write address = \
               \"127.0.0.1:9643\" under [metrics]",
    },
    Case {
        was: "[cache]",
        is: "[admin]\naddress = \"127.0.0.1:1\"\n\n[cache]",
        at: "address",
        says: "admin.address: control over TCP is refused: there the kernel does not say who asks\n  remedy: write \
               \"unix:/run/kmsproxy/admin.sock\" or \"systemd:admin\"",
    },
    Case {
        was: "[cache]",
        is: "[[caller]]\nname = \"plugin\"\nlistener = \"ack\"\naccess_key = { id = \"other\", secret_file = \
             \"/etc/kmsproxy/ack.secret\" }\nallow = []\n\n[cache]",
        at: "name",
        says: "caller[1].name: a caller is called `plugin` already\n  remedy: give each caller its own name",
    },
    Case {
        was: "[cache]",
        is: "[[caller]]\nname = \"other\"\nlistener = \"ack\"\naccess_key = { id = \"LTAIlocal\", secret_file = \
             \"/etc/kmsproxy/ack.secret\" }\nallow = []\n\n[cache]",
        at: "[[caller]]",
        says: "caller[1]: has the same access key id as the caller `plugin` of this listener\n  remedy: give each caller \
               of one listener its own",
    },
    Case {
        was: "[cache]",
        is: "[[listener]]\nname = \"lonely\"\nface = \"aliyun\"\naddress = \"unix:/run/kmsproxy/l.sock\"\nupstream = \
             \"kms\"\n\n[cache]",
        at: "[[listener]]",
        says: "listener[1]: has no caller: it would refuse everybody\n  remedy: add a [[caller]] with listener = \
               \"lonely\"",
    },
    Case {
        was: "address = \"127.0.0.1:8443\"\n",
        is: "",
        at: "[[listener]]",
        says: "listener[0]: `address` is missing\n  remedy: add address = …",
    },
];
