//! What the audit log takes of a hit: the part of whoever answers, and that of whoever writes.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};

use kmsproxy::audit::{Audit, Batch, Chain, Clocks, Destination, Head, Keys, Outcome, Record, Sink, Terms};
use kmsproxy::claim::ListenerName;
use kmsproxy::clock::{Clock, Manual};
use kmsproxy::kms::{Action, KeyId, KeyVersion, RequestId};

use crate::counted;
use crate::kms::{KEY, VERSION};
use crate::world::{World, blob};

/// Records a hit of each of `numbers`, and counts all but the first [`UNCOUNTED`].
pub(crate) fn each(world: &World, numbers: impl Iterator<Item = usize>) {
    let clock: Arc<dyn Clock> = Arc::<Manual>::clone(&world.clock);
    let (stuck, writing) = sync_channel(0);
    let terms = Terms { destination: Destination::Stdout, required: true, queue: 16_384, secret: None };
    let audit = Audit::into_sink(Box::new(Stuck(stuck)), &terms, Arc::clone(&clock)).unwrap();
    let keys = Keys::of(None).unwrap();
    let (mut chain, mut clocks) = (Chain::new(keys.clone(), Head::NONE), Clocks::read(&*clock));
    let (listener, key, version) = (ListenerName::new("ack"), KeyId::new(KEY), KeyVersion::new(VERSION));
    let kms_request_id = RequestId::new("5c6ef6d9-1b2c-4a83-8a2a-0f2f3f1e7c55");
    // Before the first record: else the writer might take some of them later, and those that are counted make the queue grow.
    writing.recv().unwrap();
    // As in the writer after its first lines.
    let mut lines = Vec::with_capacity(LINES_BYTES);
    for (turn, number) in numbers.enumerate() {
        let (ciphertext, request_id) = (blob(number), RequestId::random());
        let record = || Record {
            caller: "neighbour",
            listener: &listener,
            action: Action::Decrypt,
            named: None,
            key: Some(&key),
            version: Some(&version),
            ciphertext: Some(&ciphertext),
            outcome: Outcome::Hit,
            request_id: Some(&request_id),
            kms_request_id: Some(&kms_request_id),
        };
        if turn < UNCOUNTED {
            let _ = audit.accept(record).unwrap();
            continue;
        }
        let _ = counted::audit_accept(|| audit.accept(record)).unwrap();
        let mut batch = Batch::default();
        batch.add(clock.now(), &record(), Batch::digest(&record(), &keys));
        let entry = batch.take().unwrap();
        let line = |keys: &Keys, line: &mut Vec<u8>| entry.write(keys, &mut clocks, line);
        counted::audit_line(|| chain.append(&mut lines, line));
    }
    drop(writing);
}

/// Takes nothing while anything is counted, so that the writer does not empty the queue at one time or another.
struct Stuck(SyncSender<()>);

impl Sink for Stuck {
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        let _ = self.0.send(());
        // Which nobody takes: it ends when the other side is dropped.
        let _ = self.0.send(());
        Ok(lines.len())
    }
}

const LINES_BYTES: usize = 1024 * 1024;
/// The queue has then doubled to what the counted ones have room in, as it has in a daemon under load.
pub(crate) const UNCOUNTED: usize = 520;
