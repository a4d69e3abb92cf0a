//! The oracle judged: for each rule a history that breaks it, and the nearest one that does not.
#![allow(clippy::unwrap_used, reason = "a test may; clippy's own exception ends at the test function")]

#[path = "oracle/checker.rs"]
mod checker;
#[path = "oracle/tale.rs"]
mod tale;

use std::time::Duration;

use checker::check;
use checker::history::{Terms, context_digest, decisions, digest};
use tale::{Tale, grant, tale};

/// Milliseconds: the terms here are a lease of 30 s, a probe every 10 s, and a trial a second.
const LEASE: u64 = 30_000;

fn broken(tale: &Tale) -> Vec<(u8, String)> {
    let names = |violations: checker::Violations| -> Vec<_> {
        violations.names().into_iter().map(|(promise, what)| (promise, what.to_owned())).collect()
    };
    check(&tale.history).map_or_else(names, |_| Vec::new())
}

fn only(promise: u8, what: &str) -> Vec<(u8, String)> {
    vec![(promise, what.to_owned())]
}

fn kept() -> Vec<(u8, String)> {
    Vec::new()
}

#[test]
fn promise_01_a_plaintext_rests_on_a_decision_for_exactly_its_ciphertext_and_context() {
    let never = only(1, "a plaintext that the KMS gave nobody for this ciphertext and context");
    assert_eq!(broken(&tale().allows(1, "c").tells("p", 0, 2, "c")), kept());
    assert_eq!(broken(&tale().tells("p", 0, 2, "c")), never);
    assert_eq!(broken(&tale().allows(1, "other").tells("p", 0, 2, "c")), never);
    assert_eq!(broken(&tale().allows_in(1, "c", "x").tells("p", 0, 2, "c")), never);
    assert_eq!(broken(&tale().allows(1, "c").tells_in("p", 0, 2, "c", "x")), never);
    assert_eq!(broken(&tale().refuses(1, "c", "key_disabled").tells("p", 0, 2, "c")), never);
    assert_eq!(broken(&tale().allows(3, "c").tells("p", 0, 2, "c")), never, "and on one that came before it");
}

#[test]
fn promise_01_a_plaintext_is_no_older_than_the_cache_may_be() {
    let aged = |asked: u64| {
        let mut tale =
            tale().allows(1, "c").tells("p", 0, 2, "c").allows(9_999, "sample").tells("p", asked, 10_010, "c");
        tale.history.terms.max_age = Duration::from_secs(10);
        tale
    };
    assert_eq!(broken(&aged(10_000)), kept());
    assert_eq!(
        broken(&aged(10_001)),
        only(1, "a plaintext later than cache.max_age after the KMS allowed exactly this")
    );
}

#[test]
fn promise_01_a_plaintext_goes_by_the_policy_in_force_at_some_instant_of_the_call() {
    let ruled = |changed: u64| {
        let everything = [("p", grant("p", &["Decrypt"], &["*"]))];
        let another = [("p", grant("p", &["Decrypt"], &["another-key"]))];
        tale().rules(0, &everything).rules(changed, &another).allows(1, "c").tells("p", 0, 2, "c").tells("p", 5, 6, "c")
    };
    let ungranted = only(1, "an answer that no policy in force gave to this caller");
    assert_eq!(broken(&ruled(4)), ungranted);
    assert_eq!(broken(&ruled(5)), kept(), "it may have been released before");
    let nobody = tale().rules(0, &[("q", grant("q", &["Decrypt"], &["*"]))]).allows(1, "c").tells("p", 0, 2, "c");
    assert_eq!(broken(&nobody), ungranted);
    let encrypts = tale().rules(0, &[("p", grant("p", &["Encrypt"], &["*"]))]).allows(1, "c").tells("p", 0, 2, "c");
    assert_eq!(broken(&encrypts), ungranted);
}

#[test]
fn promise_02_after_a_refusal_the_last_consent_is_good_for_one_lease() {
    let hit = |asked: u64| {
        let story = tale().allows(1, "c").tells("p", 0, 2, "c").changes(500, "DisableKey");
        story.tells("p", asked, LEASE + 5, "c")
    };
    let late = only(2, "a plaintext later than lease.duration after the last consent of a KMS that refuses");
    assert_eq!(broken(&hit(LEASE)), kept());
    assert_eq!(broken(&hit(LEASE + 1)), late);
    let renewed = hit(LEASE + 1).allows(600, "another ciphertext of the key");
    assert_eq!(broken(&renewed), kept());
    let elsewhere = hit(LEASE + 1).allows_in(600, "c", "x").allows_by(600, "c2", "another-key");
    assert_eq!(broken(&elsewhere), late, "consent in another context or to another key is none");
}

#[test]
fn promise_02_where_the_way_back_is_known_to_be_short_a_late_arrival_is_a_late_release() {
    let mut late = tale().allows(1, "c").tells("p", 0, 2, "c").tells("p", LEASE - 900, LEASE + 300, "c");
    assert_eq!(broken(&late), kept());
    late.history.terms.transit = Some(Duration::from_millis(250));
    let silent = only(5, "a plaintext later than lease.duration after the last consent of a KMS that is silent");
    assert_eq!(broken(&late), silent);
    late.history.terms.transit = Some(Duration::from_millis(350));
    assert_eq!(broken(&late), kept());
}

#[test]
fn promise_02_a_refusal_that_somebody_was_told_has_wiped_what_was_kept() {
    let warm = || tale().allows(1, "c").allows(2, "d").tells("p", 0, 3, "c").tells("p", 0, 3, "d");
    let story = || warm().tells("p", 5, 6, "c");
    let wiped = only(2, "a plaintext from before a refusal that the proxy has seen");
    let refused = || story().tells_no("p", 10, 11, "c", "key_disabled");
    assert_eq!(broken(&refused().tells("p", 12, 13, "d")), wiped);
    assert_eq!(broken(&refused().tells("p", 11, 13, "d")), kept(), "it may have been released before the refusal came");
    assert_eq!(broken(&refused().allows(12, "d").tells("p", 12, 13, "d")), kept());
    assert_eq!(broken(&story().tells_no("p", 10, 11, "c", "throttled").tells("p", 12, 13, "d")), kept());
    let cold = warm().tells_no("p", 10, 11, "c", "key_disabled").tells("p", 12, 13, "d");
    assert_eq!(broken(&cold), kept(), "the refusal may be older than the answers");
    let mut restarted = refused().tells("p", 12, 13, "d");
    restarted.history.restarts = vec![8_000_000];
    assert_eq!(broken(&restarted), kept(), "who begins anew does not know the key of what is refused");
    let unknown = story().tells_no("p", 10, 11, "unknown", "key_disabled").tells("p", 12, 13, "d");
    assert_eq!(broken(&unknown), kept(), "whose ciphertext that is only the KMS knows");
}

#[test]
fn promise_03_a_refused_key_is_asked_for_once_a_second() {
    let asked = |pause: u64| {
        let refusals = (0..3).map(|n| n * pause);
        refusals
            .fold(tale().allows(0, "c").tells("p", 0, 1, "c"), |tale, at| tale.refuses(10 + at, "c", "key_disabled"))
    };
    let often = only(3, "a refused key is asked for more than once a second by each who wants it");
    assert_eq!(broken(&asked(499)), often);
    assert_eq!(broken(&asked(500)), kept(), "one caller and one probe");
    let ill = (0..9).fold(tale(), |tale, at| tale.refuses(at, "c", "kms_failure"));
    assert_eq!(broken(&ill), kept());
}

#[test]
fn promise_04_by_the_proxys_ear_no_answer_outlives_a_closing_that_came_after_its_question() {
    let story = |asked: u64| {
        let story = tale().allows(1, "c").hears("p", 0, 2, "c").releases("p", 0, 2, "c");
        let probed = story.refuses(20, "c", "key_disabled").hears_no("", 19, 30, "c", "key_disabled");
        probed.allows(asked + 1, "d").hears("p", asked, 40, "d").releases("p", asked, 40, "d")
    };
    let stale = only(4, "a plaintext that rests on a question from before a closing");
    assert_eq!(broken(&story(29)), stale);
    assert_eq!(broken(&story(30)), kept());
    let kept_entry = story(30).releases("p", 50, 50, "c");
    assert_eq!(broken(&kept_entry), stale, "what was kept before is lost though the lease is in force again");
    let unknown = tale().allows(1, "c").hears("p", 0, 2, "c").releases("p", 0, 2, "c");
    let unknown = unknown.refuses(20, "d", "key_disabled").hears_no("p", 19, 30, "d", "key_disabled");
    assert_eq!(broken(&unknown.releases("p", 50, 50, "c")), kept(), "a refusal that names no key closes none");
}

#[test]
fn promise_04_by_the_proxys_ear_refused_credentials_suspend_and_keep() {
    let story = |renewed: u64| {
        let story = tale().allows(1, "c").hears("p", 0, 2, "c").releases("p", 0, 2, "c");
        let doubted = story.hears_no("q", 10, 12, "x", "credentials");
        doubted.allows(renewed + 1, "sample").hears("", renewed, 20, "sample").releases("p", 30, 30, "c")
    };
    assert_eq!(broken(&story(12)), kept(), "any consent in the scope brings back what was kept");
    assert_eq!(broken(&story(11)), only(4, "a plaintext that rests on a question from before a closing"));
}

#[test]
fn promise_05_silence_is_not_consent() {
    let silent = |asked: u64| {
        let story = tale().allows(1, "c").tells("p", 0, 2, "c").tells_no("p", 9000, 9500, "d", "timed_out");
        story.tells("p", asked, LEASE + 5, "c")
    };
    assert_eq!(broken(&silent(LEASE)), kept());
    let late = only(5, "a plaintext later than lease.duration after the last consent of a KMS that is silent");
    assert_eq!(broken(&silent(LEASE + 1)), late);
    let mut graced = silent(LEASE + 1);
    graced.history.terms.outage_grace = Duration::from_secs(1);
    assert_eq!(broken(&graced), kept());
}

#[test]
fn promise_02_by_the_proxys_ear_a_lease_counts_from_the_sending() {
    let slow = |asked: u64| {
        let story = tale().allows(1500, "c").hears("p", 0, 2000, "c").releases("p", 0, 2000, "c");
        story.releases("p", asked, asked, "c")
    };
    let what = "a plaintext later than lease.duration after the last question that the KMS consented to was sent";
    assert_eq!(broken(&slow(LEASE - 1)), kept());
    assert_eq!(broken(&slow(LEASE)), only(2, what));
}

#[test]
fn promise_06_a_step_of_the_wall_clock_wants_new_consent() {
    let stepped = |asked: u64| {
        let mut story = tale().allows(1, "c").tells("p", 0, 2, "c").tells("p", asked, asked + 1, "c");
        story.history.steps = vec![5_000_000_000];
        story
    };
    let old = only(6, "a plaintext on consent from before a step of the wall clock");
    assert_eq!(broken(&stepped(6000)), old);
    assert_eq!(broken(&stepped(5999)), kept(), "it is looked for once a second");
    assert_eq!(broken(&stepped(6000).allows(5000, "sample")), kept());
}

#[test]
fn promise_07_equal_cold_decrypts_make_one_call() {
    let storm = |calls: u64| {
        let story = (0..calls).fold(tale(), |tale, call| tale.allows(10 + call, "c"));
        let mut story = (0..5).fold(story, |tale, caller| tale.tells("p", caller, 30 + caller, "c"));
        story.history.terms.calls_per_flight = 1;
        story
    };
    let twice = only(7, "more than one call for equal cold Decrypts");
    assert_eq!(broken(&storm(1)), kept());
    assert_eq!(broken(&storm(2)), twice);
    let shared = |callers: &[&str]| callers.iter().fold(storm(2), |tale, caller| tale.tells(caller, 1, 31, "c"));
    assert_eq!(broken(&shared(&["q"])), kept(), "another caller has a flight of its own");
    let together = shared(&["q"]).rules(0, &["p", "q"].map(|name| (name, grant("both", &["Decrypt"], &["*"]))));
    assert_eq!(broken(&together), twice);
    assert_eq!(
        broken(&storm(2).tells_no("p", 2, 20, "c", "timed_out")),
        kept(),
        "a failure is followed by another call"
    );
}

#[test]
fn promise_07_by_the_proxys_ear_no_two_equal_questions_are_under_way() {
    let asked = |second: u64| tale().allows(1, "c").allows(6, "c").hears("p", 0, 5, "c").hears("p", second, 9, "c");
    assert_eq!(broken(&asked(4)), only(7, "two equal questions under way at a time"));
    assert_eq!(broken(&asked(5)), kept());
    assert_eq!(broken(&asked(5).hears("q", 1, 5, "c").hears("", 2, 5, "c")), kept());
}

#[test]
fn promise_08_a_plaintext_was_unwrapped_for_who_asks() {
    let second = |shared: &[&str]| {
        let grants: Vec<_> = ["p", "q"]
            .into_iter()
            .zip(shared)
            .map(|(name, share)| (name, grant(share, &["Decrypt"], &["*"])))
            .collect();
        tale().rules(0, &grants).allows(1, "c").tells("p", 0, 2, "c").tells("q", 5, 6, "c")
    };
    let foreign = only(8, "a plaintext that was unwrapped before this caller asked for it");
    assert_eq!(broken(&second(&["p", "q"])), foreign);
    assert_eq!(broken(&second(&["both", "both"])), kept());
    assert_eq!(broken(&second(&["p", "q"]).allows(5, "c")), kept());
    let asked_before = second(&["p", "q"]).tells_no("q", 0, 1, "c", "timed_out");
    assert_eq!(broken(&asked_before), kept(), "it may be the answer to a question that this caller gave up");
}

#[test]
fn promise_08_a_plaintext_is_the_one_that_the_kms_gave_under_the_key_that_it_named() {
    let mut swapped = tale().allows(1, "c").tells("p", 0, 2, "c");
    swapped.history.told[0].plaintext = Some("another".to_owned());
    assert_eq!(broken(&swapped), only(8, "another plaintext than the KMS gave for this ciphertext and context"));
    let mut renamed = tale().allows(1, "c").tells("p", 0, 2, "c");
    renamed.history.told[0].key = Some("another".to_owned());
    assert_eq!(broken(&renamed), only(8, "a plaintext under the name of another key"));
}

#[test]
fn promise_11_what_is_made_is_made_by_the_kms_within_the_call_and_given_once() {
    let given = |sent: u64| tale().makes(5, "GenerateDataKey", "c").given("p", "GenerateDataKey", sent, 7, "c");
    assert_eq!(broken(&given(5)), kept());
    assert_eq!(broken(&given(6)), only(11, "something made before it was asked for"));
    assert_eq!(
        broken(&given(5).given("q", "GenerateDataKey", 5, 8, "c")),
        only(11, "something that was made once and given twice")
    );
    assert_eq!(broken(&tale().given("p", "Encrypt", 5, 7, "c")), only(11, "something that the KMS has not made"));
    let other = tale().makes(5, "Encrypt", "c").given("p", "GenerateDataKey", 5, 7, "c");
    assert_eq!(broken(&other), only(11, "something else than was made"));
}

#[test]
fn promise_11_what_is_made_renews_nothing_and_is_kept_nowhere() {
    let late = only(5, "a plaintext later than lease.duration after the last consent of a KMS that is silent");
    let story = tale().allows(1, "c").tells("p", 0, 2, "c").makes(LEASE, "GenerateDataKey", "d");
    assert_eq!(broken(&story.tells("p", LEASE + 1, LEASE + 2, "c")), late);
    let seeded = tale().makes(5, "GenerateDataKey", "c").given("p", "GenerateDataKey", 4, 6, "c").tells("p", 7, 8, "c");
    assert_eq!(broken(&seeded), only(1, "a plaintext that the KMS gave nobody for this ciphertext and context"));
}

#[test]
fn a_violation_is_shown_by_its_shortest_history_in_times_from_its_first_event() {
    let story = tale().allows(4_001, "c").tells("p", 4_000, 4_002, "c").changes(4_500, "DisableKey");
    let story = story.tells_no("p", 4_600, 4_700, "unrelated", "timed_out");
    let story = story.tells("p", 40_000, 40_001, "c").tells("p", 35_000, 35_001, "c").tells("p", 41_000, 41_001, "c");
    let shown = check(&story.history).unwrap_err().to_string();
    let expected = "\
the history breaks what SEMANTICS.md promises; times are seconds from the first event shown
promise 2: a plaintext later than lease.duration after the last consent of a KMS that refuses
    0.000000 KMS decides  Decrypt: ok, key, version 1, ciphertext c, plaintext plain c
    0.499000 KMS decides  DisableKey: ok, key
   31.000000 p is told  Decrypt: ok, key, ciphertext c, plaintext plain c, sent 0.001000 before
             and 2 longer ones
";
    assert_eq!(shown, expected);
}

#[test]
fn what_the_embedded_kms_writes_is_read_as_it_was_meant_and_half_a_line_is_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("decisions");
    let whole = "{\"at_ns\":7,\"action\":\"DisableKey\",\"key\":\"key\",\"outcome\":\"ok\"}\n";
    std::fs::write(&file, format!("{whole}{}", &whole[..20])).unwrap();
    let mut expected = tale().changes(0, "DisableKey").history.decisions.remove(0);
    expected.at_ns = 7;
    assert_eq!(decisions(&file), [expected]);
}

#[test]
fn digests_are_those_of_the_embedded_kms() {
    use kmsproxy::kms::{Context, ContextForm};
    use kmsproxy::upstream::local::Digest;
    let pairs = [("a", "1"), ("b", "")];
    let boxed = pairs.map(|(name, value)| (name.into(), value.into())).to_vec();
    let context = Context::new(ContextForm::Json, "as sent", boxed).unwrap();
    assert_eq!(context_digest(pairs), Digest::of_context(&context).to_string());
    assert_eq!(digest(b"bytes"), Digest::of(b"bytes").to_string());
}

#[test]
fn the_default_terms_are_those_of_the_daemon() {
    let (ours, theirs) = (Terms::default(), kmsproxy::lease::Terms::default());
    assert_eq!((ours.lease, ours.probe, ours.outage_grace), (theirs.duration, theirs.probe, theirs.outage_grace));
    assert_eq!(ours.max_age, kmsproxy::cache::Config::default().max_age);
}
