//! One request, decoded.

use std::fmt;

use super::{Action, Ciphertext, Context, ContextForm, KeyName};
use crate::secret::Secret;

/// Parameters that mean something to the KMS and nothing to us: relayed as sent, and a reason never to share the
/// answer. Never holds a credential or a signature.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Extra(pub Vec<(String, String)>);

impl fmt::Debug for Extra {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

/// `Decrypt`. Most blobs know their key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decrypt {
    /// What to unwrap.
    pub ciphertext: Ciphertext,
    /// The key that must have made it, where the caller names one: what another key made is then refused. Some KMS
    /// need it (Vault, Google), others take it (AWS), Alibaba Cloud's knows no such parameter.
    pub key: Option<KeyName>,
    /// The context it was wrapped with; absent and empty are different.
    pub context: Option<Context>,
    /// Ask only whether it would be allowed. The KMS answers every dry run with an error.
    pub dry_run: bool,
    /// Parameters we do not know.
    pub extra: Extra,
}

/// `Encrypt`.
#[derive(Debug, PartialEq, Eq)]
pub struct Encrypt {
    /// The key, as the caller named it.
    pub key: KeyName,
    /// What to wrap: at most 6 KiB in the real KMS.
    pub plaintext: Secret,
    /// Bound to the ciphertext; must be given again at `Decrypt`.
    pub context: Option<Context>,
    /// As for [`Decrypt::dry_run`].
    pub dry_run: bool,
    /// Parameters we do not know.
    pub extra: Extra,
}

/// How long the data key shall be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataKeySize {
    /// The KMS's default, 32 bytes.
    Default,
    /// `KeySpec=AES_128`, 16 bytes.
    Aes128,
    /// `KeySpec=AES_256`, 32 bytes.
    Aes256,
    /// `NumberOfBytes`, 1 to 1024; wins over a `KeySpec`.
    Bytes(u16),
}

/// `GenerateDataKey` and `GenerateDataKeyWithoutPlaintext`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GenerateDataKey {
    /// The key that wraps, as the caller named it.
    pub key: KeyName,
    /// How long.
    pub size: DataKeySize,
    /// Whether the data key comes back in clear too.
    pub plaintext: bool,
    /// Bound to the ciphertext.
    pub context: Option<Context>,
    /// As for [`Decrypt::dry_run`].
    pub dry_run: bool,
    /// Parameters we do not know.
    pub extra: Extra,
}

/// A read of metadata, relayed as it came: `DescribeKey` and the lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// Which of the reading actions.
    pub action: Action,
    /// The key it is about; none for account-wide lists.
    pub key: Option<KeyName>,
    /// Every other parameter (paging, filters, version), as sent.
    pub extra: Extra,
}

/// One request, decoded: parsers make it, the engine obeys it, nobody between edits it.
#[derive(Debug, PartialEq, Eq)]
pub enum Call {
    /// Unwrap.
    Decrypt(Decrypt),
    /// Wrap.
    Encrypt(Encrypt),
    /// Make a data key.
    GenerateDataKey(GenerateDataKey),
    /// Read metadata.
    Read(Read),
}

impl Call {
    /// The action, for policy, metrics and the wire.
    #[must_use]
    pub const fn action(&self) -> Action {
        match self {
            Self::Decrypt(_) => Action::Decrypt,
            Self::Encrypt(_) => Action::Encrypt,
            Self::GenerateDataKey(GenerateDataKey { plaintext: true, .. }) => Action::GenerateDataKey,
            Self::GenerateDataKey(_) => Action::GenerateDataKeyWithoutPlaintext,
            Self::Read(read) => read.action,
        }
    }

    /// What is to be unwrapped.
    #[must_use]
    pub const fn ciphertext(&self) -> Option<&Ciphertext> {
        match self {
            Self::Decrypt(call) => Some(&call.ciphertext),
            Self::Encrypt(_) | Self::GenerateDataKey(_) | Self::Read(_) => None,
        }
    }

    /// The key that the request names, if it names one.
    #[must_use]
    pub const fn key(&self) -> Option<&KeyName> {
        match self {
            Self::Decrypt(call) => call.key.as_ref(),
            Self::Encrypt(call) => Some(&call.key),
            Self::GenerateDataKey(call) => Some(&call.key),
            Self::Read(read) => read.key.as_ref(),
        }
    }
}

impl Decrypt {
    /// Whether equal calls may share one answer, now and later. Everything that could make the answer depend on more
    /// than ciphertext and context says no.
    #[must_use]
    pub fn shareable(&self) -> bool {
        let spelled_plainly = self.context.as_ref().is_none_or(|context| context.form() == ContextForm::Json);
        spelled_plainly && !self.dry_run && self.extra.0.is_empty()
    }
}
