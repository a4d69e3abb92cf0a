//! Who owns a socket file.

use std::io;
use std::path::Path;

use nix::unistd;
use rustix::fs::{AtFlags, CWD, Gid, Uid, chownat};
use rustix::io::Errno;

use super::{Address, BindError};

/// The user and the group that a socket file shall belong to; ours where none is said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ownership {
    user: Option<u32>,
    group: Option<u32>,
}

impl Ownership {
    /// Looks up names; a number stands for itself.
    ///
    /// # Errors
    /// Where this machine does not know the name, or there is no socket file to own.
    pub(super) fn read(address: &Address, owner: Option<&str>, group: Option<&str>) -> Result<Self, BindError> {
        if matches!(address, Address::Abstract(_) | Address::Inherited(_) | Address::Tcp(_))
            && (owner.is_some() || group.is_some())
        {
            return Err(BindError::Ownerless(address.clone()));
        }
        let user = |name: &str| unistd::User::from_name(name).map(|user| user.map(|user| user.uid.as_raw()));
        let gid = |name: &str| unistd::Group::from_name(name).map(|group| group.map(|group| group.gid.as_raw()));
        Ok(Self {
            user: owner
                .map(|owner| id(owner, user).map_err(|why| BindError::Owner(owner.to_owned(), why)))
                .transpose()?,
            group: group
                .map(|group| id(group, gid).map_err(|why| BindError::Group(group.to_owned(), why)))
                .transpose()?,
        })
    }

    /// Gives the file away. Follows no link.
    ///
    /// # Errors
    /// [`BindError::GiveAway`], with the remedy.
    pub(super) fn apply(self, path: &Path) -> Result<(), BindError> {
        if self == Self::default() {
            return Ok(());
        }
        let (user, group) = (self.user.map(Uid::from_raw), self.group.map(Gid::from_raw));
        chownat(CWD, path, user, group, AtFlags::SYMLINK_NOFOLLOW).map_err(|errno| BindError::GiveAway {
            path: path.to_owned(),
            source: errno.into(),
            remedy: match errno {
                Errno::PERM => "it needs the capability CAP_CHOWN, or a group that this user is a member of",
                Errno::ROFS => "the file system is read-only; choose another folder",
                _ => "leave owner and group out, or choose another folder",
            },
        })
    }
}

/// The number that `text` is or that `look_up` knows for it.
fn id(text: &str, look_up: impl Fn(&str) -> nix::Result<Option<u32>>) -> Result<u32, io::Error> {
    if let Ok(number) = text.parse() {
        // To chown(2), the last number means "as it is".
        return if number == u32::MAX { Err(io::ErrorKind::InvalidInput.into()) } else { Ok(number) };
    }
    look_up(text).map_err(io::Error::from)?.ok_or_else(|| io::ErrorKind::NotFound.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_is_a_number_or_a_name_that_the_machine_knows_and_belongs_to_a_file() {
        let file: Address = "unix:/run/ack.sock".parse().unwrap();
        let read = |owner, group| Ownership::read(&file, owner, group);
        assert_eq!(read(None, None).unwrap(), Ownership::default());
        assert_eq!(read(Some("65532"), None).unwrap(), Ownership { user: Some(65532), group: None });
        assert_eq!(read(Some("root"), Some("root")).unwrap(), Ownership { user: Some(0), group: Some(0) });
        for name in ["nobody-has-this-name", "4294967295", "-1", ""] {
            assert!(matches!(read(Some(name), None), Err(BindError::Owner(said, _)) if said == name), "{name}");
            assert!(matches!(read(None, Some(name)), Err(BindError::Group(said, _)) if said == name), "{name}");
        }
        for address in ["unix:@ack", "systemd:ack", "127.0.0.1:1"] {
            let address: Address = address.parse().unwrap();
            assert!(matches!(Ownership::read(&address, Some("0"), None), Err(BindError::Ownerless(_))));
            assert!(matches!(Ownership::read(&address, None, Some("0")), Err(BindError::Ownerless(_))));
            assert!(Ownership::read(&address, None, None).is_ok());
        }
    }
}
