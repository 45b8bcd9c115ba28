//! A PEFT directory with a LoRA adapter (Hu et al. 2021): what it adds to which layers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use orpo_model::infer::LowRank;
use regex::Regex;
use serde_json::{Map, Value};

use super::tensors;
use crate::checkpoint::{CheckpointError, read_object};

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";

/// Fields that, unless empty, make the adapter something else than `W + scale B A`.
const UNSUPPORTED: [&str; 12] = [
    "use_dora",
    "use_qalora",
    "use_bdlora",
    "lora_bias",
    "modules_to_save",
    "layer_replication",
    "trainable_token_indices",
    "target_parameters",
    "megatron_config",
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
];

/// Why an adapter cannot be merged.
#[derive(Debug, thiserror::Error)]
pub enum AdapterError {
    /// A file of it, or of the base, is missing or corrupt.
    #[error(transparent)]
    File(#[from] CheckpointError),
    /// It asks for what is not computed here, or contradicts itself.
    #[error("adapter `{}`: {reason}", path.display())]
    Refused {
        /// The file or directory.
        path: PathBuf,
        /// What, and what to do.
        reason: String,
    },
    /// The merged files cannot be written.
    #[error("cannot write the merged model to `{}`: {source}; set TMPDIR to a directory with room for it", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
}

/// What is added to one linear layer's weight: `scale B A`.
#[derive(Debug)]
pub(super) struct Lora {
    /// `(r, inputs)`, by rows.
    pub(super) a: Vec<f32>,
    /// `(outputs, r)`, by rows.
    pub(super) b: Vec<f32>,
    pub(super) rank: usize,
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    pub(super) scale: f32,
}

/// An adapter in memory.
#[derive(Debug)]
pub struct Adapter {
    pub(super) dir: PathBuf,
    /// By the layer's name in the base model, such as `model.layers.0.self_attn.q_proj`.
    pub(super) layers: BTreeMap<String, Lora>,
}

impl Adapter {
    /// Reads a PEFT directory.
    ///
    /// # Errors
    /// [`AdapterError`], by name for what would not be computed as PEFT does.
    pub fn open(dir: &Path) -> Result<Self, AdapterError> {
        let config_path = dir.join(CONFIG);
        let config = read_object(&config_path)?;
        let refuse = |path: &Path, reason: String| AdapterError::Refused { path: path.to_path_buf(), reason };
        let config = Config::parse(&config).map_err(|reason| refuse(&config_path, reason))?;
        let path = dir.join(WEIGHTS);
        let mut halves: BTreeMap<String, [Option<tensors::Matrix>; 2]> = BTreeMap::new();
        for (name, tensor) in tensors::read_all(&path)? {
            let (module, side) = module_and_side(&name).ok_or_else(|| {
                refuse(&path, format!("tensor `{name}` is no LoRA matrix of a linear layer; {MERGE_WITH_PEFT}"))
            })?;
            let matrix = tensor.ok_or_else(|| refuse(&path, format!("tensor `{name}` is no matrix")))?;
            halves.entry(module.to_string()).or_default()[side] = Some(matrix);
        }
        if halves.is_empty() {
            return Err(refuse(&path, "it holds no tensor".into()));
        }
        let mut layers = BTreeMap::new();
        for (module, halves) in halves {
            let [Some(a), Some(b)] = halves else {
                return Err(refuse(&path, format!("`{module}` has only one of lora_A and lora_B")));
            };
            let layer = config.layer(&module, a, b).map_err(|reason| refuse(dir, format!("`{module}`: {reason}")))?;
            layers.insert(module, layer);
        }
        if config.fan_in_fan_out {
            // PEFT warns likewise: the flag is about GPT-2's layers, and none of these models has one.
            tracing::warn!(adapter = %dir.display(), "`fan_in_fan_out` has no meaning for linear layers and is not used");
        }
        Ok(Self { dir: dir.to_path_buf(), layers })
    }
}

impl Adapter {
    /// Its matrices, for an engine that computes them beside the base's.
    pub fn low_rank(&self) -> Vec<LowRank> {
        let layer = |(module, lora): (&String, &Lora)| {
            let Lora { a, b, rank, scale, .. } = lora;
            LowRank { module: module.clone(), rank: *rank, a: a.clone(), b: b.clone(), scale: *scale }
        };
        self.layers.iter().map(layer).collect()
    }

    /// The directory with the tokenizer of a model with this adapter: its own where it has one, else the base's.
    pub fn tokenizer_dir<'a>(&'a self, base: &'a Path) -> &'a Path {
        if self.dir.join("tokenizer.json").exists() { &self.dir } else { base }
    }
}

pub(super) const MERGE_WITH_PEFT: &str = "merge the adapter with PEFT and serve the result as --model";

/// The layer and which matrix of it, 0 for A and 1 for B, in PEFT's spelling and those that other programs write: the
/// adapter's name before `.weight`, a doubled prefix, or none.
fn module_and_side(tensor: &str) -> Option<(&str, usize)> {
    const PREFIX: &str = "base_model.model.";
    let name = tensor.strip_suffix(".weight")?;
    let name = name.strip_suffix(".default").unwrap_or(name);
    let (module, side) = match (name.strip_suffix(".lora_A"), name.strip_suffix(".lora_B")) {
        (Some(module), _) => (module, 0),
        (_, Some(module)) => (module, 1),
        _ => return None,
    };
    let module = module.strip_prefix(PREFIX).unwrap_or(module);
    Some((module.strip_prefix(PREFIX).unwrap_or(module), side))
}

/// `adapter_config.json`, as far as it matters for merging.
struct Config {
    r: u64,
    lora_alpha: f64,
    rank_pattern: Vec<(Regex, f64)>,
    alpha_pattern: Vec<(Regex, f64)>,
    use_rslora: bool,
    fan_in_fan_out: bool,
    targets: Vec<Regex>,
}

impl Config {
    fn parse(json: &Map<String, Value>) -> Result<Self, String> {
        let get = |field: &str| json.get(field).unwrap_or(&Value::Null);
        if get("peft_type") != "LORA" {
            return Err(format!("`peft_type` is {}; supported: \"LORA\"", get("peft_type")));
        }
        if let Some(field) = UNSUPPORTED.into_iter().find(|field| !is_empty(get(field))) {
            return Err(format!("`{field}` = {} is not supported; {MERGE_WITH_PEFT}", get(field)));
        }
        if !matches!(get("bias"), Value::Null) && get("bias") != "none" {
            return Err(format!("`bias` = {} is not supported; {MERGE_WITH_PEFT}", get("bias")));
        }
        // The other initialisations (PiSSA, OLoRA, ...) take the adapter out of the base's weights and change these.
        if !matches!(get("init_lora_weights").as_str(), None | Some("gaussian" | "eva" | "orthogonal")) {
            let value = get("init_lora_weights");
            return Err(format!("`init_lora_weights` = {value} changes the base model; {MERGE_WITH_PEFT}"));
        }
        let switch = |field: &str| get(field).as_bool().unwrap_or(false);
        Ok(Self {
            r: get("r").as_u64().filter(|r| *r > 0).ok_or("`r` must be a positive whole number")?,
            lora_alpha: get("lora_alpha").as_f64().ok_or("`lora_alpha` must be a number")?,
            rank_pattern: pattern(get("rank_pattern"), "rank_pattern")?,
            alpha_pattern: pattern(get("alpha_pattern"), "alpha_pattern")?,
            use_rslora: switch("use_rslora"),
            fan_in_fan_out: switch("fan_in_fan_out"),
            targets: targets(get("target_modules"))?,
        })
    }

    /// The layer `module` with its two matrices.
    fn layer(&self, module: &str, a: tensors::Matrix, b: tensors::Matrix) -> Result<Lora, String> {
        if !self.targets.iter().any(|target| target.is_match(module)) {
            return Err("it is not among `target_modules`".into());
        }
        let of_pattern = |pattern: &[(Regex, f64)]| {
            pattern.iter().find_map(|(module_name, value)| module_name.is_match(module).then_some(*value))
        };
        let rank = of_pattern(&self.rank_pattern).unwrap_or(self.r as f64);
        let alpha = of_pattern(&self.alpha_pattern).unwrap_or(self.lora_alpha);
        if a.rows as f64 != rank || b.columns != a.rows {
            return Err(format!(
                "lora_A has shape ({}, {}) and lora_B ({}, {}), but {CONFIG} says rank {rank}",
                a.rows, a.columns, b.rows, b.columns
            ));
        }
        let scale = alpha / if self.use_rslora { rank.sqrt() } else { rank };
        Ok(Lora { rank: a.rows, inputs: a.columns, outputs: b.rows, a: a.values, b: b.values, scale: scale as f32 })
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Object(map) => map.is_empty(),
        Value::Array(list) => list.is_empty(),
        _ => false,
    }
}

/// A regular expression for the whole name of a layer, or with `at_end` for the end of it, from a part's beginning on.
fn name_regex(text: &str, at_end: bool) -> Result<Regex, String> {
    let before = if at_end { r"(?:.*\.)?" } else { "" };
    Regex::new(&format!("^{before}(?:{text})$")).map_err(|_| format!("`{text}` is no regular expression known here"))
}

/// PEFT takes the first key that, as a regular expression, matches the end of the layer's name (`get_pattern_key`).
fn pattern(value: &Value, field: &str) -> Result<Vec<(Regex, f64)>, String> {
    let entries = value.as_object().into_iter().flatten();
    let parse = |(key, value): (&String, &Value)| {
        let number = value.as_f64().filter(|number| *number > 0.0);
        let number = number.ok_or_else(|| format!("`{field}.{key}` must be a positive number"))?;
        Ok((name_regex(key, true).map_err(|reason| format!("`{field}`: {reason}"))?, number))
    };
    entries.map(parse).collect()
}

/// A list holds whole names or their ends; a string is a regular expression for the whole name, or `all-linear`.
fn targets(value: &Value) -> Result<Vec<Regex>, String> {
    let wrong = |reason| format!("`target_modules`: {reason}");
    match value {
        Value::String(all) if all == "all-linear" => Ok(vec![name_regex(".*", false)?]),
        Value::String(regex) => Ok(vec![name_regex(regex, false).map_err(wrong)?]),
        Value::Array(list) if !list.is_empty() => {
            let target = |name: &Value| {
                let name = name.as_str().ok_or_else(|| wrong(format!("{name} is no name")))?;
                name_regex(&regex::escape(name), true)
            };
            list.iter().map(target).collect()
        }
        _ => Err("`target_modules` names no module".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn config(extra: Value) -> Result<Config, String> {
        let mut config =
            json!({"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "mlp.up_proj"]});
        for (key, value) in extra.as_object().unwrap() {
            config[key] = value.clone();
        }
        Config::parse(config.as_object().unwrap())
    }

    fn scale(extra: Value, module: &str, rank: usize) -> Result<f32, String> {
        let matrix = |rows, columns| tensors::Matrix { rows, columns, values: vec![0.0; rows * columns] };
        config(extra)?.layer(module, matrix(rank, 2), matrix(3, rank)).map(|lora| lora.scale)
    }

    #[test]
    fn layers_scale_as_peft_scales_them() {
        const Q: &str = "model.layers.0.self_attn.q_proj";
        const Q1: &str = "model.layers.1.self_attn.q_proj";
        assert_eq!(scale(json!({}), Q, 4), Ok(2.0));
        assert_eq!(scale(json!({"use_rslora": true}), Q, 4), Ok(4.0));
        let patterns = json!({"rank_pattern": {"layers.0.self_attn.q_proj": 2}, "alpha_pattern": {"q_proj": 6}});
        assert_eq!(scale(patterns.clone(), Q, 2), Ok(3.0));
        assert_eq!(scale(patterns, Q1, 4), Ok(1.5));
        // A key is a regular expression, and begins where a part of the name begins.
        assert_eq!(scale(json!({"alpha_pattern": {"proj": 1, r"layers\.[01]\..*": 4}}), Q, 4), Ok(1.0));
        assert!(scale(json!({}), Q, 2).unwrap_err().contains("rank 4"));
        assert!(scale(json!({}), "model.layers.0.self_attn.k_proj", 4).unwrap_err().contains("target_modules"));
        assert!(scale(json!({}), "model.layers.0.up_proj", 4).is_err());
        assert_eq!(scale(json!({"target_modules": ".*k_pr.*"}), "model.layers.0.self_attn.k_proj", 4), Ok(2.0));
        assert_eq!(scale(json!({"target_modules": "all-linear"}), "x", 4), Ok(2.0));
    }

    #[test]
    fn what_is_more_than_two_matrices_is_refused_by_name() {
        for (extra, words) in [
            (json!({"peft_type": "IA3"}), "peft_type"),
            (json!({"modules_to_save": ["lm_head"]}), "modules_to_save"),
            (json!({"use_dora": true}), "use_dora"),
            (json!({"bias": "lora_only"}), "bias"),
            (json!({"init_lora_weights": "pissa"}), "init_lora_weights"),
            (json!({"r": 0}), "`r`"),
            (json!({"lora_alpha": null}), "lora_alpha"),
            (json!({"target_modules": []}), "target_modules"),
            (json!({"rank_pattern": {"q": 0}}), "rank_pattern.q"),
            (json!({"alpha_pattern": {"(": 1}}), "alpha_pattern"),
        ] {
            let refused = config(extra).err().unwrap();
            assert!(refused.contains(words), "{refused}");
        }
        assert!(config(json!({"modules_to_save": null, "use_dora": false, "bias": "none"})).is_ok());
    }

    #[test]
    fn tensors_are_known_in_every_spelling() {
        for name in [
            "base_model.model.m.q.lora_A.weight",
            "base_model.model.m.q.lora_A.default.weight",
            "base_model.model.base_model.model.m.q.lora_A.weight",
            "m.q.lora_A.weight",
        ] {
            assert_eq!(module_and_side(name), Some(("m.q", 0)), "{name}");
        }
        assert_eq!(module_and_side("m.q.lora_B.weight"), Some(("m.q", 1)));
        for name in ["m.lora_embedding_A", "base_model.model.lm_head.weight", "m.q.lora_magnitude_vector.weight"] {
            assert_eq!(module_and_side(name), None);
        }
    }
}
