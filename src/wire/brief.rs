//! A request of HTTP/1.1 that is short, plain, and whole in one piece of memory; and the head of its answer.
//!
//! Nearly every question to a KMS is one, and to read it where it lies takes a small part of what a server for all of HTTP has
//! to do. Whatever else HTTP/1.1 has (bodies in chunks or in parts, pipelines, upgrades, trailers, `Expect`, other methods and
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

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::convert::Infallible;
    use std::io;
    use std::pin::{Pin, pin};
    use std::task::{Context, Poll, Waker};

    use bytes::Bytes;
    use http_body_util::{BodyExt as _, Full};
    use hyper::rt::{Read, ReadBufCursor, Write};
    use hyper::server::conn::http1;
    use hyper::service::service_fn;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;

    /// All that is told of a request. Fields are in the order of their names, and those of one name as they came.
    #[derive(Clone, Debug, PartialEq, Eq)]
    struct Told {
        method: Method,
        path: String,
        query: String,
        fields: Vec<(String, Vec<u8>)>,
        body: Vec<u8>,
    }

    impl Told {
        fn new(method: &Method, path: &str, query: &str, fields: Fields<'_>, body: &[u8]) -> Self {
            let mut fields: Vec<_> = fields.iter().map(|(name, it)| (name.to_lowercase(), it.to_vec())).collect();
            fields.sort_by(|one, other| one.0.cmp(&other.0));
            let (method, body) = (method.clone(), body.to_vec());
            Self { method, path: path.to_owned(), query: query.to_owned(), fields, body }
        }
    }

    /// What is told of `bytes` where they are brief; never anything else than hyper tells.
    fn told(bytes: &[u8]) -> Option<Told> {
        let told = read(bytes, |it| Told::new(it.method, "/", it.query, it.fields, it.body))?;
        // Another is heard behind it: it ended where it ends, and the connection stays.
        let next = Told::new(&Method::GET, "/next", "", Fields::Lines(&[]), b"");
        let heard = by_hyper(&[bytes, b"GET /next HTTP/1.1\r\n\r\n"].concat());
        assert_eq!(heard, Ok(vec![told.clone(), next]), "{}", bytes.escape_ascii());
        Some(told)
    }

    fn is_brief(bytes: impl AsRef<[u8]>) -> bool {
        told(bytes.as_ref()).is_some()
    }

    /// The requests that hyper's server finds in `bytes`; its error where anything of them is more than whole requests.
    fn by_hyper(bytes: &[u8]) -> Result<Vec<Told>, String> {
        let all = RefCell::new(Vec::new());
        let service = service_fn(|request: http::Request<hyper::body::Incoming>| {
            let all = &all;
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect().await.expect("what came is whole").to_bytes();
                let uri = head.uri;
                assert_eq!((uri.scheme(), uri.authority(), head.version), (None, None, http::Version::HTTP_11));
                let fields = Fields::from(&head.headers);
                let told = Told::new(&head.method, uri.path(), uri.query().unwrap_or(""), fields, &body);
                all.borrow_mut().push(told);
                Ok::<_, Infallible>(http::Response::new(Full::<Bytes>::default()))
            }
        });
        let mut server = http1::Builder::new();
        server.header_read_timeout(None).half_close(true);
        let outcome = ended(pin!(server.serve_connection(Whole(bytes), service)));
        outcome.map_err(|error| error.to_string())?;
        Ok(all.into_inner())
    }

    /// What becomes of something that waits for nothing but itself.
    fn ended<F: Future>(mut future: Pin<&mut F>) -> F::Output {
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..POLLS_MAX {
            if let Poll::Ready(output) = future.as_mut().poll(&mut cx) {
                return output;
            }
        }
        panic!("it waits for something else")
    }

    /// A connection on which all has come in that ever will, and whose answers nobody reads.
    struct Whole<'a>(&'a [u8]);

    impl Read for Whole<'_> {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            mut buffer: ReadBufCursor<'_>,
        ) -> Poll<io::Result<()>> {
            let (now, later) = self.0.split_at(self.0.len().min(buffer.remaining()));
            buffer.put_slice(now);
            self.0 = later;
            Poll::Ready(Ok(()))
        }
    }

    impl Write for Whole<'_> {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn get(target: &str) -> String {
        format!("GET {target} HTTP/1.1\r\nhost: kms\r\n\r\n")
    }

    /// A request with a body of four bytes, and with these fields besides.
    fn post(fields: &str) -> String {
        format!("POST / HTTP/1.1\r\nhost: kms\r\n{fields}\r\nbody")
    }

    const QUESTION: &str = "POST /?Action=Decrypt&Version=2016-01-20 HTTP/1.1\r\nHost: kms:443\r\n\
        Content-Type:application/x-www-form-urlencoded\r\nx-acs-date: \t2026-01-02T03:04:05Z \r\n\
        Connection: Keep-Alive\r\nX-Twice: 1\r\nContent-Length: 16\r\nx-twice: 2\r\n\r\nCiphertextBlob=A";

    #[test]
    fn a_question_to_a_kms_is_brief() {
        let field = |name: &str, value: &[u8]| (name.to_owned(), value.to_vec());
        let expected = Told {
            method: Method::POST,
            path: "/".to_owned(),
            query: "Action=Decrypt&Version=2016-01-20".to_owned(),
            fields: vec![
                field("connection", b"Keep-Alive"),
                field("content-length", b"16"),
                field("content-type", b"application/x-www-form-urlencoded"),
                field("host", b"kms:443"),
                field("x-acs-date", b"2026-01-02T03:04:05Z"),
                field("x-twice", b"1"),
                field("x-twice", b"2"),
            ],
            body: b"CiphertextBlob=A".to_vec(),
        };
        assert_eq!(told(QUESTION.as_bytes()), Some(expected));
    }

    #[test]
    fn less_than_a_request_is_not_brief_nor_is_more() {
        for length in 0..QUESTION.len() {
            assert!(!is_brief(&QUESTION[..length]), "{length} bytes of it");
        }
        for more in ["\r", "\n", "\r\n", "x", "G", QUESTION] {
            assert!(!is_brief(QUESTION.to_owned() + more), "{more}");
        }
    }

    #[test]
    fn get_and_post_of_http_1_1_are_brief() {
        for method in ["GET", "POST"] {
            assert!(is_brief(format!("{method} / HTTP/1.1\r\n\r\n")));
            assert!(is_brief(format!("{method} / HTTP/1.1\r\ncontent-length: 1\r\n\r\n?")));
        }
        for method in ["HEAD", "PUT", "DELETE", "OPTIONS", "CONNECT", "PRI", "get", "Post", "POSTS", "GE", ""] {
            assert!(!is_brief(format!("{method} / HTTP/1.1\r\nhost: kms\r\n\r\n")), "{method}");
        }
        for version in ["HTTP/1.0", "HTTP/0.9", "HTTP/1.2", "HTTP/2.0", "http/1.1", "HTTP/1", "HTTP/1.10", ""] {
            assert!(!is_brief(format!("GET / {version}\r\nhost: kms\r\n\r\n")), "{version}");
        }
    }

    #[test]
    fn only_the_root_is_asked_briefly() {
        for target in ["/", "/?", "/?a", "/?a=b&c=%2F+d", "/?/", "/??", "/?http://kms/"] {
            assert!(is_brief(get(target)), "{target}");
        }
        let others =
            ["*", "", "?a", "//", "/a", "/;a", "/%3Fa", "/./?a", "/&", "kms:443", "http://kms/", "http://kms/?a"];
        for target in others.into_iter().chain(["/#", "/#?a", "/?a#", "/?a#b", "/ ?a", "/?a b", " /", "/\t"]) {
            assert!(!is_brief(get(target)), "{target}");
        }
    }

    #[test]
    fn a_query_has_no_characters_but_those_of_rfc_3986() {
        let unreserved = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~";
        let others = "%!$&'()*+,;=:@/?";
        for byte in 0..=u8::MAX {
            let target = [b"GET /?a", &[byte][..], b"b HTTP/1.1\r\n\r\n"].concat();
            let plain = unreserved.bytes().chain(others.bytes()).any(|it| it == byte);
            assert_eq!(is_brief(target), plain, "{byte:#x}");
        }
        assert!(!is_brief(get("/?ä")));
    }

    #[test]
    fn who_says_anything_of_the_connection_is_not_brief() {
        for kept in ["keep-alive", "Keep-Alive", "KEEP-ALIVE", " keep-alive\t"] {
            assert!(is_brief(post(&format!("connection:{kept}\r\ncontent-length: 4\r\n"))), "{kept}");
        }
        for value in ["", "close", "upgrade", "te", "keep-alive, close", "keep-alive,", "keep alive", "keep-alives"] {
            for name in ["connection", "Connection"] {
                assert!(!is_brief(post(&format!("{name}: {value}\r\ncontent-length: 4\r\n"))), "{value}");
            }
        }
        assert!(!is_brief(post("connection: keep-alive\r\ncontent-length: 4\r\nCONNECTION: close\r\n")));
        for name in ["expect", "Expect", "upgrade", "UpGrade", "transfer-encoding", "Transfer-Encoding"] {
            for value in ["", "100-continue", "h2c", "chunked", "identity"] {
                assert!(!is_brief(post(&format!("content-length: 4\r\n{name}: {value}\r\n"))), "{name}: {value}");
            }
        }
        for other in ["expected", "upgrades", "proxy-connection", "keep-alive", "te", "trailer", "x-transfer-encoding"]
        {
            assert!(is_brief(post(&format!("content-length: 4\r\n{other}: chunked\r\n"))), "{other}");
        }
    }

    #[test]
    fn a_body_is_as_long_as_it_says_once_and_in_digits() {
        for length in ["4", "04", "000004"] {
            assert!(is_brief(post(&format!("content-length: {length}\r\n"))), "{length}");
        }
        for length in ["", "0", "3", "5", "40", "0000004", "+4", "-4", "4,4", "4, 4", "4 4", "4;", "0x4", "4.0", "four"]
        {
            assert!(!is_brief(post(&format!("content-length: {length}\r\n"))), "{length}");
        }
        assert!(!is_brief(post("")), "a body of which nothing is said");
        for twice in ["content-length: 4\r\nContent-Length: 4\r\n", "content-length: 4\r\ncontent-length: 5\r\n"] {
            assert!(!is_brief(post(twice)), "{twice}");
        }
        assert!(!is_brief(post("content-length: 18446744073709551620\r\n")), "4, after an overflow");
        assert!(is_brief("POST / HTTP/1.1\r\ncontent-length: 000\r\n\r\n"));
        assert!(!is_brief("POST / HTTP/1.1\r\ncontent-length:\r\n\r\n"));
    }

    #[test]
    fn there_are_32_fields_and_no_more() {
        let many = |count: usize| format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(count));
        assert_eq!(told(many(32).as_bytes()).unwrap().fields.len(), 32);
        assert!(!is_brief(many(33)));
    }

    #[test]
    fn lines_end_and_fields_begin_as_hyper_has_it() {
        // By either kind of end; and with empty lines before the first.
        assert!(is_brief("GET / HTTP/1.1\nhost: kms\n\n"));
        assert!(is_brief("GET / HTTP/1.1\r\nhost: kms\n\r\n"));
        assert!(is_brief("\r\n\nGET / HTTP/1.1\r\nhost: kms\r\n\r\n"));
        let wrong = [
            "GET / HTTP/1.1\rhost: kms\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: kms\r\r\n",
            "GET / HTTP/1.1\r\nhost: kms\r\n folded\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: kms\r\n\tfolded: yes\r\n\r\n",
            "GET / HTTP/1.1\r\n host: kms\r\n\r\n",
            "GET / HTTP/1.1\r\nhost : kms\r\n\r\n",
            "GET / HTTP/1.1\r\nhost\r\n\r\n",
            "GET / HTTP/1.1\r\n: kms\r\n\r\n",
            "GET / HTTP/1.1\r\nho\"st: kms\r\n\r\n",
            "GET / HTTP/1.1\r\nhöst: kms\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: k\0ms\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: k\x7fms\r\n\r\n",
            "GET  / HTTP/1.1\r\nhost: kms\r\n\r\n",
            "GET /  HTTP/1.1\r\nhost: kms\r\n\r\n",
            "GET / HTTP/1.1 \r\nhost: kms\r\n\r\n",
            " GET / HTTP/1.1\r\nhost: kms\r\n\r\n",
        ];
        for wrong in wrong {
            assert!(!is_brief(wrong), "{}", wrong.escape_debug());
        }
        assert!(is_brief(b"GET / HTTP/1.1\r\nhost: k\xe4\xffms\r\n\r\n"));
    }

    #[test]
    fn a_head_is_written_to_the_byte() {
        let head = |status: u16, fields: &[(&str, &[u8])], length, closes| {
            let mut out = b"before ".to_vec();
            put_head(StatusCode::from_u16(status).unwrap(), fields, length, closes, &mut out);
            String::from_utf8(out).unwrap()
        };
        let fields: [(_, &[u8]); 2] =
            [("content-type", b"application/json;charset=utf-8"), ("x-acs-request-id", b"A-1")];
        assert_eq!(
            head(200, &fields, 1024, false),
            "before HTTP/1.1 200 OK\r\ncontent-type: application/json;charset=utf-8\r\nx-acs-request-id: A-1\r\n\
             content-length: 1024\r\n\r\n"
        );
        let closing = "before HTTP/1.1 404 Not Found\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
        assert_eq!(head(404, &[], 0, true), closing);
        let unknown = format!("before HTTP/1.1 599 \r\na: \r\ncontent-length: {}\r\n\r\n", usize::MAX);
        assert_eq!(head(599, &[("a", b"")], usize::MAX, false), unknown);
    }

    /// A head that is brief or nearly so, and a body.
    fn requests() -> impl Strategy<Value = Vec<u8>> {
        let method = prop_oneof![8 => select(vec!["GET", "POST"]), 1 => select(vec!["PUT", "CONNECT", "P", ""])];
        let target = prop_oneof![
            8 => "/(\\?[!-~]{0,12})?",
            4 => "/\\?[A-Za-z0-9%&=+._~-]{0,40}",
            1 => select(vec!["*", "/a", "//", "http://kms/", "kms:443", "/?ä", "/?a#b"]).prop_map(str::to_owned),
        ];
        let version = prop_oneof![16 => Just("HTTP/1.1"), 1 => select(vec!["HTTP/1.0", "HTTP/2.0", "HTTP/1.1 "])];
        let end = prop_oneof![8 => Just("\r\n"), 1 => select(vec!["\n", "\r", "\r\n ", "\n\n"])];
        let name = prop_oneof![
            4 => "[a-zA-Z-]{1,12}",
            1 => "[!-~]{0,5}",
            2 => select(vec!["Host", "connection", "Expect", "upgrade", "content-LENGTH", "Transfer-Encoding"])
                .prop_map(str::to_owned),
        ];
        let value = prop_oneof![
            4 => vec(prop_oneof![8 => 0x20_u8..0x7F, 1 => any::<u8>()], 0..16),
            2 => select(vec!["keep-alive", "close", "100-continue", "chunked", "4", "04", "4,4", ""])
                .prop_map(|it| it.as_bytes().to_vec()),
        ];
        let field = (name, select(vec![":", ": ", ":\t ", " : "]), value, end.clone());
        let fields = prop_oneof![8 => vec(field.clone(), 0..5), 1 => vec(field, 30..36)];
        let body = (vec(any::<u8>(), 0..20), prop_oneof![4 => Just(0_isize), 1 => -2..3_isize], any::<bool>());
        (method, target, version, end, fields, body).prop_map(|(method, target, version, end, fields, body)| {
            let (body, off, said) = body;
            let mut bytes = format!("{method} {target} {version}{end}").into_bytes();
            for (name, between, value, end) in fields {
                bytes.extend([name.as_bytes(), between.as_bytes(), &value, end.as_bytes()].concat());
            }
            if said || !body.is_empty() {
                let length = body.len().saturating_add_signed(off);
                bytes.extend(format!("Content-Length: {length}\r\n").bytes());
            }
            bytes.extend([b"\r\n", &body[..]].concat());
            bytes
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        #[test]
        fn what_is_brief_is_the_very_same_one_request_to_hyper(
            mut bytes in requests(),
            change in proptest::option::weighted(0.3, (any::<prop::sample::Index>(), any::<u8>(), 0..3_u8)),
        ) {
            if let Some((at, byte, how)) = change {
                let at = at.index(bytes.len());
                let with = if how == 0 { vec![] } else { vec![byte] };
                bytes.splice(at..at + usize::from(how < 2), with);
            }
            told(&bytes);
        }

        #[test]
        fn what_is_plain_is_brief(query in "[A-Za-z0-9%&=+._~*-]{0,200}", body in vec(any::<u8>(), 0..200)) {
            let head = format!("POST /?{query} HTTP/1.1\r\nhost: kms\r\ncontent-length: {}\r\n\r\n", body.len());
            let told = told(&[head.as_bytes(), &body].concat());
            prop_assert_eq!(told.map(|told| (told.query, told.body)), Some((query, body)));
        }
    }

    /// Of a connection on which all has come in.
    const POLLS_MAX: usize = 1000;
}
