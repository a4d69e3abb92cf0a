//! The short way of brief requests: read, heard, answered and written without hyper, and without a buffer that outlives any of
//! this.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncWriteExt as _, ReadBuf};
use tokio::time::Instant;
use zeroize::zeroize_bytes;

use super::super::stream::Stream;
use super::super::{Member, Order};
use crate::claim::Peer;
use crate::listener::service::Service;
use crate::wire::brief;

/// One connection, while hyper is not on it.
pub(super) struct Lane<'a, S> {
    pub(super) service: &'a S,
    pub(super) peer: &'a Peer,
    pub(super) member: &'a Arc<Member>,
    /// When the connection has been used for long enough.
    pub(super) old: Instant,
    /// Whether a hang-up shall be noticed while a request is answered, as hyper alone does: then nothing is brief.
    pub(super) watchful: bool,
    /// Whether nothing is under way.
    pub(super) at_rest: AtomicBool,
}

/// Why the short way ends.
#[derive(Debug)]
pub(super) enum End {
    /// Something was said that goes by way of hyper; it is unread.
    Long,
    /// The connection has come to its end.
    Over,
}

enum Read<H> {
    Brief(H),
    End(End),
}

impl<S: Service> Lane<'_, S> {
    /// Answers brief requests until something else comes. `answered` is called after each answer.
    pub(super) async fn go(&self, stream: &mut Stream, answered: impl Fn()) -> io::Result<End> {
        loop {
            self.at_rest.store(true, Ordering::Relaxed);
            let heard = match poll_fn(|cx| self.read(stream, cx)).await? {
                Read::Brief(heard) => heard,
                Read::End(End::Long) => return Ok(End::Long),
                Read::End(End::Over) => break,
            };
            let busy = self.member.begin();
            let said = self.service.answer_heard(self.peer, heard).await;
            let now = Instant::now();
            let closes = said.closes || now >= self.old || self.member.order() >= Order::Leave;
            if said.confidential {
                busy.confide();
            }
            let bytes = said.bytes(closes);
            busy.end(now);
            answered();
            stream.write_all(&bytes).await?;
            stream.flush().await?;
            if closes {
                break;
            }
        }
        stream.shutdown().await?;
        Ok(End::Over)
    }

    fn read(&self, stream: &mut Stream, cx: &mut Context<'_>) -> Poll<io::Result<Read<S::Heard>>> {
        on_the_stack(|buffer| self.read_into(buffer, stream, cx))
    }

    fn read_into(
        &self,
        buffer: &mut ReadBuf<'_>,
        stream: &mut Stream,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<Read<S::Heard>>> {
        ready!(stream.poll_take(cx, buffer))?;
        self.at_rest.store(false, Ordering::Relaxed);
        if buffer.filled().is_empty() {
            return Poll::Ready(Ok(Read::End(End::Over)));
        }
        let heard = if self.watchful {
            None
        } else {
            brief::read(buffer.filled(), |request| self.service.hear(self.peer, request)).flatten()
        };
        let read = match heard {
            Some(heard) => Read::Brief(heard),
            None => {
                self.member.heard();
                stream.unread(buffer.filled());
                Read::End(End::Long)
            }
        };
        Poll::Ready(Ok(read))
    }
}

/// Lends `work` room to read into, the same memory for each connection, and wipes what it has read.
fn on_the_stack<T>(work: impl FnOnce(&mut ReadBuf<'_>) -> T) -> T {
    let mut room = [MaybeUninit::uninit(); BRIEF_BYTES_MAX];
    let mut buffer = ReadBuf::uninit(&mut room);
    let done = work(&mut buffer);
    zeroize_bytes(buffer.filled_mut());
    done
}

/// Bytes of a brief request: a Decrypt has from 400 to 2,000, and a context of 4 KiB fits.
const BRIEF_BYTES_MAX: usize = 8 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::left;

    #[test]
    fn what_was_read_onto_the_stack_is_not_there_afterwards() {
        let sevens = |below: Vec<u8>| below.iter().filter(|&&byte| byte == 7).count();
        for length in [100, BRIEF_BYTES_MAX] {
            let below = left(|| on_the_stack(|buffer| buffer.put_slice(&[7; BRIEF_BYTES_MAX][..length])));
            assert!(sevens(below) < 50, "{length}");
        }
    }
}
