//! Fields that the bodies of several routes have in common.

use serde_json::{Value, json};

use super::fields::{Fields, Neutral, nothing, whole, wrong_type};
use super::{ApiError, ErrorKind};
use crate::engine::Sampling;
use crate::engine::constraint::Grammar;

/// How many stop strings a request may have.
pub const MAX_STOPS: usize = 16;
/// How many replies to one prompt a request may ask for.
pub const MAX_CHOICES: usize = 128;
/// How many texts a reply may be chosen from.
pub const MAX_GUIDED_CHOICES: usize = 1_000;

/// Fields that do not change the reply: accounting, caching and routing hints, and settings of samplers that are off (see
/// [`NEUTRAL`]).
pub(super) const HARMLESS: [&str; 22] = [
    "user",
    "metadata",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "cache_prompt",
    "cache_salt",
    "id_slot",
    "keep_alive",
    "request_id",
    "rid",
    "guided_decoding_backend",
    "spaces_between_special_tokens",
    "mirostat_tau",
    "mirostat_eta",
    "dynatemp_exponent",
    "xtc_threshold",
    "dry_base",
    "dry_allowed_length",
    "dry_penalty_last_n",
    "repeat_last_n",
];

/// Fields of vLLM, llama.cpp, SGLang, TGI and Ollama that clients send with a value that asks for nothing; any other value
/// is refused.
pub(super) const NEUTRAL: [Neutral; 58] = [
    ("store", nothing::is_false),
    ("use_beam_search", nothing::is_false),
    ("early_stopping", nothing::is_false),
    ("include_stop_str_in_output", nothing::is_false),
    ("return_tokens_as_token_ids", nothing::is_false),
    ("return_hidden_states", nothing::is_false),
    ("return_full_text", nothing::is_false),
    ("return_tokens", nothing::is_false),
    ("return_progress", nothing::is_false),
    ("post_sampling_probs", nothing::is_false),
    ("timings_per_token", nothing::is_false),
    ("watermark", nothing::is_false),
    ("details", nothing::is_false),
    ("decoder_input_details", nothing::is_false),
    ("no_stop_trim", nothing::is_false),
    ("raw", nothing::is_false),
    ("think", nothing::is_false),
    ("skip_special_tokens", nothing::is_true),
    ("do_sample", nothing::is_true),
    ("mirostat", nothing::is_zero),
    ("dynatemp_range", nothing::is_zero),
    ("xtc_probability", nothing::is_zero),
    ("dry_multiplier", nothing::is_zero),
    ("n_keep", nothing::is_zero),
    ("n_probs", nothing::is_zero),
    ("n_indent", nothing::is_zero),
    ("min_keep", nothing::is_zero),
    ("min_new_tokens", nothing::is_zero),
    ("top_n_tokens", nothing::is_zero),
    ("priority", nothing::is_zero),
    ("top_a", nothing::is_zero),
    ("typical_p", nothing::is_one),
    ("typ_p", nothing::is_one),
    ("tfs_z", nothing::is_one),
    ("length_penalty", nothing::is_one),
    ("repeat_penalty", nothing::is_one),
    ("bad_words", nothing::is_empty),
    ("stop_regex", nothing::is_empty),
    ("logits_processors", nothing::is_empty),
    ("allowed_token_ids", nothing::is_empty),
    ("dry_sequence_breakers", nothing::is_empty),
    ("lora", nothing::is_empty),
    ("response_fields", nothing::is_empty),
    ("kv_transfer_params", nothing::is_empty),
    ("vllm_xargs", nothing::is_empty),
    ("mm_processor_kwargs", nothing::is_empty),
    ("session_params", nothing::is_empty),
    ("custom_params", nothing::is_empty),
    ("options", nothing::is_empty),
    ("images", nothing::is_empty),
    ("template", nothing::is_empty),
    ("format", nothing::is_empty),
    ("suffix", nothing::is_empty),
    ("extra_body", nothing::is_empty),
    ("grammar", nothing::is_empty),
    ("guided_grammar", nothing::is_empty),
    ("regex", nothing::is_empty),
    ("ebnf", nothing::is_empty),
];

/// When a reply ends.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ending {
    /// Only at its limit or at a stop: the model's own end tokens cannot be chosen.
    pub ignore_eos: bool,
    /// Not before it has this many tokens.
    pub min_tokens: usize,
    /// Also at one of these tokens, which are then no part of the text.
    pub stop_token_ids: Vec<u32>,
}

/// Which chunks of a stream tell the usage.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum StreamUsage {
    /// None.
    #[default]
    Never,
    /// One of its own, at the end.
    AtEnd,
    /// All, each with the tokens so far.
    Always,
}

/// A grammar and the field that asks for it.
#[derive(Debug, Clone, PartialEq)]
pub struct AskedGrammar {
    /// The form of replies.
    pub grammar: Grammar,
    /// The field.
    pub param: &'static str,
}

/// The fields of a body.
pub(super) fn body(body: &[u8]) -> Result<Fields, ApiError> {
    // As editors and shells of Windows write files that are then sent.
    let body = body.strip_prefix("\u{feff}".as_bytes()).unwrap_or(body);
    let value: Value = serde_json::from_slice(body)
        .map_err(|error| ApiError::new(ErrorKind::InvalidJson, format!("the body is not valid JSON: {error}")))?;
    Fields::new(value, "")
}

/// The model asked for; absent or empty means the only one.
pub(super) fn model(fields: &mut Fields) -> Result<Option<String>, ApiError> {
    match fields.take("model") {
        None => Ok(None),
        Some(Value::String(model)) if model.is_empty() => Ok(None),
        Some(Value::String(model)) => Ok(Some(model)),
        Some(other) => Err(wrong_type("model", "a string", &other)),
    }
}

/// `ignore_eos`, `min_tokens` and `stop_token_ids`.
pub(super) fn ending(fields: &mut Fields) -> Result<Ending, ApiError> {
    let ignore_eos = fields.boolean("ignore_eos")?.unwrap_or(false);
    let min_tokens = fields.integer("min_tokens", 0)?.unwrap_or(0);
    let stop_token_ids = match fields.take("stop_token_ids") {
        None => Vec::new(),
        Some(Value::Array(ids)) if ids.len() <= MAX_STOPS => token_ids(ids, "stop_token_ids")?,
        Some(Value::Array(ids)) => {
            return Err(fields.invalid("stop_token_ids", &format!("has {} tokens; {MAX_STOPS} are allowed", ids.len())));
        }
        Some(other) => return Err(wrong_type("stop_token_ids", "a list of token ids", &other)),
    };
    Ok(Ending { ignore_eos, min_tokens: usize::try_from(min_tokens).unwrap_or(usize::MAX), stop_token_ids })
}

/// The form of replies: `response_format`, vLLM's `guided_*` or its `structured_outputs`, but only one of them.
pub(super) fn grammar(fields: &mut Fields) -> Result<Option<AskedGrammar>, ApiError> {
    let mut asked: Vec<AskedGrammar> = Vec::new();
    let mut add =
        |param, grammar: Option<Grammar>| asked.extend(grammar.map(|grammar| AskedGrammar { grammar, param }));
    add("response_format", response_format(fields)?);
    add("guided_json", fields.take("guided_json").map(|value| schema(value, "guided_json")).transpose()?);
    add("guided_regex", fields.take("guided_regex").map(|value| regex(value, "guided_regex")).transpose()?);
    add("guided_choice", fields.take("guided_choice").map(|value| choice(value, "guided_choice")).transpose()?);
    add("structured_outputs", structured_outputs(fields)?);
    match &asked[..] {
        [first, second, ..] => Err(fields.invalid(second.param, &format!("and `{}` exclude each other", first.param))),
        _ => Ok(asked.pop()),
    }
}

/// `response_format`, in OpenAI's layout or in llama.cpp's, which has a `schema` next to `json_object`.
fn response_format(fields: &mut Fields) -> Result<Option<Grammar>, ApiError> {
    let Some(format) = fields.take("response_format") else { return Ok(None) };
    let mut format = Fields::new(format, "response_format.")?;
    let kind = format.require("type")?;
    let grammar = match kind.as_str() {
        Some("text") => None,
        Some("json_object") => Some(match format.take("schema") {
            None => Grammar::JsonSchema(json!({"type": "object"})),
            Some(value) => schema(value, "response_format.schema")?,
        }),
        Some("json_schema") => {
            let mut fields = Fields::new(format.require("json_schema")?, "response_format.json_schema.")?;
            let grammar = schema(fields.require("schema")?, "response_format.json_schema.schema")?;
            // It is followed strictly in any case.
            fields.boolean("strict")?;
            fields.refuse_rest(&["name", "description"], &[])?;
            Some(grammar)
        }
        Some(_) => {
            let path = format.path("type");
            let message = format!("`{path}` must be `text`, `json_object` or `json_schema`");
            return Err(ApiError::of_field(ErrorKind::Unsupported, path, message));
        }
        None => return Err(wrong_type(&format.path("type"), "a string", &kind)),
    };
    format.refuse_rest(&[], &[])?;
    Ok(grammar)
}

/// vLLM's `{"json" | "regex" | "choice" | "json_object": ...}`.
fn structured_outputs(fields: &mut Fields) -> Result<Option<Grammar>, ApiError> {
    let Some(value) = fields.take("structured_outputs") else { return Ok(None) };
    let mut fields = Fields::new(value, "structured_outputs.")?;
    let mut grammars = Vec::new();
    grammars.extend(fields.take("json").map(|value| schema(value, "structured_outputs.json")).transpose()?);
    grammars.extend(fields.take("regex").map(|value| regex(value, "structured_outputs.regex")).transpose()?);
    grammars.extend(fields.take("choice").map(|value| choice(value, "structured_outputs.choice")).transpose()?);
    if fields.boolean("json_object")? == Some(true) {
        grammars.push(Grammar::JsonSchema(json!({"type": "object"})));
    }
    let neutral: [Neutral; 5] = [
        ("disable_any_whitespace", nothing::is_false),
        ("disable_additional_properties", nothing::is_false),
        ("disable_fallback", |value| value.is_boolean()),
        ("grammar", nothing::is_empty),
        ("structural_tag", nothing::is_empty),
    ];
    fields.refuse_rest(&[], &neutral)?;
    if grammars.len() > 1 {
        let message = "`structured_outputs` must have only one of `json`, `regex`, `choice` and `json_object`";
        return Err(ApiError::of_field(ErrorKind::InvalidValue, "structured_outputs", message));
    }
    Ok(grammars.pop())
}

/// A JSON schema, as an object or as its text.
fn schema(value: Value, path: &str) -> Result<Grammar, ApiError> {
    let schema = match value {
        Value::String(text) if !path.starts_with("response_format") => {
            serde_json::from_str(&text).map_err(|error| {
                let message = format!("`{path}` must be a JSON schema: {error}");
                ApiError::of_field(ErrorKind::InvalidValue, path, message)
            })?
        }
        value => value,
    };
    if schema.is_object() { Ok(Grammar::JsonSchema(schema)) } else { Err(wrong_type(path, "an object", &schema)) }
}

fn regex(value: Value, path: &str) -> Result<Grammar, ApiError> {
    match value {
        Value::String(pattern) if !pattern.is_empty() => Ok(Grammar::Regex(pattern)),
        other => Err(wrong_type(path, "a regular expression", &other)),
    }
}

fn choice(value: Value, path: &str) -> Result<Grammar, ApiError> {
    let invalid = |what: &str| ApiError::of_field(ErrorKind::InvalidValue, path, format!("`{path}` {what}"));
    let Value::Array(choices) = value else { return Err(wrong_type(path, "a list of strings", &value)) };
    if choices.is_empty() || choices.len() > MAX_GUIDED_CHOICES {
        return Err(invalid(&format!("must have 1 to {MAX_GUIDED_CHOICES} strings")));
    }
    let choices = choices.into_iter().map(|choice| match choice {
        Value::String(text) if !text.is_empty() => Ok(text),
        _ => Err(invalid("must be a list of strings, none of them empty")),
    });
    choices.collect::<Result<_, _>>().map(Grammar::Choice)
}

/// `n`, and `best_of`, which may only be the same.
pub(super) fn choices(fields: &mut Fields) -> Result<usize, ApiError> {
    let choices = fields.integer("n", 1)?.unwrap_or(1);
    if fields.integer("best_of", 1)?.is_some_and(|best_of| best_of != choices) {
        let message = "`best_of` other than `n` is not supported by this server; leave it out";
        return Err(ApiError::of_field(ErrorKind::Unsupported, "best_of", message));
    }
    match usize::try_from(choices) {
        Ok(choices) if choices <= MAX_CHOICES => Ok(choices),
        _ => Err(fields.invalid("n", &format!("must be at most {MAX_CHOICES}"))),
    }
}

/// Everything that decides on the next token, but for a constraint.
pub(super) fn sampling(fields: &mut Fields) -> Result<Sampling, ApiError> {
    let defaults = Sampling::default();
    let temperature = fields.number("temperature", 0.0, 2.0)?.unwrap_or(defaults.temperature);
    let top_p = fields.number("top_p", 0.0, 1.0)?.unwrap_or(defaults.top_p);
    // 0 and -1 are how other servers spell "off".
    let top_k = fields.integer("top_k", -1)?.filter(|&top_k| top_k > 0);
    let top_k = top_k.map(|top_k| usize::try_from(top_k).unwrap_or(usize::MAX));
    let seed = match fields.take("seed") {
        None => None,
        // How vLLM, llama.cpp and others spell "another one each time".
        Some(value) if whole(&value) == Some(-1) => None,
        Some(value) => {
            let number = whole(&value).ok_or_else(|| wrong_type("seed", "a whole number", &value))?;
            let seed = u64::try_from(number).or_else(|_| i64::try_from(number).map(i64::cast_unsigned));
            Some(seed.map_err(|_| fields.out_of_range("seed", i64::MIN.into(), u64::MAX.into()))?)
        }
    };
    Ok(Sampling {
        temperature,
        top_k,
        top_p,
        min_p: fields.number("min_p", 0.0, 1.0)?.unwrap_or(defaults.min_p),
        presence_penalty: fields.number("presence_penalty", -2.0, 2.0)?.unwrap_or(defaults.presence_penalty),
        frequency_penalty: fields.number("frequency_penalty", -2.0, 2.0)?.unwrap_or(defaults.frequency_penalty),
        repetition_penalty: fields.number("repetition_penalty", 0.01, 100.0)?.unwrap_or(defaults.repetition_penalty),
        logit_bias: logit_bias(fields)?,
        seed,
        ..defaults
    })
}

/// Up to [`MAX_STOPS`] strings that end a reply.
pub(super) fn stop(fields: &mut Fields) -> Result<Vec<String>, ApiError> {
    let values = match fields.take("stop") {
        None => return Ok(Vec::new()),
        Some(Value::Array(values)) => values,
        Some(value) => vec![value],
    };
    if values.len() > MAX_STOPS {
        return Err(fields.invalid("stop", &format!("has {} strings; {MAX_STOPS} are allowed", values.len())));
    }
    values
        .into_iter()
        .map(|value| match value {
            Value::String(stop) if !stop.is_empty() => Ok(stop),
            Value::String(_) => Err(fields.invalid("stop", "must not contain an empty string")),
            other => Err(wrong_type("stop", "a string or a list of strings", &other)),
        })
        .collect()
}

/// Token ids, written as strings, and what is added to their logits.
fn logit_bias(fields: &mut Fields) -> Result<Vec<(u32, f32)>, ApiError> {
    let biases = match fields.take("logit_bias") {
        None => return Ok(Vec::new()),
        Some(Value::Object(biases)) => biases,
        Some(other) => return Err(wrong_type("logit_bias", "an object of token ids", &other)),
    };
    let mut fields = Fields::new(Value::Object(biases.clone()), "logit_bias.")?;
    let mut pairs = Vec::with_capacity(biases.len());
    for (name, _) in biases {
        let Ok(id) = name.parse() else { return Err(fields.invalid(&name, "is not a token id")) };
        if let Some(bias) = fields.number(&name, -100.0, 100.0)? {
            pairs.push((id, bias as f32));
        }
    }
    Ok(pairs)
}

/// `stream` and `stream_options`.
pub(super) fn stream(fields: &mut Fields) -> Result<(bool, StreamUsage), ApiError> {
    let stream = fields.boolean("stream")?.unwrap_or(false);
    let Some(options) = fields.take("stream_options") else { return Ok((stream, StreamUsage::Never)) };
    if !stream {
        return Err(fields.invalid("stream_options", "needs `stream` to be true"));
    }
    let mut options = Fields::new(options, "stream_options.")?;
    let at_end = options.boolean("include_usage")?.unwrap_or(false);
    let always = options.boolean("continuous_usage_stats")?.unwrap_or(false);
    options.refuse_rest(&[], &[("include_obfuscation", nothing::is_false)])?;
    let usage = match (at_end, always) {
        (false, _) => StreamUsage::Never,
        (true, false) => StreamUsage::AtEnd,
        (true, true) => StreamUsage::Always,
    };
    Ok((stream, usage))
}

/// Token ids at `path`.
pub(super) fn token_ids(values: Vec<Value>, path: &str) -> Result<Vec<u32>, ApiError> {
    let id = |(index, value): (usize, Value)| {
        let id = whole(&value).and_then(|id| u32::try_from(id).ok());
        id.ok_or_else(|| wrong_type(&format!("{path}[{index}]"), "a token id", &value))
    };
    values.into_iter().enumerate().map(id).collect()
}
