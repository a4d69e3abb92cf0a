//! A TCP line between the daemon and the emulator that the test can spoil. TLS passes through it untouched.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::net::listen;
use rustix::net::sockopt::set_socket_linger;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;

/// How the line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Weather {
    Clear,
    /// Nothing passes and nobody is let in; what was sent arrives when the line is clear again, if somebody still waits.
    Silent,
    /// Answers come at a byte a second.
    Dripping,
    /// A connection is reset once it has carried so many bytes of answers.
    CutAfter(usize),
}

pub(crate) struct Line {
    pub(crate) address: String,
    state: Arc<State>,
    socket: Arc<TcpListener>,
    fillers: Mutex<Vec<TcpStream>>,
}

struct State {
    weather: watch::Sender<Weather>,
    hung_up: watch::Sender<u32>,
    there: Mutex<String>,
    accepted: AtomicUsize,
}

impl Line {
    pub(crate) async fn to(address: &str) -> Self {
        let socket = Arc::new(TcpListener::bind("127.0.0.1:0").await.unwrap());
        let state = Arc::new(State {
            weather: watch::Sender::new(Weather::Clear),
            hung_up: watch::Sender::new(0),
            there: Mutex::new(address.to_owned()),
            accepted: AtomicUsize::new(0),
        });
        tokio::spawn(Arc::clone(&state).serve(Arc::clone(&socket)));
        Self { address: socket.local_addr().unwrap().to_string(), state, socket, fillers: Mutex::default() }
    }

    /// From the next connection on.
    pub(crate) fn leads_to(&self, address: &str) {
        *self.state.there.lock().unwrap() = address.to_owned();
    }

    pub(crate) fn is(&self, weather: Weather) {
        self.state.weather.send_replace(weather);
        listen(&self.socket, QUEUE).unwrap();
        self.fillers.lock().unwrap().clear();
    }

    /// A hole: what is on the line stays there, and the kernel answers no new connection, because the queue is full.
    pub(crate) async fn falls_silent(&self) {
        self.state.weather.send_replace(Weather::Silent);
        listen(&self.socket, 0).unwrap();
        while let Ok(filler) = timeout(FULL, TcpStream::connect(&self.address)).await {
            self.fillers.lock().unwrap().push(filler.unwrap());
        }
    }

    /// Resets every connection.
    pub(crate) fn hangs_up(&self) {
        self.state.hung_up.send_modify(|times| *times += 1);
    }

    /// How many connections there have been.
    pub(crate) fn connections(&self) -> usize {
        self.state.accepted.load(Ordering::SeqCst)
    }
}

impl State {
    async fn serve(self: Arc<Self>, socket: Arc<TcpListener>) {
        let mut weather = self.weather.subscribe();
        loop {
            if weather.wait_for(|weather| *weather != Weather::Silent).await.is_err() {
                return;
            }
            let near = tokio::select! {
                accepted = socket.accept() => accepted.unwrap().0,
                _ = weather.changed() => continue,
            };
            self.accepted.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(Arc::clone(&self).carry(near));
        }
    }

    async fn carry(self: Arc<Self>, mut near: TcpStream) {
        let mut hung_up = self.hung_up.subscribe();
        let there = self.there.lock().unwrap().clone();
        let Ok(mut far) = TcpStream::connect(there).await else { return };
        near.set_nodelay(true).unwrap();
        far.set_nodelay(true).unwrap();
        let end = {
            let ((near_in, near_out), (far_in, far_out)) = (near.split(), far.split());
            tokio::select! {
                end = self.pass(near_in, far_out, Direction::Questions) => end,
                end = self.pass(far_in, near_out, Direction::Answers) => end,
                _ = hung_up.changed() => End::Reset,
            }
        };
        if end == End::Reset {
            set_socket_linger(&near, Some(Duration::ZERO)).unwrap();
        }
    }

    async fn pass(&self, mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, direction: Direction) -> End {
        let mut weather = self.weather.subscribe();
        let (mut carried, mut buffer) = (0, vec![0; 16 * 1024]);
        while let Ok(count @ 1..) = from.read(&mut buffer).await {
            let mut left = &buffer[..count];
            while !left.is_empty() {
                let now = *weather.wait_for(|weather| *weather != Weather::Silent).await.unwrap();
                let most = match (now, direction) {
                    (Weather::Dripping, Direction::Answers) => 1,
                    (Weather::CutAfter(limit), Direction::Answers) if carried >= limit => return End::Reset,
                    (Weather::CutAfter(limit), Direction::Answers) => limit - carried,
                    (Weather::Clear | Weather::Silent, _) | (_, Direction::Questions) => left.len(),
                };
                let (next, rest) = left.split_at(most.min(left.len()));
                if to.write_all(next).await.is_err() {
                    return End::Closed;
                }
                (left, carried) = (rest, carried + next.len());
                if (now, direction) == (Weather::Dripping, Direction::Answers) {
                    // Until the next byte, or until the weather changes.
                    let _ = timeout(DRIP, weather.changed()).await;
                }
            }
        }
        End::Closed
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Answers,
    Questions,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Closed,
    Reset,
}

const QUEUE: i32 = 1024;
/// A connect on loopback that takes longer waits for a queue that is full.
const FULL: Duration = Duration::from_millis(300);
const DRIP: Duration = Duration::from_secs(1);
