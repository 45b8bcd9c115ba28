//! OpenAI's wire: requests validated field by field, responses, and the one table of errors.

mod adapter;
mod completion;
#[cfg(test)]
mod document;
mod error;
mod fields;
mod request;
mod response;
mod shared;
mod tokenize;
mod tools;

pub use adapter::{LoadAdapterRequest, UnloadAdapterRequest};
pub use completion::{CompletionRequest, MAX_COMPLETION_LOGPROBS, MAX_PROMPTS, PromptInput};
pub use error::{ApiError, ErrorKind};
pub use request::{ChatRequest, MAX_TOP_LOGPROBS};
pub use response::{
    ChatChoice, ChatChunk, ChatCompletion, ChunkChoice, ChunkDelta, Completion, CompletionChoice, CompletionLogprobs,
    Detokenized, FinishReason, FunctionCall, FunctionDelta, Logprobs, ModelCard, ModelList, PromptTokensDetails,
    ReplyMessage, TokenLogprob, Tokenized, TokenizerInfo, ToolCall, ToolCallDelta, TopLogprob, TopLogprobs, Usage,
};
pub use shared::{AskedGrammar, Ending, MAX_CHOICES, MAX_GUIDED_CHOICES, MAX_STOPS, StreamUsage};
pub use tokenize::{DetokenizeRequest, TokenizeInput, TokenizeRequest};
pub use tools::{Function, MAX_TOOLS, ToolChoice, Tools};
