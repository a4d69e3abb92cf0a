//! The table once more, as it is meant: what each class of answers must do. Shares nothing with the code's.

use std::time::Duration;

use kmsproxy::fault::Retry;

/// Answers with equal consequences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    AccountRefused,
    CiphertextWrong,
    IdentityDoubted,
    IdentityRefused,
    KeyRefused,
    NotUnderstood,
    ParameterWrong,
    Silent,
    SilentAskedAgain,
}

/// What the question was about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Question {
    /// A probe.
    Scope,
    /// A Decrypt of what was never seen.
    Stranger,
    /// A call that names the key's id.
    Id,
    /// A call that names an alias or an ARN.
    Name,
    /// A read that names no key.
    List,
}

/// The standing of three scopes, each now, two seconds on (a fifth of a probe interval), and after the end of its lease
/// with an outage grace; and whether every key is probed at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    /// The scope in question.
    pub(crate) scope: [&'static str; 3],
    /// The same key in another context.
    pub(crate) context: [&'static str; 3],
    /// Another key.
    pub(crate) other: [&'static str; 3],
    pub(crate) probed: bool,
}

impl Class {
    pub(crate) const fn seen(self, question: Question) -> Seen {
        let none = Seen { scope: UNTOUCHED, context: UNTOUCHED, other: UNTOUCHED, probed: false };
        match (self, question) {
            (Self::KeyRefused, Question::Scope | Question::Id) => Seen { scope: REFUSED, context: REFUSED, ..none },
            (Self::KeyRefused, Question::Stranger | Question::Name | Question::List)
            | (Self::AccountRefused, Question::Id | Question::Name | Question::List) => Seen { probed: true, ..none },
            (Self::AccountRefused, Question::Scope) => Seen { scope: REFUSED, probed: true, ..none },
            (Self::AccountRefused | Self::IdentityRefused, Question::Stranger) => all(ON_NOTICE),
            (Self::IdentityRefused, Question::Scope) => Seen { scope: REFUSED, ..none },
            (Self::IdentityDoubted, _) => all(SUSPENDED),
            (Self::NotUnderstood | Self::ParameterWrong, Question::Scope) => Seen { scope: SUSPENDED, ..none },
            (Self::Silent | Self::SilentAskedAgain, Question::Scope) => Seen { scope: SILENT, ..none },
            (Self::IdentityRefused, Question::Id | Question::Name | Question::List)
            | (Self::CiphertextWrong, _)
            | (
                Self::NotUnderstood | Self::ParameterWrong | Self::Silent | Self::SilentAskedAgain,
                Question::Id | Question::Name | Question::List | Question::Stranger,
            ) => none,
        }
    }

    pub(crate) const fn retry(self) -> Retry {
        match self {
            Self::IdentityDoubted => Retry::Renewed,
            Self::SilentAskedAgain => Retry::Later,
            Self::AccountRefused
            | Self::CiphertextWrong
            | Self::IdentityRefused
            | Self::KeyRefused
            | Self::NotUnderstood
            | Self::ParameterWrong
            | Self::Silent => Retry::Never,
        }
    }

    pub(crate) const fn remembered(self) -> Duration {
        match self {
            Self::CiphertextWrong | Self::ParameterWrong => Duration::from_secs(5),
            Self::AccountRefused | Self::IdentityRefused | Self::KeyRefused | Self::NotUnderstood => {
                Duration::from_secs(1)
            }
            Self::IdentityDoubted | Self::Silent | Self::SilentAskedAgain => Duration::from_millis(250),
        }
    }
}

const fn all(standing: [&'static str; 3]) -> Seen {
    Seen { scope: standing, context: standing, other: standing, probed: true }
}

const UNTOUCHED: [&str; 3] = ["serving", "serving", "lapsed"];
const ON_NOTICE: [&str; 3] = ["serving", "lapsed", "lapsed"];
const REFUSED: [&str; 3] = ["refused"; 3];
const SILENT: [&str; 3] = ["serving", "serving", "serving_by_grace"];
const SUSPENDED: [&str; 3] = ["suspended"; 3];
