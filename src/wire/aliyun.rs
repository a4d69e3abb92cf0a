//! The Alibaba Cloud KMS OpenAPI, RPC style, version 2016-01-20.
//!
//! Used from both sides: a face parses with [`request`] and encodes with [`answer`] and [`refusal`]; the upstream does
//! the reverse and signs with [`signature`]. Nothing here allocates a map or builds a canonical form to verify one.

pub mod answer;
mod authorization;
mod blob;
mod call;
mod context;
mod escape;
mod parameters;
pub mod refusal;
pub mod request;
pub mod signature;
