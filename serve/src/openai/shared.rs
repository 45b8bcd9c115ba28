//! Fields that the bodies of several routes have in common.

use serde_json::Value;

use super::fields::{Fields, wrong_type};
use super::{ApiError, ErrorKind};
use crate::engine::Sampling;

/// How many stop strings a request may have.
pub const MAX_STOPS: usize = 4;
/// How many replies to one prompt a request may ask for.
pub const MAX_CHOICES: usize = 128;

/// Fields that do not change the reply: accounting, caching and routing hints.
pub(super) const HARMLESS: [&str; 6] =
    ["user", "metadata", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"];

/// The fields of a body.
pub(super) fn body(body: &[u8]) -> Result<Fields, ApiError> {
    let value: Value = serde_json::from_slice(body)
        .map_err(|error| ApiError::new(ErrorKind::InvalidJson, format!("the body is not valid JSON: {error}")))?;
    Fields::new(value, "")
}

/// The model asked for.
pub(super) fn model(fields: &mut Fields) -> Result<String, ApiError> {
    fields.text("model")
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
        Some(value) => match (value.as_i64(), value.as_u64()) {
            (_, Some(seed)) => Some(seed),
            (Some(negative), None) => Some(negative.cast_unsigned()),
            (None, None) => return Err(wrong_type("seed", "a whole number", &value)),
        },
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

/// `stream` and `stream_options.include_usage`.
pub(super) fn stream(fields: &mut Fields) -> Result<(bool, bool), ApiError> {
    let stream = fields.boolean("stream")?.unwrap_or(false);
    Ok((stream, include_usage(fields, stream)?))
}

fn include_usage(fields: &mut Fields, stream: bool) -> Result<bool, ApiError> {
    let Some(options) = fields.take("stream_options") else { return Ok(false) };
    if !stream {
        return Err(fields.invalid("stream_options", "needs `stream` to be true"));
    }
    let mut options = Fields::new(options, "stream_options.")?;
    let include_usage = options.boolean("include_usage")?.unwrap_or(false);
    options.refuse_rest(&[], &[("include_obfuscation", |value| value == false)])?;
    Ok(include_usage)
}
