//! Response bodies, in OpenAI's words.

use serde::{Serialize, Serializer};

/// Why a reply ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// An end token or a stop string.
    Stop,
    /// The token limit or the end of the context.
    Length,
    /// The reply calls functions.
    ToolCalls,
}

/// Token counts. The completion's include every token the model generated, also an end token and those of a stop
/// string that was cut off.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Tokens of the rendered conversation.
    pub prompt_tokens: usize,
    /// Tokens generated.
    pub completion_tokens: usize,
    /// Their sum.
    pub total_tokens: usize,
    /// More about the prompt.
    pub prompt_tokens_details: PromptTokensDetails,
}

/// More about the tokens of a prompt.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct PromptTokensDetails {
    /// How many need not be computed again, as they were known from earlier requests.
    pub cached_tokens: usize,
}

impl Usage {
    /// The counts of a prompt and a completion.
    pub fn new(prompt_tokens: usize, completion_tokens: usize) -> Self {
        let total_tokens = prompt_tokens + completion_tokens;
        Self { prompt_tokens, completion_tokens, total_tokens, prompt_tokens_details: PromptTokensDetails::default() }
    }

    /// Counts one more generated token.
    pub fn count_token(&mut self) {
        self.completion_tokens += 1;
        self.total_tokens += 1;
    }

    /// Counts further tokens of the prompt that were known.
    pub fn count_cached(&mut self, tokens: usize) {
        self.prompt_tokens_details.cached_tokens += tokens;
    }
}

/// One of the most likely tokens at a position.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TopLogprob {
    /// Its text; U+FFFD where it is only a part of a character.
    pub token: String,
    /// Its natural log-probability.
    pub logprob: f32,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// A token of the reply.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TokenLogprob {
    /// The token and its log-probability.
    #[serde(flatten)]
    pub chosen: TopLogprob,
    /// The most likely tokens at its position.
    pub top_logprobs: Vec<TopLogprob>,
}

/// The log-probabilities of a reply or of a chunk.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Logprobs {
    /// One entry per token.
    pub content: Vec<TokenLogprob>,
    /// Always null.
    pub refusal: Option<()>,
}

/// The assistant's message.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ReplyMessage {
    /// `assistant`.
    pub role: &'static str,
    /// The text; null beside calls alone.
    pub content: Option<String>,
    /// Always null.
    pub refusal: Option<()>,
    /// The calls, if there are any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
}

/// A call of a function.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ToolCall {
    /// What its result refers to.
    pub id: String,
    /// `function`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The call.
    pub function: FunctionCall,
}

/// A function and what it is called with.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FunctionCall {
    /// The function's name.
    pub name: String,
    /// JSON text of an object.
    pub arguments: String,
}

/// What a chunk adds to a call: its beginning, or more of its arguments.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ToolCallDelta {
    /// The call's number, from 0 on.
    pub index: usize,
    /// At its beginning.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// `function`, at its beginning.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<&'static str>,
    /// What is added.
    pub function: FunctionDelta,
}

/// What a chunk adds to the function of a call.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FunctionDelta {
    /// The function's name, at the beginning.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Text to append to the arguments.
    pub arguments: String,
}

/// One choice of a reply.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ChatChoice {
    /// Its number, from 0 on.
    pub index: usize,
    /// The message.
    pub message: ReplyMessage,
    /// Present if asked for.
    pub logprobs: Option<Logprobs>,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// The tokens of the text, if asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_ids: Option<Vec<u32>>,
}

/// The whole reply.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ChatCompletion {
    /// `chatcmpl-...`.
    pub id: String,
    /// `chat.completion`.
    pub object: &'static str,
    /// Seconds since 1970.
    pub created: u64,
    /// The served name.
    pub model: String,
    /// The choices, by index.
    pub choices: Vec<ChatChoice>,
    /// Token counts.
    pub usage: Usage,
    /// The tokens of the prompt, if asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_token_ids: Option<Vec<u32>>,
}

/// What a chunk adds.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct ChunkDelta {
    /// In the first chunk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<&'static str>,
    /// Text to append.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// Calls that begin or go on.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCallDelta>,
}

/// What a chunk adds to one choice.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ChunkChoice {
    /// Its number, from 0 on.
    pub index: usize,
    /// What is added.
    pub delta: ChunkDelta,
    /// Present if asked for and there are tokens.
    pub logprobs: Option<Logprobs>,
    /// In the last chunk.
    pub finish_reason: Option<FinishReason>,
    /// The tokens of the text, if asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_ids: Option<Vec<u32>>,
}

/// One event of a streamed reply.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ChatChunk {
    /// The same in all chunks.
    pub id: String,
    /// `chat.completion.chunk`.
    pub object: &'static str,
    /// Seconds since 1970, the same in all chunks.
    pub created: u64,
    /// The served name.
    pub model: String,
    /// One choice; none in the usage chunk.
    pub choices: Vec<ChunkChoice>,
    /// Absent unless asked for; then null in all chunks but the last, or the counts so far.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Option<Usage>>,
    /// The tokens of the prompt, if asked for, in the first chunk of each choice.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_token_ids: Option<Vec<u32>>,
}

/// Texts of tokens and their log-probabilities, each text once, best first; an object on the wire.
#[derive(Debug, Clone, PartialEq)]
pub struct TopLogprobs(pub Vec<(String, f32)>);

impl Serialize for TopLogprobs {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(text, logprob)| (text, logprob)))
    }
}

/// The log-probabilities of a completion or of a chunk, in the layout of the older API: parallel lists. Tokens that are
/// not UTF-8 by themselves are written as `bytes:\\xe2\\x96`.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct CompletionLogprobs {
    /// The tokens.
    pub tokens: Vec<String>,
    /// Their log-probabilities; null for the first token of an echoed prompt.
    pub token_logprobs: Vec<Option<f32>>,
    /// The most likely tokens at each position, and always the one that stands there.
    pub top_logprobs: Vec<Option<TopLogprobs>>,
    /// How many characters of the choice's text come before each token.
    pub text_offset: Vec<usize>,
}

/// One choice of a completion, or what a chunk adds to it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CompletionChoice {
    /// Its number, from 0 on; those of the first prompt come first.
    pub index: usize,
    /// The text.
    pub text: String,
    /// Present if asked for.
    pub logprobs: Option<CompletionLogprobs>,
    /// Why it ended; null in a chunk that is not its last.
    pub finish_reason: Option<FinishReason>,
    /// The tokens of the text, if asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_ids: Option<Vec<u32>>,
    /// The tokens of the prompt, if asked for; in a stream in the last chunk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_token_ids: Option<Vec<u32>>,
}

/// A completion, or one event of a streamed one.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Completion {
    /// `cmpl-...`, the same in all chunks.
    pub id: String,
    /// `text_completion`.
    pub object: &'static str,
    /// Seconds since 1970.
    pub created: u64,
    /// The served name.
    pub model: String,
    /// The choices, by index; none in the usage chunk.
    pub choices: Vec<CompletionChoice>,
    /// Token counts. In a stream absent unless asked for; then null in all chunks but the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Option<Usage>>,
}

/// A text or conversation as tokens.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Tokenized {
    /// How many tokens.
    pub count: usize,
    /// How many tokens prompt and reply may have together.
    pub max_model_len: usize,
    /// The ids.
    pub tokens: Vec<u32>,
    /// The vocabulary's entries, if asked for.
    pub token_strs: Option<Vec<String>>,
}

/// Tokens as text.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Detokenized {
    /// The text.
    pub prompt: String,
}

/// What a client needs to know of the tokenizer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TokenizerInfo {
    /// Beginning of sequence.
    pub bos_token: Option<String>,
    /// End of sequence.
    pub eos_token: Option<String>,
    /// Padding.
    pub pad_token: Option<String>,
    /// Unknown text.
    pub unk_token: Option<String>,
    /// The chat template (jinja).
    pub chat_template: Option<String>,
    /// How many tokens prompt and reply may have together.
    pub model_max_length: usize,
}

/// A served model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModelCard {
    /// The name to ask for.
    pub id: String,
    /// `model`.
    pub object: &'static str,
    /// When it was loaded, in seconds since 1970.
    pub created: u64,
    /// `orpo-serve`.
    pub owned_by: &'static str,
    /// The base model's name; of an alias, the name that answers carry.
    pub root: String,
    /// The model that this one is an adapter of.
    pub parent: Option<String>,
    /// How many tokens prompt and reply may have together.
    pub max_model_len: usize,
    /// Where the model comes from (what its `orpo_manifest.json` says, with that file's SHA-256) and how it is served; null
    /// without a manifest.
    pub lineage: Option<serde_json::Value>,
}

/// All served models.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModelList {
    /// `list`.
    pub object: &'static str,
    /// The models.
    pub data: Vec<ModelCard>,
}
