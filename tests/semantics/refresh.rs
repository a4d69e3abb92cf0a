//! When what is cached is asked for again, with nobody wanting it.

use std::time::Duration;

use kmsproxy::cache;
use kmsproxy::clock::{Clock as _, Deadline};
use kmsproxy::engine::Respond as _;
use kmsproxy::lease::Terms;
use tokio_util::sync::CancellationToken;

use super::{World, caller, decrypt, world_with};

#[tokio::test(start_paused = true)]
async fn what_was_filled_within_seconds_is_refreshed_as_evenly_as_if_it_had_come_one_by_one() {
    let config = cache::Config { capacity: 4 * DEKS as u64, max_age: HOUR };
    let World { clock, kms, engine, watch, .. } = world_with(Terms::default(), config);
    let caller = caller("a");
    let ask = async |blob: usize| {
        let deadline = Deadline::after(clock.now(), Duration::from_secs(3));
        engine.respond(&caller, decrypt(blob.to_string().as_bytes()), deadline).await.unwrap();
    };
    // As after a start: all of them in four seconds.
    for blob in 0..DEKS {
        ask(blob).await;
        if blob % (DEKS / 4) == 0 {
            clock.advance(Duration::from_secs(1));
        }
    }
    let stop = CancellationToken::new();
    let watching = tokio::spawn(watch.run(stop.clone()));
    let mut minutes = Vec::new();
    for _ in 0..2 * 60 {
        let before = kms.calls();
        for _ in 0..60 {
            clock.advance(Duration::from_secs(1));
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        minutes.push(kms.calls() - before);
    }
    stop.cancel();
    watching.await.unwrap();

    // The first hour by itself, of which an entry is let be for a fifth; and both.
    for span in [&minutes[..60], &minutes[..]] {
        let mean = span.iter().sum::<usize>() / span.len();
        let most = *span.iter().max().unwrap();
        assert!(most <= mean * 2, "{most} in one minute, {mean} in the mean: {minutes:?}");
    }
    let each = minutes.iter().sum::<usize>() as f64 / DEKS as f64;
    assert!(each < 2.0 / 0.7, "{each} calls for each DEK in two hours, probes among them");
    let calls = kms.calls();
    for blob in 0..DEKS {
        ask(blob).await;
    }
    assert_eq!(kms.calls(), calls, "none was let grow old");
}

const DEKS: usize = 10_000;
const HOUR: Duration = Duration::from_secs(3600);
