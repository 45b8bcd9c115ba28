//! What the handlers share.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use llguidance::toktrie::TokTrie;
use orpo_chat::ChatTokenizer;

use crate::admission::Admission;
use crate::engine::Engine;
use crate::engine::constraint::{ConstraintError, Grammars};
use crate::openai::{ApiError, ErrorKind};
use crate::token_bytes::TokenBytes;

/// A model that is served.
pub struct Served {
    /// The name clients ask for.
    pub name: String,
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
        let vocabulary = tokenizer.tokenizer().get_vocab(true).into_values().max().map_or(0, |id| id as usize + 1);
        let grammars = OnceLock::new();
        Self { name: name.into(), created: unix_seconds(), engine, tokenizer, token_bytes, vocabulary, grammars }
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

/// What bounds a request.
#[derive(Debug, Clone)]
pub struct Limits {
    /// How many requests generate at a time.
    pub max_concurrent: usize,
    /// How many more may wait.
    pub max_queue: usize,
    /// How long a request may take, waiting included.
    pub request_timeout: Duration,
    /// How large a body may be.
    pub max_body_bytes: usize,
}

/// The state of the server. The model comes later than the sockets: until then the routes answer `not_ready`.
pub struct AppState {
    /// Slots and the line before them.
    pub admission: Admission,
    /// What bounds a request.
    pub limits: Limits,
    served: OnceLock<Arc<Served>>,
}

impl AppState {
    /// A server without a model yet.
    pub fn new(limits: Limits) -> Self {
        Self { admission: Admission::new(limits.max_concurrent, limits.max_queue), limits, served: OnceLock::new() }
    }

    /// Begins to serve a model; a second one is ignored.
    pub fn serve(&self, served: Served) {
        let _ = self.served.set(Arc::new(served));
    }

    /// The model.
    ///
    /// # Errors
    /// [`ErrorKind::NotReady`] while it is being loaded.
    pub fn served(&self) -> Result<&Arc<Served>, ApiError> {
        self.served
            .get()
            .ok_or_else(|| ApiError::new(ErrorKind::NotReady, "the model is being loaded; retry in a moment"))
    }
}

/// Seconds since 1970.
pub fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
}
