//! A model that is served, with all that answering takes.

use std::sync::{Arc, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

use llguidance::toktrie::TokTrie;
use orpo_chat::ChatTokenizer;
use serde_json::Value;

use crate::engine::constraint::{ConstraintError, Grammars};
use crate::engine::{Engine, known_ids};
use crate::token_bytes::TokenBytes;

/// A model that is served.
pub struct Served {
    /// The name that answers carry.
    pub name: String,
    /// Other names that clients may ask for.
    pub aliases: Vec<String>,
    /// The name of the model that this one is an adapter of.
    pub parent: Option<String>,
    /// Where it comes from and how it is served, if its directory says where it comes from.
    pub lineage: Option<Value>,
    /// When it was loaded, in seconds since 1970.
    pub created: u64,
    /// What computes the tokens.
    pub engine: Arc<dyn Engine>,
    /// Messages to ids and back, with a chat template.
    pub tokenizer: ChatTokenizer,
    /// Single tokens to bytes.
    pub token_bytes: TokenBytes,
    /// One more than the highest id of the tokenizer.
    pub vocabulary: usize,
    grammars: OnceLock<Result<Grammars, ConstraintError>>,
}

impl Served {
    /// A model named `name`, loaded now.
    pub fn new(name: impl Into<String>, engine: Arc<dyn Engine>, tokenizer: ChatTokenizer) -> Self {
        let token_bytes = TokenBytes::new(&tokenizer);
        let vocabulary = known_ids(&tokenizer);
        let (name, created) = (name.into(), unix_seconds());
        let (aliases, parent, lineage, grammars) = (Vec::new(), None, None, OnceLock::new());
        Self { name, aliases, parent, lineage, created, engine, tokenizer, token_bytes, vocabulary, grammars }
    }

    /// Every name that clients may ask for.
    pub fn names(&self) -> impl Iterator<Item = &String> {
        std::iter::once(&self.name).chain(&self.aliases)
    }

    /// Grammars over the tokenizer's vocabulary, made when they are first asked for.
    ///
    /// # Errors
    /// [`ConstraintError`] for a vocabulary that replies cannot be constrained with.
    pub fn grammars(&self) -> Result<&Grammars, ConstraintError> {
        let made = self.grammars.get_or_init(|| {
            let special = self.tokenizer.tokenizer().get_added_tokens_decoder();
            let ids = 0..self.vocabulary as u32;
            let bytes = ids.map(|id| match special.get(&id).filter(|token| token.special) {
                // llguidance's mark: no text can be taken for it.
                Some(token) => [&[TokTrie::SPECIAL_TOKEN_MARKER], token.content.as_bytes()].concat(),
                None => self.token_bytes.of(&self.tokenizer, id),
            });
            Grammars::new(&bytes.collect::<Vec<_>>(), self.tokenizer.eos_ids())
        });
        made.as_ref().map_err(Clone::clone)
    }
}

/// Seconds since 1970.
pub fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
}
