//! How the process ends.

use std::process::ExitCode;

use crate::app;
use crate::bench::Failure;

/// How the process ends. The numbers are those of sysexits.h where it has a fitting one; they are part of the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// 0: done, or stopped as asked.
    Done,
    /// 1: what was looked over is not whole, and nothing says that somebody changed it.
    Incomplete,
    /// 64 (`EX_USAGE`): the command line makes no sense.
    Usage,
    /// 65 (`EX_DATAERR`): what was looked over has been changed, or a plaintext was not the one that was put in.
    Broken,
    /// 70 (`EX_SOFTWARE`): it ran, and then could not go on.
    Runtime,
    /// 75 (`EX_TEMPFAIL`): somebody else listens on the address; trying again later may help.
    Taken,
    /// 78 (`EX_CONFIG`): the configuration is wrong; trying again does not help until somebody mends it.
    Configuration,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Done => 0,
            Exit::Incomplete => 1,
            Exit::Usage => 64,
            Exit::Broken => 65,
            Exit::Runtime => 70,
            Exit::Taken => 75,
            Exit::Configuration => 78,
        })
    }
}

impl From<&app::Error> for Exit {
    fn from(error: &app::Error) -> Self {
        match error {
            app::Error::Config(_) => Self::Configuration,
            app::Error::Runtime(_) => Self::Runtime,
            app::Error::Taken { .. } => Self::Taken,
        }
    }
}

impl From<&Failure> for Exit {
    fn from(failure: &Failure) -> Self {
        match failure {
            Failure::Usage(_) => Self::Usage,
            Failure::Runtime(_) => Self::Runtime,
            Failure::Wrong(_) => Self::Broken,
        }
    }
}
