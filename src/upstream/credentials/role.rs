//! A role assumed with other credentials.

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
    /// The role of `config`, to be assumed with what `with` brings.
    ///
    /// # Errors
    /// As [`Session::new`] and [`Sts::new`].
    pub fn new(config: &Config, env: Environment<'_>, ways: &Ways, with: Box<dyn Fetch>) -> Result<Self, Lack> {
        let session = Session::new(config, env)?;
        Ok(Self { session, external_id: config.external_id.clone(), with, sts: Sts::new(config, env, ways)? })
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
