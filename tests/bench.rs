//! `kmsproxy bench` from outside: the real binary, on what it starts itself and on targets that lie, stall or are far
//! away. No speed is judged here.

#![allow(clippy::unwrap_used)]
#![allow(clippy::disallowed_methods, reason = "a responder that stalls measures time")]

#[path = "bench/command.rs"]
mod command;
#[path = "bench/responder.rs"]
mod responder;
#[path = "bench/scenarios.rs"]
mod scenarios;

use std::time::Duration;

use command::{bench, ended, run};
use responder::{Manner, Responder};

#[test]
fn one_wrong_plaintext_fails_the_run() {
    let liar = Responder::start(Manner::Lies { after: 60 });
    let said = bench(&[
        "hit",
        &liar.address(),
        "--face",
        "aliyun-unsigned",
        "--deks",
        "20",
        "--rate",
        "200",
        "--duration",
        "2s",
    ]);
    assert_eq!(said.code, 65, "{said:?}");
    assert!(said.err.contains("not the one that was put in"), "{said:?}");
}

#[test]
fn an_honest_target_that_was_there_before_is_measured_and_stays() {
    let honest = Responder::start(Manner::Honest);
    let run = run(&[
        "hit",
        &honest.address(),
        "--face",
        "aliyun-unsigned",
        "--deks",
        "20",
        "--closed",
        "2",
        "--duration",
        "300ms",
    ]);
    let phase = &run.targets[0].phases[0];
    assert_eq!((phase.kind.as_str(), phase.callers, phase.offered_per_second), ("closed", Some(2), None));
    assert_eq!((phase.remote_calls, phase.cpu_us_per_call), (None, None));
    assert!(run.verified > 20 && run.wrong == 0, "{} and {}", run.verified, run.wrong);
    assert!(run.notes.iter().any(|note| note.starts_with("closed loop")), "{:?}", run.notes);
    assert!(honest.calls() > 40);
}

#[test]
fn an_open_loop_counts_the_waiting_that_a_stalled_server_causes() {
    let stall = Duration::from_millis(200);
    let stalling = Responder::start(Manner::Stalls { every: 500, pause: stall });
    let address = stalling.address();
    let arguments = ["hit", &address, "--face", "aliyun-unsigned", "--deks", "10", "--connections", "4"];
    let run = run(&[&arguments[..], &["--rate", "400", "--duration", "3s"]].concat());
    let phase = &run.targets[0].phases[0];
    let latency = phase.latency_us.unwrap();
    // Two or three pauses in three seconds, and in each some 80 calls were due: far more than one in a hundred waited. Who
    // counts from when a connection came free would see four of each.
    assert!(latency.p99 > 100_000.0, "{latency:?}");
    assert!(phase.answered > 1100, "{} answered, {:?}", phase.answered, phase.errors);
}

#[test]
fn a_target_that_is_not_on_this_machine_is_refused_before_anything_is_sent() {
    for target in ["https://192.0.2.1:8443", "http://192.0.2.1", "https://[2001:db8::1]"] {
        let said = bench(&["hit", target, "--face", "aliyun-unsigned"]);
        assert_eq!(said.code, 64, "{said:?}");
        assert!(said.err.contains("--i-own-this-target"), "{said:?}");
    }
}

#[test]
fn what_cannot_be_is_refused_with_a_remedy() {
    let cases: [(&[&str], i32, &str); 8] = [
        (&["hit", "unix:/nowhere"], 64, "--credentials"),
        (&["hit", "unix:/nowhere", "--face", "kubernetes-v1"], 70, "/nowhere"),
        (&["cold", "bare"], 64, "plays `hit`, `idle` and `storm` only"),
        (&["disable", "unix:/nowhere", "--face", "kubernetes-v1"], 64, "--control"),
        (&["hit", "emulator", "--face", "kubernetes-v1"], 64, "no gRPC"),
        (&["hit", "spawn,decks=5"], 64, "deks="),
        (&["hit", "spawn,audit=perhaps"], 64, "audit=on or off"),
        (&["hit", "--duration", "11m"], 64, "at most 10m"),
    ];
    for (arguments, code, word) in cases {
        let said = bench(arguments);
        assert_eq!(said.code, code, "{said:?}");
        assert!(said.err.contains(word), "{word}: {said:?}");
    }
}

#[test]
fn no_option_takes_a_secret() {
    let said = bench(&["hit", "--help"]);
    assert_eq!(said.code, 0);
    let options: Vec<&str> = said.out.split_whitespace().filter(|word| word.starts_with("--")).collect();
    assert!(options.contains(&"--secret-file") && options.contains(&"--credentials"));
    assert!(
        !options.iter().any(|option| ["--secret", "--access-key-secret", "--token", "--password"].contains(option))
    );
}

#[test]
fn a_page_of_two_runs_is_whole_in_itself() {
    let honest = Responder::start(Manner::Honest);
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let files = [path("one.json"), path("two.json")];
    for file in &files {
        let said = bench(&[
            "hit",
            &honest.address(),
            "--face",
            "aliyun-unsigned",
            "--deks",
            "5",
            "--rate",
            "100",
            "--duration",
            "200ms",
            "--json",
        ]);
        std::fs::write(file, said.out).unwrap();
    }
    let page = path("page.html");
    ended(&["report", &files[0], &files[1], "--report", &page], 0);
    let text = std::fs::read_to_string(&page).unwrap();
    for outside in ["src=", "href=", "url(", "@import", "<link", "<img", "<iframe", "fetch(", "import("] {
        assert!(!text.contains(outside), "{outside}");
    }
    // Its data, and the script that draws; what a target is called cannot end either.
    assert_eq!(text.matches("</script>").count(), 2);
    assert_eq!(text.matches("\"schema\":\"kmsproxy-bench/1\"").count(), 2);
    ended(&["report", &page, "--report", &path("again.html")], 70);
}
