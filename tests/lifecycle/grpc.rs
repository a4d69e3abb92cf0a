//! A kube-apiserver that honours GOAWAY: what it asks after that goes over another connection, and what was under way is
//! answered.

use std::future::poll_fn;
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use http::Request;
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep, timeout};

use super::strict::Tally;

/// One call; its answer's message.
async fn ask(connection: &mut SendRequest<Bytes>, method: &str, message: &[u8]) -> Result<Bytes, h2::Error> {
    poll_fn(|cx| connection.poll_ready(cx)).await?;
    let request = Request::post(format!("http://localhost/v2.KeyManagementService/{method}"));
    let request = request.header("content-type", "application/grpc").header("te", "trailers").body(()).unwrap();
    let (response, mut sending) = connection.send_request(request, false)?;
    let mut framed = vec![0];
    framed.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
    framed.extend_from_slice(message);
    sending.send_data(framed.into(), true)?;
    let response = timeout(PATIENCE, response).await.expect("an answer in time")?;
    let early = response.headers().get("grpc-status").cloned();
    let (mut said, mut body) = (Vec::new(), response.into_body());
    while let Some(part) = body.data().await {
        let part = part?;
        body.flow_control().release_capacity(part.len())?;
        said.extend_from_slice(&part);
    }
    let late = body.trailers().await?.and_then(|trailers| trailers.get("grpc-status").cloned());
    let status = early.or(late).map(|status| String::from_utf8_lossy(status.as_bytes()).into_owned());
    let message = said.get(5..).unwrap_or_default().to_vec();
    Ok(if status.as_deref() == Some("0") { message.into() } else { Bytes::from(format!("status {status:?}")) })
}

async fn connect(path: &str) -> Result<SendRequest<Bytes>, String> {
    let stream = UnixStream::connect(path).await.map_err(|error| format!("connecting: {error}"))?;
    let (client, connection) =
        h2::client::handshake(stream).await.map_err(|error| format!("shaking hands: {error}"))?;
    tokio::spawn(connection);
    Ok(client)
}

/// Has `plaintext` encrypted; what a Decrypt of it is to say.
pub(crate) async fn wrap(path: &str, plaintext: &[u8]) -> Vec<u8> {
    let mut connection = connect(path).await.unwrap();
    let answer = ask(&mut connection, "Encrypt", &field(1, plaintext)).await.unwrap();
    let mut asked = Vec::new();
    // Of EncryptResponse { ciphertext = 1, key_id = 2, annotations = 3 } to DecryptRequest { 1, 3, 4 }.
    for (number, value) in fields(&answer) {
        asked.extend(field(if number == 1 { 1 } else { number + 1 }, &value));
    }
    asked
}

/// Decrypts until `end`, one call after the other.
pub(crate) async fn decrypt_until(path: String, asked: Vec<u8>, plaintext: Vec<u8>, end: impl Fn() -> bool) -> Tally {
    let (mut tally, mut held) = (Tally::default(), None);
    let expected = field(1, &plaintext);
    while !end() {
        let begun = Instant::now();
        let mut connection = match held.take() {
            Some(connection) => connection,
            None => match connect(&path).await {
                Ok(connection) => {
                    tally.connections += 1;
                    connection
                }
                Err(error) => {
                    tally.fail(error);
                    sleep(PACE).await;
                    continue;
                }
            },
        };
        match ask(&mut connection, "Decrypt", &asked).await {
            Ok(answer) if answer == expected => {
                tally.served += 1;
                held = Some(connection);
            }
            Ok(other) => tally.fail(String::from_utf8_lossy(&other).into_owned()),
            // The server has said goodbye, and has not taken this one.
            Err(error) if error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR) => {}
            Err(error) if error.reason() == Some(h2::Reason::REFUSED_STREAM) => {}
            Err(error) => tally.fail(format!("broken: {error}")),
        }
        tally.longest = tally.longest.max(begun.elapsed());
        sleep(PACE).await;
    }
    tally
}

fn field(number: u8, value: &[u8]) -> Vec<u8> {
    let mut written = vec![number << 3 | 2];
    let mut length = value.len();
    while length >= 0x80 {
        written.push(u8::try_from(length & 0x7f).unwrap() | 0x80);
        length >>= 7;
    }
    written.push(u8::try_from(length).unwrap());
    written.extend_from_slice(value);
    written
}

/// The fields of a message that has none but those with a length.
fn fields(mut message: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut found = Vec::new();
    while let [tag, rest @ ..] = message {
        assert_eq!(tag & 7, 2);
        let (mut length, mut shift, mut rest) = (0_usize, 0, rest);
        while let [byte, after @ ..] = rest {
            length |= usize::from(byte & 0x7f) << shift;
            (shift, rest) = (shift + 7, after);
            if byte & 0x80 == 0 {
                break;
            }
        }
        found.push((tag >> 3, rest[..length].to_vec()));
        message = &rest[length..];
    }
    found
}

const PATIENCE: Duration = Duration::from_secs(20);
const PACE: Duration = Duration::from_millis(5);
