//! What h2 reads: the client's bytes, but for an `:authority` that h2 would refuse.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::listener::crowd::Member;
use crate::wire::http2::frames::Frames;

/// A connection as h2 sees it. Bytes go through in the buffer that they are read into; only a HEADERS frame that comes in
/// pieces is kept until it is whole. Tells the crowd whether a frame has begun and not ended.
#[derive(Debug)]
pub(super) struct Screen<T> {
    stream: T,
    member: Arc<Member>,
    frames: Frames,
    /// At most a frame, and what was read behind it.
    held: Vec<u8>,
    /// How many of the held bytes may go on.
    free: usize,
}

impl<T> Screen<T> {
    pub(super) const fn new(stream: T, member: Arc<Member>) -> Self {
        Self { stream, member, frames: Frames::expecting_preface(), held: Vec::new(), free: 0 }
    }

    fn let_go(&mut self, buf: &mut ReadBuf<'_>) {
        let count = self.free.min(buf.remaining());
        buf.put_slice(&self.held[..count]);
        self.held.drain(..count);
        self.free -= count;
        if self.held.is_empty() {
            self.held = Vec::new();
        }
    }

    /// Looks through what was read into `buf` behind its first `before` bytes, and takes back what may not go on yet.
    fn look_through(&mut self, buf: &mut ReadBuf<'_>, before: usize) {
        if self.held.is_empty() {
            let read = &mut buf.filled_mut()[before..];
            let passed = self.frames.pass(read);
            self.held.extend_from_slice(&read[passed..]);
            buf.set_filled(before + passed);
        } else {
            self.held.extend_from_slice(&buf.filled()[before..]);
            buf.set_filled(before);
            self.free = self.frames.pass(&mut self.held);
        }
        if !self.frames.midway() {
            self.member.overheard();
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Screen<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        while buf.remaining() > 0 && buf.filled().len() == before {
            if self.free > 0 {
                self.let_go(buf);
                break;
            }
            ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
            if buf.filled().len() > before {
                self.look_through(buf, before);
            } else if self.held.is_empty() {
                break;
            } else {
                // The client is gone; half a frame is h2's to judge.
                self.free = self.held.len();
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Screen<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::future::poll_fn;

    use bytes::Bytes;
    use h2::server;
    use http::Request;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::test_runner::TestCaseResult;

    use super::*;
    use crate::listener::crowd::Crowd;
    use crate::wire::http2::blocks::{Choices, Encoder, frame};

    const HEADERS: u8 = 1;
    const CONTINUATION: u8 = 9;
    const END_HEADERS: u8 = 0x4;
    const PADDED: u8 = 0x8;
    const PRIORITY: u8 = 0x20;
    const HELLO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    const END_STREAM: u8 = 1;

    /// A client that has sent these pieces and keeps still.
    #[derive(Debug)]
    struct Pieces(VecDeque<Vec<u8>>);

    impl Pieces {
        /// Cuts at the given places.
        fn cut(bytes: &[u8], at: &[usize]) -> Self {
            let mut at: Vec<usize> = at.iter().map(|at| at % (bytes.len() + 1)).collect();
            at.sort_unstable();
            let mut pieces = VecDeque::new();
            let mut start = 0;
            for end in at.into_iter().chain([bytes.len()]).filter(|end| *end > 0) {
                if end > start {
                    pieces.push_back(bytes[start..end].to_vec());
                    start = end;
                }
            }
            Self(pieces)
        }
    }

    impl AsyncRead for Pieces {
        fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            let Some(mut piece) = self.0.pop_front() else { return Poll::Pending };
            let rest = piece.split_off(piece.len().min(buf.remaining()));
            if !rest.is_empty() {
                self.0.push_front(rest);
            }
            buf.put_slice(&piece);
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for Pieces {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(buf.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    async fn screen(pieces: Pieces) -> Screen<Pieces> {
        Screen::new(pieces, Arc::clone(Crowd::new(1).enter().await.member()))
    }

    /// What comes out behind the screen, read in portions.
    fn through(pieces: Pieces, portion: usize) -> Vec<u8> {
        run(async {
            let mut screen = screen(pieces).await;
            let mut out = Vec::new();
            loop {
                let mut portion = vec![0; portion];
                let mut buf = ReadBuf::new(&mut portion);
                match poll_fn(|cx| Poll::Ready(Pin::new(&mut screen).poll_read(cx, &mut buf))).await {
                    Poll::Ready(read) => read.unwrap(),
                    Poll::Pending => return out,
                }
                assert!(!buf.filled().is_empty(), "told the end where there is more");
                out.extend_from_slice(buf.filled());
            }
        })
    }

    /// The requests that h2 takes.
    async fn accepted(stream: impl AsyncRead + AsyncWrite + Unpin) -> Result<Vec<Request<h2::RecvStream>>, h2::Error> {
        let mut http = server::handshake(stream).await?;
        let (mut requests, mut responds) = (Vec::new(), Vec::<server::SendResponse<Bytes>>::new());
        while let Poll::Ready(Some(accepted)) = poll_fn(|cx| Poll::Ready(http.poll_accept(cx))).await {
            let (request, respond) = accepted?;
            requests.push(request);
            responds.push(respond);
        }
        Ok(requests)
    }

    fn request(authority: &str) -> Vec<u8> {
        let fields = [(":method", "POST"), (":scheme", "http"), (":path", "/a"), (":authority", authority)];
        let block = Encoder::default().block(&fields, &mut Choices(&[0], 0));
        [HELLO, &frame(HEADERS, END_HEADERS | END_STREAM, 1, &block)].concat()
    }

    #[test]
    fn h2_alone_refuses_a_path_as_authority() {
        for (authority, taken) in [("localhost", 1), ("@kms", 1), ("/x.sock", 0), ("%2Fx.sock", 0)] {
            let bytes = request(authority);
            let requests = run(accepted(Pieces::cut(&bytes, &[]))).unwrap();
            assert_eq!(requests.len(), taken, "{authority}");
            let requests = run(async { accepted(screen(Pieces::cut(&bytes, &[])).await).await }).unwrap();
            assert_eq!(requests.len(), 1, "{authority}");
        }
    }

    #[test]
    fn the_crowd_learns_whether_a_frame_has_begun() {
        let bytes =
            [&request("/x.sock")[..], &frame(HEADERS, 0, 3, b"\x82"), &frame(CONTINUATION, END_HEADERS, 3, b"")]
                .concat();
        let whole = [33, bytes.len() - 19, bytes.len()];
        for end in 1..=bytes.len() {
            run(async {
                let mut screen = screen(Pieces::cut(&bytes[..end], &[])).await;
                // In the listener, the stream below tells of every byte that it hears.
                screen.member.heard();
                let mut buf = [0; 4096];
                let mut buf = ReadBuf::new(&mut buf);
                let _ = poll_fn(|cx| Poll::Ready(Pin::new(&mut screen).poll_read(cx, &mut buf))).await;
                assert_eq!(screen.member.hearing(), !(end == 24 || whole.contains(&end)), "{end} of {}", bytes.len());
            });
        }
    }

    #[test]
    fn half_a_frame_goes_on_when_the_client_is_gone() {
        struct Gone(Pieces);
        impl AsyncRead for Gone {
            fn poll_read(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buf: &mut ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                let read = Pin::new(&mut self.0).poll_read(cx, buf);
                if read.is_pending() { Poll::Ready(Ok(())) } else { read }
            }
        }
        let bytes = request("/x.sock");
        let half = &bytes[..bytes.len() - 3];
        run(async {
            let member = Arc::clone(Crowd::new(1).enter().await.member());
            let mut screen = Screen::new(Gone(Pieces::cut(half, &[40])), member);
            let mut out = Vec::new();
            tokio::io::AsyncReadExt::read_to_end(&mut screen, &mut out).await.unwrap();
            assert_eq!(out, half);
        });
    }

    /// One request of a made-up client.
    #[derive(Clone, Debug)]
    struct Ask {
        authority: String,
        fields: Vec<(String, String)>,
        choices: Vec<u8>,
        padding: Option<u8>,
        priority: bool,
        body: Vec<u8>,
    }

    fn ask() -> impl Strategy<Value = Ask> {
        let authority = prop_oneof![
            Just("localhost".to_owned()),
            Just("@kms".to_owned()),
            "/[a-z/._-]{1,60}",
            "(%2F[A-Za-z0-9._~-]{1,20}){1,4}",
            // Without what takes more than 13 bits in Huffman's code: that is h2's to refuse.
            "[ -;=-\\[\\]_a-z|~]{1,40}",
        ];
        let name = prop_oneof![Just("content-type".to_owned()), Just("user-agent".to_owned()), "x-[a-z]{1,3}"];
        let fields = vec((name, "[!-~]{0,30}"), 0..5);
        let form = (vec(any::<u8>(), 1..30), proptest::option::of(any::<u8>()), any::<bool>());
        (authority, fields, form, vec(any::<u8>(), 0..20)).prop_map(
            |(authority, fields, (choices, padding, priority), body)| Ask {
                authority,
                fields,
                choices,
                padding,
                priority,
                body,
            },
        )
    }

    impl Ask {
        fn frames(&self, stream: u32, encoder: &mut Encoder) -> Vec<u8> {
            let mut fields = vec![(":method", "POST"), (":authority", &*self.authority), (":scheme", "http")];
            fields.push((":path", "/v2.KeyManagementService/Decrypt"));
            fields.extend(self.fields.iter().map(|(name, value)| (&**name, &**value)));
            let block = encoder.block(&fields, &mut Choices(&self.choices, 0));
            let priority: &[u8] = if self.priority { &[0, 0, 0, 0, 7] } else { &[] };
            let padding = vec![0; usize::from(self.padding.unwrap_or(0))];
            let payload = [self.padding.as_slice(), priority, &block, &padding].concat();
            let flags = END_HEADERS
                | if self.padding.is_some() { PADDED } else { 0 }
                | if self.priority { PRIORITY } else { 0 };
            [frame(HEADERS, flags, stream, &payload), frame(0, END_STREAM, stream, &self.body)].concat()
        }

        fn matches(&self, request: &Request<h2::RecvStream>) -> TestCaseResult {
            let authority = request.uri().authority().expect("an authority").as_str();
            if http::uri::Authority::try_from(&*self.authority).is_ok() {
                prop_assert_eq!(authority, &self.authority);
            } else {
                prop_assert_eq!(authority.len(), self.authority.len());
            }
            prop_assert_eq!(request.method(), "POST");
            prop_assert_eq!(request.uri().path(), "/v2.KeyManagementService/Decrypt");
            let mut seen: Vec<_> = request
                .headers()
                .iter()
                .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
                .collect();
            let mut sent = self.fields.clone();
            seen.sort();
            sent.sort();
            prop_assert_eq!(seen, sent);
            Ok(())
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn h2_sees_what_was_sent_but_for_the_authority(asks in vec(ask(), 1..6), cuts in vec(any::<usize>(), 0..12)) {
            let mut encoder = Encoder::default();
            let mut bytes = HELLO.to_vec();
            for (ask, stream) in asks.iter().zip((1..).step_by(2)) {
                bytes.extend(ask.frames(stream, &mut encoder));
            }
            let requests = run(async { accepted(screen(Pieces::cut(&bytes, &cuts)).await).await }).unwrap();
            prop_assert_eq!(requests.len(), asks.len());
            for (ask, request) in asks.iter().zip(&requests) {
                ask.matches(request)?;
            }
            let whole = through(Pieces::cut(&bytes, &[]), 16384);
            prop_assert_eq!(whole.len(), bytes.len());
            prop_assert_eq!(through(Pieces::cut(&bytes, &cuts), 7), whole);
        }

        #[test]
        fn what_is_no_headers_frame_goes_through_as_it_is(
            garbage in vec(any::<u8>(), 0..400),
            cuts in vec(any::<usize>(), 0..12),
            kind in 0_u8..12,
            flags in any::<u8>(),
        ) {
            let kind = if kind == HEADERS { CONTINUATION } else { kind };
            let bytes = [HELLO, &frame(kind, flags, 1, &garbage)].concat();
            prop_assert_eq!(through(Pieces::cut(&bytes, &cuts), 64), bytes);
        }

        #[test]
        fn garbage_loses_nothing_however_it_is_cut(
            garbage in vec(prop_oneof![any::<u8>(), Just(0), Just(1), Just(4)], 0..600),
            cuts in vec(any::<usize>(), 0..12),
        ) {
            // What is kept because its frame has not ended comes out when the client is gone, and no sooner.
            let whole = through(Pieces::cut(&garbage, &[]), 16384);
            prop_assert!(whole.len() <= garbage.len());
            prop_assert_eq!(through(Pieces::cut(&garbage, &cuts), 5), whole);
        }
    }

    #[test]
    fn what_h2s_own_client_sends_goes_through_as_it_is() {
        let bytes = run(async {
            let (client, mut wire) = tokio::io::duplex(1 << 16);
            let (mut send, connection) = h2::client::handshake(client).await.unwrap();
            let driving = tokio::spawn(connection);
            for nth in 0..4 {
                let uri = format!("http://kms-{}.example:443/v2.KeyManagementService/Status", nth % 2);
                let head = Request::post(uri).header("te", "trailers").header("user-agent", "grpc-go/1.72.1");
                let request = head.header("content-type", "application/grpc").body(()).unwrap();
                drop(send.send_request(request, true).unwrap());
                tokio::task::yield_now().await;
            }
            let mut bytes = vec![0; 1 << 16];
            let count = tokio::io::AsyncReadExt::read(&mut wire, &mut bytes).await.unwrap();
            driving.abort();
            bytes.truncate(count);
            bytes
        });
        assert!(bytes.len() > 200);
        assert_eq!(through(Pieces::cut(&bytes, &[30, 50, 60, 90]), 4096), bytes);
    }
}
