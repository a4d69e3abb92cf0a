//! Manual pages and completions, as the programs that read them see them.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

#[path = "machine/tool.rs"]
mod tool;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;
use tool::have;

const KMSPROXY: &str = env!("CARGO_BIN_EXE_kmsproxy");

fn pages() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let made = Command::new(KMSPROXY).arg("man").arg(folder.path()).output().unwrap();
    assert_eq!(String::from_utf8(made.stderr).unwrap(), "");
    assert!(made.status.success());
    folder
}

/// The commands below `words`, as the help lists them.
fn commands(words: &[&str]) -> BTreeSet<String> {
    let help = Command::new(KMSPROXY).args(words).arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let Some((_, list)) = help.split_once("Commands:\n") else { return BTreeSet::new() };
    let lines = list.lines().take_while(|line| !line.is_empty());
    let names = lines.filter_map(|line| line.strip_prefix("  ")?.split_whitespace().next());
    names.filter(|name| *name != "help").map(str::to_owned).collect()
}

#[test]
fn each_command_that_the_help_lists_has_its_page_and_no_other_has() {
    let mut expected = BTreeSet::from(["kmsproxy.1".to_owned()]);
    for command in commands(&[]) {
        expected.extend(commands(&[&command]).iter().map(|below| format!("kmsproxy-{command}-{below}.1")));
        expected.insert(format!("kmsproxy-{command}.1"));
    }
    assert!(expected.contains("kmsproxy-audit-verify.1") && !expected.contains("kmsproxy-man.1"), "{expected:?}");
    let folder = pages();
    let names = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(names.collect::<BTreeSet<_>>(), expected);
}

#[test]
fn man_shows_every_page_without_a_warning() {
    if !have("man") {
        return;
    }
    let folder = pages();
    for entry in fs::read_dir(folder.path()).unwrap() {
        let page = entry.unwrap().path();
        let said = shown(&page);
        assert_eq!(said.1, "", "{}", page.display());
        for part in ["NAME", "SYNOPSIS", "DESCRIPTION", "FILES"] {
            assert!(said.0.lines().any(|line| line == part), "{}: no {part}\n{}", page.display(), said.0);
        }
    }
    let (serve, _) = shown(&folder.path().join("kmsproxy-serve.1"));
    // The lines of examples and tables are not run together.
    assert!(serve.contains("\n       kmsproxy serve\n") || serve.contains("\n         kmsproxy serve\n"), "{serve}");
    let (top, _) = shown(&folder.path().join("kmsproxy.1"));
    assert!(
        top.lines().any(|line| line.trim() == "78  the configuration is wrong; `kmsproxy check` says where"),
        "{top}"
    );
}

/// What `man` prints, and what it complains of.
fn shown(page: &Path) -> (String, String) {
    let mut man = Command::new("man");
    man.args(["--warnings", "--local-file"]).arg(page).env("MANWIDTH", "120").env("LC_ALL", "C.UTF-8");
    let output = man.env("MANPAGER", "cat").env_remove("MAN_KEEP_FORMATTING").output().unwrap();
    assert!(output.status.success(), "{}", page.display());
    (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
}

fn completions(shell: &str, folder: &TempDir) -> String {
    let made = Command::new(KMSPROXY).args(["completions", shell]).output().unwrap();
    assert!(made.status.success() && !made.stdout.is_empty());
    let path = folder.path().join(shell);
    fs::write(&path, made.stdout).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn each_shell_takes_its_completions() {
    let folder = tempfile::tempdir().unwrap();
    for (shell, no_run) in [("bash", "-n"), ("zsh", "-n"), ("fish", "--no-execute")] {
        let script = completions(shell, &folder);
        if !have(shell) {
            continue;
        }
        let read = Command::new(shell).args([no_run, &script]).output().unwrap();
        assert_eq!((read.status.code(), String::from_utf8(read.stderr).unwrap().as_str()), (Some(0), ""), "{shell}");
    }
}

#[test]
fn bash_completes_commands_and_options() {
    let folder = tempfile::tempdir().unwrap();
    let script = completions("bash", &folder);
    let completed = |line: &[&str]| {
        let (words, last) = (line.join(" "), line.len() - 1);
        let (word, before) = (line[last], line[last - 1]);
        let text = format!(
            "source {script}; COMP_WORDS=({words}); COMP_CWORD={last}; COMPREPLY=(); \
             _kmsproxy kmsproxy {word} {before}; printf '%s\\n' \"${{COMPREPLY[@]}}\""
        );
        let output = Command::new("bash").args(["--norc", "-c", &text]).output().unwrap();
        assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(completed(&["kmsproxy", "ser"]), ["serve"]);
    assert_eq!(completed(&["kmsproxy", "check", "--pr"]), ["--print"]);
    assert_eq!(completed(&["kmsproxy", "audit", "ver"]), ["verify"]);
}
