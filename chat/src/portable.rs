//! Chat templates for exported directories: other programs must get the tokens that were trained from them.

use serde_json::{Map, Value};

use crate::probe::{probe_history, probe_tool};
use crate::templates::ChatTemplates;
use crate::{ChatError, ChatTokenizer, Message, RenderOptions};

/// Chat templates to be written with a model.
#[derive(Debug, Clone, PartialEq)]
pub struct PortableTemplates {
    /// `chat_template` of `tokenizer_config.json`: a text, or a list of `{name, template}`.
    pub chat_template: Value,
    /// The variables that the templates set where a request does not.
    pub defaults: Vec<String>,
    /// What other programs get wrong with them, if no template could prevent it.
    pub warnings: Vec<String>,
}

impl ChatTokenizer {
    /// The chat templates for an exported directory; `None` where there are none. Two things that training adds to a
    /// template are written into it, provided that every prompt keeps its tokens, because few other programs know of
    /// them: variables that the template was given ([`ChatTokenizer::variables`]) become its defaults; and BOS, which is
    /// put in front of a prompt where the template does not write it. A tokenizer that puts a space before a text does not
    /// put one after BOS, so that the template may have to write that, too.
    ///
    /// # Errors
    /// [`ChatError::Template`] or [`ChatError::Tokenizer`].
    pub fn portable_templates(&self) -> Result<Option<PortableTemplates>, ChatError> {
        let Some(unchanged) = self.templates().to_config() else { return Ok(None) };
        let prompts = Prompts::new(self);
        let trained = prompts.ids(self.templates(), self.variables(), true);
        let none = Map::new();
        let ids = |templates: &ChatTemplates, add_bos: bool| prompts.ids(templates, &none, add_bos);

        let unused = self.unused_variables();
        let named = self.variables().iter().filter(|(name, _)| !unused.contains(&name.as_str()));
        let (defaults, assignments): (Vec<String>, Vec<String>) =
            named.map(|(name, value)| (name.clone(), default_of(name, value))).unzip();
        let assignments = assignments.concat();
        // What was exported before sets them already.
        let without = |source: &str| source.strip_prefix(&assignments).unwrap_or(source).to_string();
        let with_defaults = self.templates().map(|source| format!("{assignments}{}", without(source)));
        let Some(with_defaults) = with_defaults.ok().filter(|templates| ids(templates, true) == trained) else {
            let sent = Value::Object(self.variables().clone());
            let warning = format!(
                "the chat template was given the variables {sent} in training and cannot be made to set them itself; a \
                 program that uses the model must give it the same (`chat_template_kwargs` of a request)"
            );
            return Ok(Some(PortableTemplates {
                chat_template: unchanged,
                defaults: Vec::new(),
                warnings: vec![warning],
            }));
        };
        let chat_template = with_defaults.to_config().unwrap_or(unchanged);
        if ids(&with_defaults, false) == trained {
            return Ok(Some(PortableTemplates { chat_template, defaults, warnings: Vec::new() }));
        }
        for prefix in ["{{ bos_token }}", "{{ bos_token + ' ' }}"] {
            let written = |source: &str| format!("{assignments}{prefix}{}", without_indentation(&without(source)));
            let Ok(templates) = self.templates().map(written) else { continue };
            if let Some(chat_template) = templates.to_config()
                && ids(&templates, false) == trained
                && ids(&templates, true) == trained
            {
                return Ok(Some(PortableTemplates { chat_template, defaults, warnings: Vec::new() }));
            }
        }
        let bos = self.special_tokens().bos_token.as_deref().unwrap_or_default();
        let warning = format!(
            "the chat template does not write `{bos}`, with which every training prompt began, and cannot be made to \
             without changing other tokens; a program other than this one must put `{bos}` in front of the prompt's \
             tokens itself"
        );
        Ok(Some(PortableTemplates { chat_template, defaults, warnings: vec![warning] }))
    }
}

/// A statement that sets a variable where nothing else does. It is a line of its own, which renders as nothing and
/// leaves the next one as it was.
fn default_of(name: &str, value: &Value) -> String {
    format!("{{% if {name} is not defined %}}{{% set {name} = {} %}}{{% endif %}}\n", literal(value))
}

/// `value` as jinja writes it, which is JSON but for null.
fn literal(value: &Value) -> String {
    match value {
        Value::Null => "none".into(),
        Value::Array(items) => format!("[{}]", items.iter().map(literal).collect::<Vec<_>>().join(", ")),
        Value::Object(fields) => {
            let fields =
                fields.iter().map(|(name, value)| format!("{}: {}", Value::from(name.as_str()), literal(value)));
            format!("{{{}}}", fields.collect::<Vec<_>>().join(", "))
        }
        plain => plain.to_string(),
    }
}

/// Jinja drops blanks before a block only where a line begins, which a template no longer does behind BOS.
fn without_indentation(source: &str) -> &str {
    let rest = source.trim_start_matches([' ', '\t']);
    let dropped = (rest.starts_with("{%") && !rest.starts_with("{%+")) || rest.starts_with("{#");
    if dropped { rest } else { source }
}

/// Conversations of many kinds, on which templates are compared.
struct Prompts<'a> {
    tokenizer: &'a ChatTokenizer,
    conversations: Vec<Vec<Message>>,
    tools: [Value; 1],
}

impl<'a> Prompts<'a> {
    fn new(tokenizer: &'a ChatTokenizer) -> Self {
        const TEXTS: [&str; 9] = ["x", "How are you?", " a", "\nb ", "  ", "", "é 日本 🦀", "▁c", "</s>d"];
        let (system, user, assistant) = (|text| Message::new("system", text), Message::user, Message::assistant);
        let mut conversations = Vec::new();
        for text in TEXTS {
            conversations.push(vec![user(text)]);
            conversations.push(vec![user(text), assistant(text)]);
            conversations.push(vec![user("x"), assistant(text), user(text)]);
            conversations.push(vec![system(text), user("x"), assistant("y"), user(text), assistant(text)]);
        }
        conversations.push(vec![system("Be brief.")]);
        conversations.push(vec![assistant("Hello.")]);
        let mut thoughtful = assistant("y");
        thoughtful.extra.insert("reasoning_content".into(), "Thoughts.".into());
        conversations.push(vec![user("x"), thoughtful.clone(), user("z")]);
        conversations.push(vec![user("x"), thoughtful]);
        conversations.push(probe_history("2"));
        Self { tokenizer, conversations, tools: [probe_tool()] }
    }

    /// The ids that `templates` give with `variables` for every conversation, with and without tools and generation
    /// prompt; `None` where they refuse one. With `add_bos` by the rule of training and serving, otherwise as programs
    /// without that rule have them.
    fn ids(&self, templates: &ChatTemplates, variables: &Map<String, Value>, add_bos: bool) -> Vec<Option<Vec<u32>>> {
        let ids = |messages: &[Message], options: RenderOptions<'_>| {
            let template = templates.choose(!options.tools.is_empty())?;
            let text = template.render(messages, options, self.tokenizer.special_tokens()).ok()?;
            let ids = self.tokenizer.encode(&text).ok()?;
            Some(if add_bos { self.tokenizer.with_bos(ids) } else { ids })
        };
        let mut all = Vec::new();
        for messages in &self.conversations {
            for tools in [&[][..], &self.tools] {
                for add_generation_prompt in [true, false] {
                    all.push(ids(messages, RenderOptions { tools, add_generation_prompt, variables: Some(variables) }));
                }
            }
        }
        all
    }
}
