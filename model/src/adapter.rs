//! Low-rank adapters (Hu et al. 2021) in PEFT's file format.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use candle_core::quantized::GgmlDType;
use candle_core::{DType, Device, Tensor};
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::error::ModelError;
use crate::kernels::{LoraWeights, fnv1a};
use crate::param::Param;
use crate::source::WeightSource;
use crate::weights::WeightFiles;

/// An adapter's hyper-parameters, under PEFT's names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LoraConfig {
    /// Rank.
    pub r: usize,
    /// The product of both matrices is scaled by `lora_alpha / r`.
    pub lora_alpha: f64,
    /// Share of a layer's input that is dropped while training.
    pub lora_dropout: f64,
    /// Names, or last parts of names, of the linear layers that get an adapter; `all-linear` for every one but the head.
    pub target_modules: Vec<String>,
    /// Scale by `lora_alpha / sqrt(r)` (Kalajdzievski 2023).
    pub use_rslora: bool,
}

/// Every linear layer but the head.
pub const ALL_LINEAR: &str = "all-linear";

/// How the frozen weights of the linear layers are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BaseStorage {
    /// In the type of the checkpoint.
    #[default]
    Source,
    /// In 8-bit blocks of 32.
    Q8_0,
    /// In 4-bit blocks of 256.
    Q4K,
}

impl BaseStorage {
    /// The quantised type, if it is one.
    pub(crate) fn quantised(self) -> Option<GgmlDType> {
        match self {
            Self::Source => None,
            Self::Q8_0 => Some(GgmlDType::Q8_0),
            Self::Q4K => Some(GgmlDType::Q4K),
        }
    }
}

/// What an adapter's configuration calls the model that it belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BaseName {
    /// A directory, or a repository of the hub: `owner/name`.
    pub name: String,
    /// The repository's revision, where it is not the usual one.
    pub revision: Option<String>,
}

/// What an adapter's training starts from.
#[derive(Debug)]
pub struct LoraSetup {
    /// Hyper-parameters.
    pub config: LoraConfig,
    /// How the frozen weights are kept.
    pub base: BaseStorage,
    /// Seed of a new adapter.
    pub seed: u64,
    /// The weights of an adapter to go on from.
    pub initial: Option<WeightFiles>,
}

/// The file of an adapter's weights.
pub const ADAPTER_FILE: &str = "adapter_model.safetensors";
/// The file of its hyper-parameters.
pub const ADAPTER_CONFIG: &str = "adapter_config.json";

impl LoraConfig {
    /// Factor on the product of both matrices.
    pub fn scale(&self) -> f32 {
        let rank = self.r as f64;
        (self.lora_alpha / if self.use_rslora { rank.sqrt() } else { rank }) as f32
    }

    /// Whether the linear layer `module` gets a new adapter.
    pub fn targets(&self, module: &str) -> bool {
        self.target_modules.iter().any(|target| is_target(target, module))
    }

    /// Reads `adapter_config.json` of a PEFT directory.
    ///
    /// # Errors
    /// When it is missing, or asks for what is not computed here, by name.
    pub fn from_dir(dir: &Path) -> Result<Self, ModelError> {
        Ok(Self::with_base(dir)?.0)
    }

    /// The same, with the name of the model that the adapter belongs to (empty where none is stated).
    ///
    /// # Errors
    /// As [`LoraConfig::from_dir`].
    pub fn with_base(dir: &Path) -> Result<(Self, BaseName), ModelError> {
        let path = dir.join(ADAPTER_CONFIG);
        let text = std::fs::read_to_string(&path).map_err(|e| ModelError::read(&path, e))?;
        let json: Value = serde_json::from_str(&text).map_err(|e| ModelError::invalid(&path, e))?;
        let config = Self::from_json(&json).map_err(|reason| ModelError::invalid(&path, reason))?;
        let text = |field: &str| json[field].as_str().map(str::to_string);
        let name = text("base_model_name_or_path").unwrap_or_default();
        Ok((config, BaseName { name, revision: text("revision") }))
    }

    fn from_json(json: &Value) -> Result<Self, String> {
        let empty = |value: &Value| match value {
            Value::Null | Value::Bool(false) => true,
            Value::Object(map) => map.is_empty(),
            Value::Array(list) => list.is_empty(),
            _ => false,
        };
        if json["peft_type"] != "LORA" {
            return Err(format!("`peft_type` is {}; supported: \"LORA\"", json["peft_type"]));
        }
        for field in [
            "use_dora",
            "fan_in_fan_out",
            "lora_bias",
            "modules_to_save",
            "rank_pattern",
            "alpha_pattern",
            "layer_replication",
            "trainable_token_indices",
            "target_parameters",
        ] {
            if !empty(&json[field]) {
                return Err(format!(
                    "`{field}` = {} is not supported; merge the adapter with PEFT and take the result as model",
                    json[field]
                ));
            }
        }
        if !matches!(json["bias"].as_str(), None | Some("none")) {
            return Err(format!("`bias` is {}; supported: \"none\"", json["bias"]));
        }
        // The other initialisations take the adapter out of the base's weights: to other weights than the base's it belongs.
        if !matches!(json["init_lora_weights"].as_str(), None | Some("gaussian" | "eva" | "orthogonal")) {
            return Err(format!(
                "`init_lora_weights` = {} means a base with other weights; save the adapter with PEFT's \
                 `path_initial_model_for_weight_conversion`",
                json["init_lora_weights"]
            ));
        }
        let r = json["r"].as_u64().filter(|r| *r > 0).ok_or("`r` must be a positive whole number")? as usize;
        let target_modules = match &json["target_modules"] {
            Value::String(one) => vec![one.clone()],
            Value::Array(list) => list.iter().filter_map(|name| name.as_str().map(str::to_string)).collect(),
            _ => Vec::new(),
        };
        if target_modules.is_empty() {
            return Err("`target_modules` names no module".into());
        }
        Ok(Self {
            r,
            lora_alpha: json["lora_alpha"].as_f64().ok_or("`lora_alpha` must be a number")?,
            lora_dropout: json["lora_dropout"].as_f64().unwrap_or(0.0),
            target_modules,
            use_rslora: json["use_rslora"].as_bool().unwrap_or(false),
        })
    }

    /// `adapter_config.json` as PEFT reads it; `targets` are the names that got an adapter.
    pub fn to_json(&self, base: &BaseName, targets: &[String]) -> Value {
        json!({
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": base.name,
            "revision": base.revision,
            "r": self.r,
            "lora_alpha": self.lora_alpha,
            "lora_dropout": self.lora_dropout,
            "target_modules": targets,
            "use_rslora": self.use_rslora,
            "use_dora": false,
            "bias": "none",
            "fan_in_fan_out": false,
            "inference_mode": true,
            "init_lora_weights": true,
            "modules_to_save": null,
            "rank_pattern": {},
            "alpha_pattern": {},
        })
    }
}

/// Whether `target` is the name of `module`, the end of that name, or stands for all.
fn is_target(target: &str, module: &str) -> bool {
    target == ALL_LINEAR || module.strip_suffix(target).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

impl LoraSetup {
    /// Whether the linear layer `module` gets an adapter: where there is one to go on from, whether it has one there.
    pub(crate) fn targets(&self, module: &str) -> bool {
        match &self.initial {
            Some(files) => files.contains(&stored_name(files, module, 'A')),
            None => self.config.targets(module),
        }
    }

    /// Refuses what has no place in a model whose linear layers are `modules`: a target that is none of them, or a
    /// tensor of the initial adapter that belongs to none.
    pub(crate) fn check(&self, modules: &BTreeSet<String>) -> Result<(), ModelError> {
        if let Some(files) = &self.initial {
            let used: BTreeSet<String> =
                (modules.iter()).flat_map(|module| ['A', 'B'].map(|side| stored_name(files, module, side))).collect();
            return match files.names().into_iter().find(|name| !used.contains(*name)) {
                None => Ok(()),
                Some(name) => Err(ModelError::Refused(format!(
                    "the adapter has a tensor `{name}`; this model takes adapters on its linear layers, the head not \
                     among them: merge it with PEFT and take the result as model"
                ))),
            };
        }
        let has_layer = |target: &&String| modules.iter().any(|module| is_target(target, module));
        match self.config.target_modules.iter().find(|target| !has_layer(target)) {
            None => Ok(()),
            Some(target) => Err(ModelError::Refused(format!(
                "`target_modules`: no linear layer of this model is called {target}; there are {}",
                last_parts(modules.iter().map(String::as_str)).join(", ")
            ))),
        }
    }

    /// The trainable adapter of the layer `module` with a weight of `shape` (out, in): A uniform as PEFT draws it, B
    /// zero, or both from the initial adapter. Of an `outline` only the shapes are there.
    pub(crate) fn adapter(
        &self,
        module: &str,
        shape: (usize, usize),
        outline: bool,
    ) -> Result<LoraWeights, ModelError> {
        let (outputs, inputs) = shape;
        let LoraConfig { r, lora_dropout, .. } = self.config;
        let name = |side: char| format!("base_model.model.{module}.lora_{side}.weight");
        let tensor = |side: char, shape: &[usize]| -> Result<Tensor, ModelError> {
            match &self.initial {
                Some(files) => files.tensor(&stored_name(files, module, side), shape),
                None if side == 'A' => {
                    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(self.seed ^ fnv1a(&name('A')));
                    // torch's kaiming_uniform_ with a = sqrt(5)
                    let bound = (inputs as f64).sqrt().recip() as f32;
                    let values: Vec<f32> = (0..r * inputs).map(|_| rng.random_range(-bound..bound)).collect();
                    Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
                }
                None => Ok(Tensor::zeros(shape, DType::F32, &Device::Cpu)?),
            }
        };
        let param = |side: char, shape: &[usize]| -> Result<Arc<Param>, ModelError> {
            match &self.initial {
                _ if !outline => Ok(Param::trainable(name(side), tensor(side, shape)?)?),
                Some(files) => {
                    files.dtype(&stored_name(files, module, side), shape)?;
                    Ok(Param::trainable_outline(name(side), shape))
                }
                None => Ok(Param::trainable_outline(name(side), shape)),
            }
        };
        Ok(LoraWeights {
            a: param('A', &[r, inputs])?,
            b: param('B', &[outputs, r])?,
            scale: self.config.scale(),
            dropout: lora_dropout as f32,
        })
    }
}

/// PEFT's name, or a spelling that other programs write: the adapter's name before `.weight`, or a doubled prefix.
pub(crate) fn stored_name(files: &WeightFiles, module: &str, side: char) -> String {
    let usual = format!("base_model.model.{module}.lora_{side}.weight");
    let others = [
        format!("base_model.model.{module}.lora_{side}.default.weight"),
        format!("base_model.model.base_model.model.{module}.lora_{side}.weight"),
        format!("{module}.lora_{side}.weight"),
    ];
    others.into_iter().find(|name| !files.contains(&usual) && files.contains(name)).unwrap_or(usual)
}

/// `W + scale B A` in f32.
///
/// # Errors
/// From the product.
pub fn merged(weight: &Param, lora: &LoraWeights) -> Result<Tensor, ModelError> {
    let product = lora.b.weight()?.matmul(&lora.a.weight()?)?;
    Ok((weight.weight()? + (product * f64::from(lora.scale))?)?)
}

/// The `target_modules` that give adapters to just these of the linear layers `modules`: the last parts of the names
/// where these tell them, else whole names.
pub fn target_names(adapted: &BTreeSet<&str>, modules: &BTreeSet<String>) -> Vec<String> {
    let short = last_parts(adapted.iter().copied());
    let is_meant = |module: &&String| short.iter().any(|target| is_target(target, module));
    match modules.iter().filter(is_meant).count() == adapted.len() {
        true => short,
        false => adapted.iter().map(|module| module.to_string()).collect(),
    }
}

/// The last parts of names, sorted, each once.
fn last_parts<'a>(modules: impl Iterator<Item = &'a str>) -> Vec<String> {
    let parts: BTreeSet<&str> = modules.map(|module| module.rsplit('.').next().unwrap_or(module)).collect();
    parts.into_iter().map(str::to_string).collect()
}

/// The adapter's parameters in the order of the layers.
pub fn adapter_params<'a>(loras: impl Iterator<Item = &'a LoraWeights>) -> Vec<Arc<Param>> {
    loras.flat_map(|lora| [lora.a.clone(), lora.b.clone()]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> LoraConfig {
        LoraConfig {
            r: 4,
            lora_alpha: 8.0,
            lora_dropout: 0.0,
            target_modules: vec!["q_proj".into(), "mlp.up_proj".into()],
            use_rslora: false,
        }
    }

    #[test]
    fn modules_are_chosen_by_the_end_of_their_names() {
        let config = config();
        assert!(config.targets("model.layers.0.self_attn.q_proj") && config.targets("model.layers.1.mlp.up_proj"));
        assert!(!config.targets("model.layers.0.self_attn.k_proj") && !config.targets("model.layers.0.xq_proj"));
        let all = LoraConfig { target_modules: vec![ALL_LINEAR.into()], ..config.clone() };
        assert!(all.targets("model.layers.0.self_attn.k_proj"));
        let whole = LoraConfig { target_modules: vec!["model.layers.0.self_attn.k_proj".into()], ..config };
        assert!(whole.targets("model.layers.0.self_attn.k_proj") && !whole.targets("model.layers.1.self_attn.k_proj"));
    }

    #[test]
    fn targets_are_written_short_where_that_says_the_same() {
        let modules: BTreeSet<String> = ["a.0.q", "a.0.v", "a.1.q", "a.1.v", "out"].map(str::to_string).into();
        assert_eq!(target_names(&["a.0.q", "a.1.q", "out"].into(), &modules), ["out", "q"]);
        assert_eq!(target_names(&["a.0.q", "a.0.v"].into(), &modules), ["a.0.q", "a.0.v"]);
    }

    #[test]
    fn a_target_that_is_no_layer_is_refused_with_those_there_are() {
        let modules: BTreeSet<String> = ["a.0.q_proj", "a.0.mlp.up_proj"].map(str::to_string).into();
        let setup = |config| LoraSetup { config, base: BaseStorage::Source, seed: 0, initial: None };
        assert!(setup(config()).check(&modules).is_ok());
        let misspelt = LoraConfig { target_modules: vec!["q_proj".into(), "k_porj".into()], ..config() };
        let error = setup(misspelt).check(&modules).unwrap_err().to_string();
        assert!(error.contains("k_porj") && error.contains("there are q_proj, up_proj"), "{error}");
    }

    #[test]
    fn what_is_written_is_read_again_and_scales() {
        let config = config();
        assert_eq!(
            LoraConfig::from_json(&config.to_json(&BaseName::default(), &config.target_modules)).unwrap(),
            config
        );
        assert_eq!(config.scale(), 2.0);
        assert_eq!(LoraConfig { use_rslora: true, ..config }.scale(), 4.0);
    }

    #[test]
    fn what_is_not_computed_is_refused_by_name() {
        for (field, value) in [
            ("peft_type", json!("IA3")),
            ("use_dora", json!(true)),
            ("modules_to_save", json!(["lm_head"])),
            ("bias", json!("all")),
            ("init_lora_weights", json!("pissa_niter_4")),
            ("r", json!(0)),
            ("target_modules", json!([])),
        ] {
            let mut json = config().to_json(&BaseName::default(), &config().target_modules);
            json[field] = value;
            let error = LoraConfig::from_json(&json).unwrap_err();
            assert!(error.contains(&format!("`{field}`")), "{field}: {error}");
        }
    }
}
