//! A kube-apiserver with metadata of its own, over stock `h2`.

use std::collections::BTreeMap;
use std::future::poll_fn;

use bytes::Bytes;
use http::Request;
use prost::Message;
use tokio::net::UnixStream;

/// `v2.EncryptRequest`.
#[derive(Clone, PartialEq, Message)]
struct Encrypt {
    #[prost(bytes = "vec", tag = "1")]
    plaintext: Vec<u8>,
}

/// `v2.EncryptResponse`.
#[derive(Clone, PartialEq, Message)]
struct Encrypted {
    #[prost(bytes = "vec", tag = "1")]
    ciphertext: Vec<u8>,
    #[prost(string, tag = "2")]
    key_id: String,
    #[prost(btree_map = "string, bytes", tag = "3")]
    annotations: BTreeMap<String, Vec<u8>>,
}

/// `v2.DecryptRequest`.
#[derive(Clone, PartialEq, Message)]
struct Decrypt {
    #[prost(bytes = "vec", tag = "1")]
    ciphertext: Vec<u8>,
    #[prost(string, tag = "3")]
    key_id: String,
    #[prost(btree_map = "string, bytes", tag = "4")]
    annotations: BTreeMap<String, Vec<u8>>,
}

/// Has `plaintext` encrypted, and decrypted again, both with `metadata`; what it wrote meanwhile.
pub(crate) async fn round(socket: &str, plaintext: &[u8], metadata: &[(&str, &str)]) -> Vec<u8> {
    let message = Encrypt { plaintext: plaintext.to_vec() };
    let (status, answer) = ask(socket, "Encrypt", &message, metadata).await;
    assert_eq!(status, "0");
    let Encrypted { ciphertext, key_id, annotations } = Encrypted::decode(answer).unwrap();
    let message = Decrypt { ciphertext: ciphertext.clone(), key_id, annotations };
    let (status, answer) = ask(socket, "Decrypt", &message, metadata).await;
    assert_eq!((&*status, Encrypt::decode(answer).unwrap().plaintext), ("0", plaintext.to_vec()));
    ciphertext
}

/// Asks for what no provider of ours has made; the status.
pub(crate) async fn stranger(socket: &str, metadata: &[(&str, &str)]) -> String {
    let message = Decrypt { ciphertext: vec![1], key_id: "nobody's".to_owned(), annotations: BTreeMap::new() };
    ask(socket, "Decrypt", &message, metadata).await.0
}

async fn ask(socket: &str, method: &str, message: &impl Message, metadata: &[(&str, &str)]) -> (String, Bytes) {
    let (mut client, connection) = h2::client::handshake(UnixStream::connect(socket).await.unwrap()).await.unwrap();
    tokio::spawn(connection);
    poll_fn(|cx| client.poll_ready(cx)).await.unwrap();
    let mut request = Request::post(format!("http://localhost/v2.KeyManagementService/{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    for (name, value) in metadata {
        request = request.header(*name, *value);
    }
    let (response, mut sending) = client.send_request(request.body(()).unwrap(), false).unwrap();
    let mut framed = vec![0];
    framed.extend_from_slice(&u32::try_from(message.encoded_len()).unwrap().to_be_bytes());
    framed.extend(message.encode_to_vec());
    sending.send_data(framed.into(), true).unwrap();
    let (head, mut body) = response.await.unwrap().into_parts();
    let mut said = Vec::new();
    while let Some(piece) = body.data().await {
        let piece = piece.unwrap();
        body.flow_control().release_capacity(piece.len()).unwrap();
        said.extend_from_slice(&piece);
    }
    let trailers = body.trailers().await.unwrap().unwrap_or_default();
    let status = head.headers.get("grpc-status").or(trailers.get("grpc-status")).unwrap();
    (status.to_str().unwrap().to_owned(), Bytes::from(said.split_off(said.len().min(5))))
}
