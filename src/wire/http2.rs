//! What a client of HTTP/2 writes, as far as it must be mended before h2 reads it: see [`authority`].

pub mod authority;
#[cfg(test)]
pub(crate) mod blocks;
pub mod frames;

/// Bytes of a frame's payload: the least that the RFC allows, and the most that we take.
pub const FRAME_BYTES_MAX: usize = 16 * 1024;
