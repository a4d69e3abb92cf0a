//! The default chain: the first source that is set up.

use std::sync::OnceLock;

use crate::upstream::credentials::ecs::Ecs;
use crate::upstream::credentials::file::AccessKey;
use crate::upstream::credentials::oidc::Oidc;
use crate::upstream::credentials::profile::{Form, Profile};
use crate::upstream::credentials::uri::Uri;
use crate::upstream::credentials::{Config, Credentials, Environment, Fetch, Fetching, Lack, Ways};

/// Environment, OIDC, CLI profile, ini profile, ECS metadata, URI (`credentials-go`, `default.go`). Once one has given
/// credentials, no other is asked again: who we are must not depend on which source has a bad minute.
#[derive(Debug)]
pub struct Chain {
    links: Vec<Link>,
    chosen: OnceLock<usize>,
}

impl Chain {
    /// Sets up what can be; what each link lacks is said when all have failed.
    #[must_use]
    pub fn new(config: &Config, env: Environment<'_>, ways: &Ways) -> Self {
        let profile = |form| Profile::of_form(form, config, env, ways).map(boxed);
        let links = vec![
            ("env", AccessKey::from_environment(env).map(boxed)),
            ("oidc", Oidc::new(config, env, ways).map(boxed)),
            ("profile", profile(Form::Json)),
            ("ini", profile(Form::Ini)),
            ("ecs", Ecs::new(config, env, ways).map(boxed)),
            ("uri", Uri::new(config, env, ways).map(boxed)),
        ];
        Self { links, chosen: OnceLock::new() }
    }

    async fn walk(&self) -> Result<Credentials, Lack> {
        if let Some(source) = self.source() {
            return source.fetch().await;
        }
        let mut lacks = Vec::with_capacity(self.links.len());
        for (position, (name, link)) in self.links.iter().enumerate() {
            let outcome = match link {
                Ok(source) => source.fetch().await,
                Err(lack) => Err(lack.clone()),
            };
            match outcome {
                Ok(credentials) => {
                    // Another walk at the same time chose first: its choice stands, for this result is as good.
                    let _ = self.chosen.set(position);
                    return Ok(credentials);
                }
                Err(Lack::Absent(lack)) => lacks.push(format!("{name}: {lack}")),
                Err(Lack::Failed(lack)) => return Err(Lack::failed(format!("{name}: {lack}"))),
            }
        }
        Err(Lack::failed(format!("no credentials found: {}", lacks.join("; "))))
    }

    fn source(&self) -> Option<&dyn Fetch> {
        let (_, link) = self.links.get(*self.chosen.get()?)?;
        link.as_deref().ok()
    }
}

impl Fetch for Chain {
    fn fetch(&self) -> Fetching<'_> {
        Box::pin(self.walk())
    }

    fn changed(&self) -> bool {
        self.source().is_some_and(Fetch::changed)
    }
}

/// A source and its name, or why it is not set up.
type Link = (&'static str, Result<Box<dyn Fetch>, Lack>);

fn boxed<F: Fetch + 'static>(fetch: F) -> Box<dyn Fetch> {
    Box::new(fetch)
}
