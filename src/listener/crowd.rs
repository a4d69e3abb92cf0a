//! Everyone who is connected, and a word with each of them.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::task::yield_now;
use tokio::time::{Instant, timeout};

/// The connections of one listener, at most so many. Dropping it cuts them all.
#[derive(Debug)]
pub(super) struct Crowd {
    room: Arc<Semaphore>,
    members: Members,
    next: AtomicU64,
    began: Instant,
    leaving: Mutex<Leaving>,
}

/// Who makes room.
#[derive(Debug, Default)]
struct Leaving {
    /// Who was told to last, and when.
    told: Option<(Instant, Weak<Member>)>,
    /// Who is next, the one first that has been idle longest; and since when it was when that was looked at. Whoever is not
    /// among them has not been idle for as long, so that it need not be looked at before they are through.
    next: VecDeque<(Instant, Weak<Member>)>,
}

type Members = Arc<Mutex<HashMap<u64, Arc<Member>>>>;

/// Counts who is connected to one listener, served yet or not.
#[derive(Clone, Debug, Default)]
pub struct Census(Members);

impl Census {
    /// How many are connected, and how many requests of theirs are in flight.
    #[must_use]
    pub fn count(&self) -> (usize, usize) {
        let members = locked(&self.0);
        (members.len(), members.values().map(|member| member.busy.load(Ordering::Relaxed)).sum())
    }
}

impl Crowd {
    #[cfg(test)]
    pub(super) fn new(max: usize) -> Self {
        Self::counted(max, &Census::default())
    }

    pub(super) fn counted(max: usize, census: &Census) -> Self {
        let room = Arc::new(Semaphore::new(max.min(Semaphore::MAX_PERMITS)));
        let (members, leaving) = (Arc::clone(&census.0), Mutex::default());
        Self { room, members, next: AtomicU64::new(0), began: Instant::now(), leaving }
    }

    /// A place, as soon as there is one. While there is none, whoever has been idle longest is asked to leave: a peer
    /// that holds many connections and says nothing keeps nobody out. Who has left already goes first: nobody else is asked
    /// before the runtime has looked at the sockets once more, nor while one that was asked is on its way.
    pub(super) async fn enter(&self) -> Place {
        let room = loop {
            if let Some(room) = self.room() {
                break room;
            }
            yield_now().await;
            if let Some(room) = self.room() {
                break room;
            }
            self.make_room();
            if let Ok(Ok(room)) = timeout(ROOM_PAUSE, Arc::clone(&self.room).acquire_owned()).await {
                break room;
            }
        };
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let member = Arc::new(Member::new(self.began));
        locked(&self.members).insert(id, Arc::clone(&member));
        Place { id, member, members: Arc::clone(&self.members), _room: room }
    }

    pub(super) fn tell_all(&self, order: Order) {
        for member in locked(&self.members).values() {
            member.tell(order);
        }
    }

    fn room(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.room).try_acquire_owned().ok()
    }

    fn make_room(&self) {
        let (now, mut leaving) = (Instant::now(), locked(&self.leaving));
        let on_its_way = |(told, member): &(Instant, Weak<Member>)| {
            now - *told < GOING && member.upgrade().is_some_and(|one| one.goes())
        };
        if leaving.told.as_ref().is_some_and(on_its_way) {
            return;
        }
        for looked in [false, true] {
            if looked {
                leaving.next = self.longest_idle();
            }
            while let Some((since, member)) = leaving.next.pop_front() {
                if let Some(longest) = member.upgrade().filter(|one| one.is_idle() && one.since() == since) {
                    longest.tell(Order::Yield);
                    leaving.told = Some((now, member));
                    return;
                }
            }
        }
    }

    /// Walks all who are here.
    fn longest_idle(&self) -> VecDeque<(Instant, Weak<Member>)> {
        let members = locked(&self.members);
        let idle = members.values().filter(|member| member.is_idle());
        let mut idle: Vec<_> = idle.map(|member| (member.since(), Arc::downgrade(member))).collect();
        drop(members);
        idle.sort_by_key(|(since, _)| *since);
        idle.truncate(LOOKED_AT);
        idle.into()
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.tell_all(Order::Cut);
    }
}

/// What a connection is told to do; each order overrules those before it in this list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(super) enum Order {
    /// Nothing.
    Stay,
    /// Close, unless a request is in flight.
    Yield,
    /// Close, after the requests in flight; where there is none, after the next, or soon.
    Leave,
    /// Close.
    Cut,
}

/// One connection's place in the crowd, given up when dropped.
#[derive(Debug)]
pub(super) struct Place {
    id: u64,
    member: Arc<Member>,
    members: Members,
    _room: OwnedSemaphorePermit,
}

impl Place {
    pub(super) const fn member(&self) -> &Arc<Member> {
        &self.member
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        locked(&self.members).remove(&self.id);
    }
}

/// What a connection is doing, and what it is told: shared by the connection and the crowd, without a lock between.
#[derive(Debug)]
pub(super) struct Member {
    began: Instant,
    /// Milliseconds from `began` to the last change between idle and busy.
    since: AtomicU64,
    /// Requests in flight: with HTTP/1.1 at most one.
    busy: AtomicUsize,
    hearing: AtomicBool,
    /// Whether the peer has not taken yet what is written to it.
    faltering: AtomicBool,
    /// Whether a plaintext went in or out with a request.
    confided: AtomicBool,
    /// Milliseconds from `began` to when it began to hear.
    heard: AtomicU64,
    order: AtomicU8,
    told: Notify,
}

impl Member {
    fn new(began: Instant) -> Self {
        let hearing = AtomicBool::new(true);
        let member = Self {
            began,
            since: AtomicU64::new(0),
            busy: AtomicUsize::new(0),
            hearing,
            faltering: AtomicBool::new(false),
            confided: AtomicBool::new(false),
            heard: AtomicU64::new(0),
            order: AtomicU8::new(Order::Stay as u8),
            told: Notify::new(),
        };
        member.expect();
        member
    }

    /// Bytes came in. The first after an answer begin a new request.
    pub(super) fn heard(&self) {
        if !self.busy() && !self.hearing.swap(true, Ordering::Relaxed) {
            self.stamp(&self.heard);
        }
    }

    /// What came in was whole, and no request.
    pub(super) fn overheard(&self) {
        self.hearing.store(false, Ordering::Relaxed);
    }

    /// One more request is in flight until the result is dropped.
    pub(super) fn begin(self: &Arc<Self>) -> Busy {
        self.busy.fetch_add(1, Ordering::Relaxed);
        self.stamp(&self.since);
        Busy { member: Arc::clone(self), ended: None }
    }

    /// From now on, what is heard counts from here.
    pub(super) fn expect(&self) {
        self.hearing.store(true, Ordering::Relaxed);
        self.stamp(&self.since);
        self.stamp(&self.heard);
    }

    pub(super) fn busy(&self) -> bool {
        self.busy.load(Ordering::Relaxed) > 0
    }

    /// Whether a request has begun to come in, or is overdue to.
    pub(super) fn hearing(&self) -> bool {
        self.hearing.load(Ordering::Relaxed)
    }

    /// A write waits for the peer.
    pub(super) fn falter(&self) {
        self.faltering.store(true, Ordering::Relaxed);
    }

    /// The peer has taken what waited.
    pub(super) fn speak_on(&self) {
        self.faltering.store(false, Ordering::Relaxed);
    }

    /// A plaintext went in or out, and may lie in its buffers from now on.
    pub(super) fn confide(&self) {
        self.confided.store(true, Ordering::Relaxed);
    }

    /// Whether a plaintext may lie in its buffers.
    pub(super) fn confided(&self) -> bool {
        self.confided.load(Ordering::Relaxed)
    }

    /// Whether nothing is said on it, in either direction.
    pub(super) fn silent(&self) -> bool {
        !self.busy() && !self.hearing() && !self.faltering.load(Ordering::Relaxed)
    }

    /// Whether it may be asked to make room.
    fn is_idle(&self) -> bool {
        !self.busy() && self.order() == Order::Stay
    }

    /// Whether it makes room that it was asked for, as far as it can: not where the peer does not take what was written.
    fn goes(&self) -> bool {
        self.order() >= Order::Yield && !self.busy() && !self.faltering.load(Ordering::Relaxed)
    }

    /// Since when it does what it does.
    pub(super) fn since(&self) -> Instant {
        let stamp = if self.hearing() && !self.busy() { &self.heard } else { &self.since };
        self.began + Duration::from_millis(stamp.load(Ordering::Relaxed))
    }

    pub(super) fn order(&self) -> Order {
        match self.order.load(Ordering::Acquire) {
            0 => Order::Stay,
            1 => Order::Yield,
            2 => Order::Leave,
            _ => Order::Cut,
        }
    }

    /// Withdraws [`Order::Yield`], which came too late.
    pub(super) fn stay(&self) {
        let (from, to) = (Order::Yield as u8, Order::Stay as u8);
        // Fails where another order has come: that one stands.
        let _ = self.order.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire);
    }

    /// Resolves when an order has come.
    pub(super) async fn told(&self) {
        self.told.notified().await;
    }

    fn tell(&self, order: Order) {
        self.order.fetch_max(order as u8, Ordering::AcqRel);
        self.told.notify_one();
    }

    fn stamp(&self, stamp: &AtomicU64) {
        self.stamp_with(stamp, Instant::now());
    }

    fn stamp_with(&self, stamp: &AtomicU64, now: Instant) {
        let passed = u64::try_from((now - self.began).as_millis()).unwrap_or(u64::MAX);
        stamp.store(passed, Ordering::Relaxed);
    }
}

/// A request in flight.
#[derive(Debug)]
pub(super) struct Busy {
    member: Arc<Member>,
    ended: Option<Instant>,
}

impl Busy {
    /// A plaintext goes in or out with the request.
    pub(super) fn confide(&self) {
        self.member.confide();
    }

    /// It was answered just now.
    pub(super) fn end(mut self, now: Instant) {
        self.ended = Some(now);
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let member = &self.member;
        member.stamp_with(&member.since, self.ended.unwrap_or_else(Instant::now));
        member.hearing.store(false, Ordering::Relaxed);
        member.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Between two attempts to make room.
const ROOM_PAUSE: Duration = Duration::from_millis(20);
/// For whom was asked to leave, before another is asked as well.
const GOING: Duration = Duration::from_millis(500);
/// Idle connections of which the order is known.
const LOOKED_AT: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    async fn wait(millis: u64) {
        tokio::time::sleep(Duration::from_millis(millis)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_else_is_asked_to_leave_while_one_is_on_its_way() {
        let crowd = Crowd::new(2);
        let first = crowd.enter().await;
        wait(10).await;
        let second = crowd.enter().await;
        let entering = async {
            let mut entering = std::pin::pin!(crowd.enter());
            assert!(timeout(Duration::from_millis(400), &mut entering).await.is_err());
            assert_eq!((first.member().order(), second.member().order()), (Order::Yield, Order::Stay));
            drop(first);
            entering.await
        };
        let third = entering.await;
        assert_eq!((second.member().order(), third.member().order()), (Order::Stay, Order::Stay));
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_go_when_asked_keeps_nobody_out() {
        let crowd = Crowd::new(2);
        let stubborn = crowd.enter().await;
        wait(10).await;
        let second = crowd.enter().await;
        assert!(timeout(GOING * 2, crowd.enter()).await.is_err());
        assert_eq!((stubborn.member().order(), second.member().order()), (Order::Yield, Order::Yield));

        let crowd = Crowd::new(2);
        let faltering = crowd.enter().await;
        faltering.member().falter();
        wait(10).await;
        let second = crowd.enter().await;
        assert!(timeout(ROOM_PAUSE * 2, crowd.enter()).await.is_err());
        assert_eq!((faltering.member().order(), second.member().order()), (Order::Yield, Order::Yield));
    }

    #[tokio::test(start_paused = true)]
    async fn who_speaks_meanwhile_is_idle_no_longer() {
        let crowd = Crowd::new(3);
        let places = [crowd.enter().await, crowd.enter().await, crowd.enter().await];
        wait(10).await;
        drop(places[0].member().begin());
        assert!(timeout(ROOM_PAUSE / 2, crowd.enter()).await.is_err());
        let told = |place: &Place| place.member().order() == Order::Yield;
        assert_eq!(places.iter().filter(|place| told(place)).count(), 1);
        assert!(!told(&places[0]));
        // One of the three is asked next; the first, who is known as idle since another time, last.
        assert!(timeout(GOING * 3, crowd.enter()).await.is_err());
        assert!(places.iter().all(told));
    }
}
