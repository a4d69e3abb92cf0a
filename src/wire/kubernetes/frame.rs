//! gRPC's envelope of a message: a flag, the length, the message. Source: "gRPC over HTTP2", `Length-Prefixed-Message`.

use crate::fault::{Fault, Kind};

/// The largest request body: the most that `Decrypt` of v2 may carry is 1,024 bytes of ciphertext, as much of `key_id`
/// and 32,768 bytes of annotations, and protobuf at most trebles these.
pub const BODY_BYTES_MAX: usize = 128 * 1024;

/// The one message in the body of a unary request.
///
/// # Errors
/// [`Kind::Unsupported`] where it is compressed, [`Kind::TooLarge`] where it says to be longer than any request, and
/// [`Kind::Malformed`] where the body is not exactly one message.
pub(super) fn message(body: &[u8]) -> Result<&[u8], Fault> {
    let Some((head, message)) = body.split_first_chunk::<HEAD_BYTES>() else {
        return Err(malformed("there is no whole message"));
    };
    let [flag, length @ ..] = *head;
    match flag {
        PLAIN => {}
        COMPRESSED => return Err(Fault::caller(Kind::Unsupported)),
        _ => return Err(malformed("the flag before the message is neither 0 nor 1")),
    }
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if length > BODY_BYTES_MAX - HEAD_BYTES {
        return Err(Fault::caller(Kind::TooLarge));
    }
    match message.len() {
        actual if actual < length => Err(malformed("the message is cut short")),
        actual if actual > length => Err(malformed("there is something behind the message")),
        _ => Ok(message),
    }
}

/// A message under way, in a buffer that is large enough from the start: growing would leave copies behind. All fields
/// of this API are byte strings or texts.
pub(super) struct Frame(Vec<u8>);

impl Frame {
    /// Begins a message of `length` bytes.
    pub(super) fn with_room(length: usize) -> Self {
        let mut bytes = Vec::with_capacity(HEAD_BYTES + length);
        bytes.extend_from_slice(&[0; HEAD_BYTES]);
        Self(bytes)
    }

    /// Appends a field; an empty one is left out, as proto3 has it.
    pub(super) fn field(&mut self, number: u8, value: &[u8]) {
        if !value.is_empty() {
            self.head(number, value.len());
            self.0.extend_from_slice(value);
        }
    }

    /// Appends an entry of a map from text to bytes.
    pub(super) fn entry(&mut self, number: u8, key: &str, value: &[u8]) {
        self.head(number, field_len(key.len()) + field_len(value.len()));
        self.field(1, key.as_bytes());
        self.field(2, value);
    }

    fn head(&mut self, number: u8, length: usize) {
        self.0.push(number << 3 | LENGTH_DELIMITED);
        prost::encode_length_delimiter(length, &mut self.0).expect("a vector has room for any varint");
    }

    /// The whole frame, uncompressed.
    pub(super) fn close(mut self) -> Vec<u8> {
        debug_assert_eq!(self.0.len(), self.0.capacity(), "the room was measured");
        let length = u32::try_from(self.0.len() - HEAD_BYTES).expect("no message is as long as 4 GiB");
        self.0[1..HEAD_BYTES].copy_from_slice(&length.to_be_bytes());
        self.0
    }
}

/// The length of a field whose value is `value` bytes long.
pub(super) fn field_len(value: usize) -> usize {
    if value == 0 { 0 } else { 1 + prost::length_delimiter_len(value) + value }
}

/// The length of an entry of a map from text to bytes.
pub(super) fn entry_len(key: &str, value: &[u8]) -> usize {
    let inner = field_len(key.len()) + field_len(value.len());
    1 + prost::length_delimiter_len(inner) + inner
}

const fn malformed(why: &'static str) -> Fault {
    Fault::caller(Kind::Malformed(why))
}

const PLAIN: u8 = 0;
const COMPRESSED: u8 = 1;
const HEAD_BYTES: usize = 5;
const LENGTH_DELIMITED: u8 = 2;
