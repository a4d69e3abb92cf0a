//! What can be asked.

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
