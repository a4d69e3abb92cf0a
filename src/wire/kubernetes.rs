//! The Kubernetes KMS provider API, as kube-apiserver speaks it: gRPC messages, codes and the forms of what is kept in
//! etcd. Pure: no sockets here.
//!
//! Sources: `k8s.io/kms/apis/{v1beta1,v2}/api.proto`, `k8s.io/apiserver/pkg/storage/value/encrypt/envelope`, the gRPC over
//! HTTP/2 specification.

use serde::{Deserialize, Serialize};

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
