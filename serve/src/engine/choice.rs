//! Which engine runs a model.

use std::{fmt, io};

use orpo_model::{Family, ModelConfig};

use super::candle::config::{self as candle_config, CandleConfig, candle_config};
use super::native::NativeModel;
use super::stage::{self, EngineConfig, Staged, UnsupportedModel, engine_config};
use crate::checkpoint::Checkpoint;

/// True if the engine of our own runs every model that it knows, unless another is asked for.
const PREFERS_NATIVE: bool = false;

/// What the user asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum EngineChoice {
    /// mistralrs where it can run the architecture, candle for Phi-2 and OPT
    #[default]
    Auto,
    /// mistralrs
    Mistralrs,
    /// candle
    Candle,
    /// Our own: many requests at a time, each reply the same as alone
    Native,
}

impl fmt::Display for EngineChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Mistralrs => "mistralrs",
            Self::Candle => "candle",
            Self::Native => "native",
        })
    }
}

/// An engine, and the model's config as it reads it.
#[derive(Debug, Clone, PartialEq)]
pub enum Selected {
    /// Served by mistralrs.
    Mistralrs(EngineConfig),
    /// Served by candle.
    Candle(CandleConfig),
    /// Served by the engine of our own.
    Native(Box<ModelConfig>),
}

/// A model ready to be loaded.
#[derive(Debug)]
pub enum Prepared {
    /// A directory for mistralrs.
    Mistralrs(Staged),
    /// The checkpoint itself for candle.
    Candle(Box<Checkpoint>, Box<CandleConfig>),
    /// The checkpoint itself for the engine of our own.
    Native(Box<NativeModel>),
}

/// Finds the engine for a model.
///
/// # Errors
/// [`UnsupportedModel`] where no engine, or not the one asked for, computes the model rightly.
pub fn select(choice: EngineChoice, checkpoint: &Checkpoint) -> Result<Selected, UnsupportedModel> {
    let found = UnsupportedModel::architecture_of(checkpoint);
    let by_mistralrs = stage::ARCHITECTURES.contains(&found.as_str());
    let by_candle = candle_config::ARCHITECTURES.contains(&found.as_str());
    match (choice, &checkpoint.model) {
        (EngineChoice::Native, Some(model)) => Ok(Selected::Native(Box::new(model.clone()))),
        (EngineChoice::Auto, Some(model)) if PREFERS_NATIVE => Ok(Selected::Native(Box::new(model.clone()))),
        (EngineChoice::Native, None) => {
            let known: Vec<&str> = Family::all().map(Family::architecture).collect();
            Err(UnsupportedModel::Architecture { found, supported: format!("{} by native", known.join(", ")) })
        }
        (EngineChoice::Auto, _) if !by_mistralrs && !by_candle => {
            let supported = format!(
                "{} by mistralrs, {} by candle",
                stage::ARCHITECTURES.join(", "),
                candle_config::ARCHITECTURES.join(", ")
            );
            Err(UnsupportedModel::Architecture { found, supported })
        }
        (EngineChoice::Auto, _) if by_mistralrs => engine_config(checkpoint).map(Selected::Mistralrs),
        (EngineChoice::Mistralrs, _) => engine_config(checkpoint).map(Selected::Mistralrs),
        (EngineChoice::Auto | EngineChoice::Candle, _) => candle_config(checkpoint).map(Selected::Candle),
    }
}

impl Selected {
    /// The engine.
    pub fn engine(&self) -> EngineChoice {
        match self {
            Self::Mistralrs(_) => EngineChoice::Mistralrs,
            Self::Candle(_) => EngineChoice::Candle,
            Self::Native(_) => EngineChoice::Native,
        }
    }

    /// Makes what the engine loads from.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn prepare(self, checkpoint: &Checkpoint, eos_ids: &[u32]) -> io::Result<Prepared> {
        Ok(match self {
            Self::Mistralrs(config) => Prepared::Mistralrs(stage::stage(checkpoint, config, eos_ids)?),
            Self::Candle(config) => Prepared::Candle(Box::new(checkpoint.clone()), Box::new(config)),
            Self::Native(config) => {
                Prepared::Native(Box::new(NativeModel { dir: checkpoint.dir.clone(), config: *config, quantize: None }))
            }
        })
    }
}

impl Prepared {
    /// The engine.
    pub fn engine(&self) -> EngineChoice {
        match self {
            Self::Mistralrs(_) => EngineChoice::Mistralrs,
            Self::Candle(..) => EngineChoice::Candle,
            Self::Native(_) => EngineChoice::Native,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orpo_model::ModelConfig;
    use serde_json::{Value, json};
    use std::collections::BTreeMap;
    use std::path::PathBuf;

    fn selected(choice: EngineChoice, named: Value) -> Result<EngineChoice, String> {
        let mut config = json!({
            "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 4, "num_hidden_layers": 2,
            "max_position_embeddings": 256, "vocab_size": 512, "intermediate_size": 128, "ffn_dim": 128, "head_dim": 16
        });
        for (key, value) in named.as_object().unwrap() {
            config[key] = value.clone();
        }
        let model = ModelConfig::from_json(&config).ok();
        let config = config.as_object().unwrap().clone();
        let checkpoint =
            Checkpoint { dir: PathBuf::new(), config, model, weights: Vec::new(), renamed: BTreeMap::new() };
        select(choice, &checkpoint).map(|selected| selected.engine()).map_err(|error| error.to_string())
    }

    fn of(architecture: &str) -> Value {
        json!({ "architectures": [architecture] })
    }

    #[test]
    fn each_architecture_finds_its_engine() {
        for architecture in stage::ARCHITECTURES {
            assert_eq!(selected(EngineChoice::Auto, of(architecture)), Ok(EngineChoice::Mistralrs));
            assert_eq!(selected(EngineChoice::Mistralrs, of(architecture)), Ok(EngineChoice::Mistralrs));
        }
        for architecture in candle_config::ARCHITECTURES {
            assert_eq!(selected(EngineChoice::Auto, of(architecture)), Ok(EngineChoice::Candle));
            assert_eq!(selected(EngineChoice::Candle, of(architecture)), Ok(EngineChoice::Candle));
        }
        for family in Family::all() {
            assert_eq!(selected(EngineChoice::Native, of(family.architecture())), Ok(EngineChoice::Native));
        }
    }

    #[test]
    fn without_architectures_the_model_type_decides() {
        for (named, engine) in [
            (json!({"model_type": "llama"}), EngineChoice::Mistralrs),
            (json!({"model_type": "llama", "architectures": null}), EngineChoice::Mistralrs),
            (json!({"model_type": "llama", "architectures": ["LlamaModel"]}), EngineChoice::Mistralrs),
            (json!({"model_type": "phi3"}), EngineChoice::Mistralrs),
            (json!({"model_type": "opt", "architectures": ["LlamaForCausalLM"]}), EngineChoice::Candle),
        ] {
            assert_eq!(selected(EngineChoice::Auto, named.clone()), Ok(engine), "{named}");
        }
        let refused = selected(EngineChoice::Auto, json!({"model_type": "gpt2"})).unwrap_err();
        assert!(refused.contains("`gpt2` is not supported"), "{refused}");
    }

    #[test]
    fn what_no_engine_or_not_the_wanted_one_can_run_is_refused_with_what_can_be() {
        for (choice, architecture, words) in [
            (
                EngineChoice::Auto,
                "GPT2LMHeadModel",
                "Gemma2ForCausalLM by mistralrs, PhiForCausalLM, OPTForCausalLM by",
            ),
            (EngineChoice::Mistralrs, "OPTForCausalLM", "Gemma2ForCausalLM by mistralrs"),
            (EngineChoice::Candle, "LlamaForCausalLM", "PhiForCausalLM, OPTForCausalLM by candle"),
            (EngineChoice::Native, "Phi3ForCausalLM", "PhiForCausalLM, OPTForCausalLM by native"),
        ] {
            let refused = selected(choice, of(architecture)).unwrap_err();
            assert!(refused.contains(words) && refused.contains(&format!("`{architecture}` is not supp")), "{refused}");
        }
    }
}
