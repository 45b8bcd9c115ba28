//! Text to token ids, by TRL's rules (`trl.experimental.orpo`, 1.16) but for one: see [`Boundary`].

use orpo_chat::{ChatTokenizer, Message};
use serde::{Deserialize, Serialize};

use super::{Preference, Text};
use crate::error::TrainError;

/// Token ids of a prompt and a response in one.
#[derive(Debug, Clone, PartialEq)]
pub struct Sequence {
    /// Prompt, then response.
    pub ids: Vec<u32>,
    /// How many of them are the prompt.
    pub prompt_len: usize,
}

impl Sequence {
    /// Number of response tokens.
    pub fn response_len(&self) -> usize {
        self.ids.len() - self.prompt_len
    }
}

/// One training example: a pair, or a document without a rejected side.
#[derive(Debug, Clone, PartialEq)]
pub struct Example {
    /// Line of the data file, counted from 1.
    pub line: usize,
    /// Prompt and chosen response; for a document all of it is response.
    pub chosen: Sequence,
    /// Prompt and rejected response.
    pub rejected: Option<Sequence>,
}

impl Example {
    /// Tokens on both sides.
    pub fn tokens(&self) -> usize {
        self.chosen.ids.len() + self.rejected.as_ref().map_or(0, |sequence| sequence.ids.len())
    }
}

/// Why a row cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Dropped {
    /// Both responses are the same.
    EqualSides,
    /// A response is empty.
    EmptySide,
    /// There is no prompt.
    EmptyPrompt,
    /// The responses answer different prompts.
    PromptsDiffer,
    /// A response is not the model's turn, or the prompt ends in one.
    WrongRole,
    /// A turn holds no text: an image, or nothing at all.
    NoText,
    /// The chat template refuses the turns.
    TemplateRefused,
    /// `max_length` leaves no token of a response.
    NothingLeft,
}

impl std::fmt::Display for Dropped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::EqualSides => "chosen equals rejected",
            Self::EmptySide => "an empty response",
            Self::EmptyPrompt => "an empty prompt",
            Self::PromptsDiffer => "the prompts of chosen and rejected differ",
            Self::WrongRole => "a response is not the assistant's turn, or the prompt ends in one",
            Self::NoText => "a turn without text",
            Self::TemplateRefused => "the chat template refuses the turns",
            Self::NothingLeft => "no response token within max_length",
        })
    }
}

/// Where the response begins when the tokenizer merges the prompt's last token with the response's first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Boundary {
    /// After the prompt's own tokens, the response tokenised as their continuation: the prompt is then exactly what a
    /// server sends when it asks for a reply.
    #[default]
    Prompt,
    /// One token earlier, as TRL does it: the merged token belongs to the response, and a served prompt ends in a
    /// token that was never trained in this place.
    Trl,
}

/// Makes examples from rows.
#[derive(Debug)]
pub struct Tokeniser<'a> {
    chat: &'a ChatTokenizer,
    max_length: usize,
    boundary: Boundary,
    vocab_size: usize,
}

impl<'a> Tokeniser<'a> {
    /// Sequences are cut to `max_length` tokens: responses lose their end, prompts are never cut.
    pub fn new(chat: &'a ChatTokenizer, max_length: usize, boundary: Boundary) -> Self {
        let vocab_size = chat.tokenizer().get_vocab_size(true);
        Self { chat, max_length, boundary, vocab_size }
    }

    /// Token ids that come as ids must be below `vocab_size`, the model's; by default the tokenizer's.
    pub fn with_vocab_size(self, vocab_size: usize) -> Self {
        Self { vocab_size, ..self }
    }

    /// The example of a pair, or why it cannot be used.
    ///
    /// # Errors
    /// When the template refuses the messages or the tokenizer fails.
    pub fn pair(&self, line: usize, pair: &Preference) -> Result<Result<Example, Dropped>, TrainError> {
        if let Some(reason) = pair.unusable() {
            return Ok(Err(reason));
        }
        let chosen = self.sequence(&pair.prompt, &pair.chosen)?;
        let rejected = self.sequence(&pair.prompt, &pair.rejected)?;
        // Both sides are cut by the longer prompt, as the reference does it.
        let prompt_len = chosen.prompt_len.max(rejected.prompt_len);
        let (chosen, rejected) = (self.cut(chosen, prompt_len), self.cut(rejected, prompt_len));
        if chosen.response_len() == 0 || rejected.response_len() == 0 {
            return Ok(Err(Dropped::NothingLeft));
        }
        Ok(Ok(Example { line, chosen, rejected: Some(rejected) }))
    }

    /// The example of a document: every token but the first is learnt.
    ///
    /// # Errors
    /// When the template refuses the messages or the tokenizer fails.
    pub fn document(&self, line: usize, document: &Text) -> Result<Result<Example, Dropped>, TrainError> {
        if document.is_empty() {
            return Ok(Err(Dropped::EmptySide));
        }
        let ids = match document {
            Text::Plain(text) => self.chat.with_bos(self.chat.encode(text)?),
            Text::Chat(messages) => self.chat.with_bos(self.chat.encode(&self.chat.render(messages, false)?)?),
            Text::Ids(ids) => self.checked(ids)?.to_vec(),
        };
        let mut ids = self.with_eos(ids);
        ids.truncate(self.max_length);
        if ids.len() < 2 {
            return Ok(Err(Dropped::NothingLeft));
        }
        Ok(Ok(Example { line, chosen: Sequence { ids, prompt_len: 1 }, rejected: None }))
    }

    /// Prompt and response together, so that the boundary is tokenised as the model will see it.
    fn sequence(&self, prompt: &Text, response: &Text) -> Result<Sequence, TrainError> {
        if let (Text::Ids(prompt), Text::Ids(response)) = (prompt, response) {
            let ids = [self.checked(prompt)?, self.checked(response)?].concat();
            return Ok(Sequence { ids: self.with_eos(ids), prompt_len: prompt.len() });
        }
        let (prompt, text) = self.texts(prompt, response)?;
        let prompt_ids = self.chat.encode(&prompt)?;
        let ids = self.chat.encode(&text)?;
        let merged = ids.get(..prompt_ids.len()) != Some(&prompt_ids);
        let separate = match self.boundary {
            Boundary::Prompt if merged => self.continued(&prompt_ids, &ids, &text[prompt.len()..])?,
            _ => None,
        };
        let mut prompt_len = match (&separate, merged) {
            (Some(_), _) | (None, false) => prompt_ids.len(),
            (None, true) => prompt_ids.len().saturating_sub(1).min(ids.len()),
        };
        let ids = separate.unwrap_or(ids);
        let before = ids.len();
        let ids = self.chat.with_bos(ids);
        prompt_len += ids.len() - before;
        Ok(Sequence { ids: self.with_eos(ids), prompt_len })
    }

    /// The prompt's ids with those of the response after them, if such ids give the same text as `together`.
    fn continued(&self, prompt: &[u32], together: &[u32], response: &str) -> Result<Option<Vec<u32>>, TrainError> {
        let wanted = self.chat.decode(together, false)?;
        let response = self.chat.encode(response)?;
        // Some tokenizers put a space before every text, which does not belong into the middle of one.
        for skipped in 0..response.len().min(2) {
            let ids = [prompt, &response[skipped..]].concat();
            if self.chat.decode(&ids, false)? == wanted {
                return Ok(Some(ids));
            }
        }
        Ok(None)
    }

    /// The prompt's text, and prompt and response together.
    fn texts(&self, prompt: &Text, response: &Text) -> Result<(String, String), TrainError> {
        match (prompt, response) {
            (Text::Plain(prompt), Text::Plain(response)) => Ok((prompt.clone(), format!("{prompt}{response}"))),
            (Text::Chat(prompt), Text::Chat(response)) => {
                let all: Vec<Message> = prompt.iter().chain(response).cloned().collect();
                let text = self.chat.render(&all, false)?;
                // Some templates render the last turn's header differently when a reply follows: what both have in
                // common is the prompt.
                let prompt = self.chat.render(prompt, true)?;
                let common = prompt.char_indices().zip(text.chars()).find(|((_, a), b)| a != b);
                let end = common.map_or(prompt.len().min(text.len()), |((at, _), _)| at);
                Ok((text[..end].to_string(), text))
            }
            _ => Err(TrainError::Refused(
                "a prompt and its responses must be all strings, all messages or all token ids".into(),
            )),
        }
    }

    /// Ids that came as ids, if the model has them all.
    fn checked<'i>(&self, ids: &'i [u32]) -> Result<&'i [u32], TrainError> {
        match ids.iter().find(|id| **id as usize >= self.vocab_size) {
            Some(id) => Err(TrainError::Refused(format!(
                "token id {id} is outside the vocabulary of {} tokens",
                self.vocab_size
            ))),
            None => Ok(ids),
        }
    }

    fn with_eos(&self, mut ids: Vec<u32>) -> Vec<u32> {
        if let Some(eos) = self.chat.eos_id()
            && ids.last() != Some(&eos)
        {
            ids.push(eos);
        }
        ids
    }

    fn cut(&self, mut sequence: Sequence, longest_prompt: usize) -> Sequence {
        let response = sequence.response_len().min(self.max_length.saturating_sub(longest_prompt));
        sequence.ids.truncate(sequence.prompt_len + response);
        sequence
    }
}
