//! The encryption context.

use std::fmt;

/// How a caller spelled its encryption context. It matters because some KMS editions bind the spelling itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContextForm {
    /// One parameter that holds a JSON object.
    Json,
    /// One parameter for each pair (`EncryptionContext.k=v`), as an old SDK sends it. What the KMS makes of it is not
    /// documented, so such a call is passed through and never shared.
    Flattened,
}

/// An encryption context (AAD): a map of strings that must be the same at `Decrypt` as it was at `Encrypt`.
///
/// Kept twice on purpose: `text` goes upstream verbatim; `pairs` is the canonical form, sorted by name without
/// duplicates, for everything that compares. An absent context and an empty one are different values.
#[derive(Clone, PartialEq, Eq)]
pub struct Context {
    form: ContextForm,
    text: Box<str>,
    pairs: Box<[(Box<str>, Box<str>)]>,
}

impl Context {
    /// Builds a context from its parts; `None` where a name occurs twice.
    #[must_use]
    pub fn new(form: ContextForm, text: &str, mut pairs: Vec<(Box<str>, Box<str>)>) -> Option<Self> {
        pairs.sort_unstable();
        let distinct = pairs.windows(2).all(|two| two[0].0 != two[1].0);
        distinct.then(|| Self { form, text: text.into(), pairs: pairs.into() })
    }

    /// How it was spelled.
    #[must_use]
    pub const fn form(&self) -> ContextForm {
        self.form
    }

    /// The JSON text exactly as sent; for a flattened context, the canonical JSON of its pairs.
    #[must_use]
    pub const fn text(&self) -> &str {
        &self.text
    }

    /// The pairs in canonical order.
    #[must_use]
    pub const fn pairs(&self) -> &[(Box<str>, Box<str>)] {
        &self.pairs
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Context({:?}, {} pairs)", self.form, self.pairs.len())
    }
}
