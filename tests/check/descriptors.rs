//! A limit of open files that is too low for what is configured.

use std::process::Command;

use super::{BASE, Machine};

/// Exit code, standard error and standard output of `kmsproxy check` where so many files may be open.
fn check(machine: &Machine, limit: u32) -> (Option<i32>, String, String) {
    let files = machine.at("etc").to_str().expect("UTF-8").to_owned();
    let text = BASE.replace("\"/etc", &format!("\"{files}")).replace("127.0.0.1:8443", "127.0.0.1:0");
    machine.write("kmsproxy.toml", &text, 0o644);
    let output = Command::new("sh")
        .args(["-c", &format!("ulimit -n {limit} && exec \"$@\""), "sh", env!("CARGO_BIN_EXE_kmsproxy")])
        .args(["check", "--config", machine.at("kmsproxy.toml").to_str().expect("UTF-8")])
        .output()
        .expect("a shell runs");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (output.status.code(), text(output.stderr), text(output.stdout))
}

#[test]
fn a_limit_of_open_files_that_is_too_low_is_told_with_its_remedy_and_makes_nothing_invalid() {
    let machine = Machine::new();
    let valid = "configuration is valid\n".to_owned();
    let (code, err, out) = check(&machine, 512);
    assert_eq!((code, &out), (Some(0), &valid));
    let says = ["warning: the limit of open files is 512, and kmsproxy keeps ", " (ack ", " in place of 1024)"];
    assert!(says.iter().all(|part| err.contains(part)) && err.contains("\n  remedy: raise it to 1"), "{err}");
    let (code, err, out) = check(&machine, 128);
    assert_eq!((code, &out), (Some(0), &valid));
    assert!(err.contains("is 128, and") && err.contains("too few are left for its listeners\n  remedy: "), "{err}");
    assert_eq!(check(&machine, 4096), (Some(0), String::new(), valid));
}
