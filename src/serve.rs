//! What is served.

pub mod control;
