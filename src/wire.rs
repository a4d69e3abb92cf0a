//! Pure codecs, one per dialect: bytes in, words out, and back. No I/O, no clock, no state.

pub mod aliyun;
pub mod base64;
pub mod brief;
pub mod fields;
pub mod http2;
pub mod kubernetes;
pub mod otlp;
