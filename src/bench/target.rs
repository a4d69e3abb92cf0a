//! Who is measured: found where the command line says, or started.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::control::{Behaviour, Control, Metrics};
use super::endpoint::{Endpoint, Reach};
use super::face::Face;
use super::process::Vitals;
use super::processors::Processors;
use super::spawned::{Bare, Spawned, Wish};
use super::speech::{Signer, Terms};
use crate::secret::Secret;

/// One target, ready to be asked.
pub(super) struct Target {
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) terms: Terms,
    /// Where DEKs are wrapped that this target is to be asked for, and how: the KMS itself, where it is ours and speaks the
    /// same dialect. Through the daemon it takes four times the processor.
    pub(super) wraps: Option<(Arc<Endpoint>, Terms)>,
    pub(super) control: Option<Control>,
    pub(super) metrics: Option<Metrics>,
    pub(super) admin: Option<PathBuf>,
    pub(super) vitals: Option<Vitals>,
    rig: Rig,
}

enum Rig {
    Given,
    Spawned(Box<Spawned>),
    Bare(#[allow(dead_code, reason = "it runs until this is dropped")] Bare),
}

/// What is known of a target that is there already.
#[derive(Clone, Default)]
pub(super) struct Given {
    pub(super) key: String,
    pub(super) signer: Option<Arc<Signer>>,
    pub(super) control: Option<Control>,
    pub(super) metrics: Option<Metrics>,
    pub(super) admin: Option<PathBuf>,
    pub(super) pid: Option<u32>,
}

impl Target {
    /// A daemon in front of an embedded KMS; or the embedded KMS alone.
    ///
    /// # Errors
    /// Where it does not get ready.
    pub(super) fn spawn(wish: Wish, processors: &Processors, daemon: bool) -> Result<Self, String> {
        let face = wish.face;
        let spawned = Spawned::start(wish, processors, daemon)?;
        let address = spawned.address()?;
        let endpoint = Endpoint::parse(&address, Some(&spawned.ca()?), Reach::Machine)?;
        let terms = Terms {
            face,
            host: endpoint.host().to_owned(),
            key: spawned.key()?.to_owned(),
            signer: Some(Arc::new(spawned.signer()?)),
        };
        let wraps = if daemon && face.api().is_none() { Some(Self::kms_itself(&spawned)?) } else { None };
        Ok(Self {
            endpoint: Arc::new(endpoint),
            terms,
            wraps,
            control: Some(spawned.control()?),
            metrics: spawned.metrics(),
            admin: spawned.admin(),
            vitals: Some(Vitals(spawned.id())),
            rig: Rig::Spawned(Box::new(spawned)),
        })
    }

    fn kms_itself(spawned: &Spawned) -> Result<(Arc<Endpoint>, Terms), String> {
        let endpoint = Endpoint::parse(&spawned.kms_address()?, Some(&spawned.ca()?), Reach::Machine)?;
        let (host, key, signer) = (endpoint.host().to_owned(), spawned.key()?.to_owned(), spawned.signer()?);
        let terms = Terms { face: Face::AliyunV1, host, key, signer: Some(Arc::new(signer)) };
        Ok((Arc::new(endpoint), terms))
    }

    /// A bare responder.
    ///
    /// # Errors
    /// Where it does not get ready.
    pub(super) fn bare(wish: &Wish, processors: &Processors) -> Result<Self, String> {
        let bare = Bare::start(wish, processors)?;
        let ca = bare.ca();
        let ca: Option<&Path> = if ca.exists() { Some(&ca) } else { None };
        let endpoint = Endpoint::parse(&bare.address()?, ca, Reach::Machine)?;
        // As long as those of a spawned daemon.
        let signer = Signer { id: "LTAIkmsproxydev".to_owned(), secret: Secret::copied(&[b'0'; 30]), token: None };
        let terms = Terms {
            face: wish.face,
            host: endpoint.host().to_owned(),
            key: String::new(),
            signer: Some(Arc::new(signer)),
        };
        Ok(Self {
            endpoint: Arc::new(endpoint),
            terms,
            wraps: None,
            control: None,
            metrics: None,
            admin: None,
            vitals: Some(Vitals(bare.id())),
            rig: Rig::Bare(bare),
        })
    }

    /// One that is there.
    pub(super) fn given(endpoint: Endpoint, face: Face, given: Given) -> Self {
        let Given { key, signer, control, metrics, admin, pid } = given;
        let terms = Terms { face, host: endpoint.host().to_owned(), key, signer };
        let endpoint = Arc::new(endpoint);
        let vitals = pid.map(Vitals);
        Self { endpoint, terms, wraps: None, control, metrics, admin, vitals, rig: Rig::Given }
    }

    /// Whether it answers a constant, and so has nothing to be prepared.
    pub(super) const fn is_bare(&self) -> bool {
        matches!(self.rig, Rig::Bare(_))
    }

    /// How its KMS is to behave while it is measured, where that is ours to say.
    pub(super) const fn kms(&self) -> Option<Behaviour> {
        match &self.rig {
            Rig::Spawned(spawned) => Some(spawned.kms()),
            Rig::Given | Rig::Bare(_) => None,
        }
    }

    /// Kills the daemon and starts it again, where it is ours. Returns whether it was.
    ///
    /// # Errors
    /// Where it does not come back.
    pub(super) fn crash(&mut self) -> Result<bool, String> {
        let Rig::Spawned(spawned) = &mut self.rig else { return Ok(false) };
        if spawned.admin().is_none() {
            return Ok(false);
        }
        spawned.crash()?;
        self.endpoint = Arc::new(Endpoint::parse(&spawned.address()?, Some(&spawned.ca()?), Reach::Machine)?);
        self.terms.host = self.endpoint.host().to_owned();
        self.metrics = spawned.metrics();
        self.vitals = Some(Vitals(spawned.id()));
        Ok(true)
    }
}
