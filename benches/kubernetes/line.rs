//! A connection of the client: HTTP/2 as far as unary calls need it, by hand, so that on a machine of few cores the
//! client costs a fraction of what it measures. Headers are indexed after the first call, as gRPC's own clients do.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use nix::poll::{PollFd, PollFlags};

/// One connection, and what is under way in it: `T` for each call.
///
/// A server may end a connection that has rested: it says so (GOAWAY), what is under way is answered, and the next call
/// goes over a new connection, as gRPC's own clients have it.
pub(crate) struct Line<T> {
    socket: PathBuf,
    waits: bool,
    stream: UnixStream,
    /// Told to go.
    leaving: bool,
    out: Vec<u8>,
    heard: Vec<u8>,
    /// By stream, from 1 in steps of two.
    calls: Vec<Option<Call<T>>>,
    under_way: usize,
    /// Bytes of bodies that the server still takes.
    credit: usize,
    /// The paths in the dynamic table, in the order in which they came there.
    known: Vec<&'static str>,
}

struct Call<T> {
    tag: T,
    message: Option<Vec<u8>>,
}

impl<T> Line<T> {
    pub(crate) fn open(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).unwrap();
        let mut out = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        frame(&mut out, SETTINGS, 0, 0, &[]);
        frame(&mut out, WINDOW_UPDATE, 0, 0, &(0x7FFF_FFFF - WINDOW).to_be_bytes());
        Self {
            socket: socket.to_owned(),
            waits: true,
            stream,
            leaving: false,
            out,
            heard: Vec::new(),
            calls: Vec::new(),
            under_way: 0,
            credit: WINDOW as usize,
            known: Vec::new(),
        }
    }

    /// Whether reads wait for something to read. To begin with, they do.
    pub(crate) fn waits(&mut self, waits: bool) {
        self.waits = waits;
        self.stream.set_nonblocking(!waits).unwrap();
    }

    pub(crate) const fn under_way(&self) -> usize {
        self.under_way
    }

    /// Whether one more call is within what the server allows.
    pub(crate) const fn has_room(&self, body: usize) -> bool {
        if self.leaving { self.under_way == 0 } else { self.under_way < STREAMS && self.credit >= body }
    }

    /// Begins a call; it leaves with [`Line::flush`].
    pub(crate) fn begin(&mut self, path: &'static str, body: &[u8], tag: T) {
        if self.leaving {
            assert_eq!(self.under_way, 0, "no call is begun where the server has said to go");
            let waits = self.waits;
            *self = Self::open(&self.socket);
            self.waits(waits);
        }
        let stream = u32::try_from(self.calls.len() * 2 + 1).unwrap();
        let block = self.block(path);
        frame(&mut self.out, HEADERS, END_HEADERS, stream, &block);
        frame(&mut self.out, DATA, END_STREAM, stream, body);
        self.credit -= body.len();
        self.calls.push(Some(Call { tag, message: None }));
        self.under_way += 1;
    }

    pub(crate) fn flush(&mut self) {
        while !self.out.is_empty() {
            match self.stream.write(&self.out) {
                Ok(count) => drop(self.out.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) if self.is_over() => self.out.clear(),
                Err(error) => panic!("the server is gone: {error}"),
            }
        }
    }

    /// For `poll(2)`.
    pub(crate) fn awaited(&self) -> PollFd<'_> {
        PollFd::new(self.stream.as_fd(), PollFlags::POLLIN)
    }

    /// Reads once, and hands over what has ended: the call's message in its envelope, or none where it was refused.
    pub(crate) fn listen(&mut self, mut ended: impl FnMut(T, Option<Vec<u8>>)) {
        let before = self.heard.len();
        self.heard.resize(before + READ, 0);
        let read = match self.stream.read(&mut self.heard[before..]) {
            Ok(0) if self.is_over() => 0,
            Ok(0) => panic!("the server has closed the connection"),
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock || self.is_over() => 0,
            Err(error) => panic!("the server is gone: {error}"),
        };
        self.heard.truncate(before + read);
        let mut at = 0;
        while let Some(head) = self.heard.get(at..at + HEAD) {
            let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
            let (kind, flags) = (head[3], head[4]);
            let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            let Some(payload) = self.heard.get(at + HEAD..at + HEAD + length) else { break };
            at += HEAD + length;
            match kind {
                SETTINGS if flags & ACK == 0 => frame(&mut self.out, SETTINGS, ACK, 0, &[]),
                PING if flags & ACK == 0 => frame(&mut self.out, PING, ACK, 0, payload),
                GOAWAY if payload[4..8] == [0; 4] => self.leaving = true,
                WINDOW_UPDATE if stream == 0 => {
                    self.credit += u32::from_be_bytes(payload.try_into().unwrap()) as usize;
                }
                DATA | HEADERS => {
                    let call = &mut self.calls[stream as usize / 2];
                    if kind == DATA
                        && let Some(call) = call
                    {
                        call.message.get_or_insert_default().extend_from_slice(payload);
                    }
                    if flags & END_STREAM != 0
                        && let Some(Call { tag, message }) = call.take()
                    {
                        self.under_way -= 1;
                        ended(tag, message);
                    }
                }
                RESET | GOAWAY => panic!("the server ends a call or the connection: {payload:?}"),
                _ => {}
            }
        }
        self.heard.drain(..at);
    }

    /// Whether all that was begun here has ended, and nothing more will be.
    const fn is_over(&self) -> bool {
        self.leaving && self.under_way == 0
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
        let further = u8::try_from(self.known.len() - 1).unwrap();
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
            Some(place) => block.push(0x80 | (DYNAMIC + further - u8::try_from(place).unwrap())),
        }
        block.extend([3, 2, 1, 0].map(|age| 0x80 | (DYNAMIC + further + age)));
        block
    }
}

fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    out.extend_from_slice(&u32::try_from(payload.len()).unwrap().to_be_bytes()[1..]);
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
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const HEAD: usize = 9;
const WINDOW: u32 = 65_535;
/// RFC 7541, appendix A; the dynamic table begins behind the static one.
const AUTHORITY: u8 = 1;
const METHOD_POST: u8 = 3;
const PATH: u8 = 4;
const SCHEME_HTTP: u8 = 6;
const CONTENT_TYPE: u8 = 31;
const DYNAMIC: u8 = 62;
/// Calls at a time: as many as gRPC's clients send to a server that sets no limit, and fewer than kmsproxy allows.
const STREAMS: usize = 100;
const READ: usize = 64 * 1024;
