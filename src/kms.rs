//! What is asked of a KMS and what it answers, in no dialect.

use std::fmt;
use std::sync::Arc;

use crate::secret::Secret;

/// The identifier that the KMS itself gave the key (KEK) in an answer: never an alias, never an ARN.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(Arc<str>);

impl KeyId {
    /// Wraps the identifier found in an answer.
    #[must_use]
    pub fn new(id: &str) -> Self {
        Self(id.into())
    }

    /// The identifier as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A key as a caller named it: an id, an alias (`alias/…`) or an ARN (`acs:kms:REGION:ACCOUNT:key/ID`), unresolved.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KeyName(Box<str>);

impl KeyName {
    /// Takes the name exactly as sent.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self(name.into())
    }

    /// The name exactly as sent.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name without the ARN around it: `key-…` or `alias/…`. Two names that are bare-equal within one account and
    /// region name the same key; an alias and the id behind it are not bare-equal.
    #[must_use]
    pub fn bare(&self) -> &str {
        if !self.0.starts_with("acs:kms:") {
            return &self.0;
        }
        let resource = self.0.rsplit(':').next().unwrap_or(&self.0);
        resource.strip_prefix("key/").unwrap_or(resource)
    }
}

/// The version of a key that made a ciphertext blob; opaque.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KeyVersion(Arc<str>);

impl KeyVersion {
    /// Wraps the version found in an answer.
    #[must_use]
    pub fn new(version: &str) -> Self {
        Self(version.into())
    }

    /// The version as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A ciphertext blob: what `Encrypt` returned, as bytes. `Debug` shows its length only; its bytes tell a reader of
/// logs which Secret was used when.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Ciphertext(Arc<[u8]>);

impl Ciphertext {
    /// Wraps the decoded blob.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(bytes.into())
    }

    /// The blob.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Ciphertext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ciphertext({} bytes)", self.0.len())
    }
}

/// How a caller spelled its encryption context. It matters because some KMS editions bind the spelling itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContextForm {
    /// One parameter that holds a JSON object.
    Json,
    /// One parameter for each pair (`EncryptionContext.k=v`), as an old SDK sends it. What the KMS makes of it is not
    /// documented, so such a call is passed through and never shared.
    Flattened,
}

/// An encryption context (AAD): a map of strings that must be the same at `Decrypt` as it was at `Encrypt`.
///
/// Kept twice on purpose: `text` goes upstream verbatim; `pairs` is the canonical form, sorted by name without
/// duplicates, for everything that compares. An absent context and an empty one are different values.
#[derive(Clone, PartialEq, Eq)]
pub struct Context {
    form: ContextForm,
    text: Box<str>,
    pairs: Box<[(Box<str>, Box<str>)]>,
}

impl Context {
    /// Builds a context from its parts; `None` where a name occurs twice.
    #[must_use]
    pub fn new(form: ContextForm, text: &str, mut pairs: Vec<(Box<str>, Box<str>)>) -> Option<Self> {
        pairs.sort_unstable();
        let distinct = pairs.windows(2).all(|two| two[0].0 != two[1].0);
        distinct.then(|| Self { form, text: text.into(), pairs: pairs.into() })
    }

    /// How it was spelled.
    #[must_use]
    pub const fn form(&self) -> ContextForm {
        self.form
    }

    /// The JSON text exactly as sent; for a flattened context, the canonical JSON of its pairs.
    #[must_use]
    pub const fn text(&self) -> &str {
        &self.text
    }

    /// The pairs in canonical order.
    #[must_use]
    pub const fn pairs(&self) -> &[(Box<str>, Box<str>)] {
        &self.pairs
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Context({:?}, {} pairs)", self.form, self.pairs.len())
    }
}

/// What a caller may be allowed to do, by the names of the Alibaba Cloud API (and its RAM actions `kms:…`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Deserialize, serde::Serialize)]
pub enum Action {
    /// Unwrap a ciphertext blob.
    Decrypt,
    /// Read a key's metadata.
    DescribeKey,
    /// Read one key version's metadata.
    DescribeKeyVersion,
    /// Wrap a plaintext.
    Encrypt,
    /// Make a data key; returns it in clear and wrapped.
    GenerateDataKey,
    /// Make a data key; returns it wrapped only.
    GenerateDataKeyWithoutPlaintext,
    /// List all aliases of the account and region.
    ListAliases,
    /// List the aliases of one key.
    ListAliasesByKeyId,
    /// List one key's versions.
    ListKeyVersions,
    /// List all keys of the account and region.
    ListKeys,
}

impl Action {
    /// Every action.
    pub const ALL: [Self; 10] = [
        Self::Decrypt,
        Self::DescribeKey,
        Self::DescribeKeyVersion,
        Self::Encrypt,
        Self::GenerateDataKey,
        Self::GenerateDataKeyWithoutPlaintext,
        Self::ListAliases,
        Self::ListAliasesByKeyId,
        Self::ListKeyVersions,
        Self::ListKeys,
    ];

    /// The name on the Alibaba Cloud wire, in metrics and in the configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Decrypt => "Decrypt",
            Self::DescribeKey => "DescribeKey",
            Self::DescribeKeyVersion => "DescribeKeyVersion",
            Self::Encrypt => "Encrypt",
            Self::GenerateDataKey => "GenerateDataKey",
            Self::GenerateDataKeyWithoutPlaintext => "GenerateDataKeyWithoutPlaintext",
            Self::ListAliases => "ListAliases",
            Self::ListAliasesByKeyId => "ListAliasesByKeyId",
            Self::ListKeyVersions => "ListKeyVersions",
            Self::ListKeys => "ListKeys",
        }
    }
}

/// Parameters that mean something to the KMS and nothing to us: relayed as sent, and a reason never to share the
/// answer. Never holds a credential or a signature.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Extra(pub Vec<(String, String)>);

impl fmt::Debug for Extra {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

/// `Decrypt`. The key is not named: the blob knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decrypt {
    /// What to unwrap.
    pub ciphertext: Ciphertext,
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

    /// The key that the request names, if it names one.
    #[must_use]
    pub const fn key(&self) -> Option<&KeyName> {
        match self {
            Self::Decrypt(_) => None,
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

/// The life of a key as the KMS tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Deserialize, serde::Serialize)]
pub enum KeyState {
    /// Usable.
    Enabled,
    /// Switched off; may be switched on again.
    Disabled,
    /// Waiting to be destroyed.
    PendingDeletion,
    /// Its material has not been imported yet.
    PendingImport,
    /// Any other state: not usable as far as we know.
    Unavailable,
}

/// What `Decrypt` returned.
#[derive(Debug, PartialEq, Eq)]
pub struct Decrypted {
    /// The data key.
    pub plaintext: Secret,
    /// The key that unwrapped it.
    pub key: KeyId,
    /// The version of that key.
    pub version: KeyVersion,
}

/// What `Encrypt` returned.
#[derive(Debug, PartialEq, Eq)]
pub struct Encrypted {
    /// The wrapped plaintext.
    pub ciphertext: Ciphertext,
    /// The key that wrapped it.
    pub key: KeyId,
    /// The version of that key.
    pub version: KeyVersion,
}

/// What `GenerateDataKey…` returned.
#[derive(Debug, PartialEq, Eq)]
pub struct DataKey {
    /// The data key in clear, where it was asked for.
    pub plaintext: Option<Secret>,
    /// The data key wrapped.
    pub ciphertext: Ciphertext,
    /// The key that wrapped it.
    pub key: KeyId,
    /// The version of that key.
    pub version: KeyVersion,
}

/// What a read returned: the JSON members of the answer without its `RequestId`, and of it the two facts we act on.
#[derive(Debug, PartialEq, Eq)]
pub struct Document {
    /// The members as the KMS wrote them.
    pub members: serde_json::Map<String, serde_json::Value>,
    /// For `DescribeKey`: which key, in which state. A clouded answer (200 for a disabled key) may shorten a lease,
    /// never lengthen it.
    pub described: Option<(KeyId, KeyState)>,
}

/// One answer of a KMS.
#[derive(Debug, PartialEq, Eq)]
pub enum Reply {
    /// To `GenerateDataKey…`.
    DataKey(DataKey),
    /// To `Decrypt`.
    Decrypted(Decrypted),
    /// To a read.
    Document(Document),
    /// To `Encrypt`.
    Encrypted(Encrypted),
}

/// The KMS's own name for one request (or ours, for an answer from the cache): what support asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestId(Box<str>);

impl RequestId {
    /// Takes the id that a KMS gave.
    #[must_use]
    pub fn new(id: &str) -> Self {
        Self(id.into())
    }

    /// A new random id, in the upper-case UUID form of Alibaba Cloud.
    #[must_use]
    pub fn random() -> Self {
        let mut text = uuid::Uuid::new_v4().hyphenated().to_string();
        text.make_ascii_uppercase();
        Self(text.into())
    }

    /// The id as text.
    #[must_use]
    pub const fn as_str(&self) -> &str {
        &self.0
    }
}

/// A reply and the request that fetched it.
#[derive(Debug)]
pub struct Answer {
    /// What was answered.
    pub reply: Reply,
    /// By which request.
    pub request_id: RequestId,
}
