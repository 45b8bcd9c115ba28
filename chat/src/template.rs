//! Chat templates in the dialect of Hugging Face `transformers` (jinja2, `trim_blocks`, `lstrip_blocks`), on minijinja.

use chrono::{DateTime, Local};
use minijinja::value::{Kwargs, Rest, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Output, State};
use serde::Serialize;
use serde_json::{Map, Value as Json};

use crate::message::normalised;
use crate::{ChatError, Message};

/// The special tokens a template can name. An absent token is undefined in the template and renders as nothing.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct SpecialTokens {
    /// Beginning of sequence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bos_token: Option<String>,
    /// End of sequence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eos_token: Option<String>,
    /// Padding.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pad_token: Option<String>,
    /// Unknown text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unk_token: Option<String>,
}

impl SpecialTokens {
    /// Each token that there is, under its name.
    fn to_variables(&self) -> Map<String, Json> {
        match serde_json::to_value(self) {
            Ok(Json::Object(tokens)) => tokens,
            _ => unreachable!("a struct of strings is an object"),
        }
    }
}

/// What a template is given beside the messages and the special tokens.
#[derive(Debug, Clone, Copy, Default)]
pub struct RenderOptions<'a> {
    /// The tools that the template presents, in OpenAI's layout; `tools` is none in the template if there are none.
    pub tools: &'a [Json],
    /// Whether the header of the assistant's turn follows the messages.
    pub add_generation_prompt: bool,
    /// Further variables, such as `enable_thinking`; they win over all others but `messages`.
    pub variables: Option<&'a Map<String, Json>>,
}

/// A compiled chat template.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
}

const NAME: &str = "chat_template";

impl ChatTemplate {
    /// Compiles `source`.
    ///
    /// # Errors
    /// [`ChatError::Template`] with jinja's message and line when it does not compile.
    pub fn new(source: impl Into<String>) -> Result<Self, ChatError> {
        Self::with_clock(source.into(), chrono::Local::now)
    }

    /// As [`ChatTemplate::new`], with the time that `strftime_now` tells.
    fn with_clock(source: String, now: fn() -> DateTime<Local>) -> Result<Self, ChatError> {
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.set_formatter(format_as_python);
        environment.add_filter("tojson", to_json);
        environment.add_filter("indent", indent);
        environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_function("strftime_now", move |format: String| now().format(&format).to_string());
        environment
            .add_template_owned(NAME, without_generation_blocks(&source))
            .map_err(|error| ChatError::Template(error.to_string()))?;
        Ok(Self { environment, source })
    }

    /// The text it was compiled from.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Renders `messages` with `options` after normalising them: the role `developer` becomes `system`, arguments of
    /// calls become objects, and results of calls get their function's name.
    ///
    /// # Errors
    /// [`ChatError::Template`] when the template refuses the messages (`raise_exception`) or is wrong, or a variable is
    /// called `messages`.
    pub fn render(
        &self,
        messages: &[Message],
        options: RenderOptions<'_>,
        special: &SpecialTokens,
    ) -> Result<String, ChatError> {
        let mut context = special.to_variables();
        context.insert("tools".into(), if options.tools.is_empty() { Json::Null } else { options.tools.into() });
        context.insert("documents".into(), Json::Null);
        context.insert("add_generation_prompt".into(), options.add_generation_prompt.into());
        context.extend(options.variables.cloned().into_iter().flatten());
        if context
            .insert("messages".into(), serde_json::to_value(normalised(messages)).expect("messages are JSON"))
            .is_some()
        {
            return Err(ChatError::Template("a variable cannot be called `messages`".into()));
        }
        self.render_context(&context)
    }

    fn render_context<C: Serialize>(&self, context: &C) -> Result<String, ChatError> {
        self.environment
            .get_template(NAME)
            .and_then(|template| template.render(context))
            .map_err(|error| ChatError::Template(error.to_string()))
    }
}

/// Python prints `None`, `True` and `False` where minijinja prints `none`, `true` and `false`.
fn format_as_python(out: &mut Output<'_>, state: &State<'_, '_>, value: &Value) -> Result<(), Error> {
    let python = match value.kind() {
        ValueKind::None => "None",
        ValueKind::Bool if value.is_true() => "True",
        ValueKind::Bool => "False",
        _ => return minijinja::escape_formatter(out, state, value),
    };
    out.write_str(python).map_err(Error::from)
}

/// `json.dumps(value, ensure_ascii=False, indent=indent, separators=separators)`, as `transformers` defines the filter:
/// `", "` and `": "` between items, and no HTML escapes (minijinja's own filter escapes `<`, `>`, `&` and `'`).
fn to_json(value: Value, args: Rest<Value>, kwargs: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = match args.first() {
        Some(indent) => usize::try_from(indent.clone()).ok(),
        None => kwargs.get("indent")?,
    };
    let separators: Option<Vec<String>> = kwargs.get("separators")?;
    let failed = |error: serde_json::Error| Error::new(ErrorKind::BadSerialization, error.to_string());
    let json = serde_json::to_value(&value).map_err(failed)?;
    let mut text = Vec::new();
    match indent {
        Some(width) => {
            let spaces = " ".repeat(width);
            let formatter = serde_json::ser::PrettyFormatter::with_indent(spaces.as_bytes());
            json.serialize(&mut serde_json::Serializer::with_formatter(&mut text, formatter)).map_err(failed)?;
        }
        None => {
            let formatter = match separators.as_deref() {
                Some([item, key]) => Separators { item: item.clone(), key: key.clone() },
                None => Separators { item: ", ".into(), key: ": ".into() },
                Some(_) => return Err(Error::new(ErrorKind::InvalidOperation, "separators must be two strings")),
            };
            json.serialize(&mut serde_json::Serializer::with_formatter(&mut text, formatter)).map_err(failed)?;
        }
    }
    Ok(Value::from_safe_string(String::from_utf8(text).expect("serde_json writes UTF-8")))
}

/// jinja's `indent(width=4, first=False, blank=False)`, which keeps a newline at the end (minijinja's drops it).
fn indent(text: String, args: Rest<Value>, kwargs: Kwargs) -> Result<String, Error> {
    let argument = |at: usize, name: &str| -> Result<Option<Value>, Error> {
        Ok(args.get(at).cloned().or(kwargs.get::<Option<Value>>(name)?))
    };
    let width = argument(0, "width")?.unwrap_or(Value::from(4));
    let indention = match width.as_str() {
        Some(text) => text.to_string(),
        None => " ".repeat(usize::try_from(width)?),
    };
    let first = argument(1, "first")?.is_some_and(|value| value.is_true());
    let blank = argument(2, "blank")?.is_some_and(|value| value.is_true());
    kwargs.assert_all_used()?;
    let indented = text.split('\n').enumerate().map(|(at, line)| {
        let wanted = if at == 0 { first } else { blank || !line.is_empty() };
        if wanted { format!("{indention}{line}") } else { line.to_string() }
    });
    Ok(indented.collect::<Vec<_>>().join("\n"))
}

/// JSON on one line, as Python writes it.
struct Separators {
    item: String,
    key: String,
}

impl serde_json::ser::Formatter for Separators {
    fn begin_array_value<W: ?Sized + std::io::Write>(&mut self, out: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { out.write_all(self.item.as_bytes()) }
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(&mut self, out: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { out.write_all(self.item.as_bytes()) }
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, out: &mut W) -> std::io::Result<()> {
        out.write_all(self.key.as_bytes())
    }
}

/// `{% generation %}` blocks mark the assistant's tokens for `transformers` and change no text; jinja knows them only
/// through an extension. They become blocks that jinja knows, so that their whitespace control stays as it is.
fn without_generation_blocks(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let Some(length) = rest[start..].find("%}") else { break };
        let (before, tag) = (&rest[..start], &rest[start..start + length + 2]);
        let name = tag[2..tag.len() - 2].trim_matches(|c: char| c.is_whitespace() || matches!(c, '-' | '+'));
        out.push_str(before);
        match name {
            "generation" => out.push_str(&tag.replacen(name, "if true", 1)),
            "endgeneration" => out.push_str(&tag.replacen(name, "endif", 1)),
            _ => out.push_str(tag),
        }
        rest = &rest[start + length + 2..];
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::TimeZone;

    const PLAIN: RenderOptions<'static> = RenderOptions { tools: &[], add_generation_prompt: false, variables: None };

    fn special() -> SpecialTokens {
        SpecialTokens { bos_token: Some("<s>".into()), eos_token: Some("</s>".into()), ..Default::default() }
    }

    #[test]
    fn blocks_are_trimmed_and_absent_tokens_are_empty() {
        let source = "{{ bos_token }}{{ pad_token }}\n  {% for m in messages %}\n[{{ m['role'] }}] {{ m.content.strip() }}\n  {% endfor %}\n{{ eos_token }}";
        let text = ChatTemplate::new(source).unwrap().render(&[Message::user(" hi ")], PLAIN, &special()).unwrap();
        assert_eq!(text, "<s>\n[user] hi\n</s>");
    }

    #[test]
    fn tojson_is_python_s() {
        let mut message = Message::user("x");
        message.extra.insert("tools".into(), serde_json::json!({"a": [1, "<é>"], "b": null}));
        let render = |source: &str| {
            ChatTemplate::new(source).unwrap().render(std::slice::from_ref(&message), PLAIN, &special()).unwrap()
        };
        assert_eq!(render("{{ messages[0].tools | tojson }}"), r#"{"a": [1, "<é>"], "b": null}"#);
        assert_eq!(render("{{ messages[0].tools.a | tojson(indent=2) }}"), "[\n  1,\n  \"<é>\"\n]");
        assert_eq!(render("{{ messages[0].tools.b }} {{ true }}"), "None True");
    }

    #[test]
    fn generation_blocks_change_no_text() {
        let source = "a\n {%- generation -%} {{ 'b' }} {%- endgeneration %}\nc";
        let text = ChatTemplate::new(source).unwrap().render(&[], PLAIN, &special()).unwrap();
        assert_eq!(text, "abc");
    }

    #[test]
    fn a_refusal_carries_the_template_s_words() {
        let template = ChatTemplate::new("{{ raise_exception('roles must alternate') }}").unwrap();
        let error = template.render(&[], PLAIN, &special()).unwrap_err();
        assert!(error.to_string().contains("roles must alternate"), "{error}");
    }

    #[test]
    fn a_template_that_does_not_compile_is_refused() {
        let error = ChatTemplate::new("{% for m in messages %}").unwrap_err();
        assert!(matches!(error, ChatError::Template(_)));
    }

    #[test]
    fn tools_and_documents_are_none_unless_given() {
        let source = "{{ tools }} {{ documents }}{% for t in tools or [] %} {{ t | tojson }}{% endfor %}";
        let template = ChatTemplate::new(source).unwrap();
        let tools = [serde_json::json!({"name": "f"})];
        assert_eq!(template.render(&[], PLAIN, &special()).unwrap(), "None None");
        let text = template.render(&[], RenderOptions { tools: &tools, ..PLAIN }, &special()).unwrap();
        assert!(text.ends_with(r#" {"name": "f"}"#), "{text}");
    }

    #[test]
    fn variables_reach_the_template_and_win() {
        let template =
            ChatTemplate::new("{{ enable_thinking is defined and not enable_thinking }}{{ eos_token }}").unwrap();
        let render = |variables: Json| {
            let options = RenderOptions { variables: variables.as_object(), ..PLAIN };
            template.render(&[], options, &special())
        };
        assert_eq!(render(serde_json::json!({"enable_thinking": false, "eos_token": "!"})).unwrap(), "True!");
        assert_eq!(render(serde_json::json!({})).unwrap(), "False</s>");
        let error = render(serde_json::json!({"messages": []})).unwrap_err();
        assert!(error.to_string().contains("`messages`"), "{error}");
    }

    /// 53 templates rendered by the reference jinja engine, where the shared data is at hand.
    #[test]
    fn golden_templates() {
        let shared = std::env::var("ORPO_SHARED").unwrap_or_else(|_| "../../shared".into());
        let path = std::path::Path::new(&shared).join("data/chat_templates/goldens.jsonl");
        let Ok(text) = std::fs::read_to_string(&path) else {
            println!("skipped: no `{}`", path.display());
            return;
        };
        let mut failed = Vec::new();
        let mut checked = 0;
        for line in text.lines() {
            let case: Json = serde_json::from_str(line).unwrap();
            let name = case["name"].as_str().unwrap();
            // The cases with a date in them were rendered on that day.
            let day = || Local.with_ymd_and_hms(2025, 7, 10, 12, 0, 0).unwrap();
            let template = ChatTemplate::with_clock(case["template"].as_str().unwrap().into(), day);
            let rendered = template.and_then(|template| template.render_context(&case["context"]));
            checked += 1;
            match rendered {
                Ok(rendered) if rendered == case["expected"].as_str().unwrap() => {}
                Ok(rendered) => {
                    failed.push(format!("{name}:\n{rendered}\nexpected\n{}", case["expected"].as_str().unwrap()))
                }
                Err(error) => failed.push(format!("{name}: {error}")),
            }
        }
        assert!(failed.is_empty(), "{} of {checked} differ:\n{}", failed.len(), failed.join("\n----\n"));
    }
}
