//! Text to token ids, by TRL's rules (`trl.experimental.orpo`, 1.16) but for one: see [`Boundary`].

use orpo_chat::{ChatTokenizer, Message, RenderOptions};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::truncate::{Limits, Truncation};
use super::{Document, Preference, Text};
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

    /// Whether a response token can be scored: nothing predicts the first token of a sequence.
    fn is_scored(&self) -> bool {
        self.ids.len() > self.prompt_len.max(1)
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
    /// Summed log-probabilities of the chosen and the rejected response under the reference model, for losses that look
    /// at them.
    pub reference: Option<(f64, f64)>,
    /// A token that the likelihood leaves out wherever it stands: the EOS, in the authors' convention.
    pub nll_skips: Option<u32>,
    /// Tokens of both sides that the truncation rule took away.
    pub cut: usize,
}

impl Example {
    /// A pair.
    pub fn pair(line: usize, chosen: Sequence, rejected: Sequence) -> Self {
        Self { line, chosen, rejected: Some(rejected), reference: None, nll_skips: None, cut: 0 }
    }

    /// A document.
    pub fn document(line: usize, sequence: Sequence) -> Self {
        Self { line, chosen: sequence, rejected: None, reference: None, nll_skips: None, cut: 0 }
    }

    /// A pair in the convention of the ORPO authors' code, which pads every sequence with EOS up to `max_length`: the
    /// averages over the responses run one token too far, over the first padding token where there is one, and the
    /// likelihood leaves out every EOS.
    pub fn in_authors_convention(mut self, eos: u32, max_length: usize) -> Self {
        for sequence in std::iter::once(&mut self.chosen).chain(&mut self.rejected) {
            if sequence.ids.len() < max_length {
                sequence.ids.push(eos);
            }
        }
        Self { nll_skips: Some(eos), ..self }
    }

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
    /// Both responses have become the same by the chat template or the tokenizer.
    EqualTokens,
    /// Both responses are the same as far as `max_length` goes.
    EqualWithinLength,
    /// A response is empty.
    EmptySide,
    /// There is no prompt.
    EmptyPrompt,
    /// The responses answer different prompts.
    PromptsDiffer,
    /// A response is not the model's turn, or the prompt ends in one.
    WrongRole,
    /// A turn holds no text.
    NoText,
    /// There are images, sounds or videos.
    Media,
    /// A field that is needed is null.
    NullField,
    /// The chat template refuses the turns.
    TemplateRefused,
    /// `max_length` leaves no token of a response.
    NothingLeft,
    /// The prompt is longer than `drop_long_prompts`.
    LongPrompt,
}

impl std::fmt::Display for Dropped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::EqualSides => "chosen equals rejected",
            Self::EqualTokens => "chosen equals rejected after the chat template and the tokenizer",
            Self::EqualWithinLength => "chosen equals rejected after truncation to max_length",
            Self::EmptySide => "an empty response",
            Self::EmptyPrompt => "an empty prompt",
            Self::PromptsDiffer => "the prompts of chosen and rejected differ",
            Self::WrongRole => "a response is not the assistant's turn, or the prompt ends in one",
            Self::NoText => "a turn without text",
            Self::Media => "an image, sound or video, which is not trained on",
            Self::NullField => "a field that is null",
            Self::TemplateRefused => "the chat template refuses the turns",
            Self::NothingLeft => "no response token within max_length",
            Self::LongPrompt => "a prompt longer than drop_long_prompts",
        })
    }
}

/// Where the response begins when the tokenizer merges the prompt's last token with the response's first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
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

/// Lengths and ends of the sequences.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokeniseOptions {
    /// Longest sequence.
    pub max_length: usize,
    /// Longest prompt, for the truncation rules that have one.
    pub max_prompt_length: usize,
    /// What gives way in a sequence that is longer.
    pub truncation: Truncation,
    /// Pairs with a longer prompt are dropped.
    pub drop_long_prompts: Option<usize>,
    /// Where responses begin.
    pub boundary: Boundary,
    /// Whether an EOS is put behind a response that does not end in one.
    pub append_eos: bool,
    /// Whether a response that was cut ends in an EOS in the place of its last token; no reference does so.
    pub truncated_eos: bool,
    /// Whether pairs are scored as [`Example::in_authors_convention`].
    pub authors: bool,
}

impl Default for TokeniseOptions {
    fn default() -> Self {
        Self {
            max_length: 1024,
            max_prompt_length: 512,
            truncation: Truncation::default(),
            drop_long_prompts: None,
            boundary: Boundary::default(),
            append_eos: true,
            truncated_eos: false,
            authors: false,
        }
    }
}

/// Makes examples from rows.
#[derive(Debug)]
pub struct Tokeniser<'a> {
    chat: &'a ChatTokenizer,
    options: TokeniseOptions,
    vocab_size: usize,
}

impl<'a> Tokeniser<'a> {
    /// A tokeniser with the template and the tokenizer of `chat`.
    pub fn new(chat: &'a ChatTokenizer, options: TokeniseOptions) -> Self {
        Self { chat, options, vocab_size: chat.tokenizer().get_vocab_size(true) }
    }

    /// Token ids that come as ids must be below `vocab_size`, the model's; by default the tokenizer's.
    pub fn with_vocab_size(self, vocab_size: usize) -> Self {
        Self { vocab_size, ..self }
    }

    /// True if turns can be rendered.
    pub fn has_template(&self) -> bool {
        self.chat.template().is_ok()
    }

    /// True if the chat template leaves out system messages without a word.
    pub fn drops_system(&self) -> bool {
        const PROBE: &str = "system message of the probe";
        let turns = [Message::new("system", PROBE), Message::user("x")];
        self.chat.render(&turns, true).is_ok_and(|text| !text.contains(PROBE))
    }

    /// True if the chat template leaves out the reasoning that the last answer has under `key`.
    pub fn drops_reasoning(&self, key: &str) -> bool {
        const PROBE: &str = "reasoning of the probe";
        let mut answer = Message::assistant("y");
        answer.extra.insert(key.into(), PROBE.into());
        self.chat.render(&[Message::user("x"), answer], false).is_ok_and(|text| !text.contains(PROBE))
    }

    /// True if the chat template presents tools.
    pub fn knows_tools(&self) -> bool {
        self.chat.knows_tools()
    }

    /// The example of a pair, or why it cannot be used.
    ///
    /// # Errors
    /// When the template refuses the messages or the tokenizer fails.
    pub fn pair(&self, line: usize, pair: &Preference) -> Result<Result<Example, Dropped>, TrainError> {
        if let Some(reason) = pair.unusable() {
            return Ok(Err(reason));
        }
        let chosen = self.sequence(&pair.prompt, &pair.chosen, &pair.tools)?;
        let rejected = self.sequence(&pair.prompt, &pair.rejected, &pair.tools)?;
        if chosen.ids == rejected.ids {
            return Ok(Err(Dropped::EqualTokens));
        }
        let longest_prompt = chosen.prompt_len.max(rejected.prompt_len);
        if self.options.drop_long_prompts.is_some_and(|limit| longest_prompt > limit) {
            return Ok(Err(Dropped::LongPrompt));
        }
        let longest = chosen.response_len().max(rejected.response_len());
        let whole = chosen.ids.len() + rejected.ids.len();
        let (chosen, rejected) = (self.cut(chosen, longest), self.cut(rejected, longest));
        if !chosen.is_scored() || !rejected.is_scored() {
            return Ok(Err(Dropped::NothingLeft));
        }
        if chosen.ids == rejected.ids {
            return Ok(Err(Dropped::EqualWithinLength));
        }
        let cut = whole - chosen.ids.len() - rejected.ids.len();
        let example = Example { cut, ..Example::pair(line, chosen, rejected) };
        if !self.options.authors {
            return Ok(Ok(example));
        }
        let reason = "the authors' convention pads with EOS, but the tokenizer has no `eos_token`; use another `nll`";
        let eos = self.chat.eos_id().ok_or_else(|| TrainError::Refused(reason.into()))?;
        Ok(Ok(example.in_authors_convention(eos, self.options.max_length)))
    }

    /// The example of a document: every token but the first is learnt.
    ///
    /// # Errors
    /// When the template refuses the messages or the tokenizer fails.
    pub fn document(&self, line: usize, document: &Document) -> Result<Result<Example, Dropped>, TrainError> {
        if document.text.is_empty() {
            return Ok(Err(Dropped::EmptySide));
        }
        let ids = match &document.text {
            Text::Plain(text) => self.chat.with_bos(self.chat.encode(text)?),
            Text::Chat(messages) => {
                let text = self.render(messages, &document.tools, false)?;
                self.chat.with_bos(self.chat.encode(&text)?)
            }
            Text::Ids(ids) => self.checked(ids)?.to_vec(),
        };
        let mut ids = self.with_eos(ids);
        let cut = ids.len().saturating_sub(self.options.max_length);
        ids.truncate(self.options.max_length);
        if ids.len() < 2 {
            return Ok(Err(Dropped::NothingLeft));
        }
        Ok(Ok(Example { cut, ..Example::document(line, Sequence { ids, prompt_len: 1 }) }))
    }

    /// Prompt and response together, so that the boundary is tokenised as the model will see it.
    fn sequence(&self, prompt: &Text, response: &Text, tools: &[Value]) -> Result<Sequence, TrainError> {
        if let (Text::Ids(prompt), Text::Ids(response)) = (prompt, response) {
            let ids = [self.checked(prompt)?, self.checked(response)?].concat();
            return Ok(Sequence { ids: self.with_eos(ids), prompt_len: prompt.len() });
        }
        let (prompt, text) = self.texts(prompt, response, tools)?;
        let prompt_ids = self.chat.encode(&prompt)?;
        let ids = self.chat.encode(&text)?;
        let merged = ids.get(..prompt_ids.len()) != Some(&prompt_ids);
        let separate = match self.options.boundary {
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
        let alone = self.chat.encode(response)?;
        // Some tokenizers put a space before every text, which does not belong in the middle of one: it is a token of its
        // own, or a part of the first, which it is not after a special token.
        let special = self.chat.special_tokens().eos_token.as_deref().unwrap_or_default();
        let after_special = self.chat.encode(&format!("{special}{response}"))?;
        for response in [Some(&alone[..]), alone.get(1..), after_special.get(1..)].into_iter().flatten() {
            let ids = [prompt, response].concat();
            if self.chat.decode(&ids, false)? == wanted {
                return Ok(Some(ids));
            }
        }
        Ok(None)
    }

    /// The text of a conversation, exactly as the server renders it.
    fn render(&self, messages: &[Message], tools: &[Value], add_generation_prompt: bool) -> Result<String, TrainError> {
        Ok(self.chat.render_with(messages, RenderOptions { tools, add_generation_prompt, variables: None })?)
    }

    /// The prompt's text, and prompt and response together.
    fn texts(&self, prompt: &Text, response: &Text, tools: &[Value]) -> Result<(String, String), TrainError> {
        match (prompt, response) {
            (Text::Plain(prompt), Text::Plain(response)) => Ok((prompt.clone(), format!("{prompt}{response}"))),
            (Text::Chat(prompt), Text::Chat(response)) => {
                let all: Vec<Message> = prompt.iter().chain(response).cloned().collect();
                let text = self.render(&all, tools, false)?;
                // Some templates render the last turn's header differently when a reply follows: what both have in
                // common is the prompt.
                let prompt = self.render(prompt, tools, true)?;
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
            && self.options.append_eos
            && ids.last() != Some(&eos)
        {
            ids.push(eos);
        }
        ids
    }

    /// What the truncation rule keeps; `longest` is the length of the pair's longer response.
    fn cut(&self, sequence: Sequence, longest: usize) -> Sequence {
        let TokeniseOptions { max_length, max_prompt_length, truncation, truncated_eos, .. } = self.options;
        let limits = Limits { max_length, max_prompt_length };
        let (prompt, response) = sequence.ids.split_at(sequence.prompt_len);
        let kept = truncation.keep(limits, prompt.len(), response.len(), longest);
        let mut ids = [&prompt[kept.prompt.clone()], &response[..kept.response]].concat();
        if truncated_eos
            && (1..response.len()).contains(&kept.response)
            && let (Some(last), Some(eos)) = (ids.last_mut(), self.chat.eos_id())
        {
            *last = eos;
        }
        Sequence { ids, prompt_len: kept.prompt.len() }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// One token a letter: `a` is 10, `b` 11 and so on; `<s>` is 0, `</s>` 1.
    fn letters() -> ChatTokenizer {
        let dir = tempfile::tempdir().unwrap();
        let special = |id: usize, content: &str| {
            json!({"id": id, "content": content, "special": true, "single_word": false, "lstrip": false,
                   "rstrip": false, "normalized": false})
        };
        let mut vocab: serde_json::Map<String, Value> =
            ('a'..='z').enumerate().map(|(i, letter)| (letter.to_string(), json!(10 + i))).collect();
        vocab.extend([("<s>".into(), json!(0)), ("</s>".into(), json!(1)), ("<unk>".into(), json!(2))]);
        let tokenizer = json!({
            "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
            "added_tokens": [special(0, "<s>"), special(1, "</s>")], "decoder": {"type": "Fuse"},
            "pre_tokenizer": {"type": "Split", "pattern": {"String": ""}, "behavior": "Isolated", "invert": false},
            "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"},
        });
        std::fs::write(dir.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
        let config = json!({"bos_token": "<s>", "eos_token": "</s>"});
        std::fs::write(dir.path().join("tokenizer_config.json"), config.to_string()).unwrap();
        ChatTokenizer::from_dir(dir.path()).unwrap()
    }

    fn pair(options: TokeniseOptions, prompt: &str, chosen: &str, rejected: &str) -> Result<Example, Dropped> {
        let plain = |text: &str| Text::Plain(text.into());
        let row = Preference::new(plain(prompt), plain(chosen), plain(rejected));
        Tokeniser::new(&letters(), options).pair(1, &row).unwrap()
    }

    fn ids(options: TokeniseOptions, prompt: &str, chosen: &str, rejected: &str) -> (Vec<u32>, Vec<u32>) {
        let example = pair(options, prompt, chosen, rejected).unwrap();
        (example.chosen.ids, example.rejected.unwrap().ids)
    }

    #[test]
    fn ends() {
        let options = TokeniseOptions::default();
        assert_eq!(ids(options, "ab", "c", "d"), (vec![0, 10, 11, 12, 1], vec![0, 10, 11, 13, 1]));
        let bare = TokeniseOptions { append_eos: false, ..options };
        assert_eq!(ids(bare, "ab", "c", "d</s>"), (vec![0, 10, 11, 12], vec![0, 10, 11, 13, 1]));
        let authors = TokeniseOptions { authors: true, max_length: 5, ..options };
        // The longer side is full, so that no padding follows it.
        assert_eq!(ids(authors, "a", "bc", "b"), (vec![0, 10, 11, 12, 1], vec![0, 10, 11, 1, 1]));
        assert_eq!(pair(authors, "a", "bc", "b").unwrap().nll_skips, Some(1));
    }

    #[test]
    fn cuts() {
        let cut = |truncation, truncated_eos| {
            let options = TokeniseOptions {
                max_length: 6,
                max_prompt_length: 3,
                truncation,
                truncated_eos,
                ..Default::default()
            };
            ids(options, "abc", "defg", "h")
        };
        let rejected = vec![0, 10, 11, 12, 17, 1];
        assert_eq!(cut(Truncation::Response, false), (vec![0, 10, 11, 12, 13, 14], rejected.clone()));
        assert_eq!(cut(Truncation::Response, true), (vec![0, 10, 11, 12, 13, 1], rejected));
        assert_eq!(cut(Truncation::KeepStart, false), (vec![0, 10, 11, 13, 14, 15], vec![0, 10, 11, 17, 1]));
        assert_eq!(cut(Truncation::KeepEnd, false), (vec![10, 11, 12, 13, 14, 15], vec![10, 11, 12, 17, 1]));
        let options = TokeniseOptions { max_length: 6, ..Default::default() };
        assert_eq!(pair(options, "abc", "defg", "h").unwrap().cut, 3);
        assert_eq!(pair(options, "abc", "d", "h").unwrap().cut, 0);
    }

    #[test]
    fn rows_that_cannot_be_used() {
        let options = TokeniseOptions { max_length: 4, ..Default::default() };
        assert_eq!(pair(options, "abc", "d", "e"), Err(Dropped::NothingLeft));
        let short_prompts = TokeniseOptions { drop_long_prompts: Some(3), ..Default::default() };
        assert_eq!(pair(short_prompts, "abc", "d", "e"), Err(Dropped::LongPrompt));
        assert!(pair(short_prompts, "ab", "d", "e").is_ok());
        // Of the prompt nothing is left, and nothing predicts the one token that is left of the response.
        let tight = TokeniseOptions { max_length: 2, truncation: Truncation::Proportional, ..Default::default() };
        assert_eq!(pair(tight, "abcdefgh", "i", "j"), Err(Dropped::NothingLeft));
    }

    #[test]
    fn sides_that_become_equal_are_dropped_with_the_cause() {
        let options = TokeniseOptions { max_length: 6, ..Default::default() };
        assert_eq!(pair(options, "a", "bcdefg", "bcdehi"), Err(Dropped::EqualWithinLength));
        assert!(pair(options, "a", "bcdx", "bcdehi").is_ok());
        // The vocabulary has neither.
        assert_eq!(pair(options, "a", "b!", "b?"), Err(Dropped::EqualTokens));
        let chat = letters().with_template("{% for m in messages %}{{ m.content | trim('xy') }}{% endfor %}").unwrap();
        let turns = |role: &str, text: &str| Text::Chat(vec![Message::new(role, text)]);
        let row = Preference::new(turns("user", "a"), turns("assistant", "xb"), turns("assistant", "by"));
        assert_eq!(Tokeniser::new(&chat, options).pair(1, &row).unwrap(), Err(Dropped::EqualTokens));
        assert!(Dropped::EqualTokens.to_string().starts_with("chosen equals rejected"));
        assert!(Dropped::EqualWithinLength.to_string().starts_with("chosen equals rejected"));
    }

    #[test]
    fn a_template_that_drops_system_messages_is_known() {
        let drops = |template: &str| {
            let chat = letters().with_template(template).unwrap();
            Tokeniser::new(&chat, TokeniseOptions::default()).drops_system()
        };
        assert!(!drops("{% for m in messages %}{{ m.content }}{% endfor %}"));
        assert!(drops("{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}"));
        // A refusal is not without a word.
        assert!(!drops("{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}x"));
    }

    #[test]
    fn tools_and_calls_become_the_tokens_of_the_served_prompt() {
        let template = "{% for t in tools or [] %}{{ t.function.name }}{% endfor %}{% for m in messages %}{{ m.role[0] }}\
                        {{ m.content }}{% for c in m.tool_calls or [] %}{{ c.function.arguments.x }}{% endfor %}{% endfor %}\
                        {% if add_generation_prompt %}a{% endif %}";
        let chat = letters().with_template(template).unwrap();
        let mut call = Message::assistant("");
        let arguments = json!({"x": "z"}).to_string();
        call.extra.insert("tool_calls".into(), json!([{"function": {"name": "f", "arguments": arguments}}]));
        let prompt = vec![Message::new("developer", "k"), Message::user("q"), call, Message::new("tool", "r")];
        let tools = vec![json!({"type": "function", "function": {"name": "f"}})];
        let reply = |text: &str| Text::Chat(vec![Message::assistant(text)]);
        let row =
            Preference { tools: tools.clone(), ..Preference::new(Text::Chat(prompt.clone()), reply("b"), reply("c")) };
        let tokeniser = Tokeniser::new(&chat, TokeniseOptions::default());
        let example = tokeniser.pair(1, &row).unwrap().unwrap();
        let options = RenderOptions { tools: &tools, add_generation_prompt: true, variables: None };
        let served = chat.render_with(&prompt, options).unwrap();
        assert_eq!(served, "fskuqaztra");
        let served = chat.with_bos(chat.encode(&served).unwrap());
        assert_eq!(example.chosen.ids[..example.chosen.prompt_len], served);
        let document = Document { text: Text::Chat(prompt), tools };
        let document = tokeniser.document(1, &document).unwrap().unwrap();
        assert_eq!(document.chosen.ids[..2], [0, 15]);
    }
}
