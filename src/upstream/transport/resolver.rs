//! Names to addresses, by the system's own resolver, on a bounded number of threads.
//!
//! `getaddrinfo` cannot be called off: before a name server that says nothing it holds its thread for ten seconds and
//! longer, whoever has given up meanwhile. So questions for the same name share one lookup; and as one that hangs tells
//! nobody when the server is well again, whoever comes later begins another, up to a bound.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::client::legacy::connect::dns::Name;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;
use tower_service::Service;

/// What asks, and remembers nothing but who is still being asked.
#[derive(Clone)]
pub(super) struct Resolver {
    ask: fn(&str) -> io::Result<Vec<SocketAddr>>,
    room: Arc<Semaphore>,
    under_way: Arc<Mutex<HashMap<Box<str>, Vec<Lookup>>>>,
}

/// A lookup that has a thread.
struct Lookup {
    began: Instant,
    outcome: watch::Receiver<Outcome>,
}

/// None before it is known. (An `io::Error` is not to be had twice.)
type Outcome = Option<Result<Arc<[SocketAddr]>, Arc<io::Error>>>;

impl Resolver {
    /// The system's, with one bound for all transports of the process.
    pub(super) fn of_the_system() -> Self {
        static ROOM: std::sync::LazyLock<Arc<Semaphore>> =
            std::sync::LazyLock::new(|| Arc::new(Semaphore::new(LOOKUPS_MAX)));
        Self::new(|host| (host, 0).to_socket_addrs().map(Iterator::collect), Arc::clone(&ROOM))
    }

    fn new(ask: fn(&str) -> io::Result<Vec<SocketAddr>>, room: Arc<Semaphore>) -> Self {
        Self { ask, room, under_way: Arc::default() }
    }

    async fn resolve(self, host: Box<str>) -> io::Result<Vec<SocketAddr>> {
        let mut outcome = match self.joined(&host, None) {
            Some(outcome) => outcome,
            None => {
                let place = Arc::clone(&self.room).acquire_owned().await.map_err(io::Error::other)?;
                self.joined(&host, Some(place)).ok_or(io::ErrorKind::Other)?
            }
        };
        let told = outcome.wait_for(Option::is_some).await.map_err(io::Error::other)?;
        match told.as_ref() {
            Some(Ok(addresses)) => Ok(addresses.to_vec()),
            Some(Err(error)) => Err(io::Error::new(error.kind(), Arc::clone(error))),
            None => Err(io::ErrorKind::Other.into()),
        }
    }

    /// The lookup to wait for: the youngest under way, unless it seems to hang and there is room for another, by `place` or
    /// else. None where none is under way and there is no room either.
    fn joined(&self, host: &str, place: Option<OwnedSemaphorePermit>) -> Option<watch::Receiver<Outcome>> {
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        let of_host = under_way.get_mut(host);
        let mut youngest = None;
        if let Some(lookups) = of_host {
            // A sender that is gone without a word is a thread that panicked.
            lookups.retain(|lookup| lookup.outcome.borrow().is_none() && lookup.outcome.has_changed().is_ok());
            if let Some(lookup) = lookups.last() {
                if lookup.began.elapsed() < HANGS_AFTER || lookups.len() >= LOOKUPS_OF_A_NAME_MAX {
                    return Some(lookup.outcome.clone());
                }
                youngest = Some(lookup.outcome.clone());
            }
        }
        match place.or_else(|| Arc::clone(&self.room).try_acquire_owned().ok()) {
            Some(place) => Some(self.begin(&mut under_way, host, place)),
            None => youngest,
        }
    }

    fn begin(
        &self,
        under_way: &mut HashMap<Box<str>, Vec<Lookup>>,
        host: &str,
        place: OwnedSemaphorePermit,
    ) -> watch::Receiver<Outcome> {
        let (told, outcome) = watch::channel(None);
        let (ask, name) = (self.ask, host.to_owned());
        tokio::task::spawn_blocking(move || {
            let outcome = ask(&name).map(Arc::from).map_err(Arc::new);
            // Before anybody hears of it, who may begin the next.
            drop(place);
            told.send_replace(Some(outcome));
        });
        under_way.entry(host.into()).or_default().push(Lookup { began: Instant::now(), outcome: outcome.clone() });
        outcome
    }
}

impl Service<Name> for Resolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let resolver = self.clone();
        Box::pin(async move { Ok(resolver.resolve(name.as_str().into()).await?.into_iter()) })
    }
}

/// Lookups under way in the whole process, each with a thread.
pub const LOOKUPS_MAX: usize = 16;
/// Those of one name and transport, so that another name has room: with one begun in a second, as many as hang in the ten
/// seconds for which the usual resolver waits, so that a server that is well again is noticed within a second.
const LOOKUPS_OF_A_NAME_MAX: usize = 12;
/// An answer is seldom longer on its way; a second question costs little where it is.
const HANGS_AFTER: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Condvar, MutexGuard};

    use tokio::task::JoinSet;
    use tokio::time::advance;

    use super::*;

    /// A name server that says nothing until it is told to.
    struct Server {
        asked: AtomicUsize,
        well: Mutex<bool>,
        mended: Condvar,
    }

    impl Server {
        const fn mute() -> Self {
            Self { asked: AtomicUsize::new(0), well: Mutex::new(false), mended: Condvar::new() }
        }

        fn ask(&self, host: &str) -> io::Result<Vec<SocketAddr>> {
            self.asked.fetch_add(1, Ordering::SeqCst);
            let mut well: MutexGuard<'_, bool> = self.well.lock().unwrap();
            while !*well {
                well = self.mended.wait(well).unwrap();
            }
            if host == "nobody" {
                return Err(io::Error::new(io::ErrorKind::NotFound, "no such name"));
            }
            Ok(vec![ADDRESS])
        }

        fn mend(&self) {
            *self.well.lock().unwrap() = true;
            self.mended.notify_all();
        }

        fn asked(&self) -> usize {
            self.asked.load(Ordering::SeqCst)
        }
    }

    const ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

    /// Lets the threads go, however a test ends: the runtime waits for them.
    struct AtTheEnd(&'static Server);

    impl Drop for AtTheEnd {
        fn drop(&mut self) {
            self.0.mend();
        }
    }

    /// So many questions for `host`, which have all begun to wait.
    async fn ask(resolver: &Resolver, host: &str, count: usize, into: &mut JoinSet<io::Result<Vec<SocketAddr>>>) {
        for _ in 0..count {
            into.spawn(resolver.clone().resolve(host.into()));
        }
        for _ in 0..count + 8 {
            tokio::task::yield_now().await;
        }
    }

    /// How many lookups are under way.
    fn lookups(resolver: &Resolver) -> usize {
        resolver.under_way.lock().unwrap().values().map(Vec::len).sum()
    }

    #[tokio::test(start_paused = true)]
    async fn questions_for_one_name_share_a_lookup_and_its_answer() {
        static SERVER: Server = Server::mute();
        let _at_the_end = AtTheEnd(&SERVER);
        let resolver = Resolver::new(|host| SERVER.ask(host), Arc::new(Semaphore::new(LOOKUPS_MAX)));
        let mut asking = JoinSet::new();
        ask(&resolver, "kms", 100, &mut asking).await;
        assert_eq!(lookups(&resolver), 1);
        SERVER.mend();
        let answers = asking.join_all().await;
        assert!(answers.len() == 100 && answers.iter().all(|answer| answer.as_ref().unwrap() == &[ADDRESS]));
        assert_eq!(SERVER.asked(), 1);
        let error = resolver.clone().resolve("nobody".into()).await.unwrap_err();
        assert_eq!((error.kind(), error.to_string().as_str()), (io::ErrorKind::NotFound, "no such name"));
        resolver.resolve("kms".into()).await.unwrap();
        assert_eq!(SERVER.asked(), 3, "an answer is not kept");
    }

    #[tokio::test(start_paused = true)]
    async fn a_mute_server_is_asked_again_each_second_and_holds_no_more_threads_than_allowed() {
        static SERVER: Server = Server::mute();
        let _at_the_end = AtTheEnd(&SERVER);
        let resolver = Resolver::new(|host| SERVER.ask(host), Arc::new(Semaphore::new(LOOKUPS_MAX)));
        let mut asking = JoinSet::new();
        for second in 1..=30 {
            ask(&resolver, "kms", 5, &mut asking).await;
            assert_eq!(lookups(&resolver), second.min(LOOKUPS_OF_A_NAME_MAX), "in second {second}");
            advance(HANGS_AFTER).await;
        }
        for name in 0..10 {
            ask(&resolver, &format!("other-{name}"), 5, &mut asking).await;
        }
        assert_eq!(lookups(&resolver), LOOKUPS_MAX);
        SERVER.mend();
        let answers = asking.join_all().await;
        assert!(answers.len() == 200 && answers.iter().all(Result::is_ok), "who waited for room is answered, too");
    }
}
