//! The working set on disk: what was unwrapped for whom, the most lately asked for first, so that a daemon that starts can
//! have it unwrapped again before anybody asks. Ciphertexts, contexts and names: nothing that was ever inside one.
//!
//! JSON lines: a head with the form's version and the number of members; the members; the SHA-256 of all before. Whatever
//! is not wholly so is refused, and the daemon starts cold: it is never a reason not to start.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::OFlags;
use rustix::process::geteuid;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::auth::CallerName;
use crate::kms::{Ciphertext, Context, ContextForm, Decrypt, Extra, KeyId, KeyName};
use crate::replacement::replace;
use crate::wire::aliyun::object;
use crate::wire::base64;

/// The `[working_set]` table.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where the working set is kept. None: a daemon that starts is cold.
    pub file: Option<PathBuf>,
    /// How often it is written, where it has changed.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub save: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self { file: None, save: Duration::from_secs(30) }
    }
}

/// One Decrypt that was answered, and for whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The upstream that answered.
    pub upstream: String,
    /// The callers that may be given the answer.
    pub share: CallerName,
    /// The key that the answer named.
    pub key: KeyId,
    /// What was asked.
    pub call: Decrypt,
}

/// Why a file is not read.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The system says no.
    #[error(transparent)]
    Unreadable(#[from] io::Error),
    /// Somebody else could have written it.
    #[error("it is not a plain file that belongs to this user and to which nobody else has rights (chmod 600)")]
    NotOurs,
    /// More than [`FILE_BYTES_MAX`].
    #[error("it is longer than 128 MiB")]
    TooLong,
    /// Another form than this version's, or no working set at all.
    #[error("it is not a working set of this version")]
    Foreign,
    /// It ends early, or something in it was changed.
    #[error("it is cut off or was changed")]
    Damaged,
}

/// Reads what [`write()`] wrote; nothing where there is no file.
///
/// # Errors
/// [`Refused`] says what it is instead.
pub fn read(path: &Path) -> Result<Vec<Member>, Refused> {
    let flags = i32::try_from((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits()).unwrap_or_default();
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.uid() != geteuid().as_raw() || metadata.mode() & 0o077 != 0 {
        return Err(Refused::NotOurs);
    }
    let mut text = String::new();
    let read = file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text);
    read.map_err(|error| if error.kind() == io::ErrorKind::InvalidData { Refused::Foreign } else { error.into() })?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(Refused::TooLong);
    }
    parse(&text)
}

fn parse(text: &str) -> Result<Vec<Member>, Refused> {
    let (head, _) = text.split_once('\n').ok_or(Refused::Foreign)?;
    let Head { kmsproxy_working_set: version, members } = object::read(head.as_bytes()).ok_or(Refused::Foreign)?;
    if version != VERSION {
        return Err(Refused::Foreign);
    }
    let whole = text.strip_suffix('\n').and_then(|text| text.rsplit_once('\n')).ok_or(Refused::Damaged)?;
    let (before, Some(Foot { sha256 })) = (whole.0, object::read(whole.1.as_bytes())) else {
        return Err(Refused::Damaged);
    };
    if sha256 != base64_text(&Sha256::digest(&text.as_bytes()[..=before.len()])) {
        return Err(Refused::Damaged);
    }
    let read: Option<Vec<Member>> =
        before.lines().skip(1).map(|line| object::read::<Line>(line.as_bytes())?.member()).collect();
    read.filter(|read| read.len() == members).ok_or(Refused::Damaged)
}

/// Puts `members` in place of what was in the file, as many of the first as there is room for; returns how many. After an
/// error the file is as it was. Goes over them twice, for the head tells how many there are, and so keeps none of them.
///
/// # Errors
/// What the system says.
pub fn write<M: Borrow<Member>>(path: &Path, members: impl Iterator<Item = M> + Clone) -> io::Result<usize> {
    let lines = members.filter_map(|member| serde_json::to_string(&Line::of(member.borrow())).ok());
    let count = room_for(lines.clone());
    replace(path, FILE_MODE, |out| {
        let mut digest = Sha256::new();
        let head = serde_json::to_string(&Head { kmsproxy_working_set: VERSION, members: count })?;
        for line in std::iter::once(head).chain(lines.take(count)) {
            for part in [line.as_bytes(), b"\n"] {
                digest.update(part);
                out.write_all(part)?;
            }
        }
        writeln!(out, "{}", serde_json::to_string(&Foot { sha256: base64_text(&digest.finalize()) })?)
    })?;
    Ok(count)
}

/// How many of the first there is room for.
fn room_for(lines: impl Iterator<Item = String>) -> usize {
    let mut room = FILE_BYTES_MAX - FRAME_BYTES;
    let fits = |line: &String| {
        let left = room.checked_sub(line.len() as u64 + 1);
        room = left.unwrap_or(0);
        left.is_some()
    };
    lines.take_while(fits).count()
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    kmsproxy_working_set: u32,
    members: usize,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Foot {
    sha256: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    upstream: String,
    share: String,
    key: String,
    ciphertext: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    named: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    context: Option<WrittenContext>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenContext {
    text: String,
    pairs: BTreeMap<String, String>,
}

impl Line {
    fn of(member: &Member) -> Self {
        // Dry runs, parameters that nobody knows and contexts in parts are never shared, and so never cached.
        let Decrypt { ciphertext, key, context, dry_run: _, extra: _ } = &member.call;
        let pair = |(name, value): &(Box<str>, Box<str>)| (name.to_string(), value.to_string());
        let written = |context: &Context| {
            let pairs = context.pairs().iter().map(pair).collect();
            WrittenContext { text: context.text().to_owned(), pairs }
        };
        Self {
            upstream: member.upstream.clone(),
            share: member.share.as_str().to_owned(),
            key: member.key.as_str().to_owned(),
            ciphertext: base64_text(ciphertext.bytes()),
            named: key.as_ref().map(|key| key.as_str().to_owned()),
            context: context.as_ref().map(written),
        }
    }

    fn member(self) -> Option<Member> {
        let context = match self.context {
            None => None,
            Some(WrittenContext { text, pairs }) => {
                let pairs = pairs.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
                Some(Context::new(ContextForm::Json, &text, pairs)?)
            }
        };
        let call = Decrypt {
            ciphertext: Ciphertext::new(base64::decode(self.ciphertext.as_bytes())?),
            key: self.named.as_deref().map(KeyName::new),
            context,
            dry_run: false,
            extra: Extra::default(),
        };
        let (share, key) = (CallerName::new(&self.share), KeyId::new(&self.key));
        Some(Member { upstream: self.upstream, share, key, call })
    }
}

/// Where a file is made before it takes the place of `path`.
fn base64_text(bytes: &[u8]) -> String {
    let mut text = Vec::new();
    base64::put(bytes, &mut text);
    String::from_utf8(text).unwrap_or_default()
}

const VERSION: u32 = 1;
const FILE_MODE: u32 = 0o600;
/// Bytes of a file: some 400,000 DEKs.
pub const FILE_BYTES_MAX: u64 = 128 * 1024 * 1024;
/// Bytes of head and foot.
const FRAME_BYTES: u64 = 256;

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn member(number: u8) -> Member {
        let pairs = vec![("name".into(), format!("{number}").into())];
        let context = Context::new(ContextForm::Json, &format!("{{ \"name\": \"{number}\" }}"), pairs);
        let call = Decrypt {
            ciphertext: Ciphertext::new(vec![number; 100]),
            key: number.is_multiple_of(2).then(|| KeyName::new("key-1")),
            context: context.filter(|_| number.is_multiple_of(3)),
            dry_run: false,
            extra: Extra::default(),
        };
        Member { upstream: "kms".to_owned(), share: CallerName::new("plugin"), key: KeyId::new("key-1"), call }
    }

    fn members() -> Vec<Member> {
        (0..7).map(member).collect()
    }

    /// The first `count`.
    fn put(path: &Path, count: usize) -> usize {
        let members = members();
        write(path, members.iter().take(count)).unwrap()
    }

    fn saved() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("working-set");
        assert_eq!(put(&path, 7), 7);
        (dir, path)
    }

    #[test]
    fn what_was_written_is_read_in_its_order_and_is_for_nobody_else() {
        let (dir, path) = saved();
        assert_eq!(read(&path).unwrap(), members());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        assert_eq!(put(&path, 2), 2);
        assert_eq!(read(&path).unwrap(), members()[..2]);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    /// Tells how many of it there are at a time.
    struct Counted<'a>(Member, &'a Cell<[u32; 2]>);

    impl<'a> Counted<'a> {
        fn new(member: Member, count: &'a Cell<[u32; 2]>) -> Self {
            let [now, most] = count.get();
            count.set([now + 1, most.max(now + 1)]);
            Self(member, count)
        }
    }

    impl Borrow<Member> for Counted<'_> {
        fn borrow(&self) -> &Member {
            &self.0
        }
    }

    impl Drop for Counted<'_> {
        fn drop(&mut self) {
            let [now, most] = self.1.get();
            self.1.set([now - 1, most]);
        }
    }

    #[test]
    fn however_many_there_are_one_at_a_time_is_in_memory() {
        let (_dir, path) = saved();
        let count = Cell::default();
        assert_eq!(write(&path, (0..50).map(|number| Counted::new(member(number), &count))).unwrap(), 50);
        assert_eq!(count.get(), [0, 1]);
        assert_eq!(read(&path).unwrap().len(), 50);
    }

    #[test]
    fn as_many_of_the_first_are_written_as_there_is_room_for() {
        let mebibytes = (0..300).map(|number| "x".repeat(if number < 200 { 1 << 20 } else { 1 }));
        assert_eq!(room_for(mebibytes), 127);
    }

    #[test]
    fn no_file_is_an_empty_working_set() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(&dir.path().join("none")).unwrap(), []);
    }

    #[test]
    fn a_file_that_is_cut_anywhere_or_has_one_byte_changed_is_refused() {
        let (_dir, path) = saved();
        let whole = fs::read(&path).unwrap();
        for length in 0..whole.len() {
            assert!(
                matches!(read_bytes(&path, &whole[..length]), Err(Refused::Damaged | Refused::Foreign)),
                "{length}"
            );
        }
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            assert!(matches!(read_bytes(&path, &changed), Err(Refused::Damaged | Refused::Foreign)), "{at}");
        }
        assert!(read_bytes(&path, &[&whole[..], b"{}\n"].concat()).is_err(), "more behind it");
    }

    #[test]
    fn another_version_another_text_and_what_is_no_text_are_foreign() {
        let (_dir, path) = saved();
        let text = fs::read_to_string(&path).unwrap();
        let later = text.replacen("_set\":1", "_set\":2", 1);
        for foreign in [later.as_bytes(), b"", b"\n", b"[1,2]\n", b"\xff\xfe\n", b"hello\nworld\n"] {
            assert!(matches!(read_bytes(&path, foreign), Err(Refused::Foreign)), "{}", foreign.escape_ascii());
        }
    }

    #[test]
    fn what_others_could_have_written_and_what_is_no_file_is_refused() {
        let (dir, path) = saved();
        for mode in [0o604, 0o620, 0o640] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert!(matches!(read(&path), Err(Refused::NotOurs)), "{mode:o}");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let link = dir.path().join("link");
        symlink(&path, &link).unwrap();
        assert!(matches!(read(&link), Err(Refused::Unreadable(_))));
        assert!(matches!(read(dir.path()), Err(Refused::NotOurs)));
        assert!(read(&path).is_ok());
    }

    #[test]
    fn a_file_that_is_too_long_is_not_read_through() {
        let (_dir, path) = saved();
        OpenOptions::new().write(true).open(&path).unwrap().set_len(FILE_BYTES_MAX + 1).unwrap();
        assert!(matches!(read(&path), Err(Refused::TooLong)));
    }

    fn read_bytes(path: &Path, bytes: &[u8]) -> Result<Vec<Member>, Refused> {
        fs::write(path, bytes).unwrap();
        read(path)
    }
}
