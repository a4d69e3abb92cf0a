//! A load: some threads, one start, what all of them see, and an end that comes in any case.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::course::Course;
use super::deks::Deks;
use super::driver::{self, Drive};
use super::endpoint::Endpoint;
use super::measured::Measured;
use super::processors::Processors;
use super::source::Source;
use super::speech::Terms;

/// How a load is made.
#[derive(Clone)]
pub(super) struct Load<'a> {
    pub(super) terms: &'a Terms,
    pub(super) endpoint: &'a Arc<Endpoint>,
    pub(super) deks: &'a Deks,
    pub(super) connections: usize,
    pub(super) threads: u32,
    pub(super) patience: Duration,
    /// How long it is expected to last.
    pub(super) expected: Duration,
    /// When it ends in any case.
    pub(super) limit: Duration,
    pub(super) processors: &'a Processors,
    pub(super) interrupted: Arc<AtomicBool>,
}

impl Load<'_> {
    /// Goes through the source of each thread; `source` makes one for a part of so many. `meanwhile` runs beside.
    ///
    /// # Errors
    /// Where nobody listens.
    pub(super) fn run<R>(
        &self,
        source: &(dyn Fn((u32, u32)) -> Box<dyn Source> + Sync),
        meanwhile: impl FnOnce(&Course) -> R,
    ) -> io::Result<(Measured, R)> {
        let threads = self.threads.clamp(1, u32::try_from(self.connections).unwrap_or(u32::MAX).max(1));
        let course = Course::new(self.limit, threads, Arc::clone(&self.interrupted));
        let span = (self.expected / WINDOWS).max(WINDOW_MIN);
        std::thread::scope(|scope| {
            let running: Vec<_> = (0..threads)
                .map(|part| {
                    let (source, course) = (source((part, threads)), &course);
                    let connections = self.connections / threads as usize
                        + usize::from((part as usize) < self.connections % threads as usize);
                    scope.spawn(move || {
                        self.processors.for_client();
                        let spins = self.processors.are_parted();
                        let Load { terms, endpoint, deks, patience, .. } = *self;
                        let drive = Drive { terms, endpoint, deks, connections, patience, span, spins, course };
                        let measured = driver::drive(&drive, source);
                        course.left();
                        measured
                    })
                })
                .collect();
            course.barrier.wait();
            let seen = meanwhile(&course);
            let mut whole = Measured::new(span);
            for thread in running {
                whole.add(&thread.join().expect("a driver does not panic")?);
            }
            Ok((whole, seen))
        })
    }
}

/// Moments in which a load is cut for its plots.
const WINDOWS: u32 = 60;
const WINDOW_MIN: Duration = Duration::from_millis(20);
