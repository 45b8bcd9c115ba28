//! What can go wrong between messages and tokens.

use std::path::PathBuf;

/// Errors of loading a tokenizer directory, rendering a template, encoding and decoding.
#[derive(Debug, thiserror::Error)]
pub enum ChatError {
    /// A file of the tokenizer directory cannot be read.
    #[error("cannot read `{}`: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A file of the tokenizer directory is not what its name promises.
    #[error("`{}` is not valid: {reason}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        reason: String,
    },
    /// The directory has no chat template and none was given.
    #[error(
        "no chat template in `{}` (neither `chat_template` in tokenizer_config.json nor chat_template.jinja); give one",
        dir.display()
    )]
    NoTemplate {
        /// The tokenizer directory.
        dir: PathBuf,
    },
    /// The template does not compile or refuses these messages.
    #[error("chat template: {0}")]
    Template(String),
    /// The tokenizer has tokens that the model has not.
    #[error(
        "the tokenizer in `{}` writes `{token}` as id {id}, but the model's embedding has only {rows} rows; resize it \
         (`resize_token_embeddings` in transformers), or take the token out of tokenizer.json",
        dir.display()
    )]
    Vocabulary {
        /// The tokenizer directory.
        dir: PathBuf,
        /// The first token beyond.
        token: String,
        /// Its id.
        id: u32,
        /// Rows of the embedding.
        rows: usize,
    },
    /// The tokenizer failed on this text or these ids.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
}
