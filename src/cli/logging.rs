//! What a process logs, as its command line and its environment say.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt;

use super::line::{self, LogFormat, Shape};
use super::lines::{Lines, Rest};
use crate::clock::System;
use crate::config::Environment;
use crate::systemd;
use crate::verbosity;

#[derive(Debug, Args)]
pub(super) struct Logging {
    /// How much to log to standard error: off, error, warn, info, debug or trace, also for one module
    /// (`info,kmsproxy::watch=debug`). Also KMSPROXY_LOG. [default: info]
    #[arg(long, global = true, value_name = "LEVEL", value_parser = filter)]
    log: Option<String>,
    /// In which form to log. Also KMSPROXY_LOG_FORMAT. [default: text]
    #[arg(long, global = true, value_name = "FORMAT")]
    log_format: Option<LogFormat>,
}

impl Logging {
    /// Lines are written by a thread of their own, and dropped where that cannot keep up: a standard error that nobody
    /// reads shall not stop a request. What is left is written when the rest is dropped.
    pub(super) fn start(&self, environment: &Environment) -> Result<Rest, String> {
        let level = self.log.as_deref().or_else(|| environment.text("KMSPROXY_LOG")).unwrap_or(LOG_DEFAULT);
        let format = match (self.log_format, environment.text("KMSPROXY_LOG_FORMAT")) {
            (Some(format), _) => format,
            (None, Some(format)) => {
                LogFormat::from_str(format, false).map_err(|_| "KMSPROXY_LOG_FORMAT: write text or json".to_owned())?
            }
            (None, None) => LogFormat::Text,
        };
        let journal = systemd::reads(io::stderr().as_fd(), &environment.lookup());
        let (lines, rest) = Lines::to_standard_error();
        let (subscriber, put) = line::subscriber(Shape { format, journal }, Arc::new(System), level, lines)?;
        verbosity::begin(level, put);
        subscriber.try_init().map_err(|error| error.to_string()).map(|()| rest)
    }
}

fn filter(text: &str) -> Result<String, String> {
    EnvFilter::try_new(text).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

const LOG_DEFAULT: &str = "info";
