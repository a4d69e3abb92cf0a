//! The languages that a target may speak.

use std::fmt;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::wire::kubernetes::Api;

/// What is spoken to a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ValueEnum, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Face {
    /// Alibaba Cloud KMS over HTTP/1.1, each request signed by Signature V1 (HMAC-SHA1), as ack-kms-plugin sends it
    AliyunV1,
    /// The same, signed by Signature V3 (ACS3-HMAC-SHA256)
    AliyunV3,
    /// The same without a signature: the unix socket is the proof
    AliyunUnsigned,
    /// The Kubernetes KMS provider API v1beta1, gRPC on a unix socket
    KubernetesV1,
    /// The Kubernetes KMS provider API v2
    KubernetesV2,
}

impl Face {
    /// The version of the Kubernetes API, where it is that.
    #[must_use]
    pub const fn api(self) -> Option<Api> {
        match self {
            Self::AliyunV1 | Self::AliyunV3 | Self::AliyunUnsigned => None,
            Self::KubernetesV1 => Some(Api::V1beta1),
            Self::KubernetesV2 => Some(Api::V2),
        }
    }

    /// Whether requests carry a signature, so that credentials are needed.
    #[must_use]
    pub const fn is_signed(self) -> bool {
        matches!(self, Self::AliyunV1 | Self::AliyunV3)
    }
}

impl fmt::Display for Face {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AliyunV1 => "aliyun-v1",
            Self::AliyunV3 => "aliyun-v3",
            Self::AliyunUnsigned => "aliyun-unsigned",
            Self::KubernetesV1 => "kubernetes-v1",
            Self::KubernetesV2 => "kubernetes-v2",
        })
    }
}
