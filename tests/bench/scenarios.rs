//! Each scenario, briefly, on what the harness starts for it.

use kmsproxy::bench::record::{Phase, Run};

use crate::command::{ended, run};

fn phases(run: &Run) -> Vec<(&str, &str)> {
    run.targets[0].phases.iter().map(|phase| (phase.name.as_str(), phase.kind.as_str())).collect()
}

/// A phase without its plots.
fn told(phase: &Phase) -> String {
    format!("{:?}", Phase { timeline: Vec::new(), curve: Vec::new(), ..phase.clone() })
}

fn asked(phase: &Phase) -> u64 {
    phase.remote_calls.unwrap() - phase.probes.unwrap()
}

#[test]
fn hit_asks_the_kms_for_nothing_and_tells_what_the_daemon_spent() {
    for face in ["aliyun-v1", "aliyun-v3", "aliyun-unsigned", "kubernetes-v1", "kubernetes-v2"] {
        let run = run(&["hit", "--face", face, "--deks", "20", "--rate", "100", "--duration", "300ms"]);
        assert_eq!(phases(&run), [("hits", "open")]);
        let phase = &run.targets[0].phases[0];
        assert_eq!((phase.answered, phase.failed, asked(phase)), (30, 0, 0), "{face}: {}", told(phase));
        assert_eq!((run.verified, run.wrong), (50, 0));
        assert!(phase.cpu_us_per_call.unwrap() > 0.0 && phase.rss_bytes.unwrap() > 1_000_000);
        assert_eq!(phase.timeline.iter().map(|moment| moment.per_second).sum::<f64>().round(), 30.0 / 0.02);
    }
}

#[test]
fn two_targets_take_turns_and_the_text_says_which_loop_is_closed() {
    let said = ended(&[&["hit", "--face", "aliyun-v1", "--over", "tls"], BESIDE_BARE].concat(), 0);
    for word in ["[CLOSED, 2 callers]", "spawn ÷ bare, medians of 3 rounds", "CPU µs a call", "none was wrong"] {
        assert!(said.out.contains(word), "{word}: {}", said.out);
    }
}

/// Briefly, in turns with a responder that answers a constant.
const BESIDE_BARE: &[&str] =
    &["--deks", "20", "--closed", "2", "--duration", "200ms", "--rounds", "3", "--compare", "spawn", "bare"];

#[test]
fn comparing_gives_the_ratio_of_each_measure() {
    let run = run(&[&["hit", "--face", "kubernetes-v2"], BESIDE_BARE].concat());
    let comparison = run.comparison.unwrap();
    assert_eq!((comparison.of.as_str(), comparison.to.as_str(), comparison.rounds), ("spawn", "bare", 3));
    let measures: Vec<&str> = comparison.ratios.iter().map(|ratio| ratio.measure.as_str()).collect();
    assert_eq!(measures, ["calls a second", "p50 µs", "p99 µs", "p99.9 µs", "CPU µs a call"]);
    for ratio in &comparison.ratios {
        assert!(ratio.least <= ratio.median && ratio.median <= ratio.most, "{ratio:?}");
        assert_eq!(ratio.noisy, ratio.most > 1.5 * ratio.least);
    }
    assert!(run.targets.iter().all(|target| target.phases.iter().map(|phase| phase.round).eq(1..=3)));
}

#[test]
fn a_storm_on_one_dek_is_one_remote_call() {
    let run = run(&["storm", "--face", "kubernetes-v1", "--waiters", "150", "--storms", "2"]);
    for phase in &run.targets[0].phases {
        assert_eq!((phase.answered, phase.failed, asked(phase)), (150, 0, 1), "{}", told(phase));
    }
    assert_eq!(phases(&run), [("storm", "closed"); 2]);
}

#[test]
fn a_storm_is_compared_with_what_the_machine_takes_to_answer_so_many() {
    let options = ["--face", "aliyun-unsigned", "--waiters", "50", "--storms", "1", "--rounds", "3"];
    let run = run(&[&["storm"], &options[..], &["--compare", "spawn", "bare"]].concat());
    for phase in run.targets.iter().flat_map(|target| &target.phases) {
        assert_eq!((phase.answered, phase.failed), (50, 0), "{}", told(phase));
        let (all, beyond) = (phase.figures["all answered after, ms"], phase.figures["beyond the KMS's own time, ms"]);
        assert!(beyond > 0.0 && beyond <= all, "{}", told(phase));
    }
    let ratios = run.comparison.unwrap().ratios;
    assert!(ratios.iter().any(|ratio| ratio.measure == "beyond the KMS's own time, ms"), "{ratios:?}");
}

#[test]
fn a_restart_is_cold_then_warm_then_after_a_crash() {
    let options = [
        "--face",
        "kubernetes-v1",
        "--objects",
        "10",
        "--resources",
        "2",
        "--apiservers",
        "2",
        "--head-start",
        "100ms",
    ];
    let run = run(&[&["restart", "--kms-latency", "1ms"], &options[..]].concat());
    let names = ["start, cache cold", "start, cache warm", "start, kmsproxy restarted"];
    assert_eq!(phases(&run), names.map(|name| (name, "closed")));
    let [cold, warm, restarted] = &run.targets[0].phases[..] else { panic!("three starts") };
    // Two apiservers: each a Version and twenty Decrypts.
    for phase in [cold, warm, restarted] {
        assert_eq!((phase.answered, phase.failed), (42, 0), "{}", told(phase));
    }
    assert_eq!((asked(cold), asked(warm)), (20, 0));
}

#[test]
fn a_start_by_v2_asks_for_seeds_and_not_for_objects() {
    let run = run(&["restart", "--face", "kubernetes-v2", "--shape", "v2", "--seeds", "5", "--head-start", "100ms"]);
    let answered: Vec<u64> = run.targets[0].phases.iter().map(|phase| phase.answered).collect();
    // Status, Encrypt, and five seeds for each of two resources.
    assert_eq!(answered[..2], [12, 12]);
}

#[test]
fn cold_deks_cost_one_call_each_under_the_quota() {
    let run = run(&["cold", "--deks", "60", "--at-once", "10", "--kms-quota", "200", "--kms-latency", "1ms"]);
    let phase = &run.targets[0].phases[0];
    assert_eq!((phase.answered, phase.failed, asked(phase)), (60, 0, 60), "{}", told(phase));
    assert_eq!(phase.figures["least possible, s"], 0.3);
}

#[test]
fn cold_deks_without_a_quota_wait_for_the_kms_alone() {
    let options = ["--deks", "256", "--at-once", "64", "--kms-quota", "none", "--kms-latency", "50ms"];
    let run = run(&[&["cold"], &options[..]].concat());
    let phase = &run.targets[0].phases[0];
    assert_eq!((phase.answered, phase.failed, asked(phase)), (256, 0, 256), "{}", told(phase));
    assert_eq!(phase.figures["least possible, s"], 0.2, "four times 64 at 50 ms each");
}

#[test]
fn idle_connections_have_each_had_an_answer_and_are_weighed_while_they_are_open() {
    for (face, over) in [("aliyun-unsigned", "unix"), ("aliyun-v1", "tls"), ("kubernetes-v2", "unix")] {
        let run = run(&["idle", "--face", face, "--over", over, "--idlers", "300", "--rest", "1s"]);
        let phase = &run.targets[0].phases[0];
        assert_eq!((phase.answered, phase.failed, asked(phase)), (300, 0, 0), "{face}: {}", told(phase));
        for then in ["just used", "at rest"] {
            let each = phase.figures[&format!("resident bytes for each connection, {then}")];
            // Each has buffers to read into at least, and three hundred of them are seen in pages.
            assert!(each > 1000.0 && each < 1e6, "{face}, {then}: {}", told(phase));
        }
    }
}

#[test]
fn what_a_cached_dek_takes_is_told_where_there_are_enough_of_them() {
    let each = |deks| {
        let run = run(&["hit", "--face", "aliyun-unsigned", "--deks", deks, "--rate", "100", "--duration", "300ms"]);
        run.targets[0].phases[0].figures.get("resident bytes for each DEK").copied()
    };
    assert_eq!(each("20"), None);
    // A page more or less; far more would be another process's.
    let each = each("2000").unwrap();
    assert!(each > 0.0 && each < 20_000.0, "{each}");
}

#[test]
fn mixed_reads_and_writes_and_churn_play_to_their_end() {
    let mixed = run(&[
        "mixed",
        "--deks",
        "50",
        "--rate",
        "100",
        "--writes",
        "20",
        "--duration",
        "500ms",
        "--kms-latency",
        "1ms",
    ]);
    let phase = &mixed.targets[0].phases[0];
    assert_eq!((phase.answered, phase.failed), (50, 0), "{}", told(phase));
    assert!(phase.figures["remote calls for each call"] > 0.1, "{}", told(phase));
    let churn = run(&[
        "churn",
        "--hot",
        "10",
        "--rate",
        "50",
        "--flood",
        "50",
        "--capacity",
        "100",
        "--duration",
        "600ms",
        "--kms-latency",
        "1ms",
    ]);
    let names = ["hot set alone", "hot set, flooded", "ciphertexts that come once", "hot set afterwards"];
    assert_eq!(phases(&churn), names.map(|name| (name, "open")));
    assert_eq!(churn.targets[0].phases[2].answered, 30);
}

#[test]
fn the_drill_ends_with_no_plaintext_and_the_key_enabled_again() {
    let lease = ["--set", "upstream.kms.lease.duration=3s", "--set", "upstream.kms.lease.probe=1s"];
    let options = ["--deks", "5", "--rate", "40", "--before", "300ms", "--quiet", "1200ms", "--rounds", "1"];
    let run = run(&[&["disable", "--face", "kubernetes-v1"], &lease[..], &options].concat());
    assert_eq!(phases(&run), [("disabled, with traffic", "open"), ("disabled, without traffic", "closed")]);
    let [with, without] = &run.targets[0].phases[..] else { panic!("two halves") };
    assert!(with.figures["last plaintext after, s"] <= 3.0 + 1.0, "{}", told(with));
    assert!(with.errors.keys().all(|class| class == "FailedPrecondition") && with.failed > 0, "{}", told(with));
    assert_eq!((without.figures["plaintexts afterwards"], without.failed), (0.0, 1));
}

#[test]
fn an_outage_is_played_state_by_state_and_ends() {
    let options = ["--deks", "10", "--rate", "40", "--cold", "5", "--each", "600ms", "--kms-latency", "1ms"];
    let run = run(&[&["outage", "--face", "kubernetes-v1", "--patience", "3s"], &options[..]].concat());
    let states = ["calm", "stalled", "failing", "throttling", "returned"];
    let names = states.iter().flat_map(|state| [format!("{state}: hits"), format!("{state}: cold")]);
    assert!(run.targets[0].phases.iter().map(|phase| phase.name.clone()).eq(names));
    for phase in run.targets[0].phases.iter().filter(|phase| phase.name.ends_with(": hits")) {
        assert_eq!((phase.answered, phase.failed), (24, 0), "{}", told(phase));
    }
    for state in ["stalled: cold", "failing: cold", "throttling: cold"] {
        let phase = run.targets[0].phases.iter().find(|phase| phase.name == state).unwrap();
        assert_eq!((phase.answered, phase.failed), (0, 3), "{}", told(phase));
    }
}
