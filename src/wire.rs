//! Pure codecs, one per dialect: bytes in, words out, and back. No I/O, no clock, no state.

pub mod aliyun;
mod base64;
pub mod kubernetes;
