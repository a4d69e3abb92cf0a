//! The dialects that a listener can speak.

use serde::{Deserialize, Serialize};

/// A dialect that a listener can speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FaceName {
    /// Alibaba Cloud KMS OpenAPI, RPC style.
    Aliyun,
    /// The Kubernetes KMS provider API over gRPC, on unix sockets only: kube-apiserver knows no others.
    Kubernetes,
}
