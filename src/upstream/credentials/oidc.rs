//! A role assumed with an OIDC token file: RRSA, "RAM roles for service accounts", in ACK.

use std::path::PathBuf;

use crate::upstream::credentials::sts::{Session, Sts};
use crate::upstream::credentials::{Config, Environment, Fetch, Fetching, Lack, Ways, file, given};

/// `AssumeRoleWithOIDC`. The token file is read at each fetch: kubelet replaces it.
#[derive(Debug)]
pub struct Oidc {
    session: Session,
    provider_arn: String,
    token_file: PathBuf,
    sts: Sts,
}

impl Oidc {
    /// From the configuration and `ALIBABA_CLOUD_{ROLE_ARN,OIDC_PROVIDER_ARN,OIDC_TOKEN_FILE,ROLE_SESSION_NAME}`.
    ///
    /// # Errors
    /// [`Lack::Absent`] names what is not set.
    pub fn new(config: &Config, env: Environment<'_>, ways: &Ways) -> Result<Self, Lack> {
        let need = |value: Option<String>, name: &str| {
            value.ok_or_else(|| Lack::absent(format!("ALIBABA_CLOUD_{name} is not set")))
        };
        let session = Session::new(config, env)?;
        let provider = given(config.oidc_provider_arn.as_ref(), env, "ALIBABA_CLOUD_OIDC_PROVIDER_ARN");
        let token_file = config.oidc_token_file.as_ref().map(|path| path.display().to_string());
        let token_file = given(token_file.as_ref(), env, "ALIBABA_CLOUD_OIDC_TOKEN_FILE");
        Ok(Self {
            session,
            provider_arn: need(provider, "OIDC_PROVIDER_ARN")?,
            token_file: need(token_file, "OIDC_TOKEN_FILE")?.into(),
            sts: Sts::new(config, env, ways)?,
        })
    }
}

impl Fetch for Oidc {
    fn fetch(&self) -> Fetching<'_> {
        Box::pin(async {
            // It is named, so a token that is not there is a failure, and no reason to be somebody else.
            let token = file::read_token(&self.token_file).map_err(|lack| Lack::failed(lack.to_string()))?;
            self.session.assume_with_oidc(&self.sts, &self.provider_arn, &token).await
        })
    }
}
