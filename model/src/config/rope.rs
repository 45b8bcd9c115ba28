//! Rotary frequencies and their scaling to longer contexts.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::fields::{count, optional_count, optional_number};

/// Rotary positions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RopeConfig {
    /// Base of the frequencies.
    pub theta: f64,
    /// Columns of a head that are rotated.
    pub rotary_dim: usize,
    /// How the frequencies are stretched.
    pub scaling: RopeScaling,
}

/// A stretch of the frequencies, under transformers' names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum RopeScaling {
    /// None.
    Default,
    /// All divided by a factor.
    Linear {
        /// The factor.
        factor: f64,
    },
    /// Low ones divided by a factor, high ones kept, those between interpolated (Llama 3.1).
    Llama3 {
        /// The factor.
        factor: f64,
        /// Wave lengths above `original_max_position_embeddings` over this are stretched.
        low_freq_factor: f64,
        /// Wave lengths below `original_max_position_embeddings` over this are kept.
        high_freq_factor: f64,
        /// Positions the model was first trained with.
        original_max_position_embeddings: usize,
    },
}

impl RopeConfig {
    /// Without scaling.
    pub fn plain(theta: f64, rotary_dim: usize) -> Self {
        Self { theta, rotary_dim, scaling: RopeScaling::Default }
    }

    /// Reads `rope_parameters`, or `rope_theta` and `rope_scaling` of older files; where both are there, with the
    /// precedence of `transformers` 5 (`convert_rope_params_to_dict`).
    pub(super) fn from_json(json: &Value, rotary_dim: usize) -> Result<Self, String> {
        let (field, section) = section(json)?;
        let within = |reason: String| format!("`{field}`: {reason}");
        let theta = match optional_number(section, "rope_theta").map_err(within)? {
            Some(theta) => theta,
            None => optional_number(json, "rope_theta")?.unwrap_or(10_000.0),
        };
        if theta <= 0.0 {
            return Err(format!("`rope_theta` must be above 0, got {theta}"));
        }
        let number = |name: &str| {
            optional_number(section, name).map_err(within)?.ok_or_else(|| within(format!("`{name}` is missing")))
        };
        let scaling = match kind(section).map_err(within)? {
            "default" => RopeScaling::Default,
            "linear" => RopeScaling::Linear { factor: number("factor")? },
            "llama3" => RopeScaling::Llama3 {
                factor: number("factor")?,
                low_freq_factor: number("low_freq_factor")?,
                high_freq_factor: number("high_freq_factor")?,
                original_max_position_embeddings: match (
                    // transformers prefers the outer value.
                    optional_count(json, "original_max_position_embeddings")?,
                    optional_count(section, "original_max_position_embeddings").map_err(within)?,
                ) {
                    (Some(positions), _) | (None, Some(positions)) => positions,
                    (None, None) => count(json, "max_position_embeddings")?,
                },
            },
            other => return Err(within(format!("rope type \"{other}\"; supported: default, linear, llama3"))),
        };
        Ok(Self { theta, rotary_dim, scaling })
    }

    /// Radians per position of each pair of columns, `(rotary_dim / 2)`.
    pub fn frequencies(&self) -> Vec<f32> {
        let plain = (0..self.rotary_dim / 2).map(|i| 1.0 / self.theta.powf(2.0 * i as f64 / self.rotary_dim as f64));
        let scaled = plain.map(|frequency| match self.scaling {
            RopeScaling::Default => frequency,
            RopeScaling::Linear { factor } => frequency / factor,
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
                let original = original_max_position_embeddings as f64;
                // 1 at the high end, which is kept; 0 at the low end, which is divided.
                let turns = original * frequency / (2.0 * std::f64::consts::PI);
                let kept = ((turns - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0.0, 1.0);
                kept * frequency + (1.0 - kept) * frequency / factor
            }
        });
        scaled.map(|frequency| frequency as f32).collect()
    }
}

/// The object that describes rotary positions, and its name: `rope_scaling` unless it says nothing, which then stands
/// for all of `rope_parameters`.
fn section(json: &Value) -> Result<(&'static str, &Value), String> {
    for field in ["rope_scaling", "rope_parameters"] {
        match &json[field] {
            Value::Null => {}
            Value::Object(section) if section.is_empty() => {}
            Value::Object(section) if section.values().any(Value::is_object) => {
                return Err(format!("`{field}` differs from layer to layer, which is not supported"));
            }
            section @ Value::Object(_) => return Ok((field, section)),
            other => return Err(format!("`{field}` must be an object, got {other}")),
        }
    }
    Ok(("rope_parameters", &Value::Null))
}

/// How the frequencies are stretched, in either spelling.
fn kind(section: &Value) -> Result<&str, String> {
    match section.get("rope_type").or(section.get("type")) {
        None => Ok("default"),
        Some(kind) => kind.as_str().ok_or_else(|| format!("`rope_type` must be a text, got {kind}")),
    }
}

/// Which part of a head's columns is rotated, where the file says so.
pub(super) fn partial_rotary_factor(json: &Value) -> Result<Option<f64>, String> {
    let (_, section) = section(json)?;
    Ok(optional_number(section, "partial_rotary_factor")?.or(optional_number(json, "partial_rotary_factor")?))
}
