//! What a socket can do: half a handshake, half a head, nothing at all.

use std::io::{ErrorKind, Write};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use tokio::time::Instant;

use super::http::{self, connect, until_closed};
use super::kms::wrapped;
use super::signer::Signer;
use super::stage::{Stage, decrypting, one};

#[test]
fn half_a_handshake_is_given_up_after_five_seconds_and_others_are_served_meanwhile() {
    let stage = Stage::new();
    let begun = Instant::now();
    let mut halves: Vec<_> = [&b""[..], b"\x16", CLIENT_HELLO, &CLIENT_HELLO[..9]]
        .iter()
        .map(|bytes| {
            let mut stream = connect(stage.tls());
            stream.write_all(bytes).unwrap();
            stream
        })
        .collect();
    serves_tls(&stage);
    for stream in &mut halves {
        let said = until_closed(stream);
        assert!(said.is_empty() || said[0] == ALERT, "{said:?}");
    }
    assert!(begun.elapsed() < HANDSHAKE + SLACK, "{:?}", begun.elapsed());
    serves_tls(&stage);
}

#[test]
fn plain_http_to_the_tls_port_is_closed_without_an_answer() {
    let stage = Stage::new();
    let blob = wrapped("key-1", "ZGVr", "");
    for bytes in [secure().v1("POST", &decrypting(&blob), &[]).bytes(), b"GET / HTTP/1.1\r\n\r\n".to_vec(), vec![0; 99]]
    {
        let mut stream = connect(stage.tls());
        stream.write_all(&bytes).unwrap();
        let said = until_closed(&mut stream);
        // At most an alert: nothing in clear.
        assert!(said.len() <= 7 && said.first().is_none_or(|byte| *byte == ALERT), "{said:?}");
    }
    serves_tls(&stage);
    assert_eq!(stage.kms.count(), 1, "the good one's");
}

#[test]
fn a_connection_that_breaks_inside_tls_harms_nobody() {
    let stage = Stage::new();
    let mut stream = stage.connect_tls();
    stream.write_all(b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-le").unwrap();
    stream.sock.write_all(&[23, 3, 3, 0, 5, 1, 2, 3, 4, 5]).unwrap();
    let said = until_closed(&mut stream.sock);
    assert!(said.len() < 100, "{said:?}");
    serves_tls(&stage);
}

#[test]
fn who_never_sends_a_whole_head_is_closed_after_five_seconds() {
    let stage = Stage::new();
    let begun = Instant::now();
    let silent = connect(stage.plain());
    let mut half = connect(stage.plain());
    half.write_all(b"POST /?Action=Decrypt HTTP/1.1\r\nhost: loc").unwrap();
    let slow = connect(stage.plain());
    let dripping = drip(&slow, b"POST / HTTP/1.1\r\nhost: localhost\r\n");
    let silent_tls = stage.connect_tls();
    stage.assert_serves();
    for mut stream in [&silent, &half, &slow, &silent_tls.sock] {
        let said = until_closed(&mut stream);
        assert_eq!(String::from_utf8_lossy(&said), "", "closed without a word");
    }
    assert!(begun.elapsed() < HEAD + SLACK, "{:?}", begun.elapsed());
    dripping.join().unwrap();
    stage.assert_serves();
}

#[test]
fn a_body_that_does_not_come_is_refused_after_five_seconds() {
    let stage = Stage::new();
    let begun = Instant::now();
    let mut stalled = connect(stage.plain());
    stalled.write_all(b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\nAction=").unwrap();
    let mut chunked = connect(stage.plain());
    chunked.write_all(b"POST / HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n5\r\nAc").unwrap();
    let mut broken = connect(stage.plain());
    broken.write_all(b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\nAction=").unwrap();
    broken.shutdown(std::net::Shutdown::Write).unwrap();
    stage.assert_serves();
    for stream in [&mut stalled, &mut chunked] {
        let heard = http::answer(stream).expect("an answer");
        assert_eq!((heard.refusal(), heard.closes()), ((400, "ParseRequestParameterException".to_owned()), true));
        assert_eq!(until_closed(stream), b"");
    }
    let said = until_closed(&mut broken);
    assert!(said.starts_with(b"HTTP/1.1 400 "), "{}", String::from_utf8_lossy(&said));
    assert!(begun.elapsed() < HEAD + SLACK, "{:?}", begun.elapsed());
    stage.assert_serves();
}

#[test]
fn who_never_reads_its_answers_is_cut_off_after_five_seconds() {
    let stage = Stage::new();
    let blob = wrapped("key-1", "ZGVr", "");
    let mut deaf = connect(stage.plain());
    deaf.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
    let (mut written, mut full) = (0, None);
    let end = loop {
        let request = one().v1("POST", &decrypting(&blob), &[]).bytes();
        match deaf.write_all(&request) {
            Ok(()) => written += 1,
            // Both directions are full: now the daemon waits for us.
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                stage.assert_serves();
                let since = full.get_or_insert_with(Instant::now).elapsed();
                assert!(since < STALL + SLACK, "not cut off after {since:?}");
            }
            Err(error) => break error.kind(),
        }
    };
    eprintln!(
        "cut off after {written} requests, {:?} after nothing more went through",
        full.map(|since| since.elapsed())
    );
    assert!(matches!(end, ErrorKind::BrokenPipe | ErrorKind::ConnectionReset), "{end}");
    stage.assert_serves();
}

/// One byte of a header every 100 ms, until nobody listens.
fn drip(stream: &TcpStream, head: &'static [u8]) -> thread::JoinHandle<()> {
    let mut stream = stream.try_clone().unwrap();
    stream.write_all(head).unwrap();
    thread::spawn(move || {
        let begun = Instant::now();
        while begun.elapsed() < http::PATIENCE && stream.write_all(b"x").is_ok() {
            thread::sleep(Duration::from_millis(100));
        }
    })
}

fn serves_tls(stage: &Stage) {
    let blob = wrapped("key-1", "ZGVr", "");
    let mut stream = stage.connect_tls();
    stream.write_all(&secure().v3("POST", "Decrypt", &[], &[("CiphertextBlob", &blob)]).bytes()).unwrap();
    let heard = http::answer(&mut stream).expect("an answer");
    assert_eq!((heard.status, heard.json()["Plaintext"].as_str()), (200, Some("ZGVr")));
}

fn secure() -> Signer {
    Signer::new("LTAIsecure", "localsecret")
}

const ALERT: u8 = 21;
/// The record and the handshake header of a ClientHello of 512 bytes, and its version: the rest never comes.
const CLIENT_HELLO: &[u8] = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
const HANDSHAKE: Duration = Duration::from_secs(5);
const HEAD: Duration = Duration::from_secs(5);
const STALL: Duration = Duration::from_secs(5);
const SLACK: Duration = Duration::from_secs(4);
