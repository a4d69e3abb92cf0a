//! `kmsproxy audit`: what can be said of an audit log without the daemon that wrote it.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, BufReader, Write};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, Subcommand};

use crate::audit::verify::{Report, SecretNeeded, Verdict, Verifier};
use crate::audit::{Head, Keys};
use crate::config::{self, Environment};
use crate::secret::Secret;

/// `kmsproxy audit`.
#[derive(Debug, Args)]
pub struct AuditCommand {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Say whether an audit log is whole, and which records were removed, altered, reordered or cut off
    #[command(after_help = VERIFY_HELP)]
    Verify(Verify),
    /// Print the digest by which a log that is keyed by a secret records a ciphertext
    Digest(Digest),
}

#[derive(Debug, Args)]
struct Verify {
    /// The files of one log, the oldest first; - is standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The secret that keys the chain; may be given again, for a log that outlived a change of it
    #[arg(long, value_name = "FILE")]
    secret_file: Vec<PathBuf>,
    /// A record that must be there, as the daemon's own log or an earlier verification named it; may be given again
    #[arg(long, value_name = "SEQ:HASH", value_parser = anchor)]
    anchor: Vec<Head>,
    /// Print what was found as one line of JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct Digest {
    /// The secret that keys the log
    #[arg(long, value_name = "FILE")]
    secret_file: PathBuf,
    /// The ciphertext blob, in base64 as the KMS returned it
    ciphertext: String,
}

/// Why there is no verdict.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// Something is missing on the command line.
    #[error("{0}")]
    Usage(String),
    /// A file cannot be read.
    #[error("{0}")]
    Unread(String),
}

impl AuditCommand {
    /// Does it, and prints to standard output. What was verified comes back with its verdict; a digest is [`Verdict::Whole`].
    ///
    /// # Errors
    /// See [`AuditError`].
    pub fn run(self, environment: &Environment) -> Result<Verdict, AuditError> {
        match self.task {
            Task::Verify(verify) => verify.run(environment),
            Task::Digest(digest) => digest.run(environment),
        }
    }
}

impl Verify {
    fn run(self, environment: &Environment) -> Result<Verdict, AuditError> {
        let secrets = self.secret_file.iter().map(|path| keys(path, environment));
        let mut keys: Vec<Keys> = secrets.collect::<Result<_, _>>()?;
        if keys.is_empty() {
            keys.push(Keys::of(None).map_err(|error| AuditError::Unread(error.to_string()))?);
        }
        let mut verifier = Verifier::new(keys, self.anchor);
        for path in &self.files {
            let name = path.display().to_string();
            let outcome = if path == Path::new("-") {
                verifier.read("standard input", io::stdin().lock())
            } else {
                File::open(path).and_then(|file| verifier.read(&name, BufReader::new(file)))
            };
            outcome.map_err(|error| unread(&name, &error))?;
        }
        let report = verifier.finish();
        // Texts and numbers always have a JSON form.
        let text = if self.json { serde_json::to_string(&report).unwrap_or_default() + "\n" } else { told(&report) };
        let _ = io::stdout().lock().write_all(text.as_bytes());
        Ok(report.verdict)
    }
}

impl Digest {
    fn run(self, environment: &Environment) -> Result<Verdict, AuditError> {
        let keys = keys(&self.secret_file, environment)?;
        let ciphertext = STANDARD.decode(self.ciphertext.trim());
        let ciphertext = ciphertext.map_err(|_| AuditError::Usage("the ciphertext is not base64".to_owned()))?;
        let _ = writeln!(io::stdout(), "{}", keys.digest(&ciphertext));
        Ok(Verdict::Whole)
    }
}

fn keys(path: &Path, environment: &Environment) -> Result<Keys, AuditError> {
    let secret: Secret = config::secret_file(path, environment).map_err(AuditError::Unread)?;
    Keys::of(Some(&secret)).map_err(|error| AuditError::Unread(error.to_string()))
}

fn unread(name: &str, error: &io::Error) -> AuditError {
    if error.get_ref().is_some_and(|inner| inner.is::<SecretNeeded>()) {
        return AuditError::Usage(format!("{name}: {SecretNeeded}\n  remedy: give it with --secret-file FILE"));
    }
    AuditError::Unread(format!("{name} cannot be read: {error}"))
}

fn told(report: &Report) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    for finding in &report.findings {
        let _ = writeln!(text, "{}:{}: {}", finding.file, finding.line, finding.text);
    }
    if report.more_findings > 0 {
        let _ = writeln!(text, "… and {} more", report.more_findings);
    }
    let verdict = match report.verdict {
        Verdict::Whole => "whole",
        Verdict::Incomplete => "INCOMPLETE: nothing speaks of tampering, but records may be missing",
        Verdict::Broken => "BROKEN",
    };
    let _ = writeln!(text, "{verdict}");
    let _ = write!(text, "{} records", report.records);
    if let (Some(first), Some(last), Some(time)) = (report.first, &report.last, &report.last_time) {
        let _ = write!(text, ", from {first}; the last, of {time}: {last}");
    }
    text + "\n"
}

fn anchor(text: &str) -> Result<Head, String> {
    Head::parse(text).ok_or_else(|| "write it as SEQ:HASH, a number and 64 hex digits".to_owned())
}

const VERIFY_HELP: &str = "\
Examples:
  kmsproxy audit verify /var/log/kmsproxy/audit.jsonl.1 /var/log/kmsproxy/audit.jsonl
  kmsproxy audit verify --secret-file /etc/kmsproxy/audit.secret --anchor 4711:9f2c… /var/log/kmsproxy/audit.jsonl
  journalctl -o cat SYSLOG_IDENTIFIER=kmsproxy-audit | kmsproxy audit verify -

Exit codes:
   0  whole: every record is there, and the daemon ended the log in an orderly way
   1  incomplete: no sign of tampering, but the end is (or once was) open, or the daemon says that it lost records
  64  the log is keyed, and its secret was not given
  65  broken: records were removed, altered, reordered, or cut off before an anchor
  70  a file cannot be read

Without a secret, whoever can write the file can hash everything after a change anew, and nothing here shows it. With one
he needs the secret. A tail that was cut off looks like a daemon that was killed: an anchor tells them apart.";
