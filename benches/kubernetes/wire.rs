//! The messages of KMS v1, as prost reads and writes them.

use bytes::BufMut;
use prost::Message;

#[derive(Clone, PartialEq, Message)]
pub(crate) struct DecryptRequest {
    #[prost(string, tag = "1")]
    pub(crate) version: String,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) cipher: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct DecryptResponse {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) plain: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct EncryptRequest {
    #[prost(string, tag = "1")]
    pub(crate) version: String,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) plain: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct EncryptResponse {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) cipher: Vec<u8>,
}

/// `message` in gRPC's envelope.
pub(crate) fn framed(message: &impl Message) -> Vec<u8> {
    let mut frame = Vec::with_capacity(5 + message.encoded_len());
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.encoded_len()).unwrap());
    message.encode(&mut frame).unwrap();
    frame
}

pub(crate) fn unframed<M: Message + Default>(frame: &[u8]) -> M {
    M::decode(&frame[5..]).unwrap()
}
