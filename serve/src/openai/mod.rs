//! OpenAI's wire: requests validated field by field, responses, and the one table of errors.

mod error;
mod fields;
mod request;
mod response;

pub use error::{ApiError, ErrorKind};
pub use request::{ChatRequest, MAX_STOPS, MAX_TOP_LOGPROBS};
pub use response::{
    ChatChoice, ChatChunk, ChatCompletion, ChunkChoice, ChunkDelta, FinishReason, Logprobs, ModelCard, ModelList,
    ReplyMessage, TokenLogprob, TopLogprob, Usage,
};
