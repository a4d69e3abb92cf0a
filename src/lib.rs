//! kmsproxy: a local, caching, fail-closed proxy between Kubernetes KMS plugins and a cloud KMS.
//!
//! The modules below stand in the order of the floors: each imports only from those above it in this list.
//! `ARCHITECTURE.md` walks the path of a request; `SEMANTICS.md` numbers the promises.

pub mod clock;
pub mod secret;

pub mod claim;
pub mod fault;
pub mod kms;

pub mod flight;
pub mod governor;
pub mod lease;
pub mod metrics;
pub mod seal;
pub mod wire;

pub mod auth;
pub mod ledger;

pub mod policy;

pub mod cache;
pub mod upstream;

pub mod engine;
pub mod watch;

pub mod admin;
pub mod serve;
