//! The house: from a plan to bound sockets to a daemon that runs until it is told to stop.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusHandle;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::admin::{self, Health};
use crate::auth::{CallerName, Door};
use crate::cache::Cache;
use crate::clock::{Clock, Deadline, System};
use crate::config::{Address, Environment, Kms, ListenerPlan, Plan, UpstreamPlan};
use crate::engine::{Direct, Engine, Parts, Respond};
use crate::fault::Fault;
use crate::guard;
use crate::kms::{Answer, Call};
use crate::ledger::Ledger;
use crate::listener::{self, BindError, Listener};
use crate::metrics;
use crate::policy::{Grant, Policy};
use crate::serve::{self, Hosts};
use crate::systemd::{Inherited, Notifier, watchdog_period};
use crate::upstream::Upstream;
use crate::upstream::aliyun::Aliyun;
use crate::upstream::local::Local;
use crate::watch::{self, Watch};

pub mod embedded;
