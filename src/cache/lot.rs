//! What many entries have in common.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::auth::CallerName;
use crate::kms::{Context, Decrypt, KeyName};
use crate::ledger::{Scope, Scoped};

/// What the entries of one share and one scope have in common whose calls are worded alike but for the ciphertext.
#[derive(Debug)]
pub(super) struct Lot {
    pub(super) scope: Arc<Scope>,
    pub(super) share: CallerName,
    pub(super) named: Option<KeyName>,
    pub(super) context: Option<Context>,
}

impl Scoped for Arc<Lot> {
    fn scope(&self) -> &Arc<Scope> {
        &self.scope
    }
}

impl Lot {
    /// Bytes of its own: each entry is held to have it alone.
    pub(super) fn size(&self) -> usize {
        let named = self.named.as_ref().map_or(0, |named| named.as_str().len());
        let context = self.context.as_ref().map_or(0, |context| {
            let pairs: usize = context.pairs().iter().map(|(name, value)| name.len() + value.len() + PAIR_BYTES).sum();
            context.text().len() + pairs
        });
        named + context
    }

    fn is(&self, scope: &Arc<Scope>, share: &CallerName, call: &Decrypt) -> bool {
        Arc::ptr_eq(&self.scope, scope)
            && self.share == *share
            && self.named == call.key
            && self.context == call.context
    }
}

/// The lots that were last asked for, in some places: where another has come into its place, an equal one is made anew.
#[derive(Debug)]
pub(super) struct Lots {
    places: Box<[Mutex<Weak<Lot>>]>,
    hasher: RandomState,
}

impl Lots {
    pub(super) fn new() -> Self {
        Self { places: (0..PLACES).map(|_| Mutex::default()).collect(), hasher: RandomState::new() }
    }

    pub(super) fn of(&self, scope: &Arc<Scope>, share: &CallerName, call: &Decrypt) -> Arc<Lot> {
        let text = call.context.as_ref().map(Context::text);
        let hash = self.hasher.hash_one((Arc::as_ptr(scope), share, &call.key, text));
        let place = &self.places[usize::try_from(hash % PLACES).expect("less than PLACES")];
        let mut place = place.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lot) = place.upgrade().filter(|lot| lot.is(scope, share, call)) {
            return lot;
        }
        let (share, named, context) = (share.clone(), call.key.clone(), call.context.clone());
        let lot = Arc::new(Lot { scope: Arc::clone(scope), share, named, context });
        *place = Arc::downgrade(&lot);
        lot
    }
}

const PLACES: u64 = 1024;
const PAIR_BYTES: usize = 32;
