//! `config.json`, in Hugging Face's spelling, as what the one decoder block needs to know.

mod families;
mod fields;
mod rope;

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::ModelError;

pub use rope::{RopeConfig, RopeScaling};

/// A family of checkpoints: which fields `config.json` has and what the tensors are called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// Llama 1, 2 and 3.
    Llama,
    /// Mistral 7B.
    Mistral,
    /// Qwen 2 and 2.5.
    Qwen2,
    /// Qwen 3, dense.
    Qwen3,
    /// Gemma 2.
    Gemma2,
    /// Phi-1, 1.5 and 2.
    Phi,
    /// OPT.
    Opt,
}

impl Family {
    /// The families with their `model_type` and the name that `architectures` has for them.
    const NAMES: [(Self, &str, &str); 7] = [
        (Self::Llama, "llama", "LlamaForCausalLM"),
        (Self::Mistral, "mistral", "MistralForCausalLM"),
        (Self::Qwen2, "qwen2", "Qwen2ForCausalLM"),
        (Self::Qwen3, "qwen3", "Qwen3ForCausalLM"),
        (Self::Gemma2, "gemma2", "Gemma2ForCausalLM"),
        (Self::Phi, "phi", "PhiForCausalLM"),
        (Self::Opt, "opt", "OPTForCausalLM"),
    ];

    /// Every family.
    pub fn all() -> impl Iterator<Item = Self> {
        Self::NAMES.into_iter().map(|(family, ..)| family)
    }

    /// The family of a `config.json`: `model_type` decides, and `architectures` only where that is missing.
    ///
    /// # Errors
    /// A sentence with what it says instead.
    pub fn of(json: &Value) -> Result<Self, String> {
        let found = |name: &str| Self::NAMES.into_iter().find(|(_, kind, class)| name == *kind || name == *class);
        let (field, name) = match (json["model_type"].as_str(), json["architectures"][0].as_str()) {
            (Some(name), _) => ("model_type", name),
            (None, Some(name)) => ("architectures", name),
            (None, None) => return Err("`model_type` is missing".into()),
        };
        match found(name) {
            Some((family, ..)) => Ok(family),
            None => {
                let known: Vec<&str> = Self::NAMES.iter().map(|(_, kind, _)| *kind).collect();
                Err(format!("`{field}` is `{name}`; supported: {}", known.join(", ")))
            }
        }
    }

    /// The class of `transformers` that computes it.
    pub fn architecture(self) -> &'static str {
        Self::NAMES.iter().find(|(family, ..)| *family == self).expect("every family is listed").2
    }
}

/// A JSON file, with or without a byte order mark.
pub(crate) fn read_json(path: &Path) -> Result<Value, ModelError> {
    let text = std::fs::read_to_string(path).map_err(|source| ModelError::read(path, source))?;
    serde_json::from_str(text.trim_start_matches('\u{feff}')).map_err(|error| ModelError::invalid(path, error))
}

/// Which normalisation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum NormKind {
    /// Root mean square.
    Rms,
    /// Root mean square whose weights are differences from 1.
    RmsPlusOne,
    /// Layer norm with bias.
    Layer,
}

/// Where the norms of a block stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum NormPlacement {
    /// Before attention and before the feed-forward layer.
    Pre,
    /// After each residual sum (OPT-350m).
    Post,
    /// Before and after each of the two (Gemma 2).
    Sandwich,
    /// One before both, which are computed side by side (Phi).
    Parallel,
}

/// An element-wise function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Activation {
    /// `x sigmoid(x)`.
    Silu,
    /// GELU by its tanh approximation (`gelu_new`, `gelu_pytorch_tanh`).
    GeluTanh,
    /// `max(x, 0)`.
    Relu,
}

/// How a token's place in the sequence enters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Positions {
    /// Queries and keys are rotated.
    Rope(RopeConfig),
    /// A learnt vector is added to the embedding; the table has so many rows before that of position 0.
    Learned {
        /// Rows before that of position 0.
        offset: usize,
    },
}

/// A decoder's architecture.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelConfig {
    /// Whose names the tensors have.
    pub family: Family,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the token embedding; where it is not `hidden_size` there are projections in and out.
    pub embedding_size: usize,
    /// Width of the feed-forward layer.
    pub intermediate_size: usize,
    /// Number of blocks.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads.
    pub num_key_value_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Rows of the embedding and of the head.
    pub vocab_size: usize,
    /// Positions the model can use.
    pub max_position_embeddings: usize,
    /// A token whose embedding is not trained: `pad_token_id`, for which transformers keeps no gradient.
    pub pad_token_id: Option<u32>,
    /// Which normalisation.
    pub norm: NormKind,
    /// Where the norms stand.
    pub norm_placement: NormPlacement,
    /// Added to the variance or mean square in the norms.
    pub norm_eps: f64,
    /// Whether a norm stands before the head.
    pub final_norm: bool,
    /// Whether queries and keys of each head are normalised.
    pub qk_norm: bool,
    /// How positions enter.
    pub positions: Positions,
    /// Factor on the attention scores.
    pub attention_scale: f64,
    /// Soft limit of the attention scores.
    pub attention_softcap: Option<f64>,
    /// For each layer how many positions a token sees, itself included; none for all.
    pub windows: Vec<Option<usize>>,
    /// Whether the projections of queries, keys and values have biases.
    pub qkv_bias: bool,
    /// Whether the projection of the attention's output has a bias.
    pub attention_output_bias: bool,
    /// Activation of the feed-forward layer.
    pub activation: Activation,
    /// Whether the activation gates a second projection.
    pub gated_mlp: bool,
    /// Whether the feed-forward layer has biases.
    pub mlp_bias: bool,
    /// Factor on the embedded tokens.
    pub embedding_scale: f64,
    /// Whether the head is the embedding.
    pub tie_word_embeddings: bool,
    /// Whether the head has a bias.
    pub head_bias: bool,
    /// Soft limit of the logits.
    pub final_softcap: Option<f64>,
    /// Standard deviation of a random initialisation.
    pub initializer_range: f64,
}

impl ModelConfig {
    /// Reads `config.json` of a checkpoint directory.
    ///
    /// # Errors
    /// When it is missing or is not JSON, or as [`ModelConfig::from_json`].
    pub fn from_dir(dir: &Path) -> Result<(Self, Value), ModelError> {
        let path = dir.join("config.json");
        if !path.exists() {
            let reason = "no `config.json` there; a model is a Hugging Face checkpoint directory or hub:owner/name";
            return Err(ModelError::invalid(dir, reason));
        }
        let json = read_json(&path)?;
        let config = Self::from_json(&json).map_err(|reason| ModelError::invalid(&path, reason))?;
        Ok((config, json))
    }

    /// Reads and checks the fields.
    ///
    /// # Errors
    /// A sentence that names the field and what is wrong with it: what the decoder would compute wrongly is refused.
    pub fn from_json(json: &Value) -> Result<Self, String> {
        let config = families::parse(json)?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), String> {
        if !self.num_attention_heads.is_multiple_of(self.num_key_value_heads) {
            return Err(format!(
                "`num_attention_heads` = {} is not a multiple of `num_key_value_heads` = {}",
                self.num_attention_heads, self.num_key_value_heads
            ));
        }
        if let Positions::Rope(rope) = &self.positions
            && (!rope.rotary_dim.is_multiple_of(2) || rope.rotary_dim == 0 || rope.rotary_dim > self.head_dim)
        {
            return Err(format!(
                "rotary positions need an even number of columns within `head_dim` = {}, got {}",
                self.head_dim, rope.rotary_dim
            ));
        }
        Ok(())
    }

    /// A Llama, as new models are made; `head_dim` is `hidden_size / num_attention_heads`.
    pub fn llama(shape: &LlamaShape) -> Self {
        let head_dim = shape.hidden_size / shape.num_attention_heads.max(1);
        Self {
            family: Family::Llama,
            hidden_size: shape.hidden_size,
            embedding_size: shape.hidden_size,
            intermediate_size: shape.intermediate_size,
            num_hidden_layers: shape.num_hidden_layers,
            num_attention_heads: shape.num_attention_heads,
            num_key_value_heads: shape.num_key_value_heads,
            head_dim,
            vocab_size: shape.vocab_size,
            max_position_embeddings: shape.max_position_embeddings,
            pad_token_id: None,
            norm: NormKind::Rms,
            norm_placement: NormPlacement::Pre,
            norm_eps: shape.rms_norm_eps,
            final_norm: true,
            qk_norm: false,
            positions: Positions::Rope(RopeConfig::plain(shape.rope_theta, head_dim)),
            attention_scale: (head_dim as f64).sqrt().recip(),
            attention_softcap: None,
            windows: vec![None; shape.num_hidden_layers],
            qkv_bias: false,
            attention_output_bias: false,
            activation: Activation::Silu,
            gated_mlp: true,
            mlp_bias: false,
            embedding_scale: 1.0,
            tie_word_embeddings: shape.tie_word_embeddings,
            head_bias: false,
            final_softcap: None,
            initializer_range: shape.initializer_range,
        }
    }
}

/// What distinguishes one new Llama from another; the fields are those of its `config.json`.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub struct LlamaShape {
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub num_key_value_heads: usize,
    pub vocab_size: usize,
    pub max_position_embeddings: usize,
    pub rms_norm_eps: f64,
    pub rope_theta: f64,
    pub tie_word_embeddings: bool,
    pub initializer_range: f64,
}

impl LlamaShape {
    /// The `config.json` of a new model, loadable by `transformers.AutoModelForCausalLM`.
    pub fn to_json(&self) -> Value {
        serde_json::json!({
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "attention_bias": false,
            "attention_dropout": 0.0,
            "hidden_act": "silu",
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "num_key_value_heads": self.num_key_value_heads,
            "head_dim": self.hidden_size / self.num_attention_heads.max(1),
            "vocab_size": self.vocab_size,
            "max_position_embeddings": self.max_position_embeddings,
            "rms_norm_eps": self.rms_norm_eps,
            "rope_theta": self.rope_theta,
            "rope_scaling": null,
            "mlp_bias": false,
            "pretraining_tp": 1,
            "tie_word_embeddings": self.tie_word_embeddings,
            "initializer_range": self.initializer_range,
            "torch_dtype": "float32",
            "use_cache": true,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn llama() -> Value {
        json!({"model_type": "llama", "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2,
               "num_attention_heads": 2, "vocab_size": 10, "max_position_embeddings": 32})
    }

    fn with(base: &Value, changes: &Value) -> Value {
        let mut json = base.clone();
        for (field, value) in changes.as_object().unwrap() {
            json[field] = value.clone();
        }
        json
    }

    #[test]
    fn what_is_written_is_read_again() {
        let shape = LlamaShape {
            hidden_size: 8,
            intermediate_size: 16,
            num_hidden_layers: 2,
            num_attention_heads: 2,
            num_key_value_heads: 1,
            vocab_size: 10,
            max_position_embeddings: 32,
            rms_norm_eps: 1e-5,
            rope_theta: 500.0,
            tie_word_embeddings: true,
            initializer_range: 0.1,
        };
        assert_eq!(ModelConfig::from_json(&shape.to_json()).unwrap(), ModelConfig::llama(&shape));
    }

    fn read(changes: &Value) -> ModelConfig {
        ModelConfig::from_json(&with(&llama(), changes)).unwrap()
    }

    fn rope(changes: &Value) -> RopeConfig {
        match read(changes).positions {
            Positions::Rope(rope) => rope,
            Positions::Learned { .. } => panic!("it has rotary positions"),
        }
    }

    #[test]
    fn of_two_spellings_of_the_rotation_the_one_is_read_that_transformers_5_reads() {
        let plain = json!({"rope_theta": 1e6, "rope_type": "default"});
        for (changes, theta, scaling) in [
            (json!({}), 1e4, RopeScaling::Default),
            (json!({"rope_theta": 5e5}), 5e5, RopeScaling::Default),
            (json!({"rope_theta": 5e5, "rope_parameters": plain}), 1e6, RopeScaling::Default),
            (json!({"rope_theta": 5e5, "rope_parameters": {"rope_type": "default"}}), 5e5, RopeScaling::Default),
            (json!({"rope_theta": 5e5, "rope_scaling": null, "rope_parameters": plain}), 1e6, RopeScaling::Default),
            (json!({"rope_scaling": {}, "rope_parameters": plain}), 1e6, RopeScaling::Default),
            // A `rope_scaling` that says something stands for all of `rope_parameters`, its base included.
            (
                json!({"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_parameters": plain}),
                1e4,
                RopeScaling::Linear { factor: 2.0 },
            ),
            (
                json!({"rope_scaling": {"rope_type": "default", "type": "linear", "rope_theta": 7.0}, "rope_theta": 5e5}),
                7.0,
                RopeScaling::Default,
            ),
            (
                json!({"rope_parameters": {"rope_type": "linear", "factor": 4}, "rope_theta": 5e5}),
                5e5,
                RopeScaling::Linear { factor: 4.0 },
            ),
            // The outer value comes first.
            (
                json!({"original_max_position_embeddings": 16, "rope_scaling": {"rope_type": "llama3", "factor": 8,
                       "low_freq_factor": 1, "high_freq_factor": 4, "original_max_position_embeddings": 8}}),
                1e4,
                RopeScaling::Llama3 {
                    factor: 8.0,
                    low_freq_factor: 1.0,
                    high_freq_factor: 4.0,
                    original_max_position_embeddings: 16,
                },
            ),
            // Without its own, the number of positions is the model's.
            (
                json!({"rope_scaling": {"rope_type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4}}),
                1e4,
                RopeScaling::Llama3 {
                    factor: 8.0,
                    low_freq_factor: 1.0,
                    high_freq_factor: 4.0,
                    original_max_position_embeddings: 32,
                },
            ),
        ] {
            assert_eq!(rope(&changes), RopeConfig { theta, rotary_dim: 4, scaling }, "{changes}");
        }
    }

    #[test]
    fn the_rotated_part_is_phi_s_alone() {
        let phi = |changes: Value| rope(&with(&json!({"model_type": "phi", "hidden_act": "gelu_new"}), &changes));
        assert_eq!(phi(json!({})).rotary_dim, 2);
        assert_eq!(phi(json!({"partial_rotary_factor": 1.0})).rotary_dim, 4);
        let both = json!({"partial_rotary_factor": 0.5, "rope_parameters": {"partial_rotary_factor": 1.0}});
        assert_eq!(phi(both).rotary_dim, 4);
        // As `transformers` does.
        assert_eq!(rope(&json!({"partial_rotary_factor": 0.5})).rotary_dim, 4);
    }

    #[test]
    fn model_type_decides_on_the_family() {
        let family = |changes: Value| read(&changes).family;
        assert_eq!(family(json!({"architectures": null})), Family::Llama);
        assert_eq!(family(json!({"architectures": ["MistralForCausalLM"]})), Family::Llama);
        let without_type =
            json!({"model_type": null, "architectures": ["MistralForCausalLM"], "num_key_value_heads": 2});
        assert_eq!(family(without_type), Family::Mistral);
        for (family, kind, class) in Family::NAMES {
            assert_eq!(Family::of(&json!({ "model_type": kind })), Ok(family));
            assert_eq!(Family::of(&json!({ "architectures": [class] })), Ok(family));
            assert_eq!(family.architecture(), class);
        }
        for (json, words) in [
            (json!({}), "`model_type` is missing"),
            (json!({"model_type": "llava", "text_config": {"model_type": "llama"}}), "`model_type` is `llava`"),
            (json!({"architectures": ["GPT2LMHeadModel"]}), "`architectures` is `GPT2LMHeadModel`"),
        ] {
            let refused = Family::of(&json).unwrap_err();
            assert!(refused.contains(words), "{refused}");
        }
    }

    #[test]
    fn a_missing_field_has_the_default_of_its_class_and_null_means_none() {
        // Sizes with which every default is possible.
        let sized = json!({"num_attention_heads": 32, "hidden_size": 256});
        let read = |changes: Value| read(&with(&sized, &changes));
        for (changes, key_value_heads, head_dim) in [
            (json!({}), 32, 8),
            (json!({"model_type": "mistral"}), 8, 8),
            (json!({"model_type": "mistral", "num_key_value_heads": null}), 32, 8),
            (json!({"model_type": "qwen2"}), 32, 8),
            (json!({"model_type": "qwen3"}), 32, 128),
            (json!({"model_type": "gemma2"}), 4, 256),
            (json!({"model_type": "gemma2", "head_dim": 16, "num_key_value_heads": 2}), 2, 16),
            (json!({"model_type": "phi"}), 32, 8),
        ] {
            let mut changes = changes;
            if changes["model_type"] == "phi" {
                changes["hidden_act"] = json!("gelu_new");
            }
            let config = read(changes.clone());
            assert_eq!((config.num_key_value_heads, config.head_dim), (key_value_heads, head_dim), "{changes}");
        }
        let gemma = read(json!({"model_type": "gemma2"}));
        assert_eq!((gemma.attention_softcap, gemma.final_softcap), (Some(50.0), Some(30.0)));
        assert!(gemma.tie_word_embeddings && !read(json!({})).tie_word_embeddings);
        let uncapped = json!({"model_type": "gemma2", "attn_logit_softcapping": null, "final_logit_softcapping": null});
        assert_eq!((read(uncapped.clone()).attention_softcap, read(uncapped).final_softcap), (None, None));
        // Biases that only some families have.
        let biased = json!({"attention_bias": true, "mlp_bias": true});
        assert!(read(biased.clone()).qkv_bias && read(biased.clone()).mlp_bias);
        let mistral = read(with(&biased, &json!({"model_type": "mistral"})));
        assert!(!mistral.qkv_bias && !mistral.mlp_bias);
        assert_eq!(read(json!({"pad_token_id": -1})).pad_token_id, Some(9));
        assert_eq!(read(json!({"pad_token_id": null})).pad_token_id, None);
    }

    #[test]
    fn opt_does_not_look_at_what_it_has_not() {
        let opt = json!({"model_type": "opt", "hidden_size": 8, "ffn_dim": 16, "num_hidden_layers": 2,
                         "num_attention_heads": 2, "vocab_size": 10});
        let plain = ModelConfig::from_json(&opt).unwrap();
        assert_eq!((plain.max_position_embeddings, plain.tie_word_embeddings), (2048, true));
        let others = json!({"head_dim": 3, "num_key_value_heads": 1, "rope_scaling": {"type": "dynamic"},
                            "intermediate_size": 99, "sliding_window": 4});
        assert_eq!(ModelConfig::from_json(&with(&opt, &others)).unwrap(), plain);
    }

    #[test]
    fn windows_by_layer() {
        let windows = |changes: Value| read(&with(&json!({"num_key_value_heads": 2}), &changes)).windows;
        assert_eq!(windows(json!({})), [None, None]);
        assert_eq!(
            windows(json!({"sliding_window": 7, "layer_types": ["sliding_attention", "full_attention"]})),
            [None, None]
        );
        assert_eq!(windows(json!({"model_type": "mistral", "sliding_window": 7})), [Some(7), Some(7)]);
        assert_eq!(windows(json!({"model_type": "mistral", "sliding_window": null})), [None, None]);
        assert_eq!(windows(json!({"model_type": "mistral"})), [Some(4096), Some(4096)]);
        let types = json!({"layer_types": ["full_attention", "sliding_attention"]});
        let mistral = json!({"model_type": "mistral", "sliding_window": 7});
        assert_eq!(windows(with(&mistral, &types)), [None, Some(7)]);
        let qwen =
            json!({"model_type": "qwen2", "sliding_window": 7, "use_sliding_window": true, "max_window_layers": 1});
        assert_eq!(windows(qwen.clone()), [None, Some(7)]);
        assert_eq!(windows(with(&qwen, &json!({"use_sliding_window": false}))), [None, None]);
        let gemma = json!({"model_type": "gemma2", "sliding_window": 7, "hidden_activation": "gelu_pytorch_tanh",
                           "query_pre_attn_scalar": 4, "head_dim": 4});
        assert_eq!(windows(gemma.clone()), [Some(7), None]);
        assert_eq!(windows(with(&gemma, &types)), [None, Some(7)]);
    }

    #[test]
    fn what_cannot_be_computed_is_refused_by_name() {
        let opt = json!({"model_type": "opt", "hidden_size": 8, "ffn_dim": 16, "num_hidden_layers": 2,
                         "num_attention_heads": 2, "vocab_size": 10, "max_position_embeddings": 32});
        let phi = with(&llama(), &json!({"model_type": "phi", "hidden_act": "gelu_new", "partial_rotary_factor": 0.5}));
        // Its window is not in use.
        let qwen = with(&llama(), &json!({"model_type": "qwen2", "num_key_value_heads": 2, "sliding_window": 7}));
        for possible in [&opt, &phi, &qwen] {
            assert!(ModelConfig::from_json(possible).is_ok());
        }
        for (base, field, value) in [
            (&llama(), "model_type", json!("bert")),
            (&llama(), "hidden_act", json!("gelu")),
            (&llama(), "num_key_value_heads", json!(3)),
            (&llama(), "vocab_size", json!(0)),
            (&llama(), "hidden_size", Value::Null),
            (&llama(), "hidden_size", json!(9)),
            (&llama(), "head_dim", json!(3)),
            (&llama(), "rope_scaling", json!({"type": "dynamic", "factor": 2.0})),
            (&llama(), "rope_scaling", json!({"rope_type": "llama3", "factor": 8.0})),
            (&llama(), "rope_scaling", json!({"rope_type": null, "type": "linear", "factor": 2.0})),
            (&llama(), "rope_scaling", json!("linear")),
            (&llama(), "rope_parameters", json!({"full_attention": {"rope_theta": 1e6}})),
            (&llama(), "rope_theta", json!(0)),
            (&llama(), "quantization_config", json!({"load_in_4bit": true, "quant_method": "bitsandbytes"})),
            (&qwen, "layer_types", json!(["full_attention"])),
            (&qwen, "layer_types", json!(["full_attention", "chunked_attention"])),
            (&qwen, "layer_types", json!(["full_attention", "sliding_attention"])),
            (&opt, "activation_function", json!("gelu")),
            (&opt, "enable_bias", json!(false)),
            (&opt, "layer_norm_elementwise_affine", json!(false)),
            (&opt, "tie_word_embeddings", json!("yes")),
            (&phi, "qk_layernorm", json!(true)),
            (&phi, "partial_rotary_factor", json!(0.3)),
        ] {
            let error = ModelConfig::from_json(&with(base, &json!({field: value}))).unwrap_err();
            let named = if field == "partial_rotary_factor" || field == "head_dim" { "rotary" } else { field };
            assert!(error.contains(named), "{field}: {error}");
        }
    }
}
