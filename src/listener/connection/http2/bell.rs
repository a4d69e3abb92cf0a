//! How a connection's task is woken.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::task::AtomicWaker;

/// Wakes the task while it sleeps; while it is awake, it only notes that it rang.
///
/// h2 wakes the connection's task whenever an answer is handed to it, also by that very task. A task that wakes itself
/// is queued again, and the runtime wakes a second thread to take it: two system calls for each call, which is more than
/// a cached Decrypt costs. (`strace -c` of one call at a time: 2.0 futex calls each before, none after.)
#[derive(Debug)]
pub(super) struct Bell {
    ring: Arc<Ring>,
    waker: Waker,
}

#[derive(Debug)]
struct Ring {
    task: AtomicWaker,
    awake: AtomicBool,
    rung: AtomicBool,
}

impl Bell {
    pub(super) fn new() -> Self {
        let ring =
            Arc::new(Ring { task: AtomicWaker::new(), awake: AtomicBool::new(false), rung: AtomicBool::new(false) });
        Self { waker: Waker::from(Arc::clone(&ring)), ring }
    }

    /// Polls once. What rang and was not [hushed](Bell::hush) has the task polled again, in its turn among others: never
    /// here, since what has used up its budget rings until then.
    pub(super) fn attend<T>(&self, outer: &Context<'_>, poll: impl FnOnce(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
        self.ring.task.register(outer.waker());
        self.ring.awake.store(true, SeqCst);
        let polled = poll(&mut Context::from_waker(&self.waker));
        self.ring.awake.store(false, SeqCst);
        if polled.is_pending() && self.ring.rung.swap(false, SeqCst) {
            outer.waker().wake_by_ref();
        }
        polled
    }

    /// Says that everything will be polled that could have rung until now.
    pub(super) fn hush(&self) {
        self.ring.rung.store(false, SeqCst);
    }
}

impl Wake for Ring {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // In this order, and `attend` in the other: one of the two sees it.
        self.rung.store(true, SeqCst);
        if !self.awake.load(SeqCst) {
            self.task.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, SeqCst);
        }
    }

    /// Polls once and says how often the task was woken by the end of it.
    fn woken(bell: &Bell, woken: &Arc<Woken>, poll: impl FnOnce(&Context<'_>)) -> usize {
        let waker = Waker::from(Arc::clone(woken));
        let pending = bell.attend(&Context::from_waker(&waker), |cx| {
            poll(cx);
            Poll::<()>::Pending
        });
        assert!(pending.is_pending());
        woken.0.load(SeqCst)
    }

    #[test]
    fn what_rings_while_the_task_is_awake_wakes_it_once_unless_it_is_hushed() {
        let (bell, task) = (Bell::new(), Arc::new(Woken::default()));
        let twice = |cx: &Context<'_>| (0..2).for_each(|_| cx.waker().wake_by_ref());
        assert_eq!(woken(&bell, &task, twice), 1);
        let hushed = |cx: &Context<'_>| {
            twice(cx);
            bell.hush();
        };
        assert_eq!(woken(&bell, &task, hushed), 1);
        let again = |cx: &Context<'_>| {
            hushed(cx);
            cx.waker().wake_by_ref();
        };
        assert_eq!(woken(&bell, &task, again), 2);
    }

    #[test]
    fn what_rings_while_the_task_sleeps_wakes_it() {
        let (bell, task) = (Bell::new(), Arc::new(Woken::default()));
        let mut inner = None;
        assert_eq!(woken(&bell, &task, |cx| inner = Some(cx.waker().clone())), 0);
        inner.unwrap().wake();
        assert_eq!(task.0.load(SeqCst), 1);
    }
}
