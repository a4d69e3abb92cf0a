//! HTTP/1.1 as far as a client of a KMS needs it: one request, one answer with a length or in chunks.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::Arc;

use super::{CLOSED, NOT_HTTP, Reply, TIMED_OUT};
use crate::bench::endpoint::Endpoint;
use crate::bench::stream::Stream;

/// A kept connection. A server may close one that rests; the call that meets this end is sent once more over another,
/// as clients do.
pub(crate) struct Http1<T> {
    endpoint: Arc<Endpoint>,
    stream: Option<Stream>,
    opened: u32,
    out: Vec<u8>,
    sent: usize,
    heard: Vec<u8>,
    call: Option<T>,
    /// Answers on this connection.
    answers: u64,
}

impl<T> Http1<T> {
    pub(super) fn open(endpoint: &Arc<Endpoint>) -> io::Result<Self> {
        let stream = Some(endpoint.connect()?);
        let endpoint = Arc::clone(endpoint);
        let (out, heard) = (Vec::new(), Vec::new());
        Ok(Self { endpoint, stream, opened: 0, out, sent: 0, heard, call: None, answers: 0 })
    }

    pub(super) const fn is_free(&self) -> bool {
        self.call.is_none()
    }

    pub(super) fn begin(&mut self, request: &[u8], call: T) -> Result<(), (T, io::Error)> {
        if self.stream.is_none()
            && let Err(error) = self.reopen()
        {
            return Err((call, error));
        }
        self.out.clear();
        self.out.extend_from_slice(request);
        self.sent = 0;
        self.heard.clear();
        self.call = Some(call);
        Ok(())
    }

    pub(super) fn flush(&mut self, ended: &mut dyn FnMut(T, Reply<'_>)) {
        while let Some(stream) = self.stream.as_mut()
            && (self.sent < self.out.len() || stream.holds_back())
        {
            match stream.write(&self.out[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => self.lose(ended),
            }
        }
    }

    pub(super) fn listen(&mut self, ended: &mut dyn FnMut(T, Reply<'_>)) {
        let mut buffer = [0; READ];
        while let Some(stream) = self.stream.as_mut() {
            match stream.read(&mut buffer) {
                Ok(0) => return self.end(ended),
                Ok(count) => {
                    self.heard.extend_from_slice(&buffer[..count]);
                    if self.answered(ended) || count < READ {
                        return;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => return self.lose(ended),
            }
        }
    }

    pub(super) fn abandon(&mut self, late: &mut dyn FnMut(&T) -> bool, ended: &mut dyn FnMut(T, Reply<'_>)) {
        if let Some(call) = self.call.take_if(|call| late(call)) {
            // Its answer may still come: not for the next call.
            self.stream = None;
            ended(call, Reply::Lost(TIMED_OUT));
        }
    }

    pub(super) fn watched(&self) -> Option<(BorrowedFd<'_>, bool, u32)> {
        let stream = self.stream.as_ref()?;
        Some((stream.as_fd(), self.sent < self.out.len() || stream.holds_back(), self.opened))
    }

    fn reopen(&mut self) -> io::Result<()> {
        self.stream = None;
        self.stream = Some(self.endpoint.connect()?);
        self.opened += 1;
        self.answers = 0;
        self.sent = 0;
        self.heard.clear();
        Ok(())
    }

    /// The whole answer, if it is there. Returns whether the call has ended.
    fn answered(&mut self, ended: &mut dyn FnMut(T, Reply<'_>)) -> bool {
        match parse(&self.heard) {
            Parsed::Partial | Parsed::UntilEnd(..) => false,
            Parsed::Broken => {
                self.stream = None;
                self.finish(ended, &Parsed::Broken)
            }
            whole @ Parsed::Whole { close, .. } => {
                if close {
                    self.stream = None;
                }
                self.answers += 1;
                self.finish(ended, &whole)
            }
        }
    }

    fn finish(&mut self, ended: &mut dyn FnMut(T, Reply<'_>), parsed: &Parsed) -> bool {
        let Some(call) = self.call.take() else {
            // Nobody asked: nothing here can be trusted to belong to what is asked next.
            self.stream = None;
            return true;
        };
        match parsed {
            Parsed::Whole { status, body, .. } => match body {
                Content::Plain(range) => ended(call, Reply::Http(*status, &self.heard[range.clone()])),
                Content::Joined(bytes) => ended(call, Reply::Http(*status, bytes)),
            },
            Parsed::UntilEnd(status, from) => ended(call, Reply::Http(*status, &self.heard[*from..])),
            Parsed::Partial | Parsed::Broken => ended(call, Reply::Lost(NOT_HTTP)),
        }
        true
    }

    /// The server has closed.
    fn end(&mut self, ended: &mut dyn FnMut(T, Reply<'_>)) {
        if let whole @ Parsed::UntilEnd(..) = parse(&self.heard) {
            self.stream = None;
            self.finish(ended, &whole);
        } else {
            self.lose(ended);
        }
    }

    fn lose(&mut self, ended: &mut dyn FnMut(T, Reply<'_>)) {
        let rested = self.answers > 0 && self.heard.is_empty();
        self.stream = None;
        if self.call.is_some() && rested && self.reopen().is_ok() {
            return self.flush(ended);
        }
        if let Some(call) = self.call.take() {
            ended(call, Reply::Lost(CLOSED));
        }
    }
}

enum Parsed {
    Partial,
    Broken,
    /// Neither length nor chunks: status, and where the body begins that ends with the connection.
    UntilEnd(u16, usize),
    Whole {
        status: u16,
        body: Content,
        close: bool,
    },
}

enum Content {
    Plain(std::ops::Range<usize>),
    Joined(Vec<u8>),
}

fn parse(heard: &[u8]) -> Parsed {
    let Some(end) = memchr::memmem::find(heard, b"\r\n\r\n") else {
        return if heard.len() > HEAD_MAX { Parsed::Broken } else { Parsed::Partial };
    };
    let (head, from) = (&heard[..end], end + 4);
    let digits = head.get(9..12).filter(|_| head.starts_with(b"HTTP/1.1 ") || head.starts_with(b"HTTP/1.0 "));
    let Some(status) = digits.and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok()) else {
        return Parsed::Broken;
    };
    let (mut length, mut chunked, mut close) = (None, false, false);
    for line in head.split(|&byte| byte == b'\n').skip(1) {
        let Some(colon) = memchr::memchr(b':', line) else { return Parsed::Broken };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"content-length") {
            length = std::str::from_utf8(value).ok().and_then(|value| value.parse::<usize>().ok());
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            chunked = value.eq_ignore_ascii_case(b"chunked");
        } else if name.eq_ignore_ascii_case(b"connection") {
            close = value.eq_ignore_ascii_case(b"close");
        }
    }
    match length {
        _ if chunked => match joined(&heard[from..]) {
            Some(bytes) => Parsed::Whole { status, body: Content::Joined(bytes), close },
            None if heard.len() > BODY_MAX => Parsed::Broken,
            None => Parsed::Partial,
        },
        Some(length) if length > BODY_MAX => Parsed::Broken,
        Some(length) if heard.len() >= from + length => {
            Parsed::Whole { status, body: Content::Plain(from..from + length), close }
        }
        Some(_) => Parsed::Partial,
        None if heard.len() > BODY_MAX => Parsed::Broken,
        None => Parsed::UntilEnd(status, from),
    }
}

/// The chunks of a body as one, if the last is there.
fn joined(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut whole = Vec::new();
    loop {
        let end = memchr::memmem::find(rest, b"\r\n")?;
        let size = std::str::from_utf8(&rest[..end]).ok()?;
        let size = usize::from_str_radix(size.split(';').next()?.trim(), 16).ok()?;
        let chunk = rest.get(end + 2..(end + 2).checked_add(size)?)?;
        if size == 0 {
            return Some(whole);
        }
        whole.extend_from_slice(chunk);
        rest = rest.get(end + 2 + size + 2..)?;
    }
}

const READ: usize = 16 * 1024;
const HEAD_MAX: usize = 16 * 1024;
const BODY_MAX: usize = 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<(u16, Vec<u8>, bool)> {
        match parse(text.as_bytes()) {
            Parsed::Whole { status, body: Content::Plain(range), close } => {
                Some((status, text.as_bytes()[range].to_vec(), close))
            }
            Parsed::Whole { status, body: Content::Joined(bytes), close } => Some((status, bytes, close)),
            Parsed::Partial | Parsed::Broken | Parsed::UntilEnd(..) => None,
        }
    }

    #[test]
    fn an_answer_with_a_length_or_in_chunks_is_read_once_it_is_whole() {
        let plain = "HTTP/1.1 409 Conflict\r\nContent-Length: 2\r\nconnection: close\r\n\r\nab";
        assert_eq!(read(plain), Some((409, b"ab".to_vec(), true)));
        assert_eq!(read(&plain[..plain.len() - 1]), None);
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n3;x=y\r\ncde\r\n0\r\n\r\n";
        assert_eq!(read(chunked), Some((200, b"abcde".to_vec(), false)));
        assert_eq!(read(&chunked[..chunked.len() - 8]), None);
        assert!(matches!(parse(b"SSH-2.0-x\r\n\r\n"), Parsed::Broken));
    }
}
