//! kmsproxy: a local, caching, fail-closed proxy between Kubernetes KMS plugins and a cloud KMS.
//!
//! The modules below stand in the order of the floors: each imports only from those above it in this list.
//! `ARCHITECTURE.md` walks the path of a request; `SEMANTICS.md` numbers the promises.

pub mod clock;
pub mod secret;

pub mod claim;
pub mod fault;
pub mod kms;

pub mod tls;

pub mod auth;
pub mod listener;

pub mod policy;

pub mod upstream;
