//! Chat templates in the dialect of Hugging Face `transformers`.

use chrono::{DateTime, Local};
use serde::Serialize;
use serde_json::{Map, Value as Json};

use crate::jinja::Template;
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

/// Variables of a template that are said by other means than [`RenderOptions::variables`].
pub const RESERVED_VARIABLES: [&str; 4] = ["messages", "tools", "add_generation_prompt", "continue_final_message"];

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
    template: Template,
    source: String,
    now: fn() -> DateTime<Local>,
}

impl ChatTemplate {
    /// Compiles `source`.
    ///
    /// # Errors
    /// [`ChatError::Template`] with the line when it does not compile, or uses a filter, test or statement that is not
    /// known.
    pub fn new(source: impl Into<String>) -> Result<Self, ChatError> {
        Self::with_clock(source.into(), chrono::Local::now)
    }

    /// As [`ChatTemplate::new`], with the time that `strftime_now` tells.
    fn with_clock(source: String, now: fn() -> DateTime<Local>) -> Result<Self, ChatError> {
        let template = Template::new(&source).map_err(|error| ChatError::Template(error.to_string()))?;
        Ok(Self { template, source, now })
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

    fn render_context(&self, context: &Map<String, Json>) -> Result<String, ChatError> {
        self.template.render(context, self.now).map_err(|error| ChatError::Template(error.to_string()))
    }
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

    fn error(source: &str) -> String {
        let rendered = ChatTemplate::new(source).and_then(|template| template.render(&[], PLAIN, &special()));
        rendered.unwrap_err().to_string()
    }

    #[test]
    fn what_is_not_known_is_refused_when_the_template_is_loaded() {
        for (source, name) in [
            ("a\n{{ x | nosuch }}", "the filter `nosuch` is not known (line 2)"),
            ("{{ x is nosuch }}", "the test `nosuch` is not known (line 1)"),
            ("{% if false %}{% nosuch %}{% endif %}", "the statement `nosuch` is not known (line 1)"),
            ("{% include 'x' %}", "`include` is not supported"),
        ] {
            let error = ChatTemplate::new(source).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
    }

    #[test]
    fn a_template_that_does_not_end_is_an_error() {
        let (steps, depth) = ("too many steps", "nests too deeply");
        for (source, reason) in [
            ("{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}", steps),
            ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", depth),
            ("{% set n = namespace(x='a') %}{% for i in range(100) %}{% set n.x = n.x + n.x %}{% endfor %}", steps),
            ("{{ 'a' * 10 ** 15 }}", steps),
            ("{{ [] * 10 ** 15 }}", steps),
            ("{{ ('a' * 1000000).replace('', 'b' * 1000000) }}", steps),
            ("{{ '%1000000000d' % 1 }}", "wider"),
            ("{% set n = namespace(x=[]) %}{% for i in range(1000) %}{% set n.x = [n.x] %}{% endfor %}", depth),
            ("{% set n = namespace() %}{% set n.x = n %}{{ n }}", depth),
            ("{% for x in [1] * 9 recursive %}{{ loop([x]) }}{% endfor %}", depth),
            ("{% macro f(n) %}{% if n %}{{ f(n - 1) ~ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}", steps),
            ("{{ dict.fromkeys(range(100000)) | length }}", steps),
            ("{{ range(100000) | unique | list | length }}", steps),
            ("{{ ([1] * 100000) | tojson(separators=('a' * 100000, 'b')) }}", steps),
            ("{{ ([1] * 100000) | tojson(indent='a' * 100000) }}", steps),
            ("{% set d = dict.fromkeys(range(3000)) %}{% for i in range(100000) %}{{ d[2999] }}{% endfor %}", steps),
            ("{% set s = 'a' * 10 ** 8 %}{% for i in range(100000) %}{{ s[-1] }}{% endfor %}", steps),
            (
                "{% set s = [1] * 10 ** 6 %}{% for i in range(9999) %}{% for x in s %}{% break %}{% endfor %}{% endfor %}",
                steps,
            ),
        ] {
            let error = error(source);
            assert!(error.contains(reason), "{source}: {error}");
        }
        let nested = format!("{{{{ {}1{} }}}}", "(".repeat(100_000), ")".repeat(100_000));
        assert!(ChatTemplate::new(nested).is_err());
        assert!(ChatTemplate::new("{% if 1 %}".repeat(100_000)).is_err());
        assert!(ChatTemplate::new(format!("{{{{ {}1 }}}}", "not ".repeat(100_000))).is_err());
        assert!(ChatTemplate::new(format!("{{{{ 1{} }}}}", " + 1".repeat(100_000))).is_err());
        let chain = [".a", " * 1", " + 1", " and 1", " or 1"].map(|link| link.repeat(450)).concat();
        let nested = (0..95).fold("a".to_string(), |inner, _| format!("({inner}{chain})"));
        assert!(ChatTemplate::new(format!("{{{{ {nested} }}}}")).is_err());
    }

    #[test]
    fn a_value_that_holds_another_many_times_costs_what_it_prints() {
        let nest = |how: &str| {
            format!("{{% set n = namespace(x=[1]) %}}{{% for i in range(60) %}}{{% set n.x = {how} %}}{{% endfor %}}")
        };
        for how in ["[n.x, n.x]", "(n.x, n.x)", "{'a': n.x, 'b': n.x}", "[n.x, n.x] | reverse | list"] {
            for use_of in [
                "{{ n.x }}",
                "{{ n.x ~ '' }}",
                "{{ n.x | tojson }}",
                "{{ n.x | trim }}",
                "{{ [n.x, n.x] | join }}",
                "{{ '%s' % [n.x] }}",
                "{{ '{}'.format(n.x) }}",
                "{{ [n.x] == [n.x] }}",
                "{{ [n.x] is eq [n.x] }}",
                "{{ n.x in [n.x] }}",
                "{{ [n.x].count(n.x) }}",
                "{{ [n.x, n.x] | unique | list | length }}",
                "{{ {}[n.x] }}",
                "{{ n }}",
                "{{ raise_exception(n.x) }}",
            ] {
                let error = error(&(nest(how) + use_of));
                assert!(error.contains("too many steps"), "{how} {use_of}: {error}");
            }
            let length = ChatTemplate::new(nest(how) + "{{ n.x | length }}").unwrap();
            assert_eq!(length.render(&[], PLAIN, &special()).unwrap(), "2");
        }
    }

    #[test]
    fn a_deep_rendering_gets_the_stack_that_it_needs() {
        let source = "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{% else %}deep{% endif %}{% endmacro %}{{ f(200) }}";
        assert_eq!(ChatTemplate::new(source).unwrap().render(&[], PLAIN, &special()).unwrap(), "deep");
    }

    /// Templates rendered by the reference jinja engine, where the shared data is at hand.
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
            if case["jinja2_agrees"] == false {
                continue;
            }
            // The cases with a date in them were rendered on that day.
            let day = || Local.with_ymd_and_hms(2025, 7, 10, 12, 0, 0).unwrap();
            let template = ChatTemplate::with_clock(case["template"].as_str().unwrap().into(), day);
            let rendered = template.and_then(|template| template.render_context(case["context"].as_object().unwrap()));
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
