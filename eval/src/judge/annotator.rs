//! Annotators: which model judges pairs of answers, with which prompt, and how its replies are read. The files are
//! those of `alpaca_eval/evaluators_configs`: a directory with a `configs.yaml`, whose template's path begins in the
//! parent directory.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value};

use super::parser::{Parser, Words};
use super::template::{Template, Templating, Texts};
use super::way::Way;
use super::{Judge, Reply, Request, Unread};
use crate::jsonl::{self, InputError};

/// Who judges, and how.
#[derive(Debug, Clone)]
pub struct Annotator {
    /// Its name, as in annotations and leaderboards.
    pub name: String,
    /// The model that its file names.
    pub model: Option<String>,
    /// The prompt.
    pub template: Template,
    /// The fields of a request beside model and messages.
    pub parameters: Map<String, Value>,
    /// How replies are read.
    pub parser: Parser,
    /// Whether the two answers change places for a random half of the instructions.
    pub switches: bool,
    /// How its verdicts are got.
    pub way: Way,
    /// Verdicts on each pair; their mean is the preference.
    pub samples: u32,
}

/// An annotator in a file, with all keys that the official class takes.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    prompt_template: PathBuf,
    #[serde(default = "openai")]
    fn_completions: String,
    #[serde(default)]
    completions_kwargs: Option<Map<String, Value>>,
    #[serde(default = "regex_parser")]
    fn_completion_parser: String,
    #[serde(default)]
    completion_parser_kwargs: Option<Map<String, Value>>,
    #[serde(default = "completions")]
    completion_key: String,
    #[serde(default = "one")]
    batch_size: u64,
    #[serde(default = "yes")]
    is_randomize_output_order: bool,
    #[serde(default)]
    random_seed_column: Option<Vec<String>>,
    #[serde(default)]
    processors_to_kwargs: Option<Map<String, Value>>,
    // These change nothing in a preference.
    #[serde(default, rename = "is_shuffle")]
    _is_shuffle: IgnoredAny,
    #[serde(default, rename = "is_add_default_processors")]
    _is_add_default_processors: IgnoredAny,
    #[serde(default, rename = "packages_for_which_to_show_version")]
    _packages_for_which_to_show_version: IgnoredAny,
    #[serde(default, rename = "prfx_to_completion_cols")]
    _prfx_to_completion_cols: IgnoredAny,
    #[serde(default, rename = "pretty_name")]
    _pretty_name: IgnoredAny,
    #[serde(default, rename = "link")]
    _link: IgnoredAny,
}

fn openai() -> String {
    "openai_completions".into()
}

fn regex_parser() -> String {
    "regex_parser".into()
}

fn completions() -> String {
    "completions".into()
}

fn one() -> u64 {
    1
}

fn yes() -> bool {
    true
}

/// Arguments of the official functions that say how requests are made, not what is asked.
const NOT_ASKED: [&str; 14] = [
    "client_config_path",
    "client_function_name",
    "client_kwargs",
    "is_chat",
    "is_strip",
    "n_retries",
    "num_procs",
    "openai_api_base",
    "openai_api_keys",
    "openai_organization_ids",
    "batch_size",
    "price_per_token",
    "requires_chatml",
    "sleep_time",
];

/// Fields of a chat request that an annotator may set.
const ASKED: [&str; 22] = [
    "frequency_penalty",
    "function_call",
    "functions",
    "logit_bias",
    "logprobs",
    "max_completion_tokens",
    "max_tokens",
    "metadata",
    "parallel_tool_calls",
    "presence_penalty",
    "reasoning_effort",
    "response_format",
    "seed",
    "service_tier",
    "stop",
    "store",
    "temperature",
    "tool_choice",
    "tools",
    "top_logprobs",
    "top_p",
    "user",
];

/// Processors that leave preferences alone: they only add columns to the annotations.
const PROCESSORS: [&str; 3] = ["ChainOfThoughtProcessor", "JsonKeysToColumnProcessor", "PaddingForBatchesProcessor"];

/// The requests for so many verdicts by one body, in a repetition of the judging. Where there are several, each has a seed of
/// its own: some servers take equal requests for one.
pub fn samples(body: &Value, repeat: u32, samples: u32) -> impl Iterator<Item = Request> {
    (0..samples).map(move |sample| {
        let repeat = repeat * samples + sample;
        let mut body = body.clone();
        if samples > 1 {
            body["seed"] = (repeat + 1).into();
        }
        Request { body, repeat }
    })
}

/// The least limit of a reply from whose text a verdict is read: reasoning comes out of it.
const ROOM_FOR_REASONING: u64 = 2048;

impl Annotator {
    /// The annotator that is used where no other is named.
    ///
    /// # Panics
    /// Never: the embedded files are tested.
    pub fn embedded() -> Self {
        let config = include_str!("../../data/annotator/configs.yaml");
        let template = |_: &Path| Ok(include_str!("../../data/annotator/template.txt").to_owned());
        Self::parse(config, template).expect("the embedded annotator is valid")
    }

    /// Reads a directory with a `configs.yaml`, or such a file.
    ///
    /// # Errors
    /// When a file cannot be read, or names something that is not known here.
    pub fn read(path: &Path) -> Result<Self, InputError> {
        let file = if path.is_dir() { path.join("configs.yaml") } else { path.to_owned() };
        let failed = |problem: String| InputError::File { path: file.clone(), problem };
        let text = jsonl::read_text(&file)?;
        let base = file.parent().unwrap_or(Path::new("")).join("..");
        let template = |relative: &Path| {
            jsonl::read_text(&base.join(relative)).map_err(|error| format!("its prompt_template: {error}"))
        };
        Self::parse(&text, template).map_err(failed)
    }

    fn parse(yaml: &str, template: impl Fn(&Path) -> Result<String, String>) -> Result<Self, String> {
        let annotators: Map<String, Value> = serde_saphyr::from_str(yaml).map_err(|error| error.to_string())?;
        let names: Vec<_> = annotators.keys().cloned().collect();
        let mut annotators = annotators.into_iter();
        let (Some((name, config)), None) = (annotators.next(), annotators.next()) else {
            return Err(format!("it must hold one annotator, not {}: {}", names.len(), names.join(", ")));
        };
        let config = Config::deserialize(config).map_err(|error| format!("annotator `{name}`: {error}"))?;
        config.build(name.clone(), template).map_err(|problem| format!("annotator `{name}`: {problem}"))
    }

    /// The body of the request that asks this model about a pair of texts.
    ///
    /// # Errors
    /// When the texts break the prompt, which only [`Templating::Official`] allows.
    pub fn request(&self, model: &str, texts: Texts<'_>, templating: Templating) -> Result<Value, String> {
        let mut body = Map::new();
        body.insert("model".into(), model.into());
        body.insert("messages".into(), self.template.fill(texts, templating)?.into());
        body.extend(self.parameters.clone());
        Ok(Value::Object(body))
    }

    /// True if its verdicts are read from log-probabilities.
    pub fn reads_logprobs(&self) -> bool {
        matches!(self.parser, Parser::LogProb(_))
    }

    /// True if log-probabilities weigh its verdicts.
    pub(super) fn weighs(&self) -> bool {
        matches!(&self.parser, Parser::LogProb(parser) if !parser.is_binarize)
    }

    /// The same annotator reading words instead of the log-probabilities of these words. There is room for reasoning, and the
    /// judge's likeliest verdict is asked for, which is all that one verdict can be.
    pub(super) fn by_words(&self, way: Way) -> Self {
        let Parser::LogProb(tokens) = &self.parser else { return self.clone() };
        let words = Words::of(tokens);
        let mut parameters = self.parameters.clone();
        parameters.retain(|name, _| !matches!(name.as_str(), "logprobs" | "top_logprobs" | "logit_bias"));
        let limit =
            if parameters.contains_key("max_completion_tokens") { "max_completion_tokens" } else { "max_tokens" };
        let room = parameters.get(limit).and_then(Value::as_u64).unwrap_or_default().max(ROOM_FOR_REASONING);
        parameters.insert(limit.into(), room.into());
        parameters.insert("temperature".into(), 0.into());
        if let Way::Constrained(constraint) = way {
            parameters.insert(constraint.field().into(), constraint.value(&words.all()));
        }
        Self { parameters, parser: Parser::Words(words), way, ..self.clone() }
    }

    /// The same annotator asking for this many verdicts on each pair. Several of them are drawn, else they would be equal.
    pub(super) fn sampled(&self, samples: u32) -> Self {
        let mut parameters = self.parameters.clone();
        if samples > 1 && parameters.get("temperature").is_some_and(|temperature| temperature.as_f64() == Some(0.0)) {
            parameters.insert("temperature".into(), 1.into());
        }
        Self { parameters, samples, ..self.clone() }
    }

    /// The requests for all verdicts on a pair. Where there are several, each has a seed of its own.
    pub fn requests(&self, body: &Value, repeat: u32) -> impl Iterator<Item = Request> {
        samples(body, repeat, self.samples)
    }

    /// Reads the preference of a judge from its reply to a request.
    ///
    /// # Errors
    /// When there is none, with the reason.
    pub fn preference(&self, judge: &Judge, request: &Request, reply: &Reply) -> Result<f64, Unread<String>> {
        judge.read(request, reply, |answer| self.parser.parse(answer))
    }

    /// Whether a model that replies like this can be used at all: log-probabilities that are needed must be there.
    ///
    /// # Errors
    /// When it cannot, with advice.
    pub fn check(&self, reply: &Reply) -> Result<(), String> {
        match &self.parser {
            Parser::LogProb(_) if reply.top_logprobs(0).is_none_or(|top| top.is_empty()) => Err(format!(
                "annotator `{}` needs the log-probabilities of the likeliest tokens (`logprobs`, `top_logprobs`), and \
                 its reply has none; use a server that gives them, --judge-verdict auto, or an annotator with another parser",
                self.name
            )),
            Parser::Words(words) => match (self.way, reply.content()) {
                (Way::Constrained(constraint), Some(text)) if words.alone(&text).is_none() => {
                    Err(format!("its reply is more than a verdict, although `{}` forbids that", constraint.field()))
                }
                _ => Ok(()),
            },
            _ => Ok(()),
        }
    }
}

impl Config {
    fn build(self, name: String, template: impl Fn(&Path) -> Result<String, String>) -> Result<Annotator, String> {
        if self.batch_size != 1 {
            return Err(format!("batch_size {} is not supported: one pair is asked at a time", self.batch_size));
        }
        if self.random_seed_column.is_some_and(|columns| columns != ["instruction"]) {
            return Err("random_seed_column must be [instruction]".into());
        }
        let processors = self.processors_to_kwargs.unwrap_or_default();
        if let Some(unknown) = processors.keys().find(|processor| !PROCESSORS.contains(&processor.as_str())) {
            return Err(format!("the processor `{unknown}` is unknown; known are {}", PROCESSORS.join(", ")));
        }
        let parser = Parser::new(&self.fn_completion_parser, &self.completion_parser_kwargs.unwrap_or_default())?;
        let (needed, what) = match parser {
            Parser::LogProb(_) => ("completions_all", "log-probabilities"),
            Parser::Text { .. } | Parser::Words(_) => ("completions", "the text"),
        };
        if self.completion_key != needed {
            return Err(format!(
                "{} reads {what}: completion_key must be {needed}, not {}",
                self.fn_completion_parser, self.completion_key
            ));
        }
        let (model, parameters) = parameters(&self.fn_completions, self.completions_kwargs.unwrap_or_default())?;
        let template = Template::new(&template(&self.prompt_template)?, &name)?;
        let switches = self.is_randomize_output_order;
        Ok(Annotator { name, model, template, parameters, parser, switches, way: Way::Own, samples: 1 })
    }
}

/// The model and the fields of a request, from the arguments of an official function.
fn parameters(function: &str, arguments: Map<String, Value>) -> Result<(Option<String>, Map<String, Value>), String> {
    // The defaults of `openai_completions` and `anthropic_completions`.
    let (defaults, tokens): (&[(&str, f64)], _) = match function {
        "openai_completions" => (&[("temperature", 0.7), ("top_p", 1.0)], "max_tokens"),
        "anthropic_completions" => (&[], "max_tokens_to_sample"),
        _ => {
            return Err(format!(
                "fn_completions `{function}` is not supported: judges are asked with chat requests, as by \
                 openai_completions and anthropic_completions"
            ));
        }
    };
    if ["requires_chatml", "is_chat"].iter().any(|name| arguments.get(*name) == Some(&Value::Bool(false))) {
        return Err("it asks for plain completions; judges are asked with chat requests".into());
    }
    let mut model = None;
    let mut parameters = Map::new();
    for (name, value) in arguments {
        if name == "model_name" {
            model = Some(value.as_str().ok_or("model_name must be a text")?.to_owned());
        } else if name == tokens {
            parameters.insert("max_tokens".into(), value);
        } else if ASKED.contains(&name.as_str()) {
            parameters.insert(name, value);
        } else if !NOT_ASKED.contains(&name.as_str()) {
            return Err(format!("completions_kwargs has `{name}`, which is unknown here"));
        }
    }
    for (name, value) in defaults {
        parameters.entry(*name).or_insert_with(|| (*value).into());
    }
    if !parameters.contains_key("max_completion_tokens") {
        parameters.entry("max_tokens").or_insert_with(|| 2048.into());
    }
    Ok((model, parameters))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const TEMPLATE: &str = "<|im_start|>user\n{instruction} {output_1} {output_2}<|im_end|>";

    fn parse(yaml: &str) -> Result<Annotator, String> {
        Annotator::parse(yaml, |_| Ok(TEMPLATE.to_owned()))
    }

    #[test]
    fn the_embedded_annotator_weighs_two_tokens() {
        let annotator = Annotator::embedded();
        assert!(annotator.switches && annotator.model.is_none());
        let texts = Texts { instruction: "Say hello.", output_1: "Hi!", output_2: "No." };
        let body = annotator.request("judge", texts, Templating::Safe).unwrap();
        assert_eq!(body["model"], "judge");
        assert_eq!(
            (&body["max_tokens"], &body["logprobs"], &body["top_logprobs"]),
            (&json!(1), &json!(true), &json!(5))
        );
        let text = body["messages"][1]["content"].as_str().unwrap();
        assert!(["Say hello.", "Hi!", "No."].iter().all(|part| text.contains(part)), "{text}");
        let Parser::LogProb(parser) = &annotator.parser else { panic!("{:?}", annotator.parser) };
        assert!(!parser.is_binarize && parser.denominator_tokens.contains(&parser.numerator_token));
    }

    #[test]
    fn a_file_is_read_with_the_official_defaults() {
        let yaml = "a:\n  prompt_template: a/b.txt\n  fn_completion_parser: ranking_parser\n  pretty_name: A\n  \
                    completions_kwargs:\n    model_name: gpt\n    num_procs: 3\n    max_tokens: 7\n";
        let annotator = parse(yaml).unwrap();
        assert_eq!((annotator.name.as_str(), annotator.model.as_deref()), ("a", Some("gpt")));
        let expected = json!({"max_tokens": 7, "temperature": 0.7, "top_p": 1.0});
        assert_eq!(Value::Object(annotator.parameters), expected);
        let yaml = yaml
            .replace("max_tokens", "max_tokens_to_sample")
            .replace("a/b.txt", "a/b.txt\n  fn_completions: anthropic_completions");
        assert_eq!(Value::Object(parse(&yaml).unwrap().parameters), json!({"max_tokens": 7}));
    }

    #[test]
    fn numbers_may_be_keys_of_patterns_and_keep_their_order() {
        let yaml = "a:\n  prompt_template: t\n  completion_parser_kwargs:\n    \
                    outputs_to_match:\n      2: '(?:^|\\n) ?B'\n      1: A\n";
        let Parser::Text { stages, .. } = parse(yaml).unwrap().parser else { panic!("not text") };
        let [super::super::parser::Stage::Regex(patterns)] = stages.as_slice() else { panic!("{stages:?}") };
        assert_eq!(patterns[0].0, json!(2.0));
    }

    #[test]
    fn what_is_unknown_is_refused_by_name() {
        let base = "a:\n  prompt_template: t\n  fn_completion_parser: ranking_parser\n";
        for (addition, problem) in [
            ("  prompt_templates: t\n", "unknown field `prompt_templates`"),
            ("  batch_size: 5\n", "batch_size 5 is not supported"),
            ("  fn_completions: replicate_completions\n", "`replicate_completions` is not supported"),
            ("  completions_kwargs: {tokens_to_favor: [m]}\n", "has `tokens_to_favor`"),
            ("  completions_kwargs: {requires_chatml: false}\n", "plain completions"),
            ("  completions_kwargs: {model_name: 3}\n", "model_name must be a text"),
            (
                "  completion_key: completions_all\n",
                "ranking_parser reads the text: completion_key must be completions",
            ),
            ("  processors_to_kwargs: {OtherProcessor: {}}\n", "`OtherProcessor` is unknown"),
            ("  random_seed_column: [output_1]\n", "random_seed_column"),
            ("b:\n  prompt_template: t\n", "one annotator, not 2: a, b"),
        ] {
            let message = parse(&format!("{base}{addition}")).unwrap_err();
            assert!(message.contains(problem), "{message}");
        }
        assert!(parse("a: [").is_err());
        assert!(parse("- a").is_err());
    }
}
