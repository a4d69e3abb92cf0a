//! How long a connection stays, in use or at rest.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::task::coop::has_budget_remaining;
use tokio::time::{Instant, sleep_until};

use super::super::{LINGER, LINGER_HEARING, Limits, Member, Order, overdue};

/// What bounds one connection's stay.
pub(super) struct Stay<'a> {
    member: &'a Member,
    limits: &'a Limits,
    tls: bool,
    /// Whether hyper has answered anything since it was put on the connection.
    pub(super) answered: AtomicBool,
    /// Since when it is to leave.
    leaving: OnceLock<Instant>,
}

/// What a part of a stay is called for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    /// To go on.
    GoOn,
    /// To come to an end as soon as nothing is under way.
    Finish,
}

/// What follows when the time has come.
#[derive(Clone, Copy, Debug)]
pub(super) enum After {
    /// hyper is taken off the connection, until something is said on it: its buffers, in which the last request and the last
    /// answer lie, are freed and so wiped.
    Rest,
    /// The connection ends, and with it what rustls keeps of a request that came in.
    Close,
}

enum Obedience {
    Carry,
    Close,
    Finish,
    /// Close after the next answer, or soon.
    Linger,
}

impl<'a> Stay<'a> {
    pub(super) const fn new(member: &'a Member, limits: &'a Limits, tls: bool) -> Self {
        Self { member, limits, tls, answered: AtomicBool::new(false), leaving: OnceLock::new() }
    }

    /// Goes on with `part` until that is done, or until it is time for something else.
    pub(super) async fn attend<T>(&self, mut part: impl FnMut(&mut Context<'_>, Step) -> Poll<T>) -> Result<T, After> {
        let mut told = pin!(self.member.told());
        let mut timer = pin!(sleep_until(self.due().0));
        let mut sleeper: Option<Waker> = None;
        poll_fn(|cx| {
            loop {
                if let Poll::Ready(done) = part(cx, Step::GoOn) {
                    return Poll::Ready(Ok(done));
                }
                match self.obey() {
                    Obedience::Close => return Poll::Ready(Err(After::Close)),
                    Obedience::Finish => {
                        if let Poll::Ready(done) = part(cx, Step::Finish) {
                            return Poll::Ready(Ok(done));
                        }
                    }
                    Obedience::Carry => {}
                    Obedience::Linger => {
                        self.leaving.get_or_init(Instant::now);
                    }
                }
                let (due, after) = self.due();
                // Of a timer that would wake this very task, and has not, nothing new is to be heard.
                let armed = sleeper.as_ref().is_some_and(|sleeper| sleeper.will_wake(cx.waker()));
                if !armed || timer.is_elapsed() || due < timer.deadline() {
                    if overdue(timer.as_mut(), due, cx) {
                        return Poll::Ready(Err(after));
                    }
                    // Whoever has had its turn is not heard by a timer: it is polled again, and asks again.
                    sleeper = has_budget_remaining().then(|| cx.waker().clone());
                }
                if told.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                told.set(self.member.told());
            }
        })
        .await
    }

    /// Whether the connection keeps a plaintext that came in, for as long as it is open: over TLS, rustls keeps the last
    /// record.
    pub(super) fn keeps_what_came_in(&self) -> bool {
        self.tls && self.member.confided()
    }

    fn obey(&self) -> Obedience {
        let member = self.member;
        match member.order() {
            Order::Stay => Obedience::Carry,
            Order::Yield if member.busy() => {
                member.stay();
                Obedience::Carry
            }
            Order::Yield if member.hearing() => Obedience::Close,
            Order::Leave if !member.busy() => Obedience::Linger,
            Order::Yield | Order::Leave => Obedience::Finish,
            Order::Cut => Obedience::Close,
        }
    }

    /// When the time comes, if nothing changes, and for what.
    fn due(&self) -> (Instant, After) {
        let Self { member, limits, .. } = self;
        if let Some(&leaving) = self.leaving.get().filter(|_| !member.busy()) {
            return (leaving + if member.hearing() { LINGER_HEARING } else { LINGER }, After::Close);
        }
        let then = if self.keeps_what_came_in() { After::Close } else { After::Rest };
        let rest = if matches!(then, After::Rest) { limits.rest.min(NAP) } else { limits.rest };
        let used = self.answered.load(Ordering::Relaxed) && member.silent() && limits.rest < limits.idle;
        let (span, after) = match (member.busy(), member.hearing(), used) {
            (true, ..) => (limits.request, After::Close),
            (false, true, _) => (limits.head, After::Close),
            (false, false, true) => (rest, then),
            (false, false, false) => (limits.idle, After::Close),
        };
        (member.since() + span, after)
    }
}

/// Until hyper is taken off a connection that nothing is said on. Putting it on again takes some microseconds, which who asks
/// less than ten times a second does not notice; and what thousands have that are seldom used is not 16 KiB each.
const NAP: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use tokio::task::coop::consume_budget;
    use tokio::time::timeout;

    use super::*;
    use crate::listener::crowd::Crowd;

    #[tokio::test(start_paused = true)]
    async fn a_timer_that_was_not_heard_because_the_task_had_had_its_turn_is_asked_again() {
        let (crowd, limits, begun) = (Crowd::new(1), Limits::default(), Instant::now());
        let place = crowd.enter().await;
        let stay = Stay::new(place.member(), &limits, false);
        let mut first = true;
        let part = |cx: &mut Context<'_>, _| {
            while first && pin!(consume_budget()).poll(cx).is_ready() {}
            first = false;
            Poll::<()>::Pending
        };
        let ended = timeout(limits.idle, stay.attend(part)).await;
        assert!(matches!(ended, Ok(Err(After::Close))), "{ended:?}");
        assert_eq!(begun.elapsed(), limits.head);
    }
}
