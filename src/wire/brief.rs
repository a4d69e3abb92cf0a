//! A request of HTTP/1.1 that is short, plain, and whole in one piece of memory; and the head of its answer.
//!
//! Nearly every question to a KMS is one. To read it where it lies takes a third of what a server for all of HTTP has to
//! do. Whatever else HTTP/1.1 has (bodies in chunks or in parts, pipelines, upgrades, trailers, `Expect`, other methods and
//! versions) is none, and is left to hyper, as is whatever is malformed. Source: RFC 9112.

use std::mem::MaybeUninit;

use http::{Method, StatusCode};
use httparse::{Header, ParserConfig, Status};

use super::fields::Fields;

/// One brief request, for `/`.
pub struct Request<'r> {
    /// `GET` or `POST`.
    pub method: &'static Method,
    /// The query, empty where there is none. Such characters as URIs have.
    pub query: &'r str,
    /// The header fields.
    pub fields: Fields<'r>,
    /// The body.
    pub body: &'r [u8],
}

/// Hands on the brief request that `bytes` are, to the last of them; `None` where they are none.
pub fn read<T>(bytes: &[u8], act: impl FnOnce(&Request<'_>) -> T) -> Option<T> {
    let mut room = [const { MaybeUninit::<Header<'_>>::uninit() }; FIELDS_MAX];
    let mut head = httparse::Request::new(&mut []);
    let read = ParserConfig::default().parse_request_with_uninit_headers(&mut head, bytes, &mut room);
    let (Ok(Status::Complete(length)), Some(1)) = (read, head.version) else { return None };
    let method = match head.method? {
        "GET" => &Method::GET,
        "POST" => &Method::POST,
        _ => return None,
    };
    let query = match head.path?.strip_prefix('/')? {
        "" => "",
        rest => rest.strip_prefix('?').filter(|query| is_plain(query))?,
    };
    let (fields, body) = (Fields::Lines(head.headers), &bytes[length..]);
    (body_bytes(fields)? == body.len()).then(|| act(&Request { method, query, fields, body }))
}

/// How long the body is that comes with these fields; `None` where they say anything else of the connection or the body.
fn body_bytes(fields: Fields<'_>) -> Option<usize> {
    let mut length = None;
    for (name, value) in fields {
        let is = |known: &str| name.eq_ignore_ascii_case(known);
        match name.len() {
            6 if is("expect") => return None,
            7 if is("upgrade") => return None,
            10 if is("connection") && !value.eq_ignore_ascii_case(b"keep-alive") => return None,
            14 if is("content-length") && length.replace(digits(value)?).is_some() => return None,
            17 if is("transfer-encoding") => return None,
            _ => {}
        }
    }
    Some(length.unwrap_or(0))
}

fn digits(text: &[u8]) -> Option<usize> {
    let digit = |byte: &u8| byte.is_ascii_digit().then(|| usize::from(byte - b'0'));
    if text.is_empty() || text.len() > LENGTH_DIGITS_MAX {
        return None;
    }
    text.iter().try_fold(0, |value, byte| Some(value * 10 + digit(byte)?))
}

/// Whether `query` has none but the characters that RFC 3986 gives it, so that its end and its meaning are no matter of
/// who reads it.
fn is_plain(query: &str) -> bool {
    let plain = |byte: u8| {
        byte.is_ascii_alphanumeric()
            | (byte == b'!')
            | matches!(byte, b'$'..=b'/')
            | matches!(byte, b':' | b';' | b'=' | b'?' | b'@' | b'_' | b'~')
    };
    query.bytes().fold(true, |all, byte| all & plain(byte))
}

/// Puts the head of an answer whose body has `length` bytes.
pub fn put_head(status: StatusCode, fields: &[(&str, &[u8])], length: usize, closes: bool, out: &mut Vec<u8>) {
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    for (name, value) in fields {
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value);
    }
    out.extend_from_slice(if closes { b"\r\nconnection: close\r\ncontent-length: " } else { b"\r\ncontent-length: " });
    put_number(length, out);
    out.extend_from_slice(b"\r\n\r\n");
}

fn put_number(number: usize, out: &mut Vec<u8>) {
    let (mut digits, mut at, mut left) = ([0; 20], 20, number);
    loop {
        at -= 1;
        digits[at] = b'0' + u8::try_from(left % 10).unwrap_or_default();
        left /= 10;
        if left == 0 {
            return out.extend_from_slice(&digits[at..]);
        }
    }
}

/// Header fields of a brief request.
const FIELDS_MAX: usize = 32;
const LENGTH_DIGITS_MAX: usize = 6;
