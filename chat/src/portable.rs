//! Chat templates for exported directories: other programs must get the tokens that were trained from them.

use serde_json::Value;

use crate::probe::{probe_history, probe_tool};
use crate::templates::ChatTemplates;
use crate::{ChatError, ChatTokenizer, Message, RenderOptions};

/// Chat templates to be written with a model.
#[derive(Debug, Clone, PartialEq)]
pub struct PortableTemplates {
    /// `chat_template` of `tokenizer_config.json`: a text, or a list of `{name, template}`.
    pub chat_template: Value,
    /// What other programs get wrong with them, if no template could prevent it.
    pub warning: Option<String>,
}

impl ChatTokenizer {
    /// The chat templates for an exported directory; `None` where there are none. BOS is put in front of a prompt where
    /// the template does not write it, but few other programs do so: the exported template therefore writes it itself,
    /// provided that every prompt keeps its tokens. A tokenizer that puts a space before a text does not put one after
    /// BOS, so that the template may have to write that, too.
    ///
    /// # Errors
    /// [`ChatError::Template`] or [`ChatError::Tokenizer`].
    pub fn portable_templates(&self) -> Result<Option<PortableTemplates>, ChatError> {
        let Some(chat_template) = self.templates().to_config() else { return Ok(None) };
        let prompts = Prompts::new(self);
        let trained = prompts.ids(self.templates(), true);
        if prompts.ids(self.templates(), false) == trained {
            return Ok(Some(PortableTemplates { chat_template, warning: None }));
        }
        for prefix in ["{{ bos_token }}", "{{ bos_token + ' ' }}"] {
            let written = |source: &str| format!("{prefix}{}", without_indentation(source));
            let Ok(templates) = self.templates().map(written) else { continue };
            if let Some(chat_template) = templates.to_config()
                && prompts.ids(&templates, false) == trained
                && prompts.ids(&templates, true) == trained
            {
                return Ok(Some(PortableTemplates { chat_template, warning: None }));
            }
        }
        let bos = self.special_tokens().bos_token.as_deref().unwrap_or_default();
        let warning = format!(
            "the chat template does not write `{bos}`, with which every training prompt began, and cannot be made to \
             without changing other tokens; a program other than this one must put `{bos}` in front of the prompt's \
             tokens itself"
        );
        Ok(Some(PortableTemplates { chat_template, warning: Some(warning) }))
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
    tools: Vec<Value>,
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
        conversations.push(probe_history("2"));
        let tools = if tokenizer.knows_tools() { vec![probe_tool()] } else { Vec::new() };
        Self { tokenizer, conversations, tools }
    }

    /// The ids that `templates` give for every conversation, with and without tools and generation prompt; `None` where
    /// they refuse one. With `add_bos` by the rule of training and serving, otherwise as programs without that rule have
    /// them.
    fn ids(&self, templates: &ChatTemplates, add_bos: bool) -> Vec<Option<Vec<u32>>> {
        let tools: &[&[Value]] = if self.tools.is_empty() { &[&[]] } else { &[&[], &self.tools] };
        let ids = |messages: &[Message], options: RenderOptions<'_>| {
            let template = templates.choose(!options.tools.is_empty())?;
            let text = template.render(messages, options, self.tokenizer.special_tokens()).ok()?;
            let ids = self.tokenizer.encode(&text).ok()?;
            Some(if add_bos { self.tokenizer.with_bos(ids) } else { ids })
        };
        let mut all = Vec::new();
        for messages in &self.conversations {
            for &tools in tools {
                for add_generation_prompt in [true, false] {
                    all.push(ids(messages, RenderOptions { tools, add_generation_prompt, variables: None }));
                }
            }
        }
        all
    }
}
