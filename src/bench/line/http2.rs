//! HTTP/2 as far as unary calls of gRPC need it. Headers are indexed after the first call, as gRPC's own clients do.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::Arc;

use super::status::Fields;
use super::{CLOSED, Reply, TIMED_OUT, UNPROCESSED};
use crate::bench::endpoint::Endpoint;
use crate::bench::stream::Stream;

/// One connection. A server may end one that has rested: it says so (GOAWAY), what is under way is answered, and the
/// next call goes over another, as gRPC's own clients have it.
pub(crate) struct Http2<T> {
    endpoint: Arc<Endpoint>,
    stream: Option<Stream>,
    opened: u32,
    /// Told to go.
    leaving: bool,
    out: Vec<u8>,
    sent: usize,
    heard: Vec<u8>,
    /// By stream, from `first` in steps of two; what has ended at the front is forgotten.
    calls: VecDeque<Option<Call<T>>>,
    first: u32,
    under_way: usize,
    streams_max: usize,
    /// Bytes of bodies that the server still takes.
    credit: usize,
    /// Bytes of bodies that came since the server was last told that we take more.
    taken: u32,
    fields: Fields,
    /// The paths in the dynamic table, in the order in which they came there.
    known: Vec<&'static str>,
}

struct Call<T> {
    tag: T,
    message: Vec<u8>,
    code: Option<u8>,
}

impl<T> Http2<T> {
    pub(super) fn open(endpoint: &Arc<Endpoint>) -> io::Result<Self> {
        let mut line = Self {
            endpoint: Arc::clone(endpoint),
            stream: None,
            opened: 0,
            leaving: false,
            out: Vec::new(),
            sent: 0,
            heard: Vec::new(),
            calls: VecDeque::new(),
            first: 1,
            under_way: 0,
            streams_max: STREAMS,
            credit: 0,
            taken: 0,
            fields: Fields::default(),
            known: Vec::new(),
        };
        line.connect()?;
        Ok(line)
    }

    fn connect(&mut self) -> io::Result<()> {
        self.stream = None;
        self.stream = Some(self.endpoint.connect()?);
        self.opened += 1;
        (self.leaving, self.sent, self.first, self.under_way) = (false, 0, 1, 0);
        (self.streams_max, self.credit, self.taken) = (STREAMS, WINDOW as usize, 0);
        self.heard.clear();
        self.calls.clear();
        self.known.clear();
        self.fields = Fields::default();
        self.out.clear();
        self.out.extend_from_slice(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        frame(&mut self.out, SETTINGS, 0, 0, &[]);
        frame(&mut self.out, WINDOW_UPDATE, 0, 0, &(0x7FFF_FFFF - WINDOW).to_be_bytes());
        Ok(())
    }

    pub(super) const fn under_way(&self) -> usize {
        self.under_way
    }

    pub(super) const fn has_room(&self) -> bool {
        if self.leaving || self.stream.is_none() {
            self.under_way == 0
        } else {
            self.under_way < self.streams_max && self.credit >= BODY_MAX
        }
    }

    pub(super) fn begin(&mut self, path: &'static str, body: &[u8], tag: T) -> Result<(), (T, io::Error)> {
        let spent = self.first > STREAM_MAX;
        if (self.leaving || self.stream.is_none() || spent)
            && let Err(error) = self.connect()
        {
            return Err((tag, error));
        }
        let ahead = u32::try_from(self.calls.len()).expect("calls under way are few");
        let stream = self.first + 2 * ahead;
        let block = self.block(path);
        frame(&mut self.out, HEADERS, END_HEADERS, stream, &block);
        frame(&mut self.out, DATA, END_STREAM, stream, body);
        self.credit = self.credit.saturating_sub(body.len());
        self.calls.push_back(Some(Call { tag, message: Vec::new(), code: None }));
        self.under_way += 1;
        Ok(())
    }

    pub(super) fn flush(&mut self, ended: &mut dyn FnMut(T, Reply<'_>)) {
        while let Some(stream) = self.stream.as_mut()
            && self.sent < self.out.len()
        {
            match stream.write(&self.out[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => self.lose(ended),
            }
        }
        self.out.clear();
        self.sent = 0;
    }

    pub(super) fn listen(&mut self, ended: &mut dyn FnMut(T, Reply<'_>)) {
        let mut buffer = [0; READ];
        while let Some(stream) = self.stream.as_mut() {
            match stream.read(&mut buffer) {
                Ok(0) => return self.lose(ended),
                Ok(count) => {
                    self.heard.extend_from_slice(&buffer[..count]);
                    self.frames(ended);
                    if count < READ {
                        return self.flush(ended);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return self.flush(ended),
                Err(_) => return self.lose(ended),
            }
        }
    }

    pub(super) fn abandon(&mut self, late: &mut dyn FnMut(&T) -> bool, ended: &mut dyn FnMut(T, Reply<'_>)) {
        for at in 0..self.calls.len() {
            if let Some(call) = self.calls[at].take_if(|call| late(&call.tag)) {
                self.under_way -= 1;
                let stream = self.first + 2 * u32::try_from(at).expect("calls under way are few");
                frame(&mut self.out, RESET, 0, stream, &CANCEL.to_be_bytes());
                ended(call.tag, Reply::Lost(TIMED_OUT));
            }
        }
        self.flush(ended);
    }

    pub(super) fn watched(&self) -> Option<(BorrowedFd<'_>, bool, u32)> {
        Some((self.stream.as_ref()?.as_fd(), self.sent < self.out.len(), self.opened))
    }

    fn frames(&mut self, ended: &mut dyn FnMut(T, Reply<'_>)) {
        let heard = std::mem::take(&mut self.heard);
        let mut at = 0;
        while let Some(head) = heard.get(at..at + HEAD) {
            let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
            let (kind, flags) = (head[3], head[4]);
            let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & 0x7FFF_FFFF;
            let Some(payload) = heard.get(at + HEAD..at + HEAD + length) else { break };
            at += HEAD + length;
            if stream == 0 {
                self.about_all(kind, flags, payload, ended);
            } else if self.about_one(kind, flags, stream, payload, ended).is_err() {
                return self.lose(ended);
            }
        }
        self.heard = heard;
        self.heard.drain(..at);
    }

    fn about_all(&mut self, kind: u8, flags: u8, payload: &[u8], ended: &mut dyn FnMut(T, Reply<'_>)) {
        match kind {
            SETTINGS if flags & ACK == 0 => {
                for setting in payload.chunks_exact(6) {
                    if setting[..2] == MAX_CONCURRENT_STREAMS {
                        let limit = u32::from_be_bytes([setting[2], setting[3], setting[4], setting[5]]);
                        self.streams_max = STREAMS.min(limit as usize);
                    }
                }
                frame(&mut self.out, SETTINGS, ACK, 0, &[]);
            }
            PING if flags & ACK == 0 => frame(&mut self.out, PING, ACK, 0, payload),
            GOAWAY => self.leave(payload, ended),
            WINDOW_UPDATE => {
                let more = payload.first_chunk().map_or(0, |more| u32::from_be_bytes(*more));
                self.credit += more as usize;
            }
            _ => {}
        }
    }

    /// What the server says it has not looked at ends here; what it has, is still answered.
    fn leave(&mut self, payload: &[u8], ended: &mut dyn FnMut(T, Reply<'_>)) {
        self.leaving = true;
        let last = payload.first_chunk().map_or(0, |last| u32::from_be_bytes(*last) & 0x7FFF_FFFF);
        for (ahead, slot) in (0..).zip(&mut self.calls) {
            if self.first + 2 * ahead > last
                && let Some(call) = slot.take()
            {
                self.under_way -= 1;
                ended(call.tag, Reply::Lost(UNPROCESSED));
            }
        }
    }

    fn about_one(
        &mut self,
        kind: u8,
        flags: u8,
        stream: u32,
        payload: &[u8],
        ended: &mut dyn FnMut(T, Reply<'_>),
    ) -> Result<(), ()> {
        // The table of fields must see each block, also of calls that nobody waits for.
        let code = match kind {
            HEADERS if flags & (END_HEADERS | PADDED | PRIORITY) == END_HEADERS => self.fields.read(payload)?,
            HEADERS | CONTINUATION => return Err(()),
            _ => None,
        };
        if kind == DATA {
            self.taken += u32::try_from(payload.len()).map_err(drop)?;
            if self.taken > TAKEN_MAX {
                frame(&mut self.out, WINDOW_UPDATE, 0, 0, &self.taken.to_be_bytes());
                self.taken = 0;
            }
        }
        let place = stream.checked_sub(self.first).map(|ahead| ahead as usize / 2);
        let Some(slot) = place.and_then(|place| self.calls.get_mut(place)) else { return Ok(()) };
        let Some(call) = slot else { return Ok(()) };
        call.code = call.code.or(code);
        if kind == DATA {
            call.message.extend_from_slice(payload);
        }
        if kind == RESET || (flags & END_STREAM != 0 && matches!(kind, DATA | HEADERS)) {
            let Some(Call { tag, message, code }) = slot.take() else { return Ok(()) };
            self.under_way -= 1;
            while self.calls.front().is_some_and(Option::is_none) {
                self.calls.pop_front();
                self.first += 2;
            }
            match code {
                Some(0) if !message.is_empty() => ended(tag, Reply::Message(&message)),
                Some(0) => ended(tag, Reply::Lost("gRPC without a message")),
                Some(code) => ended(tag, Reply::Grpc(code)),
                None if kind == RESET => ended(tag, Reply::Lost("stream reset")),
                None => ended(tag, Reply::Lost("no gRPC")),
            }
        }
        Ok(())
    }

    fn lose(&mut self, ended: &mut dyn FnMut(T, Reply<'_>)) {
        self.stream = None;
        self.under_way = 0;
        for call in std::mem::take(&mut self.calls).into_iter().flatten() {
            ended(call.tag, Reply::Lost(CLOSED));
        }
    }

    /// The header block of a call. The dynamic table has, oldest first: the first path, the four headers that never
    /// change, and further paths as they came.
    fn block(&mut self, path: &'static str) -> Vec<u8> {
        let mut block = vec![0x80 | METHOD_POST, 0x80 | SCHEME_HTTP];
        let place = self.known.iter().position(|known| *known == path);
        if place.is_none() {
            literal(&mut block, 0x40 | PATH, &[path]);
            self.known.push(path);
        }
        let count = |count: usize| u8::try_from(count).expect("the API has six paths");
        let further = count(self.known.len() - 1);
        match place {
            None if further == 0 => {
                literal(&mut block, 0x40 | AUTHORITY, &["localhost"]);
                literal(&mut block, 0x40 | CONTENT_TYPE, &["application/grpc"]);
                literal(&mut block, 0x40, &["te", "trailers"]);
                literal(&mut block, 0x40, &["grpc-timeout", "3S"]);
                return block;
            }
            None => {}
            Some(0) => block.push(0x80 | (DYNAMIC + further + 4)),
            Some(place) => block.push(0x80 | (DYNAMIC + further - count(place))),
        }
        block.extend([3, 2, 1, 0].map(|age| 0x80 | (DYNAMIC + further + age)));
        block
    }
}

fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let length = u32::try_from(payload.len()).expect("no frame is as long as 4 GiB");
    out.extend_from_slice(&length.to_be_bytes()[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

fn literal(block: &mut Vec<u8>, form: u8, texts: &[&str]) {
    block.push(form);
    for text in texts {
        block.push(u8::try_from(text.len()).ok().filter(|length| *length < 127).expect("a short text"));
        block.extend_from_slice(text.as_bytes());
    }
}

/// RFC 9113: frames, flags, and the window of a connection to begin with.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const PRIORITY: u8 = 0x20;
const HEAD: usize = 9;
const WINDOW: u32 = 65_535;
const CANCEL: u32 = 8;
const MAX_CONCURRENT_STREAMS: [u8; 2] = [0, 3];
/// RFC 7541, appendix A; the dynamic table begins behind the static one.
const AUTHORITY: u8 = 1;
const METHOD_POST: u8 = 3;
const PATH: u8 = 4;
const SCHEME_HTTP: u8 = 6;
const CONTENT_TYPE: u8 = 31;
const DYNAMIC: u8 = 62;
/// Calls at a time: as many as gRPC's clients send to a server that sets no limit.
const STREAMS: usize = 100;
/// Streams are numbered; long before the numbers end, a new connection begins.
const STREAM_MAX: u32 = 1 << 30;
const TAKEN_MAX: u32 = 1 << 29;
/// A request here is a ciphertext of at most a kilobyte and its names.
const BODY_MAX: usize = 4096;
const READ: usize = 64 * 1024;
