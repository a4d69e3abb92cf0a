//! Whether a file is the one that was read.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// What tells one content of a path from another: a Kubernetes volume swaps a link, an editor a file. To be taken before
/// the file is read: a change while it is read is then seen at the next look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl Stamp {
    /// That of what is at `path` now; none where nothing is, or nothing that we may see.
    #[must_use]
    pub fn of(path: &Path) -> Option<Self> {
        let found = std::fs::metadata(path).ok()?;
        Some(Self {
            device: found.dev(),
            inode: found.ino(),
            size: found.len(),
            modified: (found.mtime(), found.mtime_nsec()),
        })
    }
}
