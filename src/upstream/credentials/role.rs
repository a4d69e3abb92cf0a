//! A role assumed with other credentials.

use crate::upstream::credentials::chain::Chain;
use crate::upstream::credentials::file::AccessKey;
use crate::upstream::credentials::sts::{Session, Sts};
use crate::upstream::credentials::{Config, Environment, Fetch, Fetching, Lack, Ways};

/// `AssumeRole`. What it is assumed with is fetched anew each time.
#[derive(Debug)]
pub struct Role {
    session: Session,
    external_id: Option<String>,
    with: Box<dyn Fetch>,
    sts: Sts,
}

impl Role {
    /// With the access key of `config` if it names one, else with the default chain.
    ///
    /// # Errors
    /// As [`Session::new`], [`AccessKey::from_config`] and [`Sts::new`].
    pub fn new(config: &Config, env: Environment<'_>, ways: &Ways) -> Result<Self, Lack> {
        let with: Box<dyn Fetch> = match config.id {
            Some(_) => Box::new(AccessKey::from_config(config, env)?),
            None => Box::new(Chain::new(config, env, ways)),
        };
        let session = Session::new(config, env)?;
        Ok(Self::with(session, config.external_id.clone(), with, Sts::new(config, env, ways)?))
    }

    pub(super) fn with(session: Session, external_id: Option<String>, with: Box<dyn Fetch>, sts: Sts) -> Self {
        Self { session, external_id, with, sts }
    }
}

impl Fetch for Role {
    fn fetch(&self) -> Fetching<'_> {
        Box::pin(async {
            let key = self.with.fetch().await?;
            self.session.assume(&self.sts, &key, self.external_id.as_deref()).await
        })
    }

    fn changed(&self) -> bool {
        self.with.changed()
    }
}
