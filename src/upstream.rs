//! What speaks to a KMS.

pub mod aliyun;
mod asking;
pub mod credentials;
pub mod gone;
pub mod local;
#[cfg(test)]
mod rehearsal;
pub mod transport;

pub use asking::{Asking, Upstream};
