//! The chat templates of a tokenizer directory, and which of them renders a conversation.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use crate::files::{read_json, read_text};
use crate::{ChatError, ChatTemplate};

/// The template for conversations without tools, and often the only one.
const DEFAULT: &str = "default";
/// The template for conversations with tools, where there is one of its own.
const TOOL_USE: &str = "tool_use";
/// Where `transformers` 5 keeps templates other than the default, one file each.
pub(crate) const TEMPLATES_DIR: &str = "additional_chat_templates";

/// Templates by name, as `transformers` reads them: those in files of their own come before those of
/// `tokenizer_config.json`.
#[derive(Debug, Clone, Default)]
pub(crate) struct ChatTemplates {
    sources: BTreeMap<String, String>,
    default: Option<ChatTemplate>,
    tool_use: Option<ChatTemplate>,
}

impl ChatTemplates {
    /// The templates of `dir`, whose `tokenizer_config.json` is `config`.
    pub fn from_dir(dir: &Path, config: &Value) -> Result<Self, ChatError> {
        let mut sources = BTreeMap::new();
        if let Some(source) = read_text(&dir.join("chat_template.jinja"))? {
            sources.insert(DEFAULT.to_string(), source);
        }
        sources.extend(additional(&dir.join(TEMPLATES_DIR))?);
        if sources.is_empty() {
            sources = named(&config["chat_template"]);
        }
        if sources.is_empty() {
            let processor = read_json(&dir.join("chat_template.json"))?.unwrap_or(Value::Null);
            sources = named(&processor["chat_template"]);
        }
        Self::new(sources)
    }

    /// `source` alone, for every conversation.
    pub fn single(source: String) -> Result<Self, ChatError> {
        Self::new(BTreeMap::from([(DEFAULT.to_string(), source)]))
    }

    fn new(sources: BTreeMap<String, String>) -> Result<Self, ChatError> {
        let compiled = |name: &str| sources.get(name).cloned().map(ChatTemplate::new).transpose();
        Ok(Self { default: compiled(DEFAULT)?, tool_use: compiled(TOOL_USE)?, sources })
    }

    /// The template for a conversation with or without tools.
    pub fn choose(&self, tools: bool) -> Option<&ChatTemplate> {
        self.tool_use.as_ref().filter(|_| tools).or(self.default.as_ref())
    }

    /// The templates with `change` applied to the sources of those that render conversations.
    pub fn map(&self, change: impl Fn(&str) -> String) -> Result<Self, ChatError> {
        let changed = self.sources.iter().map(|(name, source)| {
            let rendered = name == DEFAULT || name == TOOL_USE;
            (name.clone(), if rendered { change(source) } else { source.clone() })
        });
        Self::new(changed.collect())
    }

    /// True if a template that renders conversations has the word `name` in it.
    pub fn name_variable(&self, name: &str) -> bool {
        let templates = self.default.iter().chain(&self.tool_use);
        let is_part = |c: char| c.is_alphanumeric() || c == '_';
        templates.flat_map(|template| template.source().split(|c| !is_part(c))).any(|word| word == name)
    }

    /// As `tokenizer_config.json` states them: one text, or a list of `{name, template}`; `None` without any.
    pub fn to_config(&self) -> Option<Value> {
        match (self.sources.get(DEFAULT), self.sources.len()) {
            (_, 0) => None,
            (Some(only), 1) => Some(only.clone().into()),
            _ => {
                Some(self.sources.iter().map(|(name, template)| json!({"name": name, "template": template})).collect())
            }
        }
    }
}

/// The templates in `*.jinja` of `dir`, named after their files.
fn additional(dir: &Path) -> Result<BTreeMap<String, String>, ChatError> {
    let read = |source| ChatError::Read { path: dir.to_path_buf(), source };
    let mut sources = BTreeMap::new();
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(sources),
        Err(source) => return Err(read(source)),
    };
    for entry in entries {
        let path = entry.map_err(read)?.path();
        if let (Some("jinja"), Some(name)) = (path.extension().and_then(|e| e.to_str()), path.file_stem())
            && let Some(source) = read_text(&path)?
        {
            sources.insert(name.to_string_lossy().into_owned(), source);
        }
    }
    Ok(sources)
}

/// Templates stated in JSON: one text, a list of `{name, template}`, or an object of texts.
fn named(value: &Value) -> BTreeMap<String, String> {
    let pair = |name: &Value, source: &Value| Some((name.as_str()?.to_string(), source.as_str()?.to_string()));
    match value {
        Value::String(source) => BTreeMap::from([(DEFAULT.to_string(), source.clone())]),
        Value::Array(list) => list.iter().filter_map(|entry| pair(&entry["name"], &entry["template"])).collect(),
        Value::Object(map) => map.iter().filter_map(|(name, source)| pair(&json!(name), source)).collect(),
        _ => BTreeMap::new(),
    }
}
