//! The Kubernetes KMS provider API, as kube-apiserver speaks it: gRPC messages, codes and the forms of what is kept in
//! etcd. Pure: no sockets here.
//!
//! Sources: `k8s.io/kms/apis/{v1beta1,v2}/api.proto`, `k8s.io/apiserver/pkg/storage/value/encrypt/envelope`, the gRPC over
//! HTTP/2 specification.

pub mod answer;
pub mod ciphertext;
mod frame;
pub mod key_id;
mod messages;
pub mod refusal;
mod request;
pub mod timeout;

use serde::{Deserialize, Serialize};

use crate::kms::Action;

pub use frame::BODY_BYTES_MAX;
pub use request::Request;

/// A version of the API; both may be served on one socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Api {
    /// `/v1beta1.KeyManagementService`, deprecated since Kubernetes 1.28 and in use.
    V1beta1,
    /// `/v2.KeyManagementService`.
    V2,
}

/// What `Status` of v2 calls the API.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum V2Version {
    /// `v2`, Kubernetes 1.29 and later.
    #[default]
    V2,
    /// `v2beta1`, which 1.27 and 1.28 ask for and later ones accept.
    V2beta1,
}

/// The form of what v1 encrypts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum V1Ciphertext {
    /// As `ack-kms-plugin` writes it, the base64 text of the blob: so that the plugin can take over again.
    AckKmsPlugin,
    /// With a version byte and the key's id before the blob.
    #[default]
    Kmsproxy,
}

/// A method of either service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    /// Unwraps the key of one object.
    V1Decrypt,
    /// Wraps the key of one object.
    V1Encrypt,
    /// Says which version is spoken; asked once by each client, before all else.
    V1Version,
    /// Unwraps a seed.
    V2Decrypt,
    /// Wraps a seed.
    V2Encrypt,
    /// Says whether the key can be used, and which it is; asked each minute.
    V2Status,
}

impl Method {
    /// Every method.
    pub const ALL: [Self; 6] =
        [Self::V1Decrypt, Self::V1Encrypt, Self::V1Version, Self::V2Decrypt, Self::V2Encrypt, Self::V2Status];

    /// The method that `path` names, byte for byte; none for methods that the API does not have.
    #[must_use]
    pub fn of(path: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|method| method.path() == path)
    }

    /// The path of the HTTP/2 request, which is also what kube-apiserver's own metrics call the method.
    #[must_use]
    pub const fn path(self) -> &'static str {
        match self {
            Self::V1Decrypt => "/v1beta1.KeyManagementService/Decrypt",
            Self::V1Encrypt => "/v1beta1.KeyManagementService/Encrypt",
            Self::V1Version => "/v1beta1.KeyManagementService/Version",
            Self::V2Decrypt => "/v2.KeyManagementService/Decrypt",
            Self::V2Encrypt => "/v2.KeyManagementService/Encrypt",
            Self::V2Status => "/v2.KeyManagementService/Status",
        }
    }

    /// A short name, for logs and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::V1Decrypt => "v1beta1/Decrypt",
            Self::V1Encrypt => "v1beta1/Encrypt",
            Self::V1Version => "v1beta1/Version",
            Self::V2Decrypt => "v2/Decrypt",
            Self::V2Encrypt => "v2/Encrypt",
            Self::V2Status => "v2/Status",
        }
    }

    /// The version of the API that it belongs to.
    #[must_use]
    pub const fn api(self) -> Api {
        match self {
            Self::V1Decrypt | Self::V1Encrypt | Self::V1Version => Api::V1beta1,
            Self::V2Decrypt | Self::V2Encrypt | Self::V2Status => Api::V2,
        }
    }

    /// What it asks of a KMS; nothing where we answer of ourselves.
    #[must_use]
    pub const fn action(self) -> Option<Action> {
        match self {
            Self::V1Decrypt | Self::V2Decrypt => Some(Action::Decrypt),
            Self::V1Encrypt | Self::V2Encrypt => Some(Action::Encrypt),
            Self::V1Version | Self::V2Status => None,
        }
    }
}
