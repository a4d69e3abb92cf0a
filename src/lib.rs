//! kmsproxy: a local, caching, fail-closed proxy between Kubernetes KMS plugins and a cloud KMS.
//!
//! The modules below stand in the order of the floors: each imports only from those above it in this list.
//! `ARCHITECTURE.md` walks the path of a request; `SEMANTICS.md` numbers the promises.

pub mod chance;
pub mod clock;
pub mod guard;
pub mod replacement;
pub mod roster;
pub mod secret;
pub mod stamp;
pub mod sync;
pub mod systemd;

pub mod claim;
pub mod fault;
pub mod kms;

pub mod audit;
pub mod flight;
pub mod governor;
pub mod lease;
pub mod metrics;
pub mod seal;
pub mod tls;
pub mod trace;
pub mod verbosity;
pub mod wire;

pub mod auth;
pub mod ledger;
pub mod listener;

pub mod policy;

pub mod cache;
pub mod upstream;
pub mod working_set;

pub mod engine;
pub mod exporter;
pub mod warm;
pub mod watch;

pub mod admin;
pub mod serve;

pub mod config;

pub mod app;

pub mod bench;
pub mod ctl;

pub mod cli;

/// Wipes every block of heap when it is freed: what passed through the buffers of hyper and TLS would otherwise stay
/// readable for as long as the process lives. Costs at most 3 % of a cached hit.
///
/// A library does not choose for the program that it is part of: `main.rs` makes it the global allocator, and so must
/// any other program that is to keep promise 13. `tests/leaks.rs` shows what is found in one that does not.
pub type Allocator = zeroizing_alloc::ZeroAlloc<std::alloc::System>;

/// The one [`Allocator`].
pub const ALLOCATOR: Allocator = zeroizing_alloc::ZeroAlloc(std::alloc::System);
