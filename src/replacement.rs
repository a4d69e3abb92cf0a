//! Files that are there whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// Puts what `write` writes in the place of `path`, with `mode`. After an error, and after a loss of power at any
/// instant, there is either all of the old or all of the new.
///
/// # Errors
/// What the system or `write` says.
pub fn replace(path: &Path, mode: u32, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let fresh = beside(path);
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // Anew each time: what lies there may be a link to somewhere else.
    let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&fresh)?;
    let mut out = BufWriter::new(file);
    write(&mut out)?;
    out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
    fs::rename(&fresh, path)?;
    File::open(path.parent().unwrap_or(path))?.sync_all()
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn a_link_that_lies_in_the_way_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (path, others) = (dir.path().join("set"), dir.path().join("others"));
        fs::write(&others, "theirs").unwrap();
        symlink(&others, dir.path().join("set.new")).unwrap();
        replace(&path, 0o600, |out| out.write_all(b"ours")).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"ours");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read(&others).unwrap(), b"theirs");
    }

    #[test]
    fn after_a_failure_the_old_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("set");
        fs::write(&path, "old").unwrap();
        let broken = |out: &mut dyn Write| {
            out.write_all(b"ne")?;
            Err(io::Error::other("broken off"))
        };
        assert!(replace(&path, 0o600, broken).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"old");
    }
}
