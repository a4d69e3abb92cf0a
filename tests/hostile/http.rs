//! HTTP/1.1 by hand: what a client library would never send has to be sent too.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;

use super::signer::{FORM, HOST};

/// A request, as it will be written.
#[derive(Clone)]
pub(crate) struct Raw {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Raw {
    pub(crate) fn new(method: &str, target: &str, body: &str) -> Self {
        let (method, target) = (method.to_owned(), target.to_owned());
        let headers = vec![("host".to_owned(), HOST.to_owned()), ("content-type".to_owned(), FORM.to_owned())];
        Self { method, target, headers, body: body.into() }
    }

    /// With this header, in place of an equal one.
    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.retain(|(known, _)| known != name);
        self.and(name, value)
    }

    /// With one more header.
    pub(crate) fn and(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn to(self, target: &str) -> Self {
        Self { target: target.to_owned(), ..self }
    }

    /// What is sent; the length is declared, unless the headers say something of it already.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut text = format!("{} {} HTTP/1.1\r\n", self.method, self.target);
        for (name, value) in &self.headers {
            text += &format!("{name}: {value}\r\n");
        }
        let said = |name: &str| self.headers.iter().any(|(known, _)| known == name);
        if !said("content-length") && !said("transfer-encoding") {
            text += &format!("content-length: {}\r\n", self.body.len());
        }
        [text.as_bytes(), b"\r\n", &self.body].concat()
    }
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Heard {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Heard {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Status and `Code` of a refusal, whose body must be what clients can read: their SDKs crash on less.
    pub(crate) fn refusal(&self) -> (u16, String) {
        let body = self.json();
        for member in ["Code", "Message", "RequestId"] {
            assert!(body[member].as_str().is_some_and(|text| !text.is_empty()), "{member}: {self:?}");
        }
        (self.status, body["Code"].as_str().unwrap().to_owned())
    }

    pub(crate) fn closes(&self) -> bool {
        self.head.lines().any(|line| line.eq_ignore_ascii_case("connection: close"))
    }
}

pub(crate) fn connect(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Writes `bytes`, as far as the other end takes them, while it waits for the answer.
pub(crate) fn exchange(stream: &TcpStream, bytes: &[u8]) -> Option<Heard> {
    let (mut writer, mut reader) = (stream.try_clone().unwrap(), stream.try_clone().unwrap());
    std::thread::scope(|scope| {
        // A server that has answered need not take the rest.
        scope.spawn(move || drop(writer.write_all(bytes)));
        answer(&mut reader)
    })
}

/// The next answer; `None` where the connection was closed instead.
pub(crate) fn answer(stream: &mut impl Read) -> Option<Heard> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            Ok(_) if head.is_empty() => return None,
            Err(error) if head.is_empty() && was_closed(error.kind()) => return None,
            end => panic!("{end:?} after {:?}", String::from_utf8_lossy(&head)),
        }
    }
    let head = String::from_utf8(head).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap_or("0");
    let mut body = vec![0; length.parse().unwrap()];
    stream.read_exact(&mut body).unwrap();
    Some(Heard { status, head, body: String::from_utf8(body).unwrap() })
}

/// What comes until the other end closes.
pub(crate) fn until_closed(stream: &mut impl Read) -> Vec<u8> {
    let mut all = Vec::new();
    match stream.read_to_end(&mut all) {
        Ok(_) => all,
        Err(error) if was_closed(error.kind()) => all,
        Err(error) => panic!("not closed: {error}"),
    }
}

fn was_closed(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::UnexpectedEof)
}

/// Longer than anything takes here, on the slowest machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
