//! The client: h2, without anything of gRPC that costs time here.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::SendRequest;
use http::Request;
use tokio::net::UnixStream;
use tokio::task::LocalSet;

use crate::echo::PLAINTEXT;
use crate::wire::{DecryptRequest, DecryptResponse, EncryptRequest, EncryptResponse, framed, unframed};

pub(crate) struct Target {
    pub(crate) name: &'static str,
    pub(crate) socket: PathBuf,
    pub(crate) deks: Deks,
}

/// Requests, each with the plaintext that must come back.
#[derive(Clone)]
pub(crate) struct Deks(Rc<[(Bytes, [u8; 32])]>);

impl Deks {
    pub(crate) async fn encrypt(socket: &Path, count: u64) -> Self {
        let mut link = Link::open(socket).await;
        let mut deks = Vec::new();
        for index in 0..count {
            let mut plain = [0xA5; 32];
            plain[..8].copy_from_slice(&index.to_be_bytes());
            let request = EncryptRequest { version: "v1beta1".to_owned(), plain: plain.to_vec() };
            let answer = link.call("/v1beta1.KeyManagementService/Encrypt", framed(&request)).await;
            let EncryptResponse { cipher } = unframed(&answer);
            let request = framed(&DecryptRequest { version: "v1beta1".to_owned(), cipher });
            check(&link.call(DECRYPT, request.clone()).await, &plain);
            deks.push((request, plain));
        }
        Self(deks.into())
    }

    /// The same requests for who answers a constant.
    pub(crate) fn echoed(&self) -> Self {
        Self(self.0.iter().map(|(request, _)| (request.clone(), PLAINTEXT)).collect())
    }

    fn at(&self, index: usize) -> &(Bytes, [u8; 32]) {
        // A step that is prime to most counts: not the order in which they were made.
        &self.0[index.wrapping_mul(7919) % self.0.len()]
    }
}

/// How long each call took, and all of them together.
pub(crate) struct Measured {
    times: Vec<Duration>,
    took: Duration,
}

impl Measured {
    pub(crate) fn per_second(&self) -> f64 {
        self.times.len() as f64 / self.took.as_secs_f64()
    }

    /// In microseconds.
    pub(crate) fn percentile(&self, share: f64) -> f64 {
        let mut times = self.times.clone();
        times.sort_unstable();
        let at = ((times.len() - 1) as f64 * share) as usize;
        times[at].as_secs_f64() * 1e6
    }
}

/// Closed loop: `streams` calls at a time on each of `connections`, the next when one is answered.
pub(crate) async fn closed(target: &Target, connections: usize, streams: usize, span: Duration) -> Measured {
    let tasks = LocalSet::new();
    let begun = Instant::now();
    let times = tasks
        .run_until(async {
            let mut callers = Vec::new();
            for connection in 0..connections {
                let link = Link::open(&target.socket).await;
                for stream in 0..streams {
                    let (mut link, deks) = (link.clone(), target.deks.clone());
                    let mut index = connection * 1_000_003 + stream * 10_007;
                    callers.push(tokio::task::spawn_local(async move {
                        let mut times = Vec::new();
                        while begun.elapsed() < span {
                            let sent = Instant::now();
                            link.decrypt(deks.at(index)).await;
                            times.push(sent.elapsed());
                            index += 1;
                        }
                        times
                    }));
                }
            }
            let mut times = Vec::new();
            for caller in callers {
                times.extend(caller.await.unwrap());
            }
            times
        })
        .await;
    Measured { times, took: begun.elapsed() }
}

/// Open loop: a call leaves when the schedule says, whatever became of those before; time counts from the schedule.
pub(crate) async fn open(target: &Target, connections: usize, per_second: f64, span: Duration) -> Measured {
    let tasks = LocalSet::new();
    let begun = Instant::now();
    let times = tasks
        .run_until(async {
            let mut links = Vec::new();
            for _ in 0..connections {
                links.push(Link::open(&target.socket).await);
            }
            let (start, mut calls, mut sent) = (Instant::now(), Vec::new(), 0);
            while start.elapsed() < span {
                let due = (start.elapsed().as_secs_f64() * per_second) as usize;
                while sent < due {
                    let planned = start + Duration::from_secs_f64(sent as f64 / per_second);
                    let (mut link, deks) = (links[sent % connections].clone(), target.deks.clone());
                    calls.push(tokio::task::spawn_local(async move {
                        link.decrypt(deks.at(sent)).await;
                        planned.elapsed()
                    }));
                    sent += 1;
                }
                tokio::task::yield_now().await;
            }
            let mut times = Vec::new();
            for call in calls {
                times.push(call.await.unwrap());
            }
            times
        })
        .await;
    Measured { times, took: begun.elapsed() }
}

#[derive(Clone)]
struct Link(SendRequest<Bytes>);

impl Link {
    async fn open(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).await.unwrap();
        let (send, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(async move { connection.await.unwrap() });
        Self(send)
    }

    async fn decrypt(&mut self, (request, plain): &(Bytes, [u8; 32])) {
        check(&self.call(DECRYPT, request.clone()).await, plain);
    }

    async fn call(&mut self, path: &'static str, frame: Bytes) -> Bytes {
        std::future::poll_fn(|cx| self.0.poll_ready(cx)).await.unwrap();
        let request = Request::post(format!("http://localhost{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("grpc-timeout", "3S")
            .body(())
            .unwrap();
        let (answer, mut stream) = self.0.send_request(request, false).unwrap();
        stream.send_data(frame, true).unwrap();
        let mut body = answer.await.unwrap().into_body();
        let message = body.data().await.unwrap().unwrap();
        body.flow_control().release_capacity(message.len()).unwrap();
        let trailers = body.trailers().await.unwrap().unwrap();
        assert_eq!(trailers["grpc-status"], "0");
        message
    }
}

fn check(answer: &[u8], plain: &[u8; 32]) {
    let DecryptResponse { plain: came } = unframed(answer);
    assert_eq!(came, plain, "a wrong plaintext");
}

const DECRYPT: &str = "/v1beta1.KeyManagementService/Decrypt";
