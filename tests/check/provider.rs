//! Mistakes in what `face = "kubernetes"` needs and forbids.

use super::{BASE, Case, Machine, Outcome, run};

const PROVIDER: &str = r#"[upstream.kms]
kind = "aliyun"
endpoint = "https://kms.cn-hangzhou.aliyuncs.com"
credentials = { source = "env" }

[[listener]]
name = "k8s"
face = "kubernetes"
address = "unix:/run/kmsproxy/k8s.sock"
mode = "0660"
upstream = "kms"
key = "alias/k8s"

[[caller]]
name = "apiserver"
listener = "k8s"
uid = 0
allow = [{ actions = ["Encrypt"], keys = ["alias/k8s"] }, { actions = ["Decrypt"], keys = ["key-1"] }]
"#;

#[test]
fn the_base_of_the_cases_is_valid_and_says_what_it_leaves_out() {
    let machine = Machine::new();
    machine.write("kmsproxy.toml", &PROVIDER.replace("mode =", "owner = \"0\"\ngroup = \"kms\"\nmode ="), 0o644);
    let printed = machine.check(&machine.at("kmsproxy.toml"), &["--print"]);
    assert_eq!(printed.code, Some(0), "{}", printed.err);
    let apis = "\napi = [\n    \"v1beta1\",\n    \"v2\",\n]\n";
    let defaults = "\nv1_ciphertext = \"kmsproxy\"\nv2_version = \"v2\"\n";
    for effective in [apis, defaults, "\nkey_id_suffix = \"\"\n", "\ngroup = \"kms\"\n", "\nowner = \"0\"\n"] {
        assert!(printed.out.contains(effective), "{}", printed.out);
    }
}

#[test]
fn each_mistake_of_a_provider_is_told_with_its_line_and_its_remedy() {
    let machine = Machine::new();
    for case in CASES {
        case.judge(&machine, PROVIDER);
    }
}

#[test]
fn what_only_a_provider_has_is_a_mistake_elsewhere() {
    let machine = Machine::new();
    for (name, value) in [
        ("key", "\"alias/k8s\""),
        ("api", "[\"v2\"]"),
        ("v2_version", "\"v2\""),
        ("key_id_suffix", "\"2\""),
        ("v1_ciphertext", "\"ack-kms-plugin\""),
    ] {
        let text = BASE.replace("upstream = \"kms\"", &format!("upstream = \"kms\"\n{name} = {value}"));
        let err = format!(
            "error: FILE:14:1: listener[0].{name}: is for face = \"kubernetes\" only\n  remedy: remove it, or write that \
             face\n1 mistake in the configuration\n"
        );
        assert_eq!(machine.judge(&text), Outcome { code: Some(78), out: String::new(), err });
    }
}

#[test]
fn a_provider_may_listen_on_a_path_on_an_abstract_name_and_on_an_inherited_socket() {
    let machine = Machine::new();
    for address in ["unix:@k8s", "systemd:k8s"] {
        let text = PROVIDER.replace("unix:/run/kmsproxy/k8s.sock", address).replace("mode = \"0660\"\n", "");
        assert_eq!(machine.judge(&text).code, Some(0), "{address}");
    }
}

#[test]
fn an_access_key_proves_a_caller_of_another_face_on_an_abstract_socket() {
    let machine = Machine::new();
    let base = BASE.replace("127.0.0.1:8443", "unix:@ack");
    assert_eq!(machine.judge(&base).code, Some(0));
    let nobody = "access_key = { id = \"LTAIlocal\", secret_file = \"/etc/kmsproxy/ack.secret\" }\n";
    let told = machine.judge(&base.replace(nobody, "")).err;
    assert!(told.contains("remedy: add uid or access_key, or listen on a unix:/path with a mode\n"), "{told}");
}

#[test]
fn names_of_users_are_looked_up_on_the_machine_itself_and_numbers_are_taken() {
    let machine = Machine::new();
    let here = |owner: &str, group: &str| {
        let text = PROVIDER.replace("mode =", &format!("owner = \"{owner}\"\ngroup = \"{group}\"\nmode ="));
        let run_dir = machine.at("run/kmsproxy").to_str().expect("UTF-8").to_owned();
        machine.write("kmsproxy.toml", &text.replace("/run/kmsproxy", &run_dir), 0o644);
        run(&["check", "--config", machine.at("kmsproxy.toml").to_str().expect("UTF-8")], &[])
    };
    for (owner, group) in [("root", "root"), ("4294967294", "0")] {
        assert_eq!(here(owner, group).code, Some(0), "{owner}:{group}");
    }
    let unknown = here("no-such-user", "no-such-group").err;
    for (kind, setting) in [("user", "owner"), ("group", "group")] {
        let told = format!(
            "listener[0].{setting}: there is no {kind} `no-such-{kind}` here\n  remedy: create it, or write the {kind}'s number\n"
        );
        assert!(unknown.contains(&told), "{unknown}");
    }
}

#[test]
fn one_caller_that_may_do_all_is_enough_and_two_halves_are_not() {
    let machine = Machine::new();
    let split = PROVIDER.replace(", { actions = [\"Decrypt\"], keys = [\"key-1\"] }", "");
    let other = |allow: &str| {
        format!(
            "{split}\n[[caller]]\nname = \"other\"\nlistener = \"k8s\"\nuid = 1\nallow = [{{ actions = [{allow} ], keys = [\"*\"] }}]\n"
        )
    };
    assert_eq!(machine.judge(&other("\"Encrypt\", \"Decrypt\"")).code, Some(0));
    let halves = machine.judge(&other("\"Decrypt\"")).err;
    assert!(halves.starts_with("error: FILE:18:1: caller[0].allow: nobody may decrypt"), "{halves}");
}

#[test]
fn a_caller_that_cannot_be_read_is_not_missed_as_well() {
    let reader = "\n[[caller]]\nname = \"reader\"\nlistener = \"k8s\"\nuid = 1\nallow = [{ actions = [\"Decrypt\"], keys = [\"*\"] }]\n";
    let outcome = Machine::new().judge(&(PROVIDER.replace("[\"Encrypt\"]", "[\"Encrpyt\"]") + reader));
    assert!(outcome.err.ends_with("1 mistake in the configuration\n"), "{}", outcome.err);
}

const CASES: &[Case] = &[
    Case {
        was: "key = \"alias/k8s\"\n",
        is: "",
        at: "[[listener]]",
        says: "listener[0]: `key` is missing\n  remedy: add key = \"alias/…\", or its id or ARN: the key that encrypts",
    },
    Case {
        was: "key = \"alias/k8s\"",
        is: "key = \"\"",
        at: "key = \"\"",
        says: "listener[0].key: is empty\n  remedy: write the key that encrypts: key = \"alias/…\", or its id or ARN",
    },
    Case {
        was: "key = \"alias/k8s\"",
        is: "key = \"*\"",
        at: "key = \"*\"",
        says: "listener[0].key: names no key\n  remedy: write the key that encrypts: key = \"alias/…\", or its id or ARN",
    },
    Case {
        was: "key = \"alias/k8s\"",
        is: "key = \"alias/k8s\"\napi = []",
        at: "api = []",
        says: "listener[0].api: is empty: nothing would be served\n  remedy: write [\"v1beta1\", \"v2\"], or leave it out \
               for both",
    },
    Case {
        was: "key = \"alias/k8s\"",
        is: "key = \"alias/k8s\"\nAPI = [\"v2\", \"v1beta1\", \"v2\"]",
        at: "API",
        says: "listener[0].API: unknown setting\n  remedy: did you mean `api`?",
    },
    Case {
        was: "key = \"alias/k8s\"",
        is: "key = \"alias/k8s\"\napi = [\"v2\", \"v1beta1\", \"v2\"]",
        at: "api =",
        says: "listener[0].api: names one twice\n  remedy: write each once",
    },
    Case {
        was: "key = \"alias/k8s\"",
        is: "key = \"alias/k8s\"\nv2_version = \"v2beta2\"",
        at: "v2_version",
        says: "listener[0].v2_version: `v2beta2` is not known here\n  remedy: did you mean `v2beta1`?",
    },
    Case {
        was: "key = \"alias/k8s\"",
        is: "key = \"alias/k8s\"\ntls = { certificate_file = \"/none\", key_file = \"/none\" }",
        at: "tls",
        says: "listener[0].tls: kube-apiserver speaks no TLS to a provider\n  remedy: remove it; the socket's directory, \
               mode and group say who may connect",
    },
    Case {
        was: "key = \"alias/k8s\"",
        is: "key = \"alias/k8s\"\nhosts = [\"localhost\"]",
        at: "hosts",
        says: "listener[0].hosts: kube-apiserver sends no Host that would tell anything\n  remedy: remove it",
    },
    Case {
        was: "key = \"alias/k8s\"",
        is: "key = \"alias/k8s\"\ninsecure = true",
        at: "insecure",
        says: "listener[0].insecure: is about TCP, which kube-apiserver does not use here\n  remedy: remove it",
    },
    Case {
        was: "key = \"alias/k8s\"",
        is: "key = \"alias/k8s\"\ntimeout = \"61s\"",
        at: "timeout",
        says: "listener[0].timeout: 1m 1s is longer than a kube-apiserver should wait\n  remedy: write less than the \
               `timeout` of its EncryptionConfiguration, which is 3s unless written",
    },
    Case {
        was: "unix:/run/kmsproxy/k8s.sock\"\nmode = \"0660\"",
        is: "127.0.0.1:8443\"",
        at: "address",
        says: "listener[0].address: kube-apiserver connects to unix sockets only\n  remedy: write \
               \"unix:/run/kmsproxy/NAME.sock\", \"unix:@NAME\" or \"systemd:NAME\"",
    },
    Case {
        was: "unix:/run/kmsproxy/k8s.sock\"\nmode = \"0660\"",
        is: "unix:///@k8s\"",
        at: "address",
        says: "listener[0].address: `unix:///@k8s` names a file at the root that begins with @; an abstract socket is \
               written \"unix:@NAME\"\n  remedy: write an address and a port (\"127.0.0.1:8443\"), \
               \"unix:/run/kmsproxy/NAME.sock\", \"unix:@NAME\" or \"systemd:NAME\"",
    },
    Case {
        was: "unix:/run/kmsproxy/k8s.sock",
        is: "unix:@k8s",
        at: "mode",
        says: "listener[0].mode: only a unix:/path address has a mode\n  remedy: remove it (systemd: SocketMode=)",
    },
    Case {
        was: "unix:/run/kmsproxy/k8s.sock\"\nmode = \"0660\"",
        is: "unix:@k8s\"\nowner = \"root\"",
        at: "owner",
        says: "listener[0].owner: only a unix:/path address has an owner\n  remedy: remove it (systemd: SocketUser=, \
               SocketGroup=)",
    },
    Case {
        was: "unix:/run/kmsproxy/k8s.sock\"\nmode = \"0660\"",
        is: "systemd:k8s\"\ngroup = \"root\"",
        at: "group",
        says: "listener[0].group: only a unix:/path address has a group\n  remedy: remove it (systemd: SocketUser=, \
               SocketGroup=)",
    },
    Case {
        was: "mode = \"0660\"",
        is: "owner = \"4294967295\"",
        at: "owner",
        says: "listener[0].owner: is no number of a user\n  remedy: write the user's name or number",
    },
    Case {
        was: "mode = \"0660\"",
        is: "group = \"-1\"",
        at: "group",
        says: "listener[0].group: is no name of a group\n  remedy: write the group's name or number",
    },
    Case {
        was: "uid = 0",
        is: "access_key = { id = \"LTAIlocal\", secret_file = \"/etc/kmsproxy/ack.secret\" }",
        at: "access_key",
        says: "caller[0].access_key: kube-apiserver signs nothing\n  remedy: remove it: then whoever reaches the socket \
               is this caller; or write uid = …",
    },
    Case {
        was: "uid = 0",
        is: "certificate_name = \"a.b\"",
        at: "certificate_name",
        says: "caller[0].certificate_name: kube-apiserver shows no certificate\n  remedy: remove it: then whoever reaches \
               the socket is this caller; or write uid = …",
    },
    Case {
        was: "unix:/run/kmsproxy/k8s.sock\"\nmode = \"0660\"\nupstream = \"kms\"\nkey = \"alias/k8s\"\n\n[[caller]]\nname = \
              \"apiserver\"\nlistener = \"k8s\"\nuid = 0\n",
        is: "unix:@k8s\"\nupstream = \"kms\"\nkey = \"alias/k8s\"\n\n[[caller]]\nname = \"apiserver\"\nlistener = \"k8s\"\n",
        at: "[[caller]]",
        says: "caller[0]: nothing proves who it is: an abstract socket has no permissions, anybody can reach it\n  remedy: \
               add uid, or listen on a unix:/path with a mode",
    },
    Case {
        was: "mode = \"0660\"\nupstream = \"kms\"\nkey = \"alias/k8s\"\n\n[[caller]]\nname = \"apiserver\"\nlistener = \
              \"k8s\"\nuid = 0\n",
        is: "mode = \"0666\"\nupstream = \"kms\"\nkey = \"alias/k8s\"\n\n[[caller]]\nname = \"apiserver\"\nlistener = \"k8s\"\n",
        at: "[[caller]]",
        says: "caller[0]: whoever reaches the socket is this caller, and the socket's mode lets everybody reach it\n  \
               remedy: write mode = \"0660\" at the listener, or add uid",
    },
    Case {
        was: "keys = [\"alias/k8s\"]",
        is: "keys = [\"alias/k8\", \"key-1\"]",
        at: "allow",
        says: "caller[0].allow: nobody may encrypt with `alias/k8s`, the key of listener `k8s`\n  remedy: add { actions = \
               [\"Encrypt\"], keys = [\"alias/k8s\"] }",
    },
    Case {
        was: "actions = [\"Decrypt\"]",
        is: "actions = [\"DescribeKey\"]",
        at: "allow",
        says: "caller[0].allow: nobody may decrypt what `alias/k8s`, the key of listener `k8s`, encrypts\n  remedy: add { \
               actions = [\"Decrypt\"], keys = [\"key-…\"] } with the id of that key",
    },
    Case {
        was: "key = \"alias/k8s\"\n\n[[caller]]\nname = \"apiserver\"\nlistener = \"k8s\"\nuid = 0\nallow = [{ actions = \
              [\"Encrypt\"], keys = [\"alias/k8s\"] }",
        is: "key = \"acs:kms:cn-hangzhou:1:key/key-2\"\n\n[[caller]]\nname = \"apiserver\"\nlistener = \"k8s\"\nuid = 0\nallow = \
             [{ actions = [\"Encrypt\"], keys = [\"key-2\"] }",
        at: "allow",
        says: "caller[0].allow: nobody may decrypt what `acs:kms:cn-hangzhou:1:key/key-2`, the key of listener `k8s`, \
               encrypts\n  remedy: add { actions = [\"Decrypt\"], keys = [\"key-2\"] }",
    },
];
