//! What a configuration refers to on this machine: files, variables, systemd credentials.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::unistd::{Group, User};
use rustix::fs::{Access, OFlags};

use crate::config::environment::Environment;
use crate::secret::Secret;

/// The machine as the checks see it.
#[derive(Debug)]
pub(super) struct Machine<'m> {
    environment: &'m Environment,
    root: Option<&'m Path>,
}

/// What is wrong with a reference, and the remedy.
pub(super) type Wrong = (String, String);

impl<'m> Machine<'m> {
    pub(super) const fn new(environment: &'m Environment, root: Option<&'m Path>) -> Self {
        Self { environment, root }
    }

    /// A secret from a file that nobody else can read, without the line end that editors and `echo` leave.
    pub(super) fn secret_file(&self, path: &Path) -> Result<Secret, Wrong> {
        let file = self.private(path)?;
        secret(file, path)
    }

    /// A secret from an environment variable.
    pub(super) fn secret_variable(&self, name: &str) -> Result<Secret, Wrong> {
        let unset = || (format!("the environment variable {name} is unset or empty"), format!("set {name}"));
        self.environment.secret(name).map(|secret| Secret::copied(trimmed(secret.expose()))).ok_or_else(unset)
    }

    /// Whether an environment variable has a value.
    pub(super) fn has_variable(&self, name: &str) -> bool {
        self.environment.secret(name).is_some()
    }

    /// A secret that systemd placed in `$CREDENTIALS_DIRECTORY`. Its permissions are systemd's affair: it grants by ACL,
    /// which looks like group access.
    pub(super) fn secret_credential(&self, name: &str) -> Result<Secret, Wrong> {
        if name.is_empty() || name.contains('/') || name.starts_with('.') {
            return Err((
                "is not the name of a systemd credential".to_owned(),
                "write the ID of LoadCredential=".to_owned(),
            ));
        }
        let remedy = format!("start it by systemd with LoadCredential={name}:FILE");
        let Some(directory) = self.environment.text(CREDENTIALS) else {
            return Err((format!("the systemd credential {name} is missing: {CREDENTIALS} is not set"), remedy));
        };
        let path = Path::new(directory).join(name);
        let missing = |_| (format!("the systemd credential {name} is missing"), remedy.clone());
        let (file, _) = self.open(&path).map_err(missing)?;
        secret(file, &path)
    }

    /// A file with a private key: as for [`Machine::secret_file`], but it is not read.
    pub(super) fn private(&self, path: &Path) -> Result<File, Wrong> {
        let (file, metadata) = self.readable(path)?;
        let by_systemd = path.starts_with(SYSTEMD_CREDENTIALS)
            || self.environment.text(CREDENTIALS).is_some_and(|directory| path.starts_with(directory));
        if by_systemd {
            return Ok(file);
        }
        let shown = path.display();
        let mode = metadata.mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err((
                format!("{shown} is open to group or others (mode {mode:04o})"),
                format!("chmod 600 {shown}"),
            ));
        }
        let owner = metadata.uid();
        if owner != 0 && owner != rustix::process::geteuid().as_raw() {
            let problem = format!("{shown} belongs to user {owner}, who can read and change it");
            return Err((
                problem,
                format!("chown it to root or to the user that kmsproxy runs as: chown root {shown}"),
            ));
        }
        Ok(file)
    }

    /// A regular file that we can read.
    pub(super) fn readable(&self, path: &Path) -> Result<(File, Metadata), Wrong> {
        let shown = path.display();
        if !path.is_absolute() {
            return Err((format!("{shown} is not an absolute path"), "write the path from / on".to_owned()));
        }
        let (file, metadata) = self.open(path).map_err(|error| unread(path, &error))?;
        if !metadata.is_file() {
            return Err((format!("{shown} is not a regular file"), "correct the path".to_owned()));
        }
        Ok((file, metadata))
    }

    /// Whether this machine has a user of that name. Of a machine that a root plays nothing is known: any name will do.
    pub(super) fn user(&self, name: &str) -> Result<(), Wrong> {
        self.account("user", name, || User::from_name(name).map(|user| user.is_some()))
    }

    /// As [`Machine::user`], for a group.
    pub(super) fn group(&self, name: &str) -> Result<(), Wrong> {
        self.account("group", name, || Group::from_name(name).map(|group| group.is_some()))
    }

    fn account(&self, kind: &str, name: &str, find: impl FnOnce() -> nix::Result<bool>) -> Result<(), Wrong> {
        if self.root.is_some() {
            return Ok(());
        }
        match find() {
            Ok(true) => Ok(()),
            Ok(false) => {
                Err((format!("there is no {kind} `{name}` here"), format!("create it, or write the {kind}'s number")))
            }
            Err(error) => {
                Err((format!("the {kind} `{name}` cannot be looked up: {error}"), format!("write the {kind}'s number")))
            }
        }
    }

    /// The directory that is to hold `path`.
    pub(super) fn parent(&self, path: &Path) -> Result<(), Wrong> {
        let parent = path.parent().unwrap_or(path);
        if self.rooted(parent).is_dir() {
            return Ok(());
        }
        let shown = parent.display();
        Err((
            format!("the directory {shown} does not exist"),
            format!("create it: mkdir -p {shown} (systemd: RuntimeDirectory=, StateDirectory=)"),
        ))
    }

    /// A file to append to, which need not exist yet; only its owner, and its group for reading, may see into it. A
    /// device or a named pipe will do.
    pub(super) fn appendable(&self, path: &Path) -> Result<(), Wrong> {
        let shown = path.display();
        if !path.is_absolute() {
            return Err((format!("{shown} is not an absolute path"), "write the path from / on".to_owned()));
        }
        let at = self.rooted(path);
        let Ok(metadata) = at.metadata() else {
            self.parent(path)?;
            let parent = path.parent().unwrap_or(path);
            return self.writable(parent, &format!("the directory {}", parent.display()));
        };
        let mode = metadata.mode() & 0o7777;
        if metadata.is_dir() {
            return Err((format!("{shown} is a directory"), "name a file in it".to_owned()));
        }
        if metadata.is_file() && mode & 0o027 != 0 {
            let problem = format!("{shown} can be read by others or written by its group (mode {mode:04o})");
            return Err((problem, format!("chmod 600 {shown}")));
        }
        self.writable(path, &shown.to_string())
    }

    /// A file that is written anew each time, beside itself: its directory must be there, and ours to write in.
    pub(super) fn replaceable(&self, path: &Path) -> Result<(), Wrong> {
        let shown = path.display();
        if !path.is_absolute() {
            return Err((format!("{shown} is not an absolute path"), "write the path from / on".to_owned()));
        }
        if self.rooted(path).is_dir() {
            return Err((format!("{shown} is a directory"), "name a file in it".to_owned()));
        }
        self.parent(path)?;
        let parent = path.parent().unwrap_or(path);
        self.writable(parent, &format!("the directory {}", parent.display()))
    }

    fn writable(&self, path: &Path, shown: &str) -> Result<(), Wrong> {
        rustix::fs::access(self.rooted(path), Access::WRITE_OK).map_err(|_| {
            (
                format!("{shown} cannot be written by this user"),
                "give it to the user that kmsproxy runs as (systemd: LogsDirectory=, ReadWritePaths=)".to_owned(),
            )
        })
    }

    /// A directory that nobody else can enter, if it exists.
    pub(super) fn private_directory(&self, path: &Path) -> Result<(), Wrong> {
        let Ok(metadata) = self.rooted(path).metadata() else { return self.parent(path) };
        let (shown, mode) = (path.display(), metadata.mode() & 0o7777);
        if !metadata.is_dir() {
            return Err((format!("{shown} is not a directory"), "correct the path".to_owned()));
        }
        if mode & 0o077 != 0 {
            return Err((
                format!("{shown} is open to group or others (mode {mode:04o})"),
                format!("chmod 700 {shown}"),
            ));
        }
        Ok(())
    }

    fn open(&self, path: &Path) -> io::Result<(File, Metadata)> {
        // Without NONBLOCK a named pipe in the place of the file would stop us here for ever.
        let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or(0);
        let file = OpenOptions::new().read(true).custom_flags(flags).open(self.rooted(path))?;
        let metadata = file.metadata()?;
        Ok((file, metadata))
    }

    fn rooted(&self, path: &Path) -> PathBuf {
        self.root.map_or_else(|| path.to_owned(), |root| root.join(path.strip_prefix("/").unwrap_or(path)))
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "not our enum: the rest is told as it is")]
fn unread(path: &Path, error: &io::Error) -> Wrong {
    let shown = path.display();
    match error.kind() {
        io::ErrorKind::NotFound => (format!("{shown} does not exist"), format!("create {shown} or correct the path")),
        io::ErrorKind::PermissionDenied => (
            format!("{shown} cannot be read: permission denied"),
            "let the user that kmsproxy runs as read it".to_owned(),
        ),
        _ => (format!("{shown} cannot be read: {error}"), "correct the path".to_owned()),
    }
}

fn secret(file: File, path: &Path) -> Result<Secret, Wrong> {
    let shown = path.display();
    // One byte more than allowed tells too long from just long enough, and the buffer never grows.
    let mut bytes = Vec::with_capacity(SECRET_BYTES_MAX + 1);
    let limit = u64::try_from(SECRET_BYTES_MAX).unwrap_or(u64::MAX) + 1;
    let read = file.take(limit).read_to_end(&mut bytes);
    let whole = Secret::new(bytes);
    if let Err(error) = read {
        return Err((format!("{shown} cannot be read: {error}"), "correct the path".to_owned()));
    }
    if whole.len() > SECRET_BYTES_MAX {
        return Err((
            format!("{shown} is longer than 64 KiB"),
            "point to the file that holds only the secret".to_owned(),
        ));
    }
    let secret = Secret::copied(trimmed(whole.expose()));
    if secret.is_empty() {
        return Err((format!("{shown} is empty"), format!("write the secret into {shown}")));
    }
    Ok(secret)
}

fn trimmed(mut bytes: &[u8]) -> &[u8] {
    while let [rest @ .., b'\n' | b'\r'] = bytes {
        bytes = rest;
    }
    bytes
}

const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";
const SYSTEMD_CREDENTIALS: &str = "/run/credentials";
const SECRET_BYTES_MAX: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn written(bytes: &[u8], mode: u32) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        fs::write(&path, bytes).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        (directory, path)
    }

    fn read(bytes: &[u8], mode: u32) -> Result<Secret, String> {
        let (_directory, path) = written(bytes, mode);
        Machine::new(&Environment::default(), None)
            .secret_file(&path)
            .map_err(|(problem, _)| problem.replace(&path.display().to_string(), "FILE"))
    }

    #[test]
    fn a_secret_ends_before_its_line_end() {
        assert_eq!(read(b" s3cret \r\n", 0o600), Ok(Secret::copied(b" s3cret ")));
        assert_eq!(read(b"s3\ncret", 0o400), Ok(Secret::copied(b"s3\ncret")));
    }

    #[test]
    fn an_empty_secret_is_none() {
        assert_eq!(read(b"\n", 0o600), Err("FILE is empty".to_owned()));
    }

    #[test]
    fn a_secret_of_64_kib_is_read_and_a_longer_one_refused() {
        assert_eq!(read(&vec![b'a'; SECRET_BYTES_MAX], 0o600).map(|secret| secret.len()), Ok(SECRET_BYTES_MAX));
        assert_eq!(read(&vec![b'a'; SECRET_BYTES_MAX + 1], 0o600), Err("FILE is longer than 64 KiB".to_owned()));
    }

    #[test]
    fn a_secret_that_others_can_read_is_refused_before_it_is_read() {
        assert_eq!(read(b"s", 0o640), Err("FILE is open to group or others (mode 0640)".to_owned()));
        assert_eq!(read(b"s", 0o604), Err("FILE is open to group or others (mode 0604)".to_owned()));
    }

    #[test]
    fn a_directory_or_a_pipe_is_no_secret() {
        let directory = tempfile::tempdir().unwrap();
        let environment = Environment::default();
        let machine = Machine::new(&environment, None);
        let (problem, _) = machine.secret_file(directory.path()).unwrap_err();
        assert!(problem.ends_with("is not a regular file"), "{problem}");
    }

    #[test]
    fn a_systemd_credential_is_read_whatever_its_mode_says() {
        let (directory, _path) = written(b"s3cret\n", 0o440);
        let environment = Environment::of([(CREDENTIALS.into(), directory.path().into())]);
        let machine = Machine::new(&environment, None);
        assert_eq!(machine.secret_credential("secret"), Ok(Secret::copied(b"s3cret")));
        assert_eq!(machine.secret_file(&directory.path().join("secret")), Ok(Secret::copied(b"s3cret")));
        let (problem, _) = machine.secret_credential("other").unwrap_err();
        assert_eq!(problem, "the systemd credential other is missing");
        assert!(machine.secret_credential("../secret").is_err());
    }

    #[test]
    fn a_root_plays_the_machine() {
        let (directory, _path) = written(b"s3cret", 0o600);
        let environment = Environment::default();
        let machine = Machine::new(&environment, Some(directory.path()));
        assert_eq!(machine.secret_file(Path::new("/secret")), Ok(Secret::copied(b"s3cret")));
    }
}
