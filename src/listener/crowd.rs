//! Everyone who is connected, and a word with each of them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

/// The connections of one listener, at most so many. Dropping it cuts them all.
#[derive(Debug)]
pub(super) struct Crowd {
    room: Arc<Semaphore>,
    members: Members,
    next: AtomicU64,
    began: Instant,
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
        Self { room, members: Arc::clone(&census.0), next: AtomicU64::new(0), began: Instant::now() }
    }

    /// A place, as soon as there is one. While there is none, whoever has been idle longest is asked to leave: a peer
    /// that holds many connections and says nothing keeps nobody out.
    pub(super) async fn enter(&self) -> Place {
        let room = loop {
            if let Ok(room) = Arc::clone(&self.room).try_acquire_owned() {
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

    fn make_room(&self) {
        let members = locked(&self.members);
        let idle = members.values().filter(|member| !member.busy() && member.order() == Order::Stay);
        if let Some(longest) = idle.min_by_key(|member| member.since()) {
            longest.tell(Order::Yield);
        }
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
