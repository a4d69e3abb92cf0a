//! Codecs (stub).
pub mod aliyun;
