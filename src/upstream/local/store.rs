//! The keys on disk: `root.key`, 32 random bytes, and beside it `keys.sealed`, everything else under that key.
//!
//! This protects a copy of `keys.sealed` that leaves the machine without `root.key`: a backup, a paste. It does not
//! protect the directory: whoever can read both files has the keys. It is a KMS for development.

use std::fs::{DirBuilder, File};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use zeroize::Zeroizing;

use crate::replacement::replace;
use crate::secret::Secret;
use crate::upstream::local::gcm::{self, KEY_BYTES};
use crate::upstream::local::keyring::Keyring;
use crate::upstream::local::saved;

/// An open state directory. It is locked for as long as this lives, so that no two processes overwrite each other.
#[derive(Debug)]
pub(super) struct Store {
    dir: PathBuf,
    _locked: File,
    root: Secret,
}

impl Store {
    /// Opens `dir`, making it where it is not there, and reads what it holds.
    pub(super) fn open(dir: &Path) -> Result<(Self, Keyring), OpenError> {
        let locked = open_dir(dir)?;
        let (root_file, keys_file) = (dir.join(ROOT_FILE), dir.join(KEYS_FILE));
        match (present(&root_file)?, present(&keys_file)?) {
            (false, false) => Self::begin(dir, locked),
            (true, true) => {
                let root = read_root(&root_file)?;
                let keys = read_sealed(&root, &keys_file)?
                    .and_then(|plain| saved::decode(plain.expose()))
                    .ok_or(OpenError::Damaged(keys_file))?;
                Ok((Self { dir: dir.to_owned(), _locked: locked, root }, keys))
            }
            (false, true) => Err(OpenError::Incomplete { path: root_file }),
            (true, false) => Err(OpenError::Incomplete { path: keys_file }),
        }
    }

    /// Puts `keys` in place of what was there. After an error the disk holds either all of the old or all of `keys`.
    pub(super) fn save(&self, keys: &Keyring) -> io::Result<()> {
        self.put(KEYS_FILE, &gcm::seal(&self.root, MAGIC, MAGIC, &saved::encode(keys)))
    }

    fn begin(dir: &Path, locked: File) -> Result<(Self, Keyring), OpenError> {
        let mut root = vec![0; KEY_BYTES];
        getrandom::fill(&mut root).expect("the kernel's generator never fails once the machine is up");
        let store = Self { dir: dir.to_owned(), _locked: locked, root: Secret::new(root) };
        let keys = Keyring::default();
        store.save(&keys).map_err(at(&dir.join(KEYS_FILE)))?;
        store.put(ROOT_FILE, store.root.expose()).map_err(at(&dir.join(ROOT_FILE)))?;
        Ok((store, keys))
    }

    fn put(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        replace(&self.dir.join(name), FILE_MODE, |out| out.write_all(bytes))
    }
}

/// Why a state directory cannot be used. It is never answered by beginning anew: that would lose every key in it.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The system says no.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which file or directory.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// Others may read or enter.
    #[error("{} has mode {mode:04o}: others can reach the keys; run: chmod go-rwx '{}'", path.display(), path.display())]
    LooseMode {
        /// Which file or directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Somebody else's.
    #[error("{} belongs to uid {uid}, not to the user that runs this: choose another state directory", path.display())]
    OtherOwner {
        /// Which file or directory.
        path: PathBuf,
        /// Whose it is.
        uid: u32,
    },
    /// A process has it open.
    #[error("{} is in use by another process: stop that one, or choose another state directory", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// One of the two files is missing.
    #[error("{} is missing, the file beside it is there: restore it, or remove the other to begin without keys", path.display())]
    Incomplete {
        /// The missing one.
        path: PathBuf,
    },
    /// The content is not what was written, or was written under another `root.key`.
    #[error("{} is damaged or not of this root.key: restore it, or remove root.key and keys.sealed to begin without keys", .0.display())]
    Damaged(PathBuf),
}

fn open_dir(dir: &Path) -> Result<File, OpenError> {
    DirBuilder::new().recursive(true).mode(DIR_MODE).create(dir).map_err(at(dir))?;
    let opened = File::open(dir).map_err(at(dir))?;
    private(dir, &opened)?;
    match rustix::fs::flock(&opened, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(opened),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(OpenError::InUse { path: dir.to_owned() }),
        Err(errno) => Err(at(dir)(errno.into())),
    }
}

fn private(path: &Path, opened: &File) -> Result<(), OpenError> {
    let found = opened.metadata().map_err(at(path))?;
    let mode = found.mode() & 0o7777;
    if found.uid() != rustix::process::geteuid().as_raw() {
        return Err(OpenError::OtherOwner { path: path.to_owned(), uid: found.uid() });
    }
    if mode & 0o077 != 0 {
        return Err(OpenError::LooseMode { path: path.to_owned(), mode });
    }
    Ok(())
}

fn present(path: &Path) -> Result<bool, OpenError> {
    path.try_exists().map_err(at(path))
}

fn read_root(path: &Path) -> Result<Secret, OpenError> {
    let mut file = File::open(path).map_err(at(path))?;
    private(path, &file)?;
    let mut bytes = Zeroizing::new([0; KEY_BYTES]);
    let damaged = |_| OpenError::Damaged(path.to_owned());
    file.read_exact(&mut *bytes).map_err(damaged)?;
    match file.read(&mut [0; 1]).map_err(at(path))? {
        0 => Ok(Secret::copied(&*bytes)),
        _ => Err(OpenError::Damaged(path.to_owned())),
    }
}

fn read_sealed(root: &Secret, path: &Path) -> Result<Option<Secret>, OpenError> {
    let file = File::open(path).map_err(at(path))?;
    let mut sealed = Vec::new();
    let read = file.take(KEYS_BYTES_MAX + 1).read_to_end(&mut sealed).map_err(at(path))?;
    let whole = read as u64 <= KEYS_BYTES_MAX && sealed.starts_with(MAGIC);
    Ok(whole.then(|| gcm::open(root, MAGIC.len(), MAGIC, &sealed)).flatten())
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> OpenError + use<> {
    let path = path.to_owned();
    move |source| OpenError::Io { path, source }
}

const ROOT_FILE: &str = "root.key";
const KEYS_FILE: &str = "keys.sealed";
const DIR_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;
/// Head of `keys.sealed`, and authenticated.
const MAGIC: &[u8] = b"kmsproxy keys 1\n";
const KEYS_BYTES_MAX: u64 = 16 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use jiff::Timestamp;

    use super::*;
    use crate::upstream::local::key::NewKey;

    /// A state directory with one key in it.
    fn state() -> (tempfile::TempDir, PathBuf) {
        let above = tempfile::tempdir().unwrap();
        let dir = above.path().join("kms");
        let (store, mut keys) = Store::open(&dir).unwrap();
        keys.create(&NewKey { alias: Some("alias/one".to_owned()), ..NewKey::default() }, Timestamp::UNIX_EPOCH)
            .unwrap();
        store.save(&keys).unwrap();
        (above, dir)
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn the_directory_and_its_files_are_for_their_owner_alone() {
        let (_above, dir) = state();
        let modes = [&dir, &dir.join(ROOT_FILE), &dir.join(KEYS_FILE)].map(|path| mode(path));
        assert_eq!(modes, [0o700, 0o600, 0o600]);
        let mut names: Vec<_> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, [KEYS_FILE, ROOT_FILE]);
    }

    #[test]
    fn a_directory_or_root_key_that_others_can_reach_is_refused() {
        let (_above, dir) = state();
        for (path, loose, strict) in [(dir.clone(), 0o750, 0o700), (dir.join(ROOT_FILE), 0o604, 0o600)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(loose)).unwrap();
            let refused = Store::open(&dir).unwrap_err();
            assert!(
                matches!(&refused, OpenError::LooseMode { path: at, mode } if *at == path && *mode == loose),
                "{refused}"
            );
            fs::set_permissions(&path, fs::Permissions::from_mode(strict)).unwrap();
        }
        Store::open(&dir).unwrap();
    }

    #[test]
    fn one_process_at_a_time() {
        let (_above, dir) = state();
        let first = Store::open(&dir).unwrap();
        assert!(matches!(Store::open(&dir), Err(OpenError::InUse { .. })));
        drop(first);
        Store::open(&dir).unwrap();
    }

    #[test]
    fn every_turned_bit_and_every_cut_is_damage_and_leaves_the_files_alone() {
        let (_above, dir) = state();
        let path = dir.join(KEYS_FILE);
        let whole = fs::read(&path).unwrap();
        let refuses = |bytes: &[u8]| {
            fs::write(&path, bytes).unwrap();
            assert!(matches!(Store::open(&dir), Err(OpenError::Damaged(at)) if at == path));
            assert_eq!(fs::read(&path).unwrap(), bytes);
        };
        for at in 0..whole.len() {
            let mut turned = whole.clone();
            turned[at] ^= 1;
            refuses(&turned);
        }
        for length in [0, 1, MAGIC.len(), whole.len() - 1] {
            refuses(&whole[..length]);
        }
    }

    #[test]
    fn a_missing_half_is_an_error_and_not_a_new_beginning() {
        for (gone, left) in [(ROOT_FILE, KEYS_FILE), (KEYS_FILE, ROOT_FILE)] {
            let (_above, dir) = state();
            fs::remove_file(dir.join(gone)).unwrap();
            let before = fs::read(dir.join(left)).unwrap();
            assert!(matches!(Store::open(&dir), Err(OpenError::Incomplete { path }) if path == dir.join(gone)));
            assert_eq!(fs::read(dir.join(left)).unwrap(), before);
        }
    }

    #[test]
    fn another_root_key_or_one_of_another_length_is_damage() {
        let (_above, dir) = state();
        for (root, blamed) in [(vec![7; KEY_BYTES], KEYS_FILE), (vec![7; 31], ROOT_FILE), (vec![7; 33], ROOT_FILE)] {
            fs::write(dir.join(ROOT_FILE), root).unwrap();
            assert!(matches!(Store::open(&dir), Err(OpenError::Damaged(at)) if at == dir.join(blamed)));
        }
    }

    #[test]
    fn no_key_material_is_on_disk_in_clear() {
        let (_above, dir) = state();
        let (_store, keys) = Store::open(&dir).unwrap();
        let sealed = fs::read(dir.join(KEYS_FILE)).unwrap();
        for version in keys.keys.values().flat_map(|key| &key.versions) {
            assert!(!sealed.windows(KEY_BYTES).any(|window| window == version.material.expose()));
        }
    }
}
