//! A tokenizer directory in Hugging Face layout.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use tokenizers::Tokenizer;

use crate::files::read_json;
use crate::templates::ChatTemplates;
use crate::{ChatError, ChatTemplate, Message, RenderOptions, SpecialTokens, StreamDecoder};

/// Tokenizer, special tokens and chat template of one model.
///
/// One rule about BOS holds for training and serving: if the tokenizer has a BOS token and the rendered text does not
/// begin with it, it is put in front, once (as TRL does).
#[derive(Debug, Clone)]
pub struct ChatTokenizer {
    tokenizer: Tokenizer,
    class: TokenizerClass,
    special: SpecialTokens,
    templates: ChatTemplates,
    variables: Map<String, Value>,
    eos_ids: Vec<u32>,
    dir: PathBuf,
}

impl ChatTokenizer {
    /// Reads `tokenizer.json`, `tokenizer_config.json`, `special_tokens_map.json`, `chat_template.jinja` and the end
    /// tokens named in `generation_config.json` and `config.json`. Only the first is required.
    ///
    /// # Errors
    /// [`ChatError::Read`] or [`ChatError::Parse`] with the file; [`ChatError::Template`] for a template that does not
    /// compile. A missing template is an error only where one is needed.
    pub fn from_dir(dir: &Path) -> Result<Self, ChatError> {
        let config = read_json(&dir.join("tokenizer_config.json"))?.unwrap_or(Value::Null);
        let path = dir.join("tokenizer.json");
        let bytes = std::fs::read(&path).map_err(|source| ChatError::Read { path: path.clone(), source })?;
        let parse = |reason: String| ChatError::Parse { path: path.clone(), reason };
        if bytes.starts_with(b"version https://git-lfs") {
            return Err(parse("it is a Git LFS pointer, not the tokenizer; fetch the file with `git lfs pull`".into()));
        }
        let mut json: Value = serde_json::from_slice(&bytes).map_err(|error| parse(error.to_string()))?;
        let model_config = read_json(&dir.join("config.json"))?.unwrap_or(Value::Null);
        let class = tokenizer_class(&config, &model_config);
        if class == TokenizerClass::Llama {
            prepend_space_as_transformers(&mut json, &config);
        }
        let mut tokenizer: Tokenizer = serde_json::from_value(json).map_err(|error| parse(error.to_string()))?;
        // Length is the caller's business: a truncation stored in the file must not cut anything silently.
        tokenizer.with_truncation(None).map_err(|error| ChatError::Tokenizer(error.to_string()))?;
        tokenizer.with_padding(None);

        let special_map = read_json(&dir.join("special_tokens_map.json"))?.unwrap_or(Value::Null);
        let token = |name: &str| token_text(&config[name]).or_else(|| token_text(&special_map[name]));
        let special = SpecialTokens {
            bos_token: token("bos_token"),
            eos_token: token("eos_token"),
            pad_token: token("pad_token"),
            unk_token: token("unk_token"),
        };

        let templates = ChatTemplates::from_dir(dir, &config)?;

        let mut eos_ids = BTreeSet::new();
        eos_ids.extend(special.eos_token.as_deref().and_then(|token| tokenizer.token_to_id(token)));
        let generation_config = read_json(&dir.join("generation_config.json"))?.unwrap_or(Value::Null);
        for config in [&generation_config, &model_config] {
            eos_ids.extend(ids_of(&config["eos_token_id"]));
        }
        // Some checkpoints name ids that no token has.
        let eos_ids = eos_ids.into_iter().filter(|id| tokenizer.id_to_token(*id).is_some()).collect();
        let variables = Map::new();
        Ok(Self { tokenizer, class, special, templates, variables, eos_ids, dir: dir.to_path_buf() })
    }

    /// Uses `source` as the chat template in place of the directory's.
    ///
    /// # Errors
    /// [`ChatError::Template`] when it does not compile.
    pub fn with_template(mut self, source: impl Into<String>) -> Result<Self, ChatError> {
        self.templates = ChatTemplates::single(source.into())?;
        Ok(self)
    }

    /// Gives `variables`, such as `enable_thinking`, to the chat template of every rendering. Those of a rendering's own
    /// options win; a variable that the template does not name changes nothing, as in `transformers`.
    pub fn with_variables(mut self, variables: Map<String, Value>) -> Self {
        self.variables = variables;
        self
    }

    /// The variables that the chat template is given in every rendering.
    pub fn variables(&self) -> &Map<String, Value> {
        &self.variables
    }

    /// Those of [`ChatTokenizer::variables`] that no chat template of a conversation names.
    pub fn unused_variables(&self) -> Vec<&str> {
        let names = self.variables.keys().map(String::as_str);
        names.filter(|name| !self.templates.name_variable(name)).collect()
    }

    /// Where it was read from.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn templates(&self) -> &ChatTemplates {
        &self.templates
    }

    /// True if `tokenizer.json` counts as it is although `tokenizer_config.json` names Llama's class, which replaces a
    /// part of it: the model's type decided that. A directory without the model's `config.json` must name another class.
    pub fn disregards_llama_class(&self) -> bool {
        self.class == TokenizerClass::LlamaDisregarded
    }

    /// The underlying tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The special tokens as text.
    pub fn special_tokens(&self) -> &SpecialTokens {
        &self.special
    }

    /// The chat template for conversations without tools.
    ///
    /// # Errors
    /// [`ChatError::NoTemplate`] when there is none.
    pub fn template(&self) -> Result<&ChatTemplate, ChatError> {
        self.choose(false)
    }

    /// The chat template for conversations with tools: `tool_use` where the directory has a template of that name.
    ///
    /// # Errors
    /// [`ChatError::NoTemplate`] when there is none.
    pub fn tools_template(&self) -> Result<&ChatTemplate, ChatError> {
        self.choose(true)
    }

    fn choose(&self, tools: bool) -> Result<&ChatTemplate, ChatError> {
        self.templates.choose(tools).ok_or_else(|| ChatError::NoTemplate { dir: self.dir.clone() })
    }

    /// The id of the BOS token, if the tokenizer has one.
    pub fn bos_id(&self) -> Option<u32> {
        self.special.bos_token.as_deref().and_then(|token| self.tokenizer.token_to_id(token))
    }

    /// The id of the tokenizer's EOS token, if it has one.
    pub fn eos_id(&self) -> Option<u32> {
        self.special.eos_token.as_deref().and_then(|token| self.tokenizer.token_to_id(token))
    }

    /// All ids that end a reply: the tokenizer's EOS and those of `generation_config.json` and `config.json`, ascending.
    pub fn eos_ids(&self) -> &[u32] {
        &self.eos_ids
    }

    /// Renders messages without tools; see [`ChatTemplate::render`].
    ///
    /// # Errors
    /// [`ChatError::NoTemplate`] or [`ChatError::Template`].
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String, ChatError> {
        self.render_with(messages, RenderOptions { add_generation_prompt, ..Default::default() })
    }

    /// Renders messages with the template for conversations with or without tools, with
    /// [`ChatTokenizer::variables`]; see [`ChatTemplate::render`].
    ///
    /// # Errors
    /// As [`ChatTokenizer::render`].
    pub fn render_with(&self, messages: &[Message], options: RenderOptions<'_>) -> Result<String, ChatError> {
        let mut variables = self.variables.clone();
        variables.extend(options.variables.cloned().into_iter().flatten());
        let options = RenderOptions { variables: Some(&variables), ..options };
        self.choose(!options.tools.is_empty())?.render(messages, options, &self.special)
    }

    /// Tokenises text as it stands: special tokens written in it are recognised, none are added.
    ///
    /// # Errors
    /// [`ChatError::Tokenizer`].
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, ChatError> {
        let encoding =
            self.tokenizer.encode_fast(text, false).map_err(|error| ChatError::Tokenizer(error.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Puts BOS in front of `ids` if the tokenizer has one and it is not there.
    pub fn with_bos(&self, mut ids: Vec<u32>) -> Vec<u32> {
        if let Some(bos) = self.bos_id()
            && ids.first() != Some(&bos)
        {
            ids.insert(0, bos);
        }
        ids
    }

    /// The ids of a conversation up to where the assistant is to speak.
    ///
    /// # Errors
    /// As [`ChatTokenizer::render`] and [`ChatTokenizer::encode`].
    pub fn encode_prompt(&self, messages: &[Message]) -> Result<Vec<u32>, ChatError> {
        Ok(self.with_bos(self.encode(&self.render(messages, true)?)?))
    }

    /// The text of `ids`.
    ///
    /// # Errors
    /// [`ChatError::Tokenizer`].
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String, ChatError> {
        self.tokenizer.decode(ids, skip_special_tokens).map_err(|error| ChatError::Tokenizer(error.to_string()))
    }

    /// A decoder for a reply to `prompt_ids`, special tokens left out.
    pub fn stream_decoder(&self, prompt_ids: &[u32]) -> StreamDecoder {
        StreamDecoder::new(prompt_ids, true)
    }
}

/// A token is written as a string or as an object with `content`.
fn token_text(value: &Value) -> Option<String> {
    value.as_str().or_else(|| value["content"].as_str()).map(str::to_string)
}

/// What `transformers` makes of `tokenizer_class`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TokenizerClass {
    /// Llama's, which replaces a part of `tokenizer.json`.
    Llama,
    /// Llama's, but the model's type is one whose `tokenizer.json` counts as it is.
    LlamaDisregarded,
    /// Any other.
    AsInFile,
}

fn tokenizer_class(config: &Value, model_config: &Value) -> TokenizerClass {
    // Types that transformers' table of tokenizers (5.24, `tokenization_auto.py`) gives the general class.
    const GENERAL: [&str; 12] = [
        "glm4",
        "granite",
        "granitemoe",
        "ministral",
        "ministral3",
        "mistral",
        "mistral3",
        "mixtral",
        "olmo2",
        "olmo3",
        "phi3",
        "stablelm",
    ];
    if !matches!(config["tokenizer_class"].as_str(), Some("LlamaTokenizer" | "LlamaTokenizerFast")) {
        return TokenizerClass::AsInFile;
    }
    match model_config["model_type"].as_str() {
        Some(model) if GENERAL.contains(&model) => TokenizerClass::LlamaDisregarded,
        _ => TokenizerClass::Llama,
    }
}

/// Where a Llama tokenizer puts a space before a text, whatever its file says: `transformers` rebuilds this part from
/// the configuration. Older files have a normaliser for it, which also hides special tokens in the middle of a text.
fn prepend_space_as_transformers(tokenizer: &mut Value, config: &Value) {
    let prepend = json!({"type": "Sequence", "normalizers": [
        {"type": "Prepend", "prepend": "▁"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
    ]});
    let old = tokenizer["normalizer"] == prepend && tokenizer["pre_tokenizer"].is_null();
    let new = tokenizer["normalizer"].is_null() && tokenizer["pre_tokenizer"]["type"] == "Metaspace";
    if old || new {
        let scheme = match (&config["add_prefix_space"], &config["legacy"]) {
            (Value::Bool(false), _) => "never",
            (_, Value::Bool(true)) => "always",
            _ => "first",
        };
        tokenizer["normalizer"] = Value::Null;
        tokenizer["pre_tokenizer"] =
            json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": false});
    }
}

/// `eos_token_id` is a number or a list of numbers.
fn ids_of(value: &Value) -> Vec<u32> {
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    match value {
        Value::Array(ids) => ids.iter().filter_map(id).collect(),
        other => id(other).into_iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEMPLATE: &str = "{% for m in messages %}{{ m.content + eos_token }}{% endfor %}";

    /// A byte-level tokenizer without merges: one token per byte, then the special tokens.
    fn write_dir(dir: &Path, config: &Value) {
        let mut vocab = serde_json::Map::new();
        for (id, c) in byte_level_alphabet().into_iter().enumerate() {
            vocab.insert(c.to_string(), json!(id));
        }
        let special = |id: usize, content: &str| {
            json!({"id": id, "content": content, "special": true, "single_word": false,
                   "lstrip": false, "rstrip": false, "normalized": false})
        };
        let tokenizer = json!({
            "version": "1.0", "truncation": null, "padding": null,
            "added_tokens": [special(256, "<s>"), special(257, "</s>")],
            "normalizer": null,
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
            "post_processor": null,
            "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
            "model": {"type": "BPE", "vocab": vocab, "merges": []}
        });
        std::fs::write(dir.join("tokenizer.json"), tokenizer.to_string()).unwrap();
        std::fs::write(dir.join("tokenizer_config.json"), config.to_string()).unwrap();
    }

    fn byte_level_alphabet() -> Vec<char> {
        let mut alphabet: Vec<char> =
            tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet().into_iter().collect();
        alphabet.sort_unstable();
        alphabet
    }

    fn chat_tokenizer(config: Value) -> (tempfile::TempDir, ChatTokenizer) {
        let dir = tempfile::tempdir().unwrap();
        write_dir(dir.path(), &config);
        let tokenizer = ChatTokenizer::from_dir(dir.path()).unwrap();
        (dir, tokenizer)
    }

    fn default_config() -> Value {
        json!({"bos_token": "<s>", "eos_token": {"content": "</s>"}, "chat_template": TEMPLATE})
    }

    #[test]
    fn bos_is_added_once() {
        let (_dir, tokenizer) = chat_tokenizer(default_config());
        let without = tokenizer.encode_prompt(&[Message::user("a")]).unwrap();
        assert_eq!((without.len(), without[0], without[2]), (3, 256, 257));
        let tokenizer = tokenizer.with_template(format!("{{{{ bos_token }}}}{TEMPLATE}")).unwrap();
        assert_eq!(tokenizer.encode_prompt(&[Message::user("a")]).unwrap(), without);
    }

    #[test]
    fn end_tokens_are_gathered_from_all_files() {
        let dir = tempfile::tempdir().unwrap();
        write_dir(dir.path(), &default_config());
        // No token has the id 99999; the file begins with a byte order mark.
        std::fs::write(dir.path().join("generation_config.json"), r#"{"eos_token_id": [7, 9, 99999]}"#).unwrap();
        std::fs::write(dir.path().join("config.json"), "\u{feff}{\"eos_token_id\": 7}").unwrap();
        assert_eq!(ChatTokenizer::from_dir(dir.path()).unwrap().eos_ids(), [7, 9, 257]);
    }

    #[test]
    fn a_stream_equals_the_whole_and_never_splits_a_character() {
        let (_dir, tokenizer) = chat_tokenizer(default_config());
        let prompt = tokenizer.encode("hé").unwrap();
        let reply = " 日本é\n\n 🦀 ";
        let mut decoder = tokenizer.stream_decoder(&prompt);
        let mut pieces = Vec::new();
        for id in tokenizer.encode(reply).unwrap() {
            pieces.push(decoder.push(tokenizer.tokenizer(), id).unwrap());
        }
        pieces.push(decoder.finish(tokenizer.tokenizer()).unwrap());
        assert_eq!(pieces.concat(), reply);
        assert!(pieces.iter().all(|piece| !piece.contains('\u{FFFD}')));
    }

    #[test]
    fn an_unfinished_character_at_the_end_is_shown_as_replacement() {
        let (_dir, tokenizer) = chat_tokenizer(default_config());
        let ids = tokenizer.encode("a🦀").unwrap();
        let mut decoder = tokenizer.stream_decoder(&[]);
        let mut text = String::new();
        for id in &ids[..3] {
            text += &decoder.push(tokenizer.tokenizer(), *id).unwrap();
        }
        assert_eq!(text, "a");
        assert_eq!(decoder.finish(tokenizer.tokenizer()).unwrap(), "\u{FFFD}");
    }

    #[test]
    fn missing_and_broken_files_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = ChatTokenizer::from_dir(dir.path()).unwrap_err();
        assert!(error.to_string().contains("tokenizer.json"), "{error}");
        write_dir(dir.path(), &json!({"bos_token": "<s>"}));
        let error = ChatTokenizer::from_dir(dir.path()).unwrap().render(&[], true).unwrap_err();
        assert!(matches!(error, ChatError::NoTemplate { .. }));
        std::fs::write(dir.path().join("tokenizer_config.json"), "{").unwrap();
        let error = ChatTokenizer::from_dir(dir.path()).unwrap_err();
        assert!(error.to_string().contains("tokenizer_config.json"), "{error}");
    }
}
