//! A KMS that grants so many calls a second, and ten thousand DEKs that nobody has cached: engine, watch, governor and the
//! embedded KMS with a quota, in time that passes when all sleep. What is between governor and KMS is as in
//! `upstream::aliyun`, without the wire; `tests/daemon/quota.rs` has the wire, and fewer DEKs.

#![allow(clippy::unwrap_used, reason = "a test may; clippy's own exception ends at the test function")]

#[path = "quota/scene.rs"]
mod scene;

use std::time::Duration;

use kmsproxy::governor::Class;

use scene::{Drained, Setting, drain};

const DEKS: u32 = 10_000;
const GRANTED: u32 = 100;

fn within(drained: &Drained, deks: u32, bound: f64) {
    assert!(drained.took < Duration::from_secs((deks / GRANTED).into()).mul_f64(bound), "{drained}");
    assert!(drained.throttled_share() <= 0.02, "{drained}");
    // What lives by probes alone has lived, and no probe was turned away.
    assert_eq!((drained.lapses, drained.turned(Class::Probe)), (0, 0), "{drained}");
    assert!(drained.probes >= drained.took.as_secs() / 10, "{drained}");
    // Another caller has cold DEKs and writes of its own, once a second each.
    assert_eq!(drained.refused_others, 0, "{drained}");
}

#[tokio::test(start_paused = true)]
async fn with_its_quota_written_nothing_is_throttled_and_no_second_of_the_kms_sees_more() {
    let drained = drain(Setting { granted: Some(GRANTED), quota: Some(GRANTED), ..Setting::default() }, DEKS).await;
    eprintln!("{drained}");
    within(&drained, DEKS, 1.15);
    assert_eq!((drained.throttled, drained.busiest_second <= GRANTED as usize), (0, true), "{drained}");
    assert!(drained.longest_probe <= Duration::from_millis(50), "{drained}");
    assert!(drained.longest_other <= Duration::from_millis(150), "{drained}");
}

#[tokio::test(start_paused = true)]
async fn with_twice_its_quota_written_what_it_throttles_brings_the_pace_down() {
    let drained =
        drain(Setting { granted: Some(GRANTED), quota: Some(2 * GRANTED), ..Setting::default() }, DEKS / 2).await;
    eprintln!("{drained}");
    within(&drained, DEKS / 2, 1.15);
}

#[tokio::test(start_paused = true)]
async fn with_no_quota_written_what_it_throttles_finds_the_pace() {
    let drained = drain(Setting { granted: Some(GRANTED), quota: None, ..Setting::default() }, DEKS).await;
    eprintln!("{drained}");
    within(&drained, DEKS, 1.15);
}

#[tokio::test(start_paused = true)]
async fn at_a_thousand_a_second_they_take_little_longer_than_the_quota_does() {
    let drained = drain(Setting { granted: Some(1000), quota: Some(1000), ..Setting::default() }, 5_000).await;
    eprintln!("{drained}");
    assert!(drained.took < Duration::from_millis(5_500), "{drained}");
    assert_eq!((drained.throttled, drained.busiest_second <= 1000), (0, true), "{drained}");
}

#[tokio::test(start_paused = true)]
async fn without_any_quota_the_window_alone_bounds_the_draining() {
    let drained = drain(Setting { granted: None, quota: None, ..Setting::default() }, 5_000).await;
    eprintln!("{drained}");
    // 64 at a time, 20 ms each.
    assert!(drained.took < Duration::from_micros(1_562_500).mul_f64(1.1), "{drained}");
    assert_eq!(drained.throttled, 0, "{drained}");
}

#[tokio::test(start_paused = true)]
async fn a_storm_of_all_at_once_is_told_at_once_to_come_again_and_comes_through() {
    let setting = Setting { granted: Some(GRANTED), quota: Some(GRANTED), workers: 2000 };
    let drained = drain(setting, 2000).await;
    eprintln!("{drained}");
    assert!(drained.took < Duration::from_secs(20).mul_f64(1.15), "{drained}");
    assert_eq!((drained.throttled, drained.lapses, drained.refused_others), (0, 0, 0), "{drained}");
    // Whoever is refused is so at once, but for those who were overtaken by the other caller and by probes.
    assert!(drained.refused_at_once > 1000 && drained.refused_late < 100, "{drained}");
}
