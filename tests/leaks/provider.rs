//! A client of a Kubernetes socket, as small as can be: unary gRPC of both versions on one connection.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use h2::client::SendRequest;
use http::Request;
use prost::Message;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;

/// `v1beta1.EncryptRequest` and `DecryptRequest`.
#[derive(Message)]
struct RequestV1 {
    #[prost(string, tag = "1")]
    version: String,
    #[prost(bytes = "vec", tag = "2")]
    bytes: Vec<u8>,
}

/// Any answer of which only the first field, a text of bytes, matters.
#[derive(Message)]
struct Answer {
    #[prost(bytes = "vec", tag = "1")]
    bytes: Vec<u8>,
}

/// `v2.EncryptRequest`.
#[derive(Message)]
struct EncryptV2 {
    #[prost(bytes = "vec", tag = "1")]
    plaintext: Vec<u8>,
    #[prost(string, tag = "2")]
    uid: String,
}

/// `v2.EncryptResponse`.
#[derive(Message)]
struct EncryptedV2 {
    #[prost(bytes = "vec", tag = "1")]
    ciphertext: Vec<u8>,
    #[prost(string, tag = "2")]
    key_id: String,
    #[prost(btree_map = "string, bytes", tag = "3")]
    annotations: BTreeMap<String, Vec<u8>>,
}

/// `v2.DecryptRequest`.
#[derive(Message)]
struct DecryptV2 {
    #[prost(bytes = "vec", tag = "1")]
    ciphertext: Vec<u8>,
    #[prost(string, tag = "2")]
    uid: String,
    #[prost(string, tag = "3")]
    key_id: String,
    #[prost(btree_map = "string, bytes", tag = "4")]
    annotations: BTreeMap<String, Vec<u8>>,
}

/// What is stored of a DEK.
pub(crate) enum Stored {
    V1(Vec<u8>),
    V2(Vec<u8>, String, BTreeMap<String, Vec<u8>>),
}

/// One connection; another in its place when the daemon has told it to go.
pub(crate) struct Client {
    sender: SendRequest<Bytes>,
    connection: JoinHandle<()>,
    socket: PathBuf,
    /// Heads and trailers of all answers.
    pub(crate) heard: String,
}

/// The connection is.
struct Gone;

impl From<h2::Error> for Gone {
    fn from(_: h2::Error) -> Self {
        Self
    }
}

impl Client {
    pub(crate) async fn connect(socket: &Path) -> Self {
        let (sender, connection) = h2::client::handshake(UnixStream::connect(socket).await.unwrap()).await.unwrap();
        // How it ends is the test's to see.
        let connection = tokio::spawn(async move { drop(connection.await) });
        Self { sender, connection, socket: socket.to_owned(), heard: String::new() }
    }

    /// Whether the daemon has closed it.
    pub(crate) fn is_closed(&self) -> bool {
        self.connection.is_finished()
    }

    /// What is to be stored; `None` where the daemon refuses.
    pub(crate) async fn encrypt_v1(&mut self, dek: &[u8]) -> Option<Stored> {
        let request = RequestV1 { version: "v1beta1".to_owned(), bytes: dek.to_vec() };
        let answer: Answer = self.ask("/v1beta1.KeyManagementService/Encrypt", &request).await?;
        Some(Stored::V1(answer.bytes))
    }

    /// What is to be stored; `None` where the daemon refuses.
    pub(crate) async fn encrypt_v2(&mut self, dek: &[u8]) -> Option<Stored> {
        let request = EncryptV2 { plaintext: dek.to_vec(), uid: "uid".to_owned() };
        let EncryptedV2 { ciphertext, key_id, annotations } =
            self.ask("/v2.KeyManagementService/Encrypt", &request).await?;
        Some(Stored::V2(ciphertext, key_id, annotations))
    }

    /// The DEK; `None` where the daemon refuses.
    pub(crate) async fn decrypt(&mut self, stored: &Stored) -> Option<Vec<u8>> {
        let answer: Answer = match stored {
            Stored::V1(bytes) => {
                let request = RequestV1 { version: "v1beta1".to_owned(), bytes: bytes.clone() };
                self.ask("/v1beta1.KeyManagementService/Decrypt", &request).await
            }
            Stored::V2(ciphertext, key_id, annotations) => {
                let (ciphertext, key_id, uid) = (ciphertext.clone(), key_id.clone(), "uid".to_owned());
                let request = DecryptV2 { ciphertext, uid, key_id, annotations: annotations.clone() };
                self.ask("/v2.KeyManagementService/Decrypt", &request).await
            }
        }?;
        Some(answer.bytes)
    }

    /// The answer; `None` where the call was refused.
    async fn ask<A: Message + Default>(&mut self, path: &str, message: &impl Message) -> Option<A> {
        if let Ok(answer) = self.attempt(path, message).await {
            return answer;
        }
        let heard = std::mem::take(&mut self.heard);
        *self = Self { heard, ..Self::connect(&self.socket).await };
        self.attempt(path, message).await.ok().flatten()
    }

    async fn attempt<A: Message + Default>(&mut self, path: &str, message: &impl Message) -> Result<Option<A>, Gone> {
        let request = Request::post(format!("http://localhost{path}"));
        let request = request.header("content-type", "application/grpc").header("te", "trailers").body(()).unwrap();
        poll_fn(|cx| self.sender.poll_ready(cx)).await?;
        let (response, mut sending) = self.sender.send_request(request, false)?;
        let length = u32::try_from(message.encoded_len()).unwrap();
        let frame = [&[0], &length.to_be_bytes()[..], &message.encode_to_vec()].concat();
        sending.send_data(frame.into(), true)?;
        let response = response.await?;
        self.heard += &format!("{:?}\n", response.headers());
        let mut body = response.into_body();
        let mut said = BytesMut::new();
        while let Some(part) = body.data().await {
            let part = part?;
            body.flow_control().release_capacity(part.len())?;
            said.extend_from_slice(&part);
        }
        self.heard += &format!("{:?}\n", body.trailers().await?);
        Ok(said.get(5..).map(|message| A::decode(message).unwrap()))
    }
}
