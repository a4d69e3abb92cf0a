//! What is raced, and what must hold whoever wins. Each is a body to be run once for each schedule.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use shuttle::future::{block_on, spawn, yield_now};
use shuttle::rand::{Rng, thread_rng};

use crate::clock::Clock as _;
use crate::engine::Target;
use crate::fault::Kind;
use crate::kms::{Ciphertext, KeyId};
use crate::stage::{KEY, Stage};

/// Who fills the cache.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Filler {
    /// The engine.
    Engine,
    /// A planted bug: see [`Stage::fill_after_a_check`].
    AfterACheck,
}

async fn fill(stage: Arc<Stage>, filler: Filler, blob: u8) {
    match filler {
        Filler::Engine => drop(stage.decrypt(blob).await),
        Filler::AfterACheck => stage.fill_after_a_check(blob).await,
    }
}

/// A fill, a hit and a refusal that somebody else hears of.
pub(crate) fn filler_revoker_reader(filler: Filler) {
    block_on(async {
        let stage = Stage::new();
        assert_eq!(stage.decrypt(1).await, Ok(vec![1]));
        let racers = [spawn(fill(Arc::clone(&stage), filler, 2)), spawn(fill(Arc::clone(&stage), Filler::Engine, 1))];
        yield_now().await;
        stage.kms.refuse(Kind::KeyDisabled);
        assert_eq!(stage.encrypt().await, Err(Kind::KeyDisabled));
        for racer in racers {
            racer.await.unwrap();
        }
        // The one that was being filled first: asking about the other would refuse the key anew.
        for blob in [2, 1] {
            assert_eq!(stage.decrypt(blob).await, Err(Kind::KeyDisabled), "goes out after the refusal");
        }
    });
}

/// Three ask the same; one of them, perhaps the first, leaves.
pub(crate) fn leader_that_leaves(leashed: bool) {
    block_on(async {
        let stage = Stage::new();
        if leashed {
            stage.tasks.leash();
        }
        let hasty = {
            let stage = Arc::clone(&stage);
            spawn(async move {
                let patience = thread_rng().gen_range(1..4);
                let mut asking = Box::pin(stage.decrypt(1));
                for _ in 0..patience {
                    let polled = poll_fn(|context| Poll::Ready(asking.as_mut().poll(context)));
                    if polled.await.is_ready() {
                        return;
                    }
                    yield_now().await;
                }
                drop(asking);
                stage.tasks.left();
            })
        };
        let patient = [(); 2].map(|()| {
            let stage = Arc::clone(&stage);
            spawn(async move { stage.decrypt(1).await })
        });
        for waiter in patient {
            assert_eq!(waiter.await.unwrap(), Ok(vec![1]), "stranded");
        }
        hasty.await.unwrap();
        assert_eq!(stage.kms.calls(), 1);
    });
}

/// A fill, and a suspension of everything after which the KMS says nothing any more.
pub(crate) fn suspension_and_fill(filler: Filler) {
    block_on(async {
        let stage = Stage::new();
        let filling = spawn(fill(Arc::clone(&stage), filler, 1));
        yield_now().await;
        stage.kms.refuse(Kind::Unreachable);
        stage.engine.ledger().suspend_all("a test");
        filling.await.unwrap();
        assert_eq!(stage.decrypt(1).await, Err(Kind::Unreachable), "consented to before the suspension");
    });
}

/// A refresh, or a probe, of what is cached, and a refusal.
pub(crate) fn upkeep_and_refusal(filler: Filler) {
    block_on(async {
        let stage = Stage::new();
        assert_eq!(stage.decrypt(1).await, Ok(vec![1]));
        stage.age();
        let refreshing = {
            let stage = Arc::clone(&stage);
            spawn(async move {
                match filler {
                    Filler::Engine => stage.engine.refresh(8).await,
                    Filler::AfterACheck => stage.fill_after_a_check(1).await,
                }
            })
        };
        let probing = {
            let stage = Arc::clone(&stage);
            spawn(async move {
                for probe in stage.engine.ledger().due(crate::clock::Clock::now(&*stage.clock)) {
                    drop(stage.engine.probe(&probe).await);
                }
            })
        };
        yield_now().await;
        stage.kms.refuse(Kind::KeyDisabled);
        assert_eq!(stage.encrypt().await, Err(Kind::KeyDisabled));
        refreshing.await.unwrap();
        probing.await.unwrap();
        assert_eq!(stage.decrypt(1).await, Err(Kind::KeyDisabled), "renewed in spite of the refusal");
    });
}

/// Something is purged while it is asked about again on our own account: it is gone, whoever came first.
pub(crate) fn purge_and_upkeep(filler: Filler) {
    block_on(async {
        let stage = Stage::new();
        assert_eq!(stage.decrypt(1).await, Ok(vec![1]));
        stage.age();
        let asking = {
            let stage = Arc::clone(&stage);
            spawn(async move {
                match filler {
                    Filler::Engine => stage.engine.refresh(10).await,
                    Filler::AfterACheck => stage.fill_after_a_check(1).await,
                }
            })
        };
        yield_now().await;
        stage.engine.purge(&Target::Key(KeyId::new(KEY)));
        asking.await.unwrap();
        let kept = stage.engine.explain(&Ciphertext::new(vec![1]), stage.clock.now());
        assert_eq!(kept, [], "what is purged came back");
        assert_eq!(stage.decrypt(1).await, Ok(vec![1]), "and is there for whoever asks anew");
    });
}

/// Somebody's answer is under way when it is purged: either it is asked for anew, or it is gone; and whoever waits for it is
/// answered.
pub(crate) fn purge_and_fill() {
    block_on(async {
        let stage = Stage::new();
        let filling = {
            let stage = Arc::clone(&stage);
            spawn(async move { stage.decrypt(1).await })
        };
        yield_now().await;
        let before = stage.engine.ledger().ask().epoch;
        stage.engine.purge(&Target::Key(KeyId::new(KEY)));
        assert_eq!(filling.await.unwrap(), Ok(vec![1]), "sent away for a purge");
        for entry in stage.engine.explain(&Ciphertext::new(vec![1]), stage.clock.now()) {
            assert!(entry.epoch > before, "an answer from before the purge is kept");
        }
        assert_eq!(stage.decrypt(1).await, Ok(vec![1]));
    });
}
