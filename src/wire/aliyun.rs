//! Alibaba Cloud dialect (stub).
pub mod answer;
pub mod request;
pub mod signature;
